"""The host of batches by itself: what no client can bring about at will."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from gym_ray.batches.host import BatchHost
from gym_ray.batches.protocol import BatchError, Opening
from gym_ray.rollout import Producer, RolloutSpec
from gym_ray.task import task_id_of
from tests.gateway.batches import Rollouts, eventually, tasks


def opening(holder: str, seed: int | None = None) -> Opening:
    return Opening(holder=holder, lease_seconds=60, rollout_timeout_seconds=60, seed=seed)


def rows(*indices: int) -> list[tuple[int, RolloutSpec]]:
    found = []
    for index, task in enumerate(tasks(max(indices) + 1)):
        spec = RolloutSpec(
            rollout_id="given by the host",
            task_id=task_id_of(task),
            task_index=index,
            rollout_index=0,
            environment="sums",
            source_file="",
            source_line=0,
            task=json.dumps(task),
        )
        found.append((index, spec))
    return [found[index] for index in indices]


def run(scenario: Callable[[BatchHost], Awaitable[None]], rollouts: Rollouts, **host: int) -> None:
    async def with_host() -> None:
        settings = {"max_running": 4, "retention_seconds": 60.0, **host}
        held = BatchHost(rollouts.for_opening, producer=Producer("run", "m", {}), **settings)
        try:
            async with asyncio.timeout(20):
                await scenario(held)
        finally:
            await held.stop()

    asyncio.run(with_host())


def test_who_was_displaced_does_not_take_a_batch_back_that_was_let_go(rollouts: Rollouts) -> None:
    """It slept meanwhile: told to open the batch again, it would find its rows acknowledged."""

    async def scenario(host: BatchHost) -> None:
        await host.open("b", opening("sleeper"))
        await host.submit("b", "sleeper", rows(0, 1))
        await host.open("b", opening("second"))
        await host.release("b", "second")

        with pytest.raises(BatchError) as told:
            await host.submit("b", "sleeper", rows(0, 1))
        assert told.value.refusal == "taken"
        with pytest.raises(BatchError) as told:
            await host.submit("b", "second", rows(0, 1))
        assert told.value.refusal == "released"

    run(scenario, rollouts)


def test_a_batch_whose_backend_was_not_to_be_had_is_opened_by_asking_again(
    rollouts: Rollouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, broken = rollouts.for_opening, [KeyError("the application is not listed yet")]

    def for_opening(how: Opening) -> Rollouts:
        if broken:
            raise broken.pop()
        return make(how)

    monkeypatch.setattr(rollouts, "for_opening", for_opening)

    async def scenario(host: BatchHost) -> None:
        with pytest.raises(KeyError):
            await host.open("b", opening("a"))
        with pytest.raises(BatchError):
            await host.state("b")
        await host.open("b", opening("a"))
        await host.submit("b", "a", rows(0))
        page = await host.results("b", "a", 0, 10.0)
        assert [(index, rollout.reward) for index, rollout in page.results] == [(0, 0.0)]

    run(scenario, rollouts)


def test_results_of_rows_the_new_holder_has_not_given_make_room_for_those_it_has(
    rollouts: Rollouts,
) -> None:
    rollouts.text_length = 10_000

    async def scenario(host: BatchHost) -> None:
        await host.open("b", opening("first"))
        await host.submit("b", "first", rows(4, 5, 6, 7))
        while (await host.state("b")).finished < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await host.open("b", opening("second"))
        await host.submit("b", "second", rows(0, 1))
        page = await host.results("b", "second", 0, 10.0)
        while page.pending:
            page = await host.results("b", "second", page.cursor, 10.0)
        assert rollouts.started == [4, 5, 6, 7, 0, 1]

    run(scenario, rollouts, kept_bytes=40_000)


def test_a_row_that_was_given_up_runs_again_though_memory_is_full(rollouts: Rollouts) -> None:
    """It may be what a group lacks whose other results are in memory, and stay there for it."""
    rollouts.text_length = 10_000
    rollouts.hold, rollouts.hold_from = True, 4

    async def scenario(host: BatchHost) -> None:
        await host.open("b", opening("first"))
        await host.submit("b", "first", rows(0, 1, 2, 3, 4, 5))
        await eventually(lambda: len(rollouts.started) == 6)
        while (await host.state("b")).finished < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await host.open("b", opening("second"))
        await host.release("b", "second")
        rollouts.hold = False
        await host.open("b", opening("third"))
        await host.submit("b", "third", rows(*range(8)))
        while (await host.state("b")).finished < 6:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        state = await host.state("b")
        assert (state.waiting, state.running) == (2, 0), "those never begun wait for memory"
        await host.acknowledge("b", "third", range(6))
        while (await host.state("b")).finished < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    run(scenario, rollouts, kept_bytes=40_000)
    assert rollouts.started == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7]


def test_only_rows_that_ran_when_they_were_given_up_are_sampled_anew(rollouts: Rollouts) -> None:
    rollouts.hold = True

    async def scenario(host: BatchHost) -> None:
        await host.open("b", opening("a", seed=1))
        await host.submit("b", "a", rows(0, 1, 2))
        await eventually(lambda: rollouts.running == 2)
        await host.release("b", "a")
        rollouts.hold = False
        await host.open("b", opening("b", seed=1))
        await host.submit("b", "b", rows(0, 1, 2))
        await eventually(lambda: len(rollouts.specs) == 5)

    run(scenario, rollouts, max_running=2)
    again = {spec.task_index: spec.rollout_id for spec in rollouts.specs[2:]}
    assert again[0] != rollouts.specs[0].rollout_id

    other = Rollouts()

    async def at_once(host: BatchHost) -> None:
        await host.open("b", opening("c", seed=1))
        await host.submit("b", "c", rows(2))
        await eventually(lambda: len(other.specs) == 1)

    run(at_once, other)
    assert other.specs[0].rollout_id == again[2]
