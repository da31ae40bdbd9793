"""`collect.max_staleness`: which turns start, and which an update ends or waits for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

import pytest

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.weights import StalenessLimit
from gym_ray.serving.turn_ages import TurnAges

Turn = asyncio.Future[str]


def limit(
    versions: int, oldest: int | None = None, when: Literal["drop", "wait"] = "drop"
) -> StalenessLimit:
    return StalenessLimit(versions, oldest, when)


async def update(ages: TurnAges, version: int) -> None:
    async with ages.making_way(version):
        pass


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(scenario: Callable[[TurnAges], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(TurnAges()), 10)

    asyncio.run(bounded())


def test_a_turn_of_a_rollout_that_is_too_old_does_not_start() -> None:
    async def scenario(ages: TurnAges) -> None:
        await update(ages, 3)
        started = False

        async def turn() -> str:
            nonlocal started
            started = True
            return "said"

        assert await ages.sample(limit(1, oldest=2), turn()) == "said"
        started = False
        with pytest.raises(RolloutFailure, match="version 1 and the policy is at 3") as caught:
            await ages.sample(limit(1, oldest=1), turn())
        assert caught.value.kind is FailureKind.POLICY_STALE
        assert not started

    run(scenario)


def test_an_update_ends_what_it_makes_too_stale_and_nothing_else() -> None:
    async def scenario(ages: TurnAges) -> None:
        turns = [Turn() for _ in range(3)]
        limits = [limit(0), limit(1), limit(1, oldest=None, when="wait")]
        tasks = [
            asyncio.create_task(ages.sample(own, turn))
            for own, turn in zip(limits, turns, strict=True)
        ]
        await settle()

        await update(ages, 1)

        with pytest.raises(RolloutFailure, match="version 0 and the policy is at 1") as caught:
            await tasks[0]
        assert caught.value.kind is FailureKind.POLICY_STALE
        assert turns[0].cancelled(), "the engine does not go on with it"
        for turn, task in zip(turns[1:], tasks[1:], strict=True):
            turn.set_result("said")
            assert await task == "said"

    run(scenario)


def test_an_update_waits_for_turns_that_ask_it_to_and_new_ones_wait_for_the_update() -> None:
    async def scenario(ages: TurnAges) -> None:
        turn, later = Turn(), Turn()
        later.set_result("later")
        waited_for = asyncio.create_task(ages.sample(limit(0, when="wait"), turn))
        await settle()
        updating = asyncio.create_task(update(ages, 1))
        await settle()
        asking = asyncio.create_task(ages.sample(limit(0, when="wait"), later))
        await settle()
        assert not updating.done()
        assert not asking.done()

        turn.set_result("said")

        assert await waited_for == "said"
        await updating
        assert await asking == "later"

    run(scenario)


def test_a_turn_given_up_by_its_caller_is_cancelled_and_not_called_stale() -> None:
    async def scenario(ages: TurnAges) -> None:
        turn = Turn()
        task = asyncio.create_task(ages.sample(limit(0), turn))
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert turn.cancelled()
        await update(ages, 1)

    run(scenario)


def test_an_update_that_failed_leaves_the_version_and_the_gate_as_they_were() -> None:
    async def scenario(ages: TurnAges) -> None:
        with pytest.raises(OSError, match="broken"):
            async with ages.making_way(7):
                raise OSError("broken")
        turn = Turn()
        turn.set_result("said")
        assert await ages.sample(limit(0, oldest=0), turn) == "said"

    run(scenario)
