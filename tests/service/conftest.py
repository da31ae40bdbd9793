from collections.abc import Iterator

import pytest

from tests.cluster import start_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Address of the one Ray cluster of the session."""
    yield from start_cluster()
