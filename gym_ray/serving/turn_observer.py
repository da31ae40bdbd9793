"""The observer of turns: a policy replica's gauges, and its spans of traced rollouts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from gym_ray.errors import RolloutFailure
from gym_ray.policies.engine import EngineLoad, MeasuredEngine
from gym_ray.serving import autoscaling
from gym_ray.serving.policy_client import Reply, Request
from gym_ray.telemetry import metrics
from gym_ray.telemetry.traces import Span, child_span
from gym_ray.turn import Generation

#: Ray forgets a gauge that is not set within its reporting interval, 10 s.
_MEASURE_SECONDS = 2.0


class TurnObserver:
    """Watches the turns of one policy replica. Made on its event loop.

    Args:
        engine: the replica's; its load is told when it knows it.
        model: label of the metrics.
    """

    def __init__(self, engine: Any, model: str) -> None:
        self._engine = engine
        self._model = model
        self._turns = 0
        self._measuring = asyncio.ensure_future(self._measure())

    async def watch(
        self, request: Request, answering: Awaitable[tuple[int, Reply | RolloutFailure]]
    ) -> tuple[int, Reply | RolloutFailure]:
        """What `answering` returns: counted while it lasts, and a span when its rollout is traced.

        Args:
            request: the turn.
            answering: answers it with its position and what came of it.
        """
        facts = {"gym_ray.request_id": request.call.request_id, "gym_ray.model": self._model}
        span = child_span("policy turn", request.call.traceparent, facts)
        answer: Reply | RolloutFailure | None = None
        self._turns += 1
        try:
            position, answer = await answering
            return position, answer
        finally:
            self._turns -= 1
            if span is not None:
                _end(span, answer)

    def load(self) -> dict[str, float]:
        """What Serve's autoscaler decides by; see `autoscaling.py`."""
        engine = self._engine.load() if isinstance(self._engine, MeasuredEngine) else EngineLoad()
        return {
            autoscaling.TURNS: self._turns,
            autoscaling.ENGINE_RUNNING: engine.running,
            autoscaling.ENGINE_WAITING: engine.waiting,
            autoscaling.KV_CACHE_USAGE: engine.kv_cache_usage,
        }

    def close(self) -> None:
        """Set no gauges any more."""
        self._measuring.cancel()

    async def _measure(self) -> None:
        while True:
            metrics.put(metrics.TURNS_IN_FLIGHT, self._turns, model=self._model)
            if isinstance(self._engine, MeasuredEngine):
                load = self._engine.load()
                metrics.put(metrics.ENGINE_RUNNING, load.running, model=self._model)
                metrics.put(metrics.ENGINE_WAITING, load.waiting, model=self._model)
                metrics.put(metrics.ENGINE_KV_CACHE, load.kv_cache_usage, model=self._model)
            await asyncio.sleep(_MEASURE_SECONDS)


def _end(span: Span, answer: Reply | RolloutFailure | None) -> None:
    """End the span of a turn; `answer` is None when the turn was given up."""
    if answer is None or isinstance(answer, RolloutFailure):
        span.end({}, error="cancelled" if answer is None else str(answer.kind))
        return
    generation = answer if isinstance(answer, Generation) else answer.generation
    facts: dict[str, str | int | float] = {"gym_ray.stop_reason": answer.stop_reason}
    if generation is not None:
        facts["gym_ray.sampled_tokens"] = len(generation.token_ids)
        facts["gym_ray.queued_seconds"] = generation.queued_seconds
    span.end(facts)
