"""What verifying anew changed: two datasets of the same rollouts, compared row by row."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.collection.summary import Reward, reward_of
from gym_ray.reverification.reverify_stage import DIVERGED, KEPT
from gym_ray.store.index import Index, contains
from gym_ray.store.places import parquet_file

#: Rewards that differ by less are the same: sums in another order.
_SAME = 1e-9

#: Rollouts listed one by one.
_LISTED = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """Counts of rollouts.

    Attributes:
        rollouts: all. They are judged anew, kept, failed now or failed before.
        judged: have a verdict of now.
        kept: have their old verdict, as their state cannot be rebuilt.
        failed_now: had a reward, and their verification failed now.
        failed_before: had failed, and still do.
        recovered: of those judged, had failed before.
        raised, lowered: of those judged, by how their reward changed.
        diverged: of those judged, tools or steps did not give again what the row says.
        before, after: rewards; coverage is of all rollouts.
    """

    rollouts: int
    judged: int
    kept: int
    failed_now: int
    failed_before: int
    recovered: int
    raised: int
    lowered: int
    diverged: int
    before: Reward
    after: Reward

    @property
    def changed(self) -> int:
        """Rollouts whose reward is another one, or there where none was, or gone."""
        return self.raised + self.lowered + self.recovered + self.failed_now


@dataclasses.dataclass(frozen=True, slots=True)
class ReverifyReport:
    """What `reverify` returns and `reverify.json` holds.

    Attributes:
        source: where the rollouts were read.
        output: the new dataset.
        pending: rollouts of the source not in it yet.
        changes: over all environments.
        environments: the same by environment.
        kept: rollouts kept, by why; see `replay.NotReplayable`.
        failures: rollouts whose verification failed now, by kind.
        largest: the rewards that changed most: `rollout_id`, `task_index`, `rollout_index`,
            `environment`, `before`, `after`.
        first_failures: the first failures of now, with their messages.
        max_failed_share: share of `failed_now` that the config allows.
        interrupted: why the command ended early, or None.
    """

    source: str
    output: str
    pending: int
    changes: Changes
    environments: dict[str, Changes]
    kept: dict[str, int]
    failures: dict[str, int]
    largest: list[dict[str, Any]]
    first_failures: list[dict[str, Any]]
    max_failed_share: float
    interrupted: str | None = None

    @property
    def failed_share(self) -> float:
        """Rollouts whose verification failed now / rollouts."""
        return self.changes.failed_now / max(1, self.changes.rollouts)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)


def compare(
    source: Index,
    now: Index,
    *,
    source_path: Path,
    output: Path,
    max_failed_share: float,
    interrupted: str | None,
) -> ReverifyReport:
    """The report.

    Args:
        source: index of the rollouts as they were.
        now: index of them judged anew; perhaps not all yet.
        source_path, output, max_failed_share, interrupted: see `ReverifyReport`.
    """
    ids = np.sort(now.table["rollout_id"].to_numpy().astype("S32"))
    before = source.table.filter(pa.array(contains(ids, source.table["rollout_id"])))
    table = _joined(before, now)
    return ReverifyReport(
        source=str(source_path),
        output=str(output),
        pending=len(source.table) - len(table),
        changes=_changes(table),
        environments={
            name or "(none)": _changes(table.filter(pc.equal(table["environment"], name)))
            for name in sorted(pc.unique(table["environment"]).to_pylist())
        },
        kept=dict(Counter(table["kept"].drop_null().to_pylist()).most_common()),
        failures=dict(Counter(_failed_now(table)["error_kind"].to_pylist()).most_common()),
        largest=_largest(table),
        first_failures=_failed_now(table)
        .slice(0, _LISTED)
        .select(["rollout_id", "task_index", "rollout_index", "environment", "error_kind", "error"])
        .to_pylist(),
        max_failed_share=max_failed_share,
        interrupted=interrupted,
    )


def _joined(before: pa.Table, now: Index) -> pa.Table:
    """Rows of now, with what they were; both are in dataset order and hold the same rollouts."""
    kept, diverged = _marks(now)
    failed = pc.equal(now.table["status"], "failed")
    return (
        now.table.append_column("before", before["reward"])
        .append_column("failed_before", pc.equal(before["status"], "failed"))
        .append_column("failed", failed)
        .append_column("kept", pc.if_else(failed, None, kept))
        .append_column("diverged", diverged)
        .append_column("difference", pc.subtract(now.table["reward"], before["reward"]))
    )


def _marks(now: Index) -> tuple[pa.Array, pa.Array]:
    """For each row why it was kept (null where it was not), and whether its replay diverged."""
    if not now.files:
        return pa.array([], type=pa.string()), pa.array([], type=pa.bool_())
    parts = [_marks_of(path) for path in now.files]
    starts = np.cumsum([0, *(len(kept) for kept, _ in parts)])[:-1]
    rows = starts[now.table["file"].to_numpy()] + now.table["row"].to_numpy()
    kept = np.concatenate([kept for kept, _ in parts])[rows]
    diverged = np.concatenate([diverged for _, diverged in parts])[rows]
    return pa.array(kept, type=pa.string()), pa.array(diverged)


def _marks_of(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The same of the rows of one file, from the names of their metrics."""
    metrics = pa.concat_arrays(parquet_file(path).read(columns=["metrics"])["metrics"].chunks)
    offsets = metrics.offsets.to_numpy()
    row = np.repeat(np.arange(len(metrics)), np.diff(offsets))
    kept = np.full(len(metrics), None, dtype=object)
    diverged = np.zeros(len(metrics), dtype=bool)
    names = metrics.keys
    is_kept = pc.starts_with(names, KEPT).to_numpy(zero_copy_only=False)
    kept[row[is_kept]] = [name.removeprefix(KEPT) for name in names.filter(is_kept).to_pylist()]
    diverged[row[pc.equal(names, DIVERGED).to_numpy(zero_copy_only=False)]] = True
    return kept, diverged


def _changes(table: pa.Table) -> Changes:
    count = len(table)
    failed, before = table["failed"], table["failed_before"]
    judged = pc.and_(pc.invert(failed), table["kept"].is_null())
    return Changes(
        rollouts=count,
        judged=_true(judged),
        kept=_true(table["kept"].is_valid()),
        failed_now=len(_failed_now(table)),
        failed_before=_true(pc.and_(failed, before)),
        recovered=_true(pc.and_(judged, before)),
        raised=_true(pc.greater(table["difference"], _SAME)),
        lowered=_true(pc.less(table["difference"], -_SAME)),
        diverged=_true(table["diverged"]),
        before=reward_of(table["before"], count),
        after=reward_of(table["reward"], count),
    )


def _failed_now(table: pa.Table) -> pa.Table:
    return table.filter(pc.and_(table["failed"], pc.invert(table["failed_before"])))


def _largest(table: pa.Table) -> list[dict[str, Any]]:
    size = pc.fill_null(pc.abs(table["difference"]), 0.0)
    order = np.argsort(-size.to_numpy(), kind="stable")[:_LISTED]
    found = table.take(pa.array(order)).filter(pc.greater(size.take(pa.array(order)), _SAME))
    names = ["rollout_id", "task_index", "rollout_index", "environment", "before", "reward"]
    changes: list[dict[str, Any]] = (
        found.select(names).rename_columns([*names[:-1], "after"]).to_pylist()
    )
    return changes


def _true(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)
