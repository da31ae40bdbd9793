import os
from collections.abc import Iterator

import pytest

# Ray must be started by tests on purpose, never by touching ray.data.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Address of the one Ray cluster of the session, for drivers in other processes."""
    from tests.cluster import start_cluster

    yield from start_cluster()
