"""What a row has and the format does not: `extra.gym_ray` of our trajectories.

With it a trajectory becomes the same row again. Tokens, logprobs and the turns' facts are not in
it: they are the metrics of the agent's steps.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
import pydantic

from gym_ray.atif.format import Count, TokenId, time_of
from gym_ray.errors import FailureKind
from gym_ray.rollout import Branch, Rollout, RolloutSpec, Status, TruncationReason
from gym_ray.store.schema import SCHEMA_VERSION
from gym_ray.turn import StopReason, Turn, VersionSpan


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)


class KeptBranch(_Strict):
    """A side branch; see `rollout.Branch`."""

    token_ids: list[TokenId]
    loss_mask: list[Literal[0, 1]]
    logprobs: list[float]

    @pydantic.model_validator(mode="after")
    def _is_as_long_everywhere(self) -> KeptBranch:
        if not len(self.token_ids) == len(self.loss_mask) == len(self.logprobs):
            raise ValueError("token_ids, loss_mask and logprobs must be equally long")
        return self


class Columns(_Strict):
    """Columns of the rollout's row, by their names; JSON columns are parsed, but for `task`.

    `task` stays the text it was: it need not be JSON, and a task is told by its text.
    """

    schema_version: str = SCHEMA_VERSION
    rollout_id: str
    task_id: str
    run_id: str
    task_index: Count
    rollout_index: Count
    source_file: str
    source_line: int
    environment: str
    agent: str
    model: str
    status: Status
    truncation_reason: TruncationReason | None
    reward: float | None
    reward_components: dict[str, float]
    metrics: dict[str, float]
    turn_rewards: list[float]
    side_branches: list[KeptBranch]
    prompt: list[dict[str, Any]]
    response: list[dict[str, Any]]
    left_out: list[list[dict[str, Any]]] = []
    tools: list[dict[str, Any]]
    task: str
    sampling: dict[str, Any]
    attempts: Count
    error_kind: FailureKind | None
    error: str | None
    started_at: str
    seconds: float

    @pydantic.field_validator("schema_version")
    @classmethod
    def _is_ours(cls, version: str) -> str:
        if version != SCHEMA_VERSION:
            raise ValueError(f"rows of version {version} are not those of this gym-ray")
        return version


class KeptSpan(_Strict):
    """See `turn.VersionSpan`."""

    version: Count
    start: Count
    end: Count


class TurnFacts(pydantic.BaseModel):
    """What a turn has and the format does not: `metrics.extra` of its step."""

    stop_reason: StopReason
    version_spans: list[KeptSpan]
    queued_seconds: float
    generation_seconds: float
    tool_seconds: float

    @classmethod
    def of(cls, turn: Turn) -> TurnFacts:
        return cls(
            stop_reason=turn.stop_reason,
            version_spans=[
                KeptSpan(version=span.version, start=span.start, end=span.end)
                for span in turn.version_spans
            ],
            queued_seconds=turn.queued_seconds,
            generation_seconds=turn.generation_seconds,
            tool_seconds=turn.tool_seconds,
        )

    @property
    def spans(self) -> tuple[VersionSpan, ...]:
        return tuple(VersionSpan(span.version, span.start, span.end) for span in self.version_spans)


def columns_of(rollout: Rollout) -> Columns:
    """What is kept of a rollout."""
    spec = rollout.spec
    return Columns(
        rollout_id=spec.rollout_id,
        task_id=spec.task_id,
        run_id=rollout.run_id,
        task_index=spec.task_index,
        rollout_index=spec.rollout_index,
        source_file=spec.source_file,
        source_line=spec.source_line,
        environment=spec.environment,
        agent=rollout.agent,
        model=rollout.model,
        status=rollout.status,
        truncation_reason=rollout.truncation_reason,
        reward=rollout.reward,
        reward_components=dict(rollout.reward_components),
        metrics=dict(rollout.metrics),
        turn_rewards=list(rollout.turn_rewards),
        side_branches=[
            KeptBranch(
                token_ids=branch.token_ids.tolist(),
                loss_mask=branch.loss_mask.tolist(),
                logprobs=branch.logprobs.tolist(),
            )
            for branch in rollout.side_branches
        ],
        prompt=json.loads(rollout.prompt),
        response=json.loads(rollout.response),
        left_out=json.loads(rollout.left_out),
        tools=json.loads(rollout.tools),
        task=spec.task,
        sampling=json.loads(rollout.sampling),
        attempts=rollout.attempts,
        error_kind=rollout.error_kind,
        error=rollout.error,
        started_at=rollout.started_at.isoformat(),
        seconds=rollout.seconds,
    )


def rollout_of_columns(columns: Columns, sequence: dict[str, Any]) -> Rollout:
    """The rollout again.

    Args:
        columns: what was kept.
        sequence: `token_ids`, `loss_mask`, `logprobs` and `turns`.

    Raises:
        ValueError: values that no rollout can have together.
    """
    is_invalid = columns.error_kind == FailureKind.TASK_INVALID
    return Rollout(
        spec=RolloutSpec(
            rollout_id=columns.rollout_id,
            task_id=columns.task_id,
            task_index=columns.task_index,
            rollout_index=columns.rollout_index,
            environment=columns.environment,
            source_file=columns.source_file,
            source_line=columns.source_line,
            task=columns.task,
            error=columns.error if is_invalid else None,
        ),
        run_id=columns.run_id,
        agent=columns.agent,
        model=columns.model,
        status=columns.status,
        truncation_reason=columns.truncation_reason,
        reward=columns.reward,
        reward_components=columns.reward_components,
        metrics=columns.metrics,
        turn_rewards=tuple(columns.turn_rewards),
        side_branches=tuple(
            Branch(
                token_ids=np.asarray(branch.token_ids, dtype=np.int32),
                loss_mask=np.asarray(branch.loss_mask, dtype=np.int8),
                logprobs=np.asarray(branch.logprobs, dtype=np.float32),
            )
            for branch in columns.side_branches
        ),
        prompt=json.dumps(columns.prompt),
        response=json.dumps(columns.response),
        tools=json.dumps(columns.tools),
        sampling=json.dumps(columns.sampling),
        attempts=columns.attempts,
        error_kind=columns.error_kind,
        error=columns.error,
        started_at=time_of(columns.started_at),
        seconds=columns.seconds,
        **sequence,
    )
