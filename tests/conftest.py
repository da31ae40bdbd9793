import os
import signal
from collections.abc import Iterator

import pytest

from tests.object_store import announce
from tests.suite import PATIENCE

# Ray must be started by tests on purpose, never by touching ray.data.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
# Ray's workers yield to everything else by default, and what tests wait for is in them.
os.environ.setdefault("RAY_worker_niceness", "0")
announce()

# A shell starts its background jobs with SIGINT ignored, which Python keeps and so does whatever it
# starts. Tests send signals, to themselves and to processes of theirs, however they were started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is left out of the short suite says why; what may take long is left out of it."""
    usual = float(config.getini("timeout"))
    for item in items:
        long, timeout = item.get_closest_marker("long"), item.get_closest_marker("timeout")
        if long is not None and not (len(long.args) == 1 and str(long.args[0]).strip()):
            raise pytest.UsageError(f'{item.nodeid}: say why: @pytest.mark.long("...")')
        seconds = usual if timeout is None else timeout.args[0]
        if long is None and seconds > usual:
            raise pytest.UsageError(f"{item.nodeid}: may take {seconds} s, so mark it long as well")
        if PATIENCE != 1:
            item.add_marker(pytest.mark.timeout(seconds * PATIENCE), append=False)


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
