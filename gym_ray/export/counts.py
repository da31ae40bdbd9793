"""What an export counted. Parts count for themselves, and are added up."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


@dataclasses.dataclass(slots=True)
class ExportCounts:
    """Counts of one part, or of all.

    Attributes:
        rollouts, groups: read.
        rows: written, by file.
        dropped: rollouts (or what the reason names) that were left out, by reason.
        noted: other facts worth a line, by name.
        lengths: how many rows have so many tokens.
        sampled_tokens: of the rows written.
        without_token_ids: rollouts that lack tokens an export cannot do without.
        environments, models, runs: rollouts read, by origin.
        highest_reward: of the rollouts read; None where none has one.
        widest_difference: of two rewards of one group, of the rollouts read; None as well.
    """

    rollouts: int = 0
    groups: int = 0
    rows: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    noted: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    lengths: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    sampled_tokens: int = 0
    without_token_ids: int = 0
    environments: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    models: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    runs: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    highest_reward: float | None = None
    widest_difference: float | None = None

    def add(self, other: ExportCounts) -> None:
        for field in dataclasses.fields(self):
            mine: Any = getattr(self, field.name)
            if isinstance(mine, collections.Counter):
                mine.update(getattr(other, field.name))  # `+` would forget zeros
            elif field.name in ("highest_reward", "widest_difference"):
                known = [v for v in (mine, getattr(other, field.name)) if v is not None]
                setattr(self, field.name, max(known, default=None))
            else:
                setattr(self, field.name, mine + getattr(other, field.name))

    @classmethod
    def of_read(cls, table: pa.Table, groups: Sequence[Sequence[int]]) -> ExportCounts:
        """What a table of whole groups counts as read.

        Args:
            table: of rollouts.
            groups: row numbers of each group.
        """
        rewards = table["reward"].to_pylist()
        rewarded = ([rewards[n] for n in group if rewards[n] is not None] for group in groups)
        return cls(
            rollouts=len(table),
            groups=len(groups),
            environments=_counted(table["environment"]),
            models=_counted(table["model"]),
            runs=_counted(table["run_id"]),
            highest_reward=pc.max(table["reward"]).as_py(),
            widest_difference=max((max(r) - min(r) for r in rewarded if r), default=None),
        )


def _counted(column: pa.ChunkedArray) -> collections.Counter[str]:
    counts = pc.value_counts(column).to_pylist()
    return collections.Counter({entry["values"]: entry["counts"] for entry in counts})
