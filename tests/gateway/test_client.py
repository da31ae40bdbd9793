"""The client against a real server: results, groups, bounds, failures, names and ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pickle
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from gym_ray import AsyncRolloutClient, RolloutClient
from gym_ray.client import (
    BatchConflict,
    CallTimeout,
    ClientError,
    GroupFailed,
    RequestRefused,
    ResultsMissing,
    ServiceUnavailable,
    Unauthorized,
)
from gym_ray.errors import FailureKind
from gym_ray.serving.batch_host import BatchHost
from tests.gateway.batches import KEY, DroppingProxy, Rollouts, batch_service, tasks, until
from tests.gateway.conftest import serving


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


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def state(url: str, name: str) -> dict[str, Any] | None:
    """How a batch stands; None when there is none."""
    request = urllib.request.Request(
        f"{url}/batches/{name}", headers={"Authorization": f"Bearer {KEY}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


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
    with pytest.raises(CallTimeout, match="within 1 s: 2 rollouts are missing"):
        next(results)
    until(lambda: rollouts.running == 0, "nothing runs")


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


def test_a_wrong_key_is_told_at_once(base_url: str) -> None:
    for key in (None, "another"):
        with (
            RolloutClient(base_url, api_key=key) as client,
            pytest.raises(Unauthorized, match="GYM_RAY_API_KEY"),
        ):
            list(client.run(tasks(1)))


def test_the_key_may_be_in_the_environment(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GYM_RAY_API_KEY", KEY)
    with RolloutClient(base_url) as client:
        assert len(list(client.run(tasks(1)))) == 1


def test_an_empty_key_is_none_whatever_the_environment_says(
    base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GYM_RAY_API_KEY", KEY)
    with RolloutClient(base_url, api_key="") as client, pytest.raises(Unauthorized):
        list(client.run(tasks(1)))


def test_closing_the_client_ends_what_another_thread_tries_again() -> None:
    errors: list[Exception] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = RolloutClient(f"http://127.0.0.1:{listener.getsockname()[1]}", max_retries=1000)

        def update() -> None:
            try:
                client.update_weights(1, "/checkpoints/1")
            except ClientError as error:
                errors.append(error)

        thread = threading.Thread(target=update, daemon=True)
        thread.start()
        for _ in range(2):
            listener.accept()[0].close()
        client.close()
        thread.join(20)

    assert len(errors) == 1


def test_a_service_that_is_not_there_is_named() -> None:
    with (
        RolloutClient("http://127.0.0.1:1", max_retries=1) as client,
        pytest.raises(ServiceUnavailable, match=r"http://127.0.0.1:1 cannot be reached after 2"),
    ):
        list(client.run(tasks(1)))
    with pytest.raises(ValueError, match="base_url must be like"):
        RolloutClient("localhost:8000")


def test_another_service_is_told_from_ours() -> None:
    with (
        serving(FastAPI()) as url,
        RolloutClient(url, max_retries=1) as client,
        pytest.raises(ServiceUnavailable, match=r"answered 404.*is this a gym-ray service"),
    ):
        list(client.run(tasks(1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"rollout_timeout_seconds": 0}, "rollout_timeout_seconds"),
    ],
)
def test_the_service_says_what_it_does_not_take(
    client: RolloutClient, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestRefused, match=message):
        list(client.run(tasks(1), **options))


def test_impossible_options_are_refused_here(client: RolloutClient) -> None:
    with pytest.raises(ValueError, match="max_in_flight must be at least 1"):
        list(client.run(tasks(1), max_in_flight=0))
    with pytest.raises(ValueError, match="at least one rollout"):
        list(client.groups(tasks(1), 0))
    with pytest.raises(ValueError, match="on_failure"):
        list(client.groups(tasks(1), 1, on_failure="ignore"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="letters, digits"):
        list(client.run(tasks(1), name="a/b"))
    with pytest.raises(ValueError, match="more than the service takes"):
        list(client.groups(tasks(1), 5000))


def test_errors_and_results_can_be_pickled(client: RolloutClient) -> None:
    (result,) = client.run(tasks(1))

    assert pickle.loads(pickle.dumps(result)).reward == 0
    assert str(pickle.loads(pickle.dumps(BatchConflict("taken")))) == "taken"


def test_finished_rollouts_hold_back_new_ones_until_acknowledged(rollouts: Rollouts) -> None:
    rollouts.text_length = 10_000
    with (
        batch_service(rollouts, kept_bytes=50_000, max_running=2) as url,
        RolloutClient(url, api_key=KEY) as client,
    ):
        results = client.run(tasks(40), name="large")
        next(results)
        until(lambda: rollouts.running == 0, "nothing is started any more")
        until(lambda: (state(url, "large") or {})["waiting"] > 25, "the others wait")
        assert len(rollouts.started) < 10
        assert len(list(results)) == 39


def test_a_service_that_lost_its_batches_is_given_them_again(rollouts: Rollouts) -> None:
    """As when the replica that holds them is replaced."""
    with (
        batch_service(rollouts) as url,
        RolloutClient(url, api_key=KEY, lease_seconds=1) as client,
    ):
        rollouts.hold, rollouts.hold_from = True, 5
        results = client.run(tasks(20), name="lost")
        found = [next(results).index for _ in range(5)]
        request = urllib.request.Request(
            f"{url}/batches/lost", method="DELETE", headers={"Authorization": f"Bearer {KEY}"}
        )
        urllib.request.urlopen(request, timeout=10).close()
        rollouts.hold = False
        found += [result.index for result in results]

    assert sorted(found) == list(range(20))


def test_json_says_the_same_to_other_clients(base_url: str) -> None:
    def ask(method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{base_url}/batches/plain{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
            return json.loads(content) if content else None

    holder = os.urandom(16).hex()
    assert ask("PUT", "", {"holder": holder})["room"] == 4096
    rows = [{"index": 4, "task": tasks(8)[7]}, {"index": 5, "task": "no task"}]
    assert ask("POST", f"/tasks?holder={holder}", {"rows": rows}) == {"acknowledged": []}
    results: dict[int, Any] = {}
    cursor = 0
    while len(results) < 2:
        page = ask("GET", f"/results?holder={holder}&after={cursor}&wait=20")
        results |= {result["index"]: result for result in page["results"]}
        cursor = page["cursor"]
    assert results[4]["result"]["reward"] == 7
    assert results[5]["error"]["code"] == "task_invalid"
    ask("POST", f"/acknowledge?holder={holder}", {"indices": [4, 5]})
    again = ask("POST", f"/tasks?holder={holder}", {"rows": rows})
    assert again == {"acknowledged": [4, 5]}
    assert ask("GET", "")["acknowledged"] == 2
    ask("DELETE", f"?holder={holder}")
    assert state(base_url, "plain") is None


def test_rows_the_service_never_heard_of_are_missed(rollouts: Rollouts) -> None:
    class Forgetful(BatchHost):
        async def submit(self, *given: Any) -> list[int]:
            return []

    with (
        batch_service(rollouts, kind=Forgetful) as url,
        RolloutClient(url, api_key=KEY, lease_seconds=1) as client,
        pytest.raises(ResultsMissing, match="knows nothing of 3 rollouts, the first of index 0"),
    ):
        list(client.run(tasks(3)))


def test_the_oldest_batch_nobody_holds_makes_way(rollouts: Rollouts) -> None:
    rollouts.hold, rollouts.hold_from = True, 1
    with (
        batch_service(rollouts, max_batches=2) as url,
        RolloutClient(url, api_key=KEY, max_retries=1) as client,
    ):
        calls = [client.run(tasks(2), name=name) for name in ("first", "second")]
        for call in calls:
            next(call)
        with pytest.raises(ServiceUnavailable, match="2 batches in use"):
            next(client.run(tasks(2), name="third"))
        for call in calls:
            call.close()
        next(client.run(tasks(2), name="third"))
        assert state(url, "first") is None
        assert state(url, "second") is not None


def test_who_waits_for_memory_goes_on_when_another_client_leaves(rollouts: Rollouts) -> None:
    rollouts.text_length = 10_000
    with (
        batch_service(rollouts, kept_bytes=5_000) as url,
        RolloutClient(url, api_key=KEY) as client,
        RolloutClient(url, api_key=KEY) as other,
    ):
        full = other.run(tasks(1), name="full")
        next(full)
        received: list[int] = []
        waiting = threading.Thread(
            target=lambda: received.extend(
                result.index for result in client.run(tasks(1), name="waits")
            ),
            daemon=True,
        )
        waiting.start()
        until(lambda: (state(url, "waits") or {}).get("waiting") == 1, "there is no memory")

        full.close()
        waiting.join(20)
        assert received == [0]


def test_results_of_a_client_that_left_give_way_to_those_of_one_that_is_there(
    rollouts: Rollouts,
) -> None:
    rollouts.text_length = 10_000
    with (
        batch_service(rollouts, kept_bytes=50_000) as url,
        RolloutClient(url, api_key=KEY) as client,
    ):
        left = client.run(tasks(8), name="left")
        next(left)
        until(lambda: (state(url, "left") or {})["finished"] >= 5, "memory is full")
        left.close()

        assert len(list(client.run(tasks(20), name="there"))) == 20
        assert len(list(client.run(tasks(8), name="left"))) == 8
