"""Connections that break at any point: every result still comes exactly once, and runs once."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from gym_ray import RolloutClient
from tests.gateway.batches import KEY, DroppingProxy, Rollouts, batch_service, tasks

#: Pieces of data either way that a call like these takes at least, and some more.
STEPS = 14

DROPS = st.tuples(st.sampled_from(["up", "down"]), st.integers(0, STEPS))


def indices(url: str, count: int) -> list[int]:
    """Of the results of one call over a connection that may break."""
    with RolloutClient(url, api_key=KEY, max_in_flight=4) as client:
        return [result.index for result in client.run(tasks(count), name="faulty")]


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_connection_may_break_at_every_step(direction: str) -> None:
    dropped = 0
    for step in range(STEPS):
        rollouts = Rollouts()
        with (
            batch_service(rollouts) as url,
            DroppingProxy(url, [(direction, step)]) as proxy,
        ):
            assert sorted(indices(proxy.url, 12)) == list(range(12))
            dropped += proxy.dropped
        assert sorted(rollouts.started) == list(range(12))
    assert dropped >= STEPS - 2


@hypothesis.settings(max_examples=15, deadline=None, derandomize=True, database=None)
@hypothesis.given(drops=st.sets(DROPS, max_size=6))
def test_results_come_exactly_once_wherever_connections_break(drops: set[tuple[str, int]]) -> None:
    rollouts = Rollouts()
    with batch_service(rollouts) as url, DroppingProxy(url, drops) as proxy:
        assert sorted(indices(proxy.url, 20)) == list(range(20))
    assert sorted(rollouts.started) == list(range(20))


@hypothesis.settings(max_examples=10, deadline=None, derandomize=True, database=None)
@hypothesis.given(left=st.lists(st.integers(0, 12), max_size=4), drops=st.sets(DROPS, max_size=3))
def test_calls_that_are_left_and_continued_yield_everything_that_was_not_acknowledged(
    left: list[int], drops: set[tuple[str, int]]
) -> None:
    """Each life of the client handles some results, and is then left with one unhandled."""
    rollouts = Rollouts()
    handled: list[int] = []
    with batch_service(rollouts) as url, DroppingProxy(url, drops) as proxy:
        for count in [*left, 100]:
            with RolloutClient(proxy.url, api_key=KEY, max_in_flight=6) as client:
                results = client.run(tasks(20), name="lives")
                for result in results:
                    if count == 0:
                        break
                    handled.append(result.index)
                    count -= 1
                results.close()
    assert sorted(handled) == list(range(20))
