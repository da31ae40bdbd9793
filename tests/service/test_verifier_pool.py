"""The verifier pool under verifiers that hang, crash, raise and leak."""

import asyncio
import functools
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from gym_ray.environment import Outcome
from gym_ray.environments.math import MathEnvironment
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure
from gym_ray.task import Task
from gym_ray.verdict import Verdict
from gym_ray.verifiers import VerifierPool
from tests.service import verifier_zoo as zoo

REPOSITORY = Path(__file__).parents[2]
TASK = Task(
    "0" * 64, {"responses_create_params": {"input": "What is 2 + 2?"}, "expected_answer": "4"}
)


def outcome(text: str, state: Any = None) -> Outcome:
    return Outcome(task=TASK, text=text, items=[], state=state)


def zoo_pool(**options: Any) -> VerifierPool:
    return VerifierPool(zoo.Zoo, **({"processes": 2, "timeout_seconds": 1.0} | options))


async def failure_of(verification: Coroutine[Any, Any, Verdict]) -> RolloutFailure:
    with pytest.raises(RolloutFailure) as caught:
        await verification
    return caught.value


def with_pool(test: Callable[[VerifierPool], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a coroutine test against a pool of two zoo workers."""

    # No functools.wraps: pytest would take `pool` for a fixture.
    def run() -> None:
        async def inside() -> None:
            async with zoo_pool() as pool:
                await test(pool)

        asyncio.run(inside())

    run.__name__ = test.__name__
    return run


@with_pool
async def test_verdicts_come_back_whole(pool: VerifierPool) -> None:
    assert await pool.verify(outcome("reward 0.5")) == Verdict(0.5)
    assert await pool.verify(outcome("parts")) == Verdict(
        1.0, components={"form": 0.25, "content": 0.75}, metrics={"length": 3.0}
    )


@with_pool
async def test_many_callers_each_get_their_own_verdict(pool: VerifierPool) -> None:
    verdicts = await asyncio.gather(*(pool.verify(outcome(f"reward {n}")) for n in range(300)))
    assert [verdict.reward for verdict in verdicts] == list(range(300))


def test_large_outcomes_pass() -> None:
    async def scenario() -> None:
        async with zoo_pool(timeout_seconds=30.0) as pool:
            large = outcome("reward 1", state="x" * 20_000_000)
            verdicts = await asyncio.gather(*(pool.verify(large) for _ in range(3)))
            assert [verdict.reward for verdict in verdicts] == [1.0] * 3

    asyncio.run(scenario())


@pytest.mark.parametrize("deed", ["hang", "hang_in_c"])
def test_a_hanging_verifier_is_killed_at_its_deadline_and_costs_only_itself(deed: str) -> None:
    async def scenario() -> None:
        async with zoo_pool() as pool:
            started = time.monotonic()
            hanging = asyncio.create_task(failure_of(pool.verify(outcome(deed))))
            neighbors = await asyncio.gather(
                *(pool.verify(outcome(f"reward {n}")) for n in range(50))
            )
            assert [verdict.reward for verdict in neighbors] == list(range(50))
            failure = await hanging
            assert failure.kind is FailureKind.VERIFIER_TIMEOUT
            assert "1 s" in failure.message
            assert 0.9 < time.monotonic() - started < 5.0
            assert (await pool.verify(outcome("reward 1"))).reward == 1.0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("deed", "message"), [("exit", "exit code 3"), ("segfault", "killed by SIGSEGV")]
)
def test_a_crashing_verifier_costs_only_itself(deed: str, message: str) -> None:
    async def scenario() -> None:
        async with zoo_pool() as pool:
            deeds = [deed if n % 10 == 5 else f"reward {n}" for n in range(40)]
            results = await asyncio.gather(
                *(pool.verify(outcome(text)) for text in deeds), return_exceptions=True
            )
            for n, result in enumerate(results):
                if n % 10 == 5:
                    assert isinstance(result, RolloutFailure)
                    assert result.kind is FailureKind.VERIFIER_ERROR
                    assert message in result.message
                else:
                    assert isinstance(result, Verdict), result
                    assert result.reward == n

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("deed", "kind", "message"),
    [
        ("fail oops", FailureKind.VERIFIER_ERROR, "KeyError: 'oops'"),
        ("leave", FailureKind.VERIFIER_ERROR, "SystemExit: done"),
        ("nothing", FailureKind.VERIFIER_ERROR, "must return a number"),
        ("reward nan", FailureKind.VERIFIER_ERROR, "not a finite number"),
        ("refuse full", FailureKind.SANDBOX_ERROR, "full"),
    ],
)
def test_an_exception_is_the_rollouts_failure_and_the_worker_lives(
    deed: str, kind: FailureKind, message: str
) -> None:
    async def scenario() -> None:
        async with zoo_pool(processes=1) as pool:
            before = await pool.verify(outcome("pid"))
            failure = await failure_of(pool.verify(outcome(deed)))
            assert failure.kind is kind
            assert message in failure.message
            assert await pool.verify(outcome("pid")) == before

    asyncio.run(scenario())


@with_pool
async def test_state_that_does_not_pickle_is_named(pool: VerifierPool) -> None:
    failure = await failure_of(pool.verify(outcome("reward 1", state=lambda: None)))
    assert failure.kind is FailureKind.VERIFIER_ERROR
    assert "does not pickle" in failure.message


class OnlyHere:
    """Pickles, but a worker may not find this module."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pickle.loads, (b"not a pickle",))


@with_pool
async def test_state_that_does_not_unpickle_costs_only_itself(pool: VerifierPool) -> None:
    failure = await failure_of(pool.verify(outcome("reward 1", state=OnlyHere())))
    assert failure.kind is FailureKind.VERIFIER_ERROR
    assert (await pool.verify(outcome("reward 1"))).reward == 1.0


def test_a_cancelled_caller_leaves_the_others_alone(tmp_path: Path) -> None:
    note = tmp_path / "running"

    async def scenario() -> None:
        async with zoo_pool(processes=1, timeout_seconds=30.0) as pool:
            deeds = [f"nap_after_note {note}", "hang", "reward 7"]
            tasks = [asyncio.create_task(pool.verify(outcome(deed))) for deed in deeds]
            await until_async(note.exists)
            tasks[0].cancel()  # runs already
            tasks[1].cancel()  # waits still
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(results[0], asyncio.CancelledError)
            assert isinstance(results[1], asyncio.CancelledError)
            assert results[2] == Verdict(7.0)

    asyncio.run(scenario())


def test_the_deadline_counts_from_the_start_of_a_verification() -> None:
    async def scenario() -> None:
        async with zoo_pool(processes=1, timeout_seconds=1.0) as pool:
            verdicts = await asyncio.gather(*(pool.verify(outcome("nap 0.4")) for _ in range(5)))
            assert len(verdicts) == 5  # the last one began after 1.6 s

    asyncio.run(scenario())


def test_waiting_for_a_worker_has_a_deadline_too() -> None:
    async def scenario() -> None:
        options = {"processes": 1, "timeout_seconds": 5.0, "queue_timeout_seconds": 0.3}
        async with zoo_pool(**options) as pool:
            running = asyncio.create_task(pool.verify(outcome("nap 1")))
            await asyncio.sleep(0)  # it comes first
            failure = await failure_of(pool.verify(outcome("reward 1")))
            assert failure.kind is FailureKind.VERIFIER_TIMEOUT
            assert "verification.processes" in failure.message
            assert (await running).reward == 1.0

    asyncio.run(scenario())


def test_a_late_event_loop_is_not_mistaken_for_a_late_verifier() -> None:
    async def scenario() -> None:
        async with zoo_pool(processes=1, timeout_seconds=0.5) as pool:
            running = asyncio.create_task(pool.verify(outcome("nap 0.1")))
            await asyncio.sleep(0.01)
            time.sleep(1.0)  # noqa: ASYNC251 — the blocked loop is what is tested
            assert (await running).reward == 1.0

    asyncio.run(scenario())
    uvloop = pytest.importorskip("uvloop")
    uvloop.run(scenario())


@with_pool
async def test_an_alarm_left_behind_does_not_reach_the_next_verification(
    pool: VerifierPool,
) -> None:
    for _ in range(3):
        await pool.verify(outcome("set_alarm"))
        assert (await pool.verify(outcome("nap 0.2"))).reward == 1.0
    assert (await pool.verify(outcome("use_alarm"))).reward == 1.0


def test_an_idle_worker_that_dies_is_replaced() -> None:
    async def scenario() -> None:
        async with zoo_pool(processes=1) as pool:
            before = (await pool.verify(outcome("pid"))).metrics["pid"]
            os.kill(int(before), signal.SIGKILL)
            await wait_until_gone(int(before))
            assert (await pool.verify(outcome("pid"))).metrics["pid"] != before

    asyncio.run(scenario())


def test_workers_are_warm_before_the_first_verification() -> None:
    async def scenario() -> None:
        async with VerifierPool(zoo.SlowToStart, processes=1, timeout_seconds=1.0) as pool:
            verdict = await pool.verify(outcome(""))
            assert verdict.metrics["warm_seconds"] >= 0.3

    asyncio.run(scenario())


def test_an_environment_that_cannot_be_built_is_a_config_error() -> None:
    async def scenario() -> None:
        pool = VerifierPool(zoo.Unbuildable, processes=2, timeout_seconds=1.0)
        with pytest.raises(ConfigError, match=r"no such data file: words\.txt"):
            await pool.start()

    asyncio.run(scenario())


def test_workers_that_cannot_start_again_fail_rollouts_retryably_until_they_can(
    tmp_path: Path,
) -> None:
    needed = tmp_path / "words.txt"
    needed.touch()

    async def scenario() -> None:
        factory = functools.partial(zoo.Buildable, str(needed))
        async with VerifierPool(factory, processes=1, timeout_seconds=5.0) as pool:
            needed.unlink()
            await failure_of(pool.verify(outcome("exit")))
            failure = await failure_of(pool.verify(outcome("reward 1")))
            assert failure.kind is FailureKind.ENVIRONMENT_UNAVAILABLE
            assert "words.txt" in failure.message
            needed.touch()
            assert (await pool.verify(outcome("reward 1"))).reward == 1.0

    asyncio.run(scenario())


def test_stopping_fails_what_is_left_and_leaves_no_process() -> None:
    async def scenario() -> None:
        before = set(psutil.Process().children())
        pool = zoo_pool(timeout_seconds=60.0)
        await pool.start()
        verifications = [asyncio.create_task(pool.verify(outcome("hang"))) for _ in range(4)]
        await asyncio.sleep(0)
        await pool.stop()
        results = await asyncio.gather(*verifications, return_exceptions=True)
        assert {getattr(result, "kind", result) for result in results} == {FailureKind.CANCELLED}
        assert set(psutil.Process().children()) - before == set()
        assert (await failure_of(pool.verify(outcome("reward 1")))).kind is FailureKind.CANCELLED

    asyncio.run(scenario())


def test_a_killed_verifier_takes_the_processes_it_started_with_it(tmp_path: Path) -> None:
    note = tmp_path / "child"

    async def scenario() -> None:
        async with zoo_pool() as pool:
            await failure_of(pool.verify(outcome(f"start_child {note}")))
            await wait_until_gone(int(note.read_text("utf-8")))

    asyncio.run(scenario())


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    program = f"""
        import asyncio, sys
        sys.path.insert(0, {str(REPOSITORY)!r})
        from tests.service import test_verifier_pool as tests

        async def main():
            async with tests.zoo_pool(timeout_seconds=600.0) as pool:
                hanging = ["tell {tmp_path}/busy", "hang_in_c"]
                await asyncio.gather(*(pool.verify(tests.outcome(deed)) for deed in hanging))

        asyncio.run(main())
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    try:
        note = tmp_path / "busy"
        asyncio.run(until_async(lambda: note.exists() and note.read_text("utf-8") != ""))
        workers = psutil.Process(parent.pid).children()
        assert len(workers) == 2
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def test_prints_of_a_verifier_stay_out_of_standard_output(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def scenario() -> None:
        async with zoo_pool(processes=1) as pool:
            await pool.verify(outcome("chatter"))

    asyncio.run(scenario())
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "a verifier prints" in captured.err


def test_math_is_verified_in_the_pool() -> None:
    async def scenario() -> None:
        factory = functools.partial(MathEnvironment, require_box=True)
        async with VerifierPool(factory, processes=1, timeout_seconds=30) as pool:
            assert (await pool.verify(outcome(r"\boxed{2^2}"))).reward == 1.0
            for bomb in (r"\boxed{(10^9)!}", r"\boxed{" + "9" * 1_000_000 + "}"):
                assert (await pool.verify(outcome(bomb))).reward == 0.0
            assert (await pool.verify(outcome(r"\boxed{\frac{8}{2}}"))).reward == 1.0

    asyncio.run(scenario())


def test_a_trivial_verification_costs_under_half_a_millisecond_of_cpu() -> None:
    count = 4000

    async def scenario() -> float:
        async with VerifierPool(zoo.Trivial, processes=2, timeout_seconds=30) as pool:
            before = cpu_seconds()
            remaining = iter(range(count))

            async def caller() -> None:
                for _ in remaining:
                    await pool.verify(outcome("the answer is 4"))

            await asyncio.gather(*(caller() for _ in range(64)))
            return (cpu_seconds() - before) / count

    # The best of three: on a crowded machine caches are cold and wake-ups do not coalesce.
    assert min(asyncio.run(scenario()) for _ in range(3)) < 0.5e-3


def cpu_seconds() -> float:
    """CPU time of this process and its living children."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = [child.cpu_times() for child in psutil.Process().children()]
    return own.ru_utime + own.ru_stime + sum(times.user + times.system for times in children)


async def until_async(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


async def wait_until_gone(pid: int) -> None:
    """Until the process is dead; a zombie is."""
    dead = psutil.STATUS_ZOMBIE
    await until_async(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == dead)
