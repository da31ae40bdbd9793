import os
from collections.abc import Iterator

import pytest

from tests.object_store import announce

# Ray must be started by tests on purpose, never by touching ray.data.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
announce()


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Address of the one Ray cluster of the session, for drivers in other processes."""
    from tests.cluster import start_cluster

    yield from start_cluster()


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """URL of a bucket of the session's own object store."""
    from tests.object_store import serve_bucket

    yield from serve_bucket()
