"""Named calls: continued, taken over, and given up with the client that is gone."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gym_ray import AsyncRolloutClient, RolloutClient
from gym_ray.client import (
    BatchConflict,
    ClientError,
    ServiceUnavailable,
)
from tests.gateway.batches import (
    KEY,
    DroppingProxy,
    Rollouts,
    batch_service,
    eventually,
    state,
    tasks,
    until,
)


def test_a_named_call_goes_on_where_the_last_one_was_left(
    base_url: str, rollouts: Rollouts
) -> None:
    with RolloutClient(base_url, api_key=KEY) as client:
        results = client.run(tasks(40), name="run-1")
        handled = {next(results).index for _ in range(10)}
        unhandled = next(results).index
        results.close()
    with RolloutClient(base_url, api_key=KEY) as client:
        again = [result.index for result in client.run(tasks(40), name="run-1")]
        third = list(client.run(tasks(40), name="run-1"))

    assert sorted([*handled, *again]) == list(range(40))
    assert unhandled in again
    assert third == []
    assert len(set(rollouts.started)) == 40


def test_results_that_were_finished_are_not_run_again(base_url: str, rollouts: Rollouts) -> None:
    rollouts.hold, rollouts.hold_from = True, 20
    with RolloutClient(base_url, api_key=KEY) as client:
        results = client.run(tasks(40), name="run-1")
        next(results)
        until(lambda: len(rollouts.started) == 40 and rollouts.running == 20, "half is finished")
        results.close()
    rollouts.hold = False
    with RolloutClient(base_url, api_key=KEY) as client:
        again = [result.index for result in client.run(tasks(40), name="run-1")]

    assert sorted(again) == list(range(40))
    assert sorted(rollouts.started) == sorted([*range(40), *range(20, 40)])


def test_what_the_caller_has_is_neither_run_nor_told(base_url: str, rollouts: Rollouts) -> None:
    with RolloutClient(base_url, api_key=KEY) as client:
        results = client.run(tasks(40), name="run-1", received=range(0, 40, 2))
        assert sorted(result.index for result in results) == list(range(1, 40, 2))
        assert list(client.run(tasks(40), name="run-1")) == []
        groups = list(client.groups(tasks(4), 2, received=[0, 3]))
    assert sorted(group.index for group in groups) == [1, 2]
    assert sorted(rollouts.started[:20]) == list(range(1, 40, 2))


def test_another_content_under_an_index_is_refused(client: RolloutClient) -> None:
    list(client.run(tasks(3), name="run-1"))

    with pytest.raises(BatchConflict, match=r"row 0 has another content.*another name"):
        list(client.run(tasks(3, color="blue"), name="run-1"))


def test_who_opens_a_name_last_has_it(base_url: str, rollouts: Rollouts) -> None:
    rollouts.hold = True
    raised: list[BaseException] = []

    def first() -> None:
        with RolloutClient(base_url, api_key=KEY) as client:
            try:
                list(client.run(tasks(5), name="shared"))
            except ClientError as error:
                raised.append(error)

    earlier = threading.Thread(target=first)
    earlier.start()
    until(lambda: rollouts.running == 5, "the first one's rollouts run")
    with RolloutClient(base_url, api_key=KEY) as client:
        results = client.run(tasks(5), name="shared")
        second = threading.Thread(target=lambda: raised or list(results))
        second.start()
        earlier.join(20)
        assert isinstance(raised[0], BatchConflict)
        assert "another client has taken over" in str(raised[0])
        rollouts.hold = False
        second.join(20)
    assert sorted(rollouts.started) == list(range(5))


def test_a_silent_client_has_its_rollouts_given_up(rollouts: Rollouts) -> None:
    """Nothing tells the service: the network is gone."""
    rollouts.hold = True
    with (
        batch_service(rollouts, retention_seconds=1.0) as url,
        DroppingProxy(url) as proxy,
        RolloutClient(proxy.url, api_key=KEY, lease_seconds=1, max_retries=0) as client,
    ):
        cutting = threading.Thread(
            target=lambda: (until(lambda: rollouts.running == 5, "they run"), proxy.close())
        )
        cutting.start()
        with pytest.raises(ServiceUnavailable, match="cannot be reached"):
            list(client.run(tasks(5), name="silent"))
        cutting.join(20)
        assert state(url, "silent") is not None
        until(lambda: rollouts.running == 0, "they are given up")
        until(lambda: state(url, "silent") is None, "and the batch is forgotten")


def test_a_blocked_event_loop_costs_nothing_but_time(rollouts: Rollouts) -> None:
    """The lease ends while the caller computes; what was given up is given again."""
    with batch_service(rollouts) as url:

        async def run() -> list[int]:
            found = []
            async with AsyncRolloutClient(url, api_key=KEY, lease_seconds=1) as client:
                rollouts.hold, rollouts.hold_from = True, 1
                async for result in client.run(tasks(5), name="blocked"):
                    found.append(result.index)
                    if len(found) == 1:
                        await eventually(lambda: rollouts.running == 4)
                        until(lambda: rollouts.running == 0, "the lease has ended")
                        rollouts.hold = False
            return found

        assert sorted(asyncio.run(run())) == list(range(5))
