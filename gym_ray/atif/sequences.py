"""Token fields of a trajectory's steps as a sequence of turns.

Owned here: which steps are turns, and that token fields are taken as they are or not at all.
"""

from __future__ import annotations

import numpy as np
import pydantic

from gym_ray.atif.columns import TurnFacts
from gym_ray.atif.format import StepMetrics, Trajectory, TrajectoryRefused, TrajectoryStep
from gym_ray.transcript import TokenlessTranscript, Transcript
from gym_ray.turn import Generation, Turn, VersionSpan

#: Token fields of a step's metrics: all of them, or it is read without tokens.
_TOKEN_FIELDS = ("prompt_token_ids", "completion_token_ids", "logprobs")


def is_turn(step: TrajectoryStep) -> bool:
    """Whether a model was called in the step, and not in another trajectory."""
    return step.source == "agent" and not step.is_copied_context and step.llm_call_count != 0


def has_tokens(metrics: StepMetrics | None) -> bool:
    """Whether all three token fields are there."""
    return metrics is not None and all(getattr(metrics, name) is not None for name in _TOKEN_FIELDS)


def sequence_of(trajectory: Trajectory) -> Transcript | TokenlessTranscript:
    """Tokens and turns of the steps in which a model was called.

    Raises:
        Refused: token fields that cannot be of one call.
    """
    sampled = [
        (f"steps[{number}].", step) for number, step in enumerate(trajectory.steps) if is_turn(step)
    ]
    for where, step in sampled:
        _check_tokens(where, step)
    if not sampled or not all(has_tokens(step.metrics) for _, step in sampled):
        tokenless = TokenlessTranscript()
        tokenless.turns += [_tokenless_turn(step.metrics or StepMetrics()) for _, step in sampled]
        return tokenless
    transcript = Transcript()
    for _, step in sampled:
        metrics = step.metrics or StepMetrics()
        generated = np.asarray(metrics.completion_token_ids, dtype=np.int32)
        facts = _facts(metrics, len(generated))
        generation = Generation(
            token_ids=generated,
            logprobs=np.asarray(metrics.logprobs, dtype=np.float32),
            stop_reason=facts.stop_reason,
            version_spans=facts.spans,
            queued_seconds=facts.queued_seconds,
            generation_seconds=facts.generation_seconds,
        )
        transcript.insert(
            metrics.prompt_token_ids or (), generation, tool_seconds=facts.tool_seconds
        )
    return transcript


def _check_tokens(where: str, step: TrajectoryStep) -> None:
    metrics = step.metrics
    if metrics is None or metrics.completion_token_ids is None or metrics.logprobs is None:
        return
    if (step.llm_call_count or 1) > 1:
        raise TrajectoryRefused(
            f"{where}llm_call_count",
            f"says {step.llm_call_count} calls, whose tokens cannot be told apart; write a step "
            "for each, or leave the token fields out",
        )
    generated = len(metrics.completion_token_ids)
    if len(metrics.logprobs) != generated:
        raise TrajectoryRefused(
            f"{where}metrics.logprobs",
            f"has {len(metrics.logprobs)} values for {generated} tokens; one for each sampled "
            "token, never repaired",
        )
    if any(value > 0 for value in metrics.logprobs):
        raise TrajectoryRefused(
            f"{where}metrics.logprobs", "has a value above 0, which is no probability"
        )
    for name, ids in (("prompt", metrics.prompt_token_ids), ("completion", generated)):
        said = getattr(metrics, f"{name}_tokens")
        count = ids if isinstance(ids, int) else None if ids is None else len(ids)
        if said is not None and count is not None and said != count:
            raise TrajectoryRefused(
                f"{where}metrics.{name}_tokens", f"is {said}, and there are {count} token IDs"
            )


def _tokenless_turn(metrics: StepMetrics) -> Turn:
    generated = metrics.completion_tokens or 0
    facts = _facts(metrics, generated)
    return Turn(
        prompt_length=metrics.prompt_tokens or 0,
        generation_length=generated,
        stop_reason=facts.stop_reason,
        version_spans=facts.spans,
        queued_seconds=facts.queued_seconds,
        generation_seconds=facts.generation_seconds,
        tool_seconds=facts.tool_seconds,
    )


def _facts(metrics: StepMetrics, generated: int) -> TurnFacts:
    """What our own steps say of a turn; else a turn that ended by itself, of policy 0."""
    try:
        return TurnFacts.model_validate(metrics.extra)
    except pydantic.ValidationError:
        spans = (VersionSpan(0, 0, generated),) if generated else ()
        return TurnFacts.of(Turn(0, generated, "stop", spans, 0.0, 0.0))
