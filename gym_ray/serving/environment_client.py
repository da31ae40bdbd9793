"""How whole rollouts reach the environments: those that start together travel together.

For callers that want single rollouts, whoever asks for them (the gateway's `/run`). Collection
has a queue of its own and fills its calls from it (`collection/stage.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gym_ray.errors import RETRYABLE, FailureKind, RolloutFailure, pauses
from gym_ray.rollout import Rollout, RolloutSpec, failed_rollout
from gym_ray.runner import RunSettings
from gym_ray.serving.coalescing import Coalescer
from gym_ray.serving.recorder import Recorder
from gym_ray.telemetry.observer import RolloutObserver

#: Rollouts of one call, at most.
CALL_ROLLOUTS = 16

#: Beyond a rollout's own deadline, for a replica to start or a queue to move.
_GRACE_SECONDS = 60.0

#: See `pauses`: before the second attempt, and at most.
_BACKOFF_SECONDS = 0.5
_BACKOFF_MAXIMUM_SECONDS = 30.0

_Attempt = tuple[RolloutSpec, int]


class EnvironmentClient:
    """Runs rollouts in environment deployments, retried at transport and provider failures.

    Args:
        environments: Serve handle of each environment.
        settings: what all rollouts share.
        max_attempts: attempts per rollout.
        start_seconds: how long a replica may take to start.
        model: name for the `model` column of rollouts that reached no replica.
        recorder: makes every rollout durable before it is told; None to keep none.
    """

    def __init__(
        self,
        environments: Mapping[str, Any],
        settings: RunSettings,
        *,
        max_attempts: int,
        start_seconds: float,
        model: str,
        recorder: Recorder | None = None,
    ) -> None:
        self._settings = settings
        self._max_attempts = max_attempts
        self._model = model
        self._recorder = recorder
        self._observer = RolloutObserver()
        seconds = settings.timeout_seconds + start_seconds + _GRACE_SECONDS
        self._rollouts = {
            name: self._coalescer(handle, seconds) for name, handle in environments.items()
        }

    async def run(self, spec: RolloutSpec) -> Rollout:
        """Run one rollout to its end; a failure is a `failed` rollout. Cancelling gives it up.

        Raises:
            OSError: the rollout cannot be recorded.
        """
        rollout = await self._last_attempt(spec)
        self._observer.finished([rollout])
        if self._recorder is not None:
            await self._recorder.record(rollout)
        return rollout

    async def _last_attempt(self, spec: RolloutSpec) -> Rollout:
        attempt = 1
        backoff = pauses(_BACKOFF_SECONDS, _BACKOFF_MAXIMUM_SECONDS)
        while True:
            rollout = await self._attempt(spec, attempt)
            if rollout.error_kind not in RETRYABLE or attempt == self._max_attempts:
                return rollout
            self._observer.retried(rollout)
            await asyncio.sleep(next(backoff))
            attempt += 1

    async def _attempt(self, spec: RolloutSpec, attempt: int) -> Rollout:
        try:
            return await self._rollouts[spec.environment].ask((spec, attempt))
        except RolloutFailure as failure:
            return failed_rollout(
                spec,
                failure.kind,
                failure.message,
                run_id=self._settings.run_id,
                model=self._model,
                attempts=attempt,
            )

    def _coalescer(self, handle: Any, seconds: float) -> Coalescer[_Attempt, Rollout]:
        stream = handle.options(stream=True, method_name="run")

        def send(attempts: Sequence[_Attempt]) -> Any:
            specs, numbers = zip(*attempts, strict=True)
            return stream.remote(list(specs), list(numbers), self._settings)

        return Coalescer(
            send=send,
            read=_positions,
            seconds=lambda _: seconds,
            size=CALL_ROLLOUTS,
            broken=FailureKind.ENVIRONMENT_UNAVAILABLE,
            callee="environment replica",
        )


def _positions(
    attempts: Sequence[_Attempt], rollouts: Sequence[Rollout]
) -> Iterable[tuple[int, Rollout]]:
    positions = {spec.rollout_id: position for position, (spec, _) in enumerate(attempts)}
    for rollout in rollouts:
        yield positions[rollout.spec.rollout_id], rollout
