"""Environments that are called in this process: what Serve does with a call, without Serve."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from gym_ray.agents import AGENTS
from gym_ray.errors import FailureKind
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.renderers import load_renderer
from gym_ray.rollout import Rollout, RolloutSpec, failed_rollout
from gym_ray.runner import Runner, RunSettings
from gym_ray.serving.attempts import of_one_call, run_attempt
from tests.arithmetic import Arithmetic
from tests.verification import here

#: Runs one attempt, as the environment's runner would.
Attempt = Callable[[RolloutSpec, RunSettings, int], Awaitable[Rollout]]


class Handle:
    """A Serve handle of an environment. Rollouts are pickled on their way, in both directions.

    Args:
        attempt: runs one attempt.
        lost: calls that break before they reach a replica, the first ones.

    Attributes:
        calls: the rollout IDs of each call.
        attempts: every attempt that began, as rollout ID and number.
        traceparents: those that came with a call, by rollout ID.
        cancelled: calls that were cancelled.
        returned_bytes: of the rollouts that came back.
    """

    def __init__(self, attempt: Attempt, *, lost: int = 0) -> None:
        self._attempt = attempt
        self._lost = lost
        self.calls: list[list[str]] = []
        self.attempts: list[tuple[str, int]] = []
        self.traceparents: dict[str, str] = {}
        self.cancelled = 0
        self.returned_bytes = 0

    def options(self, *, stream: bool, method_name: str) -> Handle:
        assert stream
        assert method_name == "run"
        return self

    def remote(
        self,
        specs: Sequence[RolloutSpec],
        numbers: Sequence[int],
        settings: RunSettings,
        traceparents: dict[str, str],
    ) -> _Stream:
        self.calls.append([spec.rollout_id for spec in specs])
        self.traceparents |= traceparents
        lost = len(self.calls) <= self._lost
        arrived = pickle.loads(pickle.dumps((specs, numbers, settings)))
        return _Stream(self, self._lose() if lost else self._run(*arrived))

    async def _lose(self) -> AsyncIterator[list[Rollout]]:
        raise ConnectionError("the replica is gone")
        yield []

    async def _run(
        self, specs: Sequence[RolloutSpec], numbers: Sequence[int], settings: RunSettings
    ) -> AsyncIterator[list[Rollout]]:
        attempts = [
            self._one(spec, settings, number) for spec, number in zip(specs, numbers, strict=True)
        ]
        async with contextlib.aclosing(of_one_call(attempts)) as batches:
            async for finished in batches:
                sent = pickle.dumps(finished)
                self.returned_bytes += len(sent)
                yield pickle.loads(sent)

    async def _one(self, spec: RolloutSpec, settings: RunSettings, number: int) -> Rollout:
        self.attempts.append((spec.rollout_id, number))
        return await self._attempt(spec, settings, number)


class _Stream:
    """Serve's streaming response."""

    def __init__(self, handle: Handle, rollouts: AsyncIterator[list[Rollout]]) -> None:
        self._handle = handle
        self._rollouts = rollouts

    def __aiter__(self) -> AsyncIterator[list[Rollout]]:
        return self._rollouts

    def cancel(self) -> None:
        self._handle.cancelled += 1


def sums_runner() -> Attempt:
    """Attempts of the arithmetic environment, with the scripted policy."""
    environment = Arithmetic()
    engine = ScriptedEngine(model="m", engine_args={"reply": "tests.replies:right_sum"})
    runner = Runner(
        environment=environment,
        agent_name="single_turn",
        agent=AGENTS["single_turn"],
        renderer=load_renderer(None),
        model="m",
        generate=engine.generate,
        verification=here(environment),
    )

    async def attempt(spec: RolloutSpec, settings: RunSettings, number: int) -> Rollout:
        return await run_attempt(runner, spec, settings, number, None)

    return attempt


class Scripted:
    """Attempts that end as told, without a runner.

    Args:
        make: makes the rollout of a spec.

    Attributes:
        fail: failures to come, of each rollout's attempts by ID.
        held: rollouts that do not end before `release`.
    """

    def __init__(self, make: Callable[[RolloutSpec], Rollout]) -> None:
        self._make = make
        self._released = asyncio.Event()
        self.fail: dict[str, list[FailureKind]] = {}
        self.held: set[str] = set()

    def release(self) -> None:
        self._released.set()

    async def __call__(self, spec: RolloutSpec, settings: RunSettings, number: int) -> Rollout:
        await asyncio.sleep(0)
        if spec.rollout_id in self.held:
            await self._released.wait()
        failures = self.fail.get(spec.rollout_id, [])
        if number <= len(failures):
            return failed_rollout(
                spec, failures[number - 1], "told to", run_id="run", attempts=number
            )
        return dataclasses.replace(self._make(spec), attempts=number)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (of anything, so nothing tells when)
            await asyncio.sleep(0.002)
