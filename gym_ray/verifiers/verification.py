"""Verification: the verdict on a rollout, whatever its verifier is made of.

Plain verifiers run in a pool of processes under a hard deadline, coroutine verifiers on the
event loop under a soft one; the parts of a composed verdict run at the same time. Whatever goes
wrong is a `RolloutFailure`, never a reward. What judges cost is booked here, into the metrics.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from types import TracebackType

from gym_ray.environment import Environment, Outcome, score_on_loop, verifiers_of
from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.judging import accounting, time_limit
from gym_ray.verdict import Verdict, compose
from gym_ray.verifiers.pool import VerifierPool


class Verification:
    """Judges rollouts of one environment. Start, use and stop it on one event loop.

    Args:
        environment: the environment.
        factory: builds it in the processes; see `VerifierPool`.
        processes: how many plain verifications run at once.
        timeout_seconds: longest one may run.

    Attributes:
        timeout_seconds: the same.
    """

    def __init__(
        self,
        environment: Environment,
        factory: Callable[[], Environment],
        *,
        processes: int,
        timeout_seconds: float,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self._environment = environment
        self._on_loop = verifiers_of(environment)
        self._has_review = type(environment).review is not Environment.review
        self._pool: VerifierPool | None = None
        if not all(self._on_loop.values()):
            self._pool = VerifierPool(factory, processes=processes, timeout_seconds=timeout_seconds)

    async def start(self) -> None:
        """Start the processes, if any are needed."""
        if self._pool is not None:
            await self._pool.start()

    async def stop(self) -> None:
        """End them; what still waits or runs fails as `cancelled`."""
        if self._pool is not None:
            await self._pool.stop()

    def check_health(self) -> None:
        """Raise when no verdict can be had any more."""
        if self._pool is not None:
            self._pool.check_health()

    async def __aenter__(self) -> Verification:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def verify(self, outcome: Outcome) -> Verdict:
        """Judge one rollout.

        Raises:
            RolloutFailure: `verifier_timeout`, `verifier_error`, or what the verifier raised.
        """
        with accounting() as spent:
            verdict = await self._verdict(outcome)
        metrics = spent.metrics()
        if not metrics:
            return verdict
        return dataclasses.replace(verdict, metrics={**verdict.metrics, **metrics})

    async def _verdict(self, outcome: Outcome) -> Verdict:
        names = list(self._on_loop)
        running = [asyncio.ensure_future(self._part(name, outcome)) for name in names]
        try:
            verdicts = dict(zip(names, await asyncio.gather(*running), strict=True))
        finally:
            for task in running:
                task.cancel()
        if not self._environment.parts:
            return verdicts[""]
        try:
            return compose(self._environment.parts, verdicts)
        except ValueError as error:  # finite parts may sum to infinity
            raise RolloutFailure(FailureKind.VERIFIER_ERROR, one_line(error)) from error

    async def _part(self, name: str, outcome: Outcome) -> Verdict:
        if self._on_loop[name]:
            verdict = await self._in_time(score_on_loop(self._environment, outcome, name))
        else:
            assert self._pool is not None
            verdict = await self._pool.verify(outcome, name)
        if self._has_review and (not name or self._environment.parts[name].is_own):
            return await self._in_time(self._environment.review(outcome, verdict))
        return verdict

    async def _in_time(self, verdict: Awaitable[Verdict]) -> Verdict:
        """A verdict that is made on the event loop, under the deadline."""
        try:
            async with asyncio.timeout(self.timeout_seconds) as deadline:
                with time_limit(self.timeout_seconds):
                    return await verdict
        except TimeoutError as error:
            if deadline.expired():
                raise RolloutFailure(
                    FailureKind.VERIFIER_TIMEOUT,
                    f"not finished after {self.timeout_seconds:g} s",
                ) from None
            raise RolloutFailure(FailureKind.VERIFIER_ERROR, one_line(error)) from error
        except RolloutFailure:
            raise
        except Exception as error:
            raise RolloutFailure(FailureKind.VERIFIER_ERROR, one_line(error)) from error
