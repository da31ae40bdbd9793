"""The verifier pool under verifiers that fork, and that answer what nobody asked."""

from __future__ import annotations

import asyncio

import pytest

from gym_ray.errors import FailureKind
from gym_ray.verifiers import VerifierPool
from tests.service.test_verifier_pool import failure_of, outcome, with_pool, zoo_pool


@pytest.mark.parametrize("system", ["in_python", "in_c"])
@pytest.mark.parametrize("then", ["misses", "leaves", "returns"])
def test_a_fork_that_comes_back_answers_for_nobody(system: str, then: str) -> None:
    async def scenario() -> None:
        async with zoo_pool(processes=2, timeout_seconds=20.0) as pool:
            deeds = [f"fork {system} {then} {n}" if n % 3 else f"reward {n}" for n in range(60)]
            verdicts = await asyncio.gather(*(pool.verify(outcome(deed)) for deed in deeds))
            assert [verdict.reward for verdict in verdicts] == list(range(60))

    asyncio.run(scenario())


@with_pool
async def test_a_forked_child_leaves_with_the_code_it_chose(pool: VerifierPool) -> None:
    for code in (0, 7):
        assert (await pool.verify(outcome(f"fork_and_wait {code}"))).reward == code


@pytest.mark.parametrize("number", [0, 1, 2, 4, 2**63])
def test_an_answer_to_another_question_is_nobodys(number: int) -> None:
    async def scenario() -> None:
        async with zoo_pool(processes=1, timeout_seconds=20.0) as pool:
            assert (await pool.verify(outcome("reward 5"))).reward == 5.0  # question 2
            failure = await failure_of(pool.verify(outcome(f"intrude {number}")))  # question 3
            assert failure.kind is FailureKind.VERIFIER_ERROR
            assert "nobody had asked for" in failure.message
            assert (await pool.verify(outcome("reward 7"))).reward == 7.0

    asyncio.run(scenario())


@with_pool
async def test_a_program_left_behind_does_not_hide_that_the_process_died(
    pool: VerifierPool,
) -> None:
    failure = await failure_of(pool.verify(outcome("leave_a_program 3")))
    assert failure.kind is FailureKind.VERIFIER_ERROR
    assert "exit code 3" in failure.message
