"""What a row that ends its replica costs others, and how what is large travels."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
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
from gym_ray.serving.admission import Admission
from gym_ray.serving.attempts import of_one_call
from gym_ray.serving.coalescing import MESSAGE_BYTES, parcels
from gym_ray.serving.environment_client import ClientSettings, EnvironmentClient
from tests.calls import Handle, Scripted

MakeSpec = Callable[..., RolloutSpec]
MakeRollout = Callable[..., Rollout]

SETTINGS = ClientSettings(
    run=RunSettings("run", Sampling(), 30.0),
    producer=Producer("run", "m", {}),
    max_attempts=3,
    start_seconds=1.0,
)


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_client, "_BACKOFF_SECONDS", 0.0)


class Stream:
    """Serve's streaming response."""

    def __init__(self, rollouts: AsyncIterator[list[Rollout]]) -> None:
        self._rollouts = rollouts

    def __aiter__(self) -> AsyncIterator[list[Rollout]]:
        return self._rollouts

    def cancel(self) -> None:
        """The replica is told, and this one does not listen."""


class Replica:
    """A Serve handle of one replica, which dies of some rows with all that runs there.

    Args:
        deadly: IDs of those rows.
        make: makes the rollout of a spec.
    """

    def __init__(self, deadly: set[str], make: Callable[[RolloutSpec], Rollout]) -> None:
        self._deadly = deadly
        self._make = make
        self._life: asyncio.Future[None] | None = None
        self.deaths = 0

    def options(self, **_: Any) -> Replica:
        return self

    def remote(self, specs: Sequence[RolloutSpec], numbers: Sequence[int], *_: Any) -> Any:
        return Stream(self._run(list(specs), list(numbers)))

    async def _run(
        self, specs: list[RolloutSpec], numbers: list[int]
    ) -> AsyncIterator[list[Rollout]]:
        if self._life is None:
            self._life = asyncio.get_running_loop().create_future()
        life = self._life
        for spec, number in zip(specs, numbers, strict=True):
            for _ in range(3):  # others come and go meanwhile
                await asyncio.sleep(0)
                if life.done():
                    raise ConnectionError("the replica died")
            if spec.rollout_id in self._deadly:
                self.deaths += 1
                life.set_result(None)
                self._life = None
                raise ConnectionError("the replica died")
            yield [dataclasses.replace(self._make(spec), attempts=number)]


@examples(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    deadly=st.sets(st.integers(0, 199), max_size=5),
    max_in_flight=st.sampled_from([1, 8, 64, 512]),
)
def test_rows_that_end_their_replica_fail_and_take_nobody_with_them(
    make_spec: MakeSpec, make_rollout: MakeRollout, deadly: set[int], max_in_flight: int
) -> None:
    specs = [make_spec(n) for n in range(200)]
    replica = Replica({specs[n].rollout_id for n in deadly}, lambda spec: make_rollout(spec=spec))

    async def scenario() -> None:
        admission = Admission(max_in_flight)
        client = EnvironmentClient({"sums": replica}.__getitem__, SETTINGS, admission=admission)
        async with asyncio.timeout(60):
            rollouts = await asyncio.gather(*map(client.run, specs))
        failed = {n for n, rollout in enumerate(rollouts) if rollout.status == "failed"}
        assert failed == deadly
        for number in failed:
            assert rollouts[number].error_kind is FailureKind.ENVIRONMENT_UNAVAILABLE
            assert rollouts[number].attempts == 3
        assert (admission.running, admission.unwritten) == (0, 0)
        assert all(count == 0 for _, count in client.waiting())

    asyncio.run(scenario())
    assert replica.deaths <= 6 * len(deadly)


def test_a_replica_that_is_lost_costs_nobody_an_attempt(
    make_spec: MakeSpec, make_rollout: MakeRollout
) -> None:
    handle = Handle(Scripted(lambda spec: make_rollout(spec=spec)), lost=4)

    async def scenario() -> None:
        client = EnvironmentClient({"sums": handle}.__getitem__, SETTINGS)
        specs = [make_spec(n) for n in range(64)]
        rollouts = await asyncio.gather(*map(client.run, specs))
        assert {(rollout.status, rollout.attempts) for rollout in rollouts} == {("completed", 1)}

    asyncio.run(scenario())


def test_suspects_that_are_given_up_keep_no_place(
    make_spec: MakeSpec, make_rollout: MakeRollout
) -> None:
    specs = [make_spec(n) for n in range(40)]
    replica = Replica({spec.rollout_id for spec in specs}, lambda spec: make_rollout(spec=spec))

    async def scenario() -> None:
        admission = Admission(64)
        client = EnvironmentClient({"sums": replica}.__getitem__, SETTINGS, admission=admission)
        running = [asyncio.ensure_future(client.run(spec)) for spec in specs]
        for passes, task in enumerate(running):
            for _ in range(passes % 7 * 5):
                await asyncio.sleep(0)
            if passes % 2:
                task.cancel()
        async with asyncio.timeout(60):
            ended = await asyncio.gather(*running, return_exceptions=True)
        assert {end.status for end in ended[::2] if isinstance(end, Rollout)} == {"failed"}
        assert any(isinstance(end, asyncio.CancelledError) for end in ended[1::2])
        assert admission.running == 0

    asyncio.run(scenario())


@given(
    sizes=st.lists(st.integers(0, 2 * MESSAGE_BYTES), max_size=40),
    size=st.none() | st.integers(1, 16),
)
def test_parcels_hold_everything_in_order_and_no_more_than_a_message(
    sizes: list[int], size: int | None
) -> None:
    made = list(parcels(sizes, lambda one: one, size=size))
    assert [one for parcel in made for one in parcel] == sizes
    for parcel in made:
        assert parcel
        assert len(parcel) == 1 or sum(parcel) <= MESSAGE_BYTES
        assert size is None or len(parcel) <= size


def test_large_tasks_travel_by_themselves(make_spec: MakeSpec, make_rollout: MakeRollout) -> None:
    row = {"responses_create_params": {"input": "x" * (MESSAGE_BYTES // 2)}}
    handle = Handle(Scripted(lambda spec: make_rollout(spec=spec)))

    async def scenario() -> None:
        client = EnvironmentClient({"sums": handle}.__getitem__, SETTINGS)
        specs = [make_spec(n) for n in range(6)]
        specs[2] = dataclasses.replace(specs[2], task=json.dumps(row))
        specs[3] = dataclasses.replace(specs[3], task=json.dumps(row))
        rollouts = await asyncio.gather(*map(client.run, specs))
        assert {rollout.status for rollout in rollouts} == {"completed"}

    asyncio.run(scenario())
    assert [len(call) for call in handle.calls] == [3, 3]


def test_large_rollouts_that_end_together_come_back_in_messages_of_their_own(
    make_spec: MakeSpec, make_rollout: MakeRollout
) -> None:
    large = "x" * (MESSAGE_BYTES // 2)

    async def attempt(number: int) -> Rollout:
        return dataclasses.replace(make_rollout(spec=make_spec(number)), response=large)

    async def scenario() -> None:
        messages = [batch async for batch in of_one_call([attempt(n) for n in range(5)])]
        assert [len(batch) for batch in messages] == [1] * 5
        assert all(len(pickle.dumps(batch)) < MESSAGE_BYTES for batch in messages)

    asyncio.run(scenario())
