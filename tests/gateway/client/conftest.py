"""A service whose rollouts end when a test says so, and a client of it."""

from collections.abc import Iterator

import pytest

from gym_ray import RolloutClient
from tests.gateway.batches import KEY, Rollouts, batch_service


@pytest.fixture
def rollouts() -> Rollouts:
    return Rollouts()


@pytest.fixture
def base_url(rollouts: Rollouts) -> Iterator[str]:
    with batch_service(rollouts) as url:
        yield url


@pytest.fixture
def client(base_url: str) -> Iterator[RolloutClient]:
    with RolloutClient(base_url, api_key=KEY, max_retries=2) as client:
        yield client
