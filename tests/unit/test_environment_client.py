"""The one way environments are called: retries, giving up, traces, and what travels."""

import asyncio
import dataclasses
import json
import pickle
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gym_ray.errors import FailureKind
from gym_ray.rollout import Producer, Rollout, RolloutSpec
from gym_ray.runner import RunSettings
from gym_ray.sampling import Sampling
from gym_ray.serving import environment_client
from gym_ray.serving.admission import UNWRITTEN_BYTES, Admission
from gym_ray.serving.environment_client import ClientSettings, EnvironmentClient
from tests.calls import Handle, Scripted, eventually

MakeSpec = Callable[..., RolloutSpec]
MakeRollout = Callable[..., Rollout]


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_client, "_BACKOFF_SECONDS", 0.0)


@pytest.fixture
def told(make_rollout: MakeRollout) -> Scripted:
    return Scripted(lambda spec: make_rollout(spec=spec))


def settings_of(**fields: Any) -> ClientSettings:
    run = RunSettings("run", Sampling(), fields.pop("timeout_seconds", 30.0))
    producer = Producer("run", "m", {"sums": "single_turn"})
    given = {"max_attempts": 3, "start_seconds": 1.0, **fields}
    return ClientSettings(run=run, producer=producer, **given)


def client_of(handle: Handle, **arguments: Any) -> EnvironmentClient:
    settings = arguments.pop("settings", settings_of())
    return EnvironmentClient({"sums": handle}.__getitem__, settings, **arguments)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(bounded())


async def passes(count: int = 20) -> None:
    """So many passes of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_what_begins_together_travels_together_in_calls_of_sixteen(
    told: Scripted, make_spec: MakeSpec
) -> None:
    handle = Handle(told)

    async def scenario() -> None:
        client = client_of(handle)
        specs = [make_spec(n) for n in range(40)]
        rollouts = await asyncio.gather(*map(client.run, specs))
        assert [rollout.spec for rollout in rollouts] == specs

    run(scenario)
    assert [len(call) for call in handle.calls] == [16, 16, 8]


def test_the_task_does_not_travel_back(make_spec: MakeSpec, make_rollout: MakeRollout) -> None:
    text = json.dumps({"responses_create_params": {"input": "x" * 1_000_000}})
    spec = dataclasses.replace(make_spec(), task=text)
    handle = Handle(Scripted(lambda arrived: make_rollout(spec=arrived)))

    async def scenario() -> None:
        rollout = await client_of(handle).run(spec)
        assert rollout.spec == spec
        assert len(pickle.dumps(rollout)) > 1_000_000

    run(scenario)
    assert 0 < handle.returned_bytes < 5_000


def test_failures_that_may_pass_are_tried_again_and_others_are_not(
    told: Scripted, make_spec: MakeSpec
) -> None:
    passing, lasting, final = (make_spec(n) for n in range(3))
    told.fail = {
        passing.rollout_id: [FailureKind.POLICY_TIMEOUT, FailureKind.SANDBOX_ERROR],
        lasting.rollout_id: [FailureKind.POLICY_TIMEOUT] * 9,
        final.rollout_id: [FailureKind.VERIFIER_ERROR] * 9,
    }
    handle = Handle(told)

    async def scenario() -> None:
        client = client_of(handle)
        ended = await asyncio.gather(*map(client.run, (passing, lasting, final)))
        assert [(rollout.status, rollout.attempts) for rollout in ended] == [
            ("completed", 3),
            ("failed", 3),
            ("failed", 1),
        ]
        assert client.retried == 4

    run(scenario)


def test_a_rollout_that_reached_no_replica_says_what_it_would_have_been_of(
    told: Scripted, make_spec: MakeSpec
) -> None:
    handle = Handle(told, lost=3)

    async def scenario() -> None:
        rollout = await client_of(handle).run(make_spec())
        assert (rollout.error_kind, rollout.attempts) == (FailureKind.ENVIRONMENT_UNAVAILABLE, 3)
        assert rollout.error == "ConnectionError: the replica is gone"
        assert (rollout.run_id, rollout.agent, rollout.model) == ("run", "single_turn", "m")

    run(scenario)


def test_a_call_that_takes_too_long_is_cancelled_and_its_rollouts_fail(
    told: Scripted, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_client, "_GRACE_SECONDS", 0.05)
    slow, quick = make_spec(0), make_spec(1)
    told.held = {slow.rollout_id}
    handle = Handle(told)

    async def scenario() -> None:
        settings = settings_of(timeout_seconds=0.05, start_seconds=0.0, max_attempts=1)
        client = client_of(handle, settings=settings)
        first, second = await asyncio.gather(client.run(slow), client.run(quick))
        assert first.error_kind == FailureKind.ENVIRONMENT_UNAVAILABLE
        assert "no result within 0.1 s" in str(first.error)
        assert second.status == "completed"

    run(scenario)
    assert handle.cancelled == 1


def test_a_call_is_cancelled_once_nobody_waits_for_any_of_it(
    told: Scripted, make_spec: MakeSpec
) -> None:
    specs = [make_spec(n) for n in range(3)]
    told.held = {spec.rollout_id for spec in specs[:2]}
    handle = Handle(told)

    async def scenario() -> None:
        admission = Admission(64)
        client = client_of(handle, admission=admission)
        waiting = [asyncio.ensure_future(client.run(spec)) for spec in specs]
        assert (await waiting[2]).status == "completed"

        waiting[0].cancel()
        await passes()
        assert handle.cancelled == 0
        waiting[1].cancel()
        await passes()
        assert handle.cancelled == 1
        assert (admission.running, admission.unwritten, admission.unwritten_bytes) == (0, 0, 0)
        told.release()
        assert (await client.run(specs[0])).status == "completed"

    run(scenario)


def test_what_is_given_up_before_it_starts_or_between_attempts_never_runs(
    told: Scripted, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_client, "_BACKOFF_SECONDS", 0.02)
    held, queued, failing, later = (make_spec(n) for n in range(4))
    told.held = {held.rollout_id}
    told.fail = {
        failing.rollout_id: [FailureKind.POLICY_TIMEOUT] * 9,
        later.rollout_id: [FailureKind.POLICY_TIMEOUT] * 2,
    }
    handle = Handle(told)

    async def scenario() -> None:
        admission = Admission(1)
        client = client_of(handle, admission=admission)
        between = asyncio.ensure_future(client.run(failing))
        await eventually(lambda: client.retried > 0)
        between.cancel()
        first = asyncio.ensure_future(client.run(held))
        await passes()
        second = asyncio.ensure_future(client.run(queued))
        await passes()
        assert client.waiting() == [("sums", 1)]
        second.cancel()
        await passes()
        assert client.waiting() == [("sums", 0)]
        told.release()
        await first
        # By the end of a rollout that waits longer, the time of the other's next attempt is past.
        assert (await client.run(later)).attempts == 3
        await client.room(1)
        assert (admission.running, admission.unwritten) == (0, 0)

    run(scenario)
    attempts = [(failing, 1), (held, 1), (later, 1), (later, 2), (later, 3)]
    assert handle.attempts == [(spec.rollout_id, number) for spec, number in attempts]


def test_a_rollout_counts_as_unwritten_until_it_is_recorded(
    told: Scripted, make_spec: MakeSpec
) -> None:
    handle = Handle(told)

    async def scenario() -> None:
        admission = Admission(4)
        durable = asyncio.Event()

        async def record(rollout: Rollout) -> None:
            await durable.wait()

        client = client_of(handle, admission=admission, record=record)
        running = [asyncio.ensure_future(client.run(make_spec(n))) for n in range(20)]
        await passes(200)
        assert admission.unwritten == admission.max_in_flight + admission.headroom == 8
        durable.set()
        await asyncio.gather(*running)
        assert (admission.unwritten, admission.unwritten_bytes) == (0, 0)

    run(scenario)


def test_large_rollouts_that_are_unwritten_hold_back_new_ones() -> None:
    admission = Admission(64)
    admission.started("sums", 16)
    admission.finished("sums", 16, to_write=1, size=UNWRITTEN_BYTES)

    assert admission.next_call([("sums", 16)]) is None
    admission.written(1, size=UNWRITTEN_BYTES)
    assert admission.next_call([("sums", 16)])


def test_what_cannot_be_recorded_is_an_error_for_who_asked_for_it(
    told: Scripted, make_spec: MakeSpec
) -> None:
    async def record(rollout: Rollout) -> None:
        raise OSError("no room")

    async def scenario() -> None:
        admission = Admission(4)
        client = client_of(Handle(told), admission=admission, record=record)
        with pytest.raises(OSError, match="no room"):
            await client.run(make_spec())
        assert admission.unwritten == 0

    run(scenario)


def test_a_traced_rollout_has_one_root_that_all_its_attempts_are_told_of(
    told: Scripted, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: dict[str, str] = {}

    class Root:
        def __init__(self, spec: RolloutSpec, run_id: str) -> None:
            self.rollout_id = spec.rollout_id
            self.traceparent = f"00-{spec.rollout_id}-01"

        def end_rollout(self, rollout: Rollout) -> None:
            assert self.rollout_id not in ends
            ends[self.rollout_id] = f"{rollout.status} after {rollout.attempts}"

        def end(self, facts: object, *, error: str) -> None:
            assert self.rollout_id not in ends
            ends[self.rollout_id] = error

    monkeypatch.setattr(environment_client, "root_span", Root)
    specs = [make_spec(n) for n in range(3)]
    told.fail = {specs[1].rollout_id: [FailureKind.POLICY_TIMEOUT]}
    told.held = {specs[2].rollout_id}
    handle = Handle(told)

    async def scenario() -> None:
        client = client_of(handle, settings=settings_of(trace_share=1.0))
        given_up = asyncio.ensure_future(client.run(specs[2]))
        await asyncio.gather(client.run(specs[0]), client.run(specs[1]))
        given_up.cancel()
        await passes()

    run(scenario)
    ids = [spec.rollout_id for spec in specs]
    assert [ends[rollout] for rollout in ids] == [
        "completed after 1",
        "completed after 2",
        "cancelled",
    ]
    assert handle.traceparents == {rollout: f"00-{rollout}-01" for rollout in ids}


#: Of each rollout: attempts that fail first, and after how many passes of the loop it is given up.
FATES = st.lists(
    st.tuples(st.integers(0, 3), st.none() | st.integers(0, 40)), min_size=1, max_size=40
)


@examples(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fates=FATES, max_in_flight=st.sampled_from([1, 3, 8, 64]), lost=st.integers(0, 2))
def test_whatever_fails_or_is_given_up_every_place_is_free_again_at_the_end(
    make_spec: MakeSpec,
    make_rollout: MakeRollout,
    fates: list[tuple[int, int | None]],
    max_in_flight: int,
    lost: int,
) -> None:
    told = Scripted(lambda spec: make_rollout(spec=spec))
    specs = [make_spec(n) for n in range(len(fates))]
    for spec, (failures, _) in zip(specs, fates, strict=True):
        told.fail[spec.rollout_id] = [FailureKind.POLICY_TIMEOUT] * failures
    handle = Handle(told, lost=lost)
    recorded: list[str] = []

    async def record(rollout: Rollout) -> None:
        await asyncio.sleep(0)
        recorded.append(rollout.spec.rollout_id)

    async def one(client: EnvironmentClient, spec: RolloutSpec, patience: int | None) -> bool:
        """Whether the rollout was waited for to its end."""
        running = asyncio.ensure_future(client.run(spec))
        if patience is None:
            rollout = await running
            assert rollout.status == "completed" or rollout.attempts == 3
            return True
        await passes(patience)
        running.cancel()
        await asyncio.wait({running})
        return not running.cancelled()

    async def scenario() -> None:
        admission = Admission(max_in_flight)
        client = client_of(handle, admission=admission, record=record)
        ended = await asyncio.gather(
            *(one(client, spec, fate[1]) for spec, fate in zip(specs, fates, strict=True))
        )
        assert sorted(recorded) == sorted(
            spec.rollout_id for spec, has_ended in zip(specs, ended, strict=True) if has_ended
        )
        assert (admission.running, admission.unwritten, admission.unwritten_bytes) == (0, 0, 0)
        assert all(count == 0 for _, count in client.waiting())
        await client.room(1)

    run(scenario)
    assert len(set(handle.attempts)) == len(handle.attempts)
