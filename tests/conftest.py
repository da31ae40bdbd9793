import os
import signal
from collections.abc import Iterator

import pytest

from tests.object_store import announce

# Ray must be started by tests on purpose, never by touching ray.data.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
announce()

# A shell starts its background jobs with SIGINT ignored, which Python keeps and so does whatever it
# starts. Tests send signals, to themselves and to processes of theirs, however they were started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
