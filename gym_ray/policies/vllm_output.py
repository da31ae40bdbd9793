"""What vLLM answers, as a `Generation`.

Owned here: checking that an answer is whole and consistent. Log-probabilities are never
repaired: what is not as it must be is a `RolloutFailure`. Not owned here: asking (vllm).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.turn import Generation, VersionSpan

#: A log-probability may exceed 0 by rounding; by more than this it is wrong.
LOGPROB_ROUNDING = 1e-6


def generation_of(result: Any, *, elapsed_seconds: float) -> Generation:
    """vLLM's `RequestOutput` as a `Generation`.

    Raises:
        RolloutFailure: `policy_error` when anything about it is not as it must be.
    """
    output = result.outputs[0]
    tokens = np.asarray(output.token_ids, dtype=np.int32)
    if output.finish_reason not in ("stop", "length", "abort"):
        raise _failed(f"vLLM ended the generation with {output.finish_reason!r}")
    queued_seconds, generation_seconds = _timing(result.metrics, elapsed_seconds)
    return Generation(
        token_ids=tokens,
        logprobs=_checked_logprobs(output.logprobs, tokens),
        stop_reason=output.finish_reason,
        version_spans=_version_spans(output.weight_versions, length=len(tokens)),
        queued_seconds=queued_seconds,
        generation_seconds=generation_seconds,
    )


def _checked_logprobs(flat: Any, tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    values = np.asarray(flat.logprobs if flat is not None else [], dtype=np.float32)
    if len(values) != len(tokens):
        raise _failed(f"vLLM returned {len(tokens)} tokens but {len(values)} logprobs")
    if len(tokens) and not np.array_equal(np.asarray(flat.token_ids, dtype=np.int32), tokens):
        raise _failed("vLLM returned logprobs of other tokens than it sampled")
    if not np.isfinite(values).all():
        position = int(np.flatnonzero(~np.isfinite(values))[0])
        raise _failed(f"vLLM returned logprob {values[position]} at position {position}")
    if len(values) and values.max() > LOGPROB_ROUNDING:
        raise _failed(f"vLLM returned logprob {values.max():g}, above 0")
    return np.minimum(values, np.float32(0))


def _version_spans(spans: Any, *, length: int) -> tuple[VersionSpan, ...]:
    """Weight versions as numbers; `default` is what vLLM calls weights never updated."""
    if not length:
        return ()
    if not spans or spans[-1].end != length:
        raise _failed("vLLM does not say which weights it sampled with")
    return tuple(
        VersionSpan(
            version=0 if span.version == "default" else int(span.version),
            start=span.start,
            end=span.end,
        )
        for span in spans
        if span.end > span.start
    )


def _timing(metrics: Any, elapsed_seconds: float) -> tuple[float, float]:
    """Seconds queued and seconds generating, from vLLM's clock when it kept one."""
    if metrics is None or not metrics.scheduled_ts or not metrics.last_token_ts:
        return 0.0, elapsed_seconds
    return (
        max(0.0, metrics.scheduled_ts - metrics.queued_ts),
        max(0.0, metrics.last_token_ts - metrics.scheduled_ts),
    )


def _failed(message: str) -> RolloutFailure:
    return RolloutFailure(FailureKind.POLICY_ERROR, message)
