"""The replica's side of a call: attempts at rollouts in this process, and how they travel back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any

from gym_ray.rollout import Rollout, RolloutSpec, without_task
from gym_ray.runner import Runner, RunSettings
from gym_ray.serving.coalescing import as_they_finish
from gym_ray.telemetry.traces import Span, attempt_span


async def run_attempt(
    runner: Runner, spec: RolloutSpec, settings: RunSettings, attempt: int, traceparent: str | None
) -> Rollout:
    """Run one attempt, with its spans when the rollout is traced.

    Args:
        traceparent: W3C context of the rollout; None when it is not traced.
    """
    span = attempt_span(spec, attempt, traceparent)
    if span is None:
        return await runner.run(spec, settings, attempt=attempt)
    rollout = await runner.run(spec, settings, attempt=attempt, traceparent=span.traceparent)
    if rollout.verification_seconds:
        ago = rollout.verification_seconds
        Span("verification", span.traceparent, {}, seconds_ago=ago).end({})
    span.end_rollout(rollout)
    return rollout


async def of_one_call(
    attempts: Sequence[Coroutine[Any, Any, Rollout]],
) -> AsyncGenerator[list[Rollout], None]:
    """Run attempts at once; yields what finished together, together. Without their tasks: the
    caller has these, and they may be the largest part of a rollout.
    """
    bare = [_without_task(attempt) for attempt in attempts]
    async with contextlib.aclosing(as_they_finish(bare, lambda one: one.memory_bytes)) as batches:
        async for finished in batches:
            yield finished


async def _without_task(attempt: Coroutine[Any, Any, Rollout]) -> Rollout:
    return without_task(await attempt)
