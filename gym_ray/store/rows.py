"""Rollouts as Arrow: lossless conversion both ways, and the invariants of finished rows.

Not owned here: the columns (schema.py).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gym_ray.errors import FailureKind
from gym_ray.rollout import Branch, Rollout, RolloutSpec
from gym_ray.store.schema import MANIFEST_SCHEMA, SCHEMA
from gym_ray.turn import Turn, VersionSpan


def to_table(rollouts: Sequence[Rollout]) -> pa.Table:
    """Rollouts as one Arrow table of `SCHEMA`.

    Token columns are null, not empty, where the policy returned no token IDs.
    """
    specs = [rollout.spec for rollout in rollouts]
    tokenless = np.asarray([rollout.without_token_ids for rollout in rollouts], dtype=bool)
    columns: dict[str, Any] = {
        "rollout_id": [spec.rollout_id for spec in specs],
        "task_id": [spec.task_id for spec in specs],
        "run_id": [r.run_id for r in rollouts],
        "task_index": [spec.task_index for spec in specs],
        "rollout_index": [spec.rollout_index for spec in specs],
        "source_file": [spec.source_file for spec in specs],
        "source_line": [spec.source_line for spec in specs],
        "environment": [spec.environment for spec in specs],
        "agent": [r.agent for r in rollouts],
        "model": [r.model for r in rollouts],
        "status": [r.status for r in rollouts],
        "truncation_reason": [r.truncation_reason for r in rollouts],
        "reward": [r.reward for r in rollouts],
        "reward_components": [list(r.reward_components.items()) for r in rollouts],
        "metrics": [list(r.metrics.items()) for r in rollouts],
        "turn_rewards": [list(r.turn_rewards) or None for r in rollouts],
        "token_ids": _lists([r.token_ids for r in rollouts], pa.int32(), tokenless),
        "loss_mask": _lists([r.loss_mask for r in rollouts], pa.int8(), tokenless),
        "logprobs": _lists([r.logprobs for r in rollouts], pa.float32(), tokenless),
        "turns": [[_turn_to_dict(turn) for turn in r.turns] for r in rollouts],
        "side_branches": [[_branch_to_dict(b) for b in r.side_branches] for r in rollouts],
        "prompt": [r.prompt for r in rollouts],
        "response": [r.response for r in rollouts],
        "left_out": [r.left_out for r in rollouts],
        "tools": [r.tools for r in rollouts],
        "task": [spec.task for spec in specs],
        "sampling": [r.sampling for r in rollouts],
        "attempts": [r.attempts for r in rollouts],
        "error_kind": [None if r.error_kind is None else str(r.error_kind) for r in rollouts],
        "error": [r.error for r in rollouts],
        "started_at": [r.started_at for r in rollouts],
        "seconds": [r.seconds for r in rollouts],
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, type=field.type)
        for field, column in ((field, columns[field.name]) for field in SCHEMA)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def from_table(table: pa.Table) -> Iterator[Rollout]:
    """The inverse of `to_table`; tolerates columns added by later versions."""
    for batch in table.to_batches(max_chunksize=1024):
        tokens = {name: _views(batch.column(name)) for name in ("token_ids", "loss_mask")}
        logprobs = _views(batch.column("logprobs"))
        plain = batch.select(
            [
                field.name
                for field in SCHEMA
                if field.name in batch.schema.names
                and field.name not in ("token_ids", "loss_mask", "logprobs")
            ]
        ).to_pylist()
        for index, row in enumerate(plain):
            yield _rollout(
                row, tokens["token_ids"][index], tokens["loss_mask"][index], logprobs[index]
            )


def specs_to_table(specs: Sequence[RolloutSpec]) -> pa.Table:
    """Manifest rows as one Arrow table of `MANIFEST_SCHEMA`."""
    return pa.table(
        {field.name: [getattr(spec, field.name) for spec in specs] for field in MANIFEST_SCHEMA},
        schema=MANIFEST_SCHEMA,
    )


def specs_from_table(table: pa.Table) -> list[RolloutSpec]:
    """The inverse of `specs_to_table`."""
    return [RolloutSpec(**row) for row in table.select(MANIFEST_SCHEMA.names).to_pylist()]


def _lists(
    arrays: Sequence[np.ndarray[Any, Any]],
    value_type: pa.DataType,
    null: np.ndarray[Any, np.dtype[np.bool_]],
) -> pa.Array:
    """Numpy arrays as one Arrow list column, copied once and never through Python objects.

    Args:
        arrays: the lists.
        value_type: of their values.
        null: bool [N], which of them are null; these are empty.
    """
    offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    values = np.concatenate(arrays) if arrays else np.zeros(0)
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.array(values.astype(value_type.to_pandas_dtype()), type=value_type),
        mask=pa.array(null),
    )


def _views(column: pa.ListArray) -> list[np.ndarray[Any, Any]]:
    values = column.values.to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy()
    return [values[offsets[i] : offsets[i + 1]] for i in range(len(column))]


def _turn_to_dict(turn: Turn) -> dict[str, Any]:
    return {
        "prompt_length": turn.prompt_length,
        "generation_length": turn.generation_length,
        "stop_reason": turn.stop_reason,
        "version_spans": [
            {"version": span.version, "start": span.start, "end": span.end}
            for span in turn.version_spans
        ],
        "queued_seconds": turn.queued_seconds,
        "generation_seconds": turn.generation_seconds,
        "tool_seconds": turn.tool_seconds,
    }


def _branch_to_dict(branch: Branch) -> dict[str, Any]:
    return {
        "token_ids": branch.token_ids,
        "loss_mask": branch.loss_mask,
        "logprobs": branch.logprobs,
    }


def _rollout(
    row: dict[str, Any],
    token_ids: np.ndarray[Any, Any],
    loss_mask: np.ndarray[Any, Any],
    logprobs: np.ndarray[Any, Any],
) -> Rollout:
    started_at: datetime.datetime = row["started_at"]
    return Rollout(
        spec=RolloutSpec(
            rollout_id=row["rollout_id"],
            task_id=row["task_id"],
            task_index=row["task_index"],
            rollout_index=row["rollout_index"],
            environment=row["environment"],
            source_file=row["source_file"],
            source_line=row["source_line"],
            task=row["task"],
            error=row["error"] if row["error_kind"] == FailureKind.TASK_INVALID else None,
        ),
        run_id=row["run_id"],
        agent=row["agent"],
        model=row["model"],
        status=row["status"],
        truncation_reason=row["truncation_reason"],
        reward=row["reward"],
        reward_components=dict(row["reward_components"]),
        metrics=dict(row["metrics"]),
        turn_rewards=tuple(row.get("turn_rewards") or ()),
        token_ids=token_ids,
        loss_mask=loss_mask,
        logprobs=logprobs,
        turns=tuple(_turn(turn) for turn in row["turns"]),
        side_branches=tuple(
            Branch(
                token_ids=np.asarray(branch["token_ids"], dtype=np.int32),
                loss_mask=np.asarray(branch["loss_mask"], dtype=np.int8),
                logprobs=np.asarray(branch["logprobs"], dtype=np.float32),
            )
            for branch in row["side_branches"]
        ),
        prompt=row["prompt"],
        response=row["response"],
        left_out=row.get("left_out") or "[]",
        tools=row["tools"],
        sampling=row["sampling"],
        attempts=row["attempts"],
        error_kind=None if row["error_kind"] is None else FailureKind(row["error_kind"]),
        error=row["error"],
        started_at=started_at.astimezone(datetime.UTC),
        seconds=row["seconds"],
    )


def _turn(row: dict[str, Any]) -> Turn:
    spans = tuple(VersionSpan(**span) for span in row["version_spans"])
    return Turn(**{**row, "version_spans": spans})


def broken_invariants(rollouts: Iterable[Rollout]) -> list[str]:
    """Check the token contract of finished rows; an empty list means every row keeps it.

    Checked: mask 1 exactly on the turns' generations, logprobs finite and at most 0 there and
    exactly 0 elsewhere, turns that stay inside the sequence and continue one another; of side
    branches, that mask and logprobs fit each other and the tokens. Turns of a policy that returns
    no token IDs are lengths as it counts them, and are not checked.
    """
    problems: list[str] = []
    for rollout in rollouts:
        where = f"rollout {rollout.spec.rollout_id}"
        sampled = np.zeros(len(rollout.token_ids), dtype=np.int8)
        end = 0
        for index, turn in enumerate(() if rollout.without_token_ids else rollout.turns):
            start, end_before = turn.prompt_length, end
            end = start + turn.generation_length
            if start < end_before or end > len(sampled):
                problems.append(f"{where}: turn {index} does not continue the sequence")
                break
            sampled[start:end] = 1
        if not np.array_equal(sampled, rollout.loss_mask):
            problems.append(f"{where}: loss mask is not 1 exactly on sampled tokens")
        on, off = rollout.logprobs[sampled == 1], rollout.logprobs[sampled == 0]
        if not np.all(np.isfinite(on)) or np.any(on > 0):
            problems.append(f"{where}: a sampled token's logprob is not finite and at most 0")
        if np.any(off != 0):
            problems.append(f"{where}: a logprob stands on a token that was not sampled")
        for index, side in enumerate(rollout.side_branches):
            if not len(side.token_ids) == len(side.loss_mask) == len(side.logprobs):
                problems.append(f"{where}: side branch {index} has columns of unequal length")
                continue
            on, off = side.logprobs[side.loss_mask == 1], side.logprobs[side.loss_mask != 1]
            if not np.all(np.isfinite(on)) or np.any(on > 0) or np.any(off != 0):
                problems.append(
                    f"{where}: side branch {index} has logprobs that do not fit its mask"
                )
        if rollout.reward is not None and not math.isfinite(rollout.reward):
            problems.append(f"{where}: reward is not finite")
    return problems
