"""The client against a real server: results, groups, bounds, failures and ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from gym_ray import AsyncRolloutClient, RolloutClient
from gym_ray.client import (
    CallTimeout,
    ClientError,
    GroupFailed,
)
from gym_ray.errors import FailureKind
from tests.gateway.batches import (
    KEY,
    Rollouts,
    eventually,
    state,
    tasks,
    until,
)


def test_every_task_has_one_result_with_its_index(
    client: RolloutClient, rollouts: Rollouts
) -> None:
    results = list(client.run(tasks(300)))

    assert sorted(result.index for result in results) == list(range(300))
    assert all(result.reward == result.index for result in results)
    assert sorted(rollouts.started) == list(range(300))


def test_a_result_has_tokens_as_arrays_and_the_row_of_nemo_gym(client: RolloutClient) -> None:
    (result,) = client.run([{**tasks(1)[0], "n": 7, "expected_answer": "x"}])

    assert (result.status, result.reward, result.reward_components) == ("completed", 7, {"n": 7})
    assert result.token_ids.tolist() == [1, 2, 7]
    assert (result.token_ids.dtype, result.loss_mask.dtype) == (np.int32, np.int8)
    assert result.logprobs[result.loss_mask == 1].tolist() == [-0.5]
    assert (result.turns[0].prompt_length, result.turns[0].version_spans[0].version) == (2, 0)
    row = result.row()
    assert (row["reward"], row["expected_answer"]) == (7, "x")
    assert row["response"]["output"][-1]["generation_token_ids"] == [7]


def test_failures_are_results(client: RolloutClient) -> None:
    rows = tasks(4)
    rows[1]["fail"] = "verifier_error"
    rows[2]["raise"] = True
    rows[3] = {"n": 3}

    results = {result.index: result for result in client.run(rows)}

    assert [results[n].failed for n in range(4)] == [False, True, True, True]
    kinds = [results[n].error_kind for n in range(1, 4)]
    assert kinds == ["verifier_error", "environment_error", "task_invalid"]
    assert isinstance(results[1].error_kind, FailureKind)
    assert results[3].error is not None
    assert "responses_create_params" in results[3].error


def test_what_is_no_row_at_all_is_the_callers_error(client: RolloutClient) -> None:
    for task in ("text", {"a": float("nan")}, {"a": object()}, {"a": "\ud800"}):
        with pytest.raises(ValueError, match="task 2 cannot be sent"):
            list(client.run([*tasks(2), task]))  # type: ignore[list-item]


def test_tasks_are_taken_only_as_there_is_room(client: RolloutClient, rollouts: Rollouts) -> None:
    rollouts.hold = True
    taken = itertools.count()
    seen = 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal seen
        for n in taken:
            seen = n + 1
            yield {**tasks(1)[0], "n": n}

    results = client.run(endless(), max_in_flight=5)
    first = threading.Thread(target=lambda: next(results))
    first.start()
    until(lambda: rollouts.running == 5, "five run")
    assert seen <= 6
    rollouts.hold = False
    first.join(20)
    for _ in range(20):
        next(results)
    assert seen <= 28
    results.close()
    assert rollouts.most_running <= 5


def test_wishes_reach_the_rows_and_the_service(client: RolloutClient, rollouts: Rollouts) -> None:
    row = tasks(1)[0]
    row["responses_create_params"]["temperature"] = 1.5

    list(
        client.run(
            [row], temperature=0.25, max_output_tokens=9, seed=3, rollout_timeout_seconds=4.5
        )
    )

    params = json.loads(rollouts.specs[0].task)["responses_create_params"]
    assert params == {"input": "What is 0?", "temperature": 0.25, "max_output_tokens": 9}
    assert (rollouts.openings[0].seed, rollouts.openings[0].rollout_timeout_seconds) == (3, 4.5)


def test_groups_are_whole_and_in_order(client: RolloutClient, rollouts: Rollouts) -> None:
    groups = list(client.groups(tasks(30), 4, max_in_flight=6))

    assert sorted(group.index for group in groups) == list(range(30))
    for group in groups:
        assert group.rewards == [group.index] * 4
        assert [result.rollout_index for result in group.results] == [0, 1, 2, 3]
        assert len({result.rollout.spec.rollout_id for result in group.results}) == 4
    positions = {(spec.task_index, spec.rollout_index) for spec in rollouts.specs}
    assert positions == set(itertools.product(range(30), range(4)))


def test_a_group_larger_than_max_in_flight_still_comes(client: RolloutClient) -> None:
    assert len(list(client.groups(tasks(3), 8, max_in_flight=2))) == 3


def test_a_group_with_failures_is_told_or_raised(client: RolloutClient) -> None:
    rows = tasks(2, fail="verifier_error")

    for group in client.groups(rows, 3):
        assert len(group.failures) == 3
        assert group.rewards == [None] * 3
    with pytest.raises(GroupFailed, match=r"3 of 3 rollouts failed.*verifier_error: it broke"):
        list(client.groups(rows, 3, on_failure="raise"))


def test_nothing_asked_is_nothing_yielded(client: RolloutClient) -> None:
    assert list(client.run([])) == []
    assert list(client.groups([], 2)) == []


def test_leaving_the_loop_gives_up_what_runs(
    client: RolloutClient, rollouts: Rollouts, base_url: str
) -> None:
    rollouts.hold, rollouts.hold_from = True, 1
    results = client.run(tasks(50), name="left")

    assert next(results).index == 0
    until(lambda: rollouts.running == 49, "the others run")
    results.close()

    until(lambda: rollouts.running == 0, "nothing runs")
    left = state(base_url, "left")
    assert left is not None
    assert (left["held"], left["running"], left["waiting"]) == (False, 0, 0)


def test_a_call_without_a_name_leaves_nothing(
    client: RolloutClient, rollouts: Rollouts, base_url: str
) -> None:
    list(client.run(tasks(3)))

    assert len(rollouts.openings) == 1
    with contextlib.closing(client.run(tasks(3), name="kept")) as results:
        next(results)
    assert state(base_url, "kept") is not None


def test_closing_the_client_ends_its_calls(client: RolloutClient, rollouts: Rollouts) -> None:
    rollouts.hold = True
    errors: list[BaseException] = []

    def consume() -> None:
        try:
            list(client.run(tasks(5)))
        except ClientError as error:
            errors.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    until(lambda: rollouts.running == 5, "they run")
    client.close()
    consumer.join(20)
    assert "closed" in str(errors[0])
    until(lambda: rollouts.running == 0, "nothing runs")
    with pytest.raises(ClientError, match="make another one"):
        list(client.run(tasks(1)))


def test_a_call_that_takes_too_long_says_how_much_is_missing(
    client: RolloutClient, rollouts: Rollouts
) -> None:
    rollouts.hold, rollouts.hold_from = True, 3
    results = client.run(tasks(5), timeout_seconds=1.0)

    assert sorted(next(results).index for _ in range(3)) == [0, 1, 2]
    with pytest.raises(CallTimeout, match="within 1 s, 3 of 5 rollouts were there"):
        next(results)
    until(lambda: rollouts.running == 0, "nothing runs")


def test_the_asynchronous_client_takes_asynchronous_tasks(base_url: str) -> None:
    async def source() -> AsyncIterator[dict[str, Any]]:
        for task in tasks(10):
            await asyncio.sleep(0)
            yield task

    async def run() -> list[int]:
        async with AsyncRolloutClient(base_url, api_key=KEY) as client:
            indices = [result.index async for result in client.run(source())]
            return indices + [group.index async for group in client.groups(source(), 2)]

    assert sorted(asyncio.run(run())) == sorted([*range(10), *range(10)])


def test_cancelling_the_asynchronous_call_gives_up_what_runs(
    base_url: str, rollouts: Rollouts
) -> None:
    rollouts.hold = True

    async def run() -> None:
        async with AsyncRolloutClient(base_url, api_key=KEY) as client:

            async def consume() -> None:
                async for _ in client.run(tasks(8)):
                    pass

            consumer = asyncio.ensure_future(consume())
            await eventually(lambda: rollouts.running == 8)
            consumer.cancel()
            await asyncio.gather(consumer, return_exceptions=True)
            assert consumer.cancelled()

    asyncio.run(run())
    until(lambda: rollouts.running == 0, "nothing runs")


def test_a_closed_asynchronous_client_says_so(base_url: str) -> None:
    async def run() -> None:
        client = AsyncRolloutClient(base_url, api_key=KEY)
        await client.close()
        with pytest.raises(ClientError, match="make another one"):
            await anext(client.run(tasks(1)))

    asyncio.run(run())


def test_ctrl_c_gives_up_what_runs(base_url: str, rollouts: Rollouts) -> None:
    rollouts.hold = True

    def interrupt() -> None:
        until(lambda: rollouts.running == 5, "they run")
        os.kill(os.getpid(), signal.SIGINT)

    with RolloutClient(base_url, api_key=KEY) as client:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            list(client.run(tasks(5)))
    until(lambda: rollouts.running == 0, "nothing runs")


def test_an_error_of_the_tasks_reaches_the_caller(
    client: RolloutClient, rollouts: Rollouts
) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from tasks(2)
        raise KeyError("no such column")

    with pytest.raises(KeyError, match="no such column"):
        list(client.run(broken()))
    until(lambda: rollouts.running == 0, "nothing runs")
