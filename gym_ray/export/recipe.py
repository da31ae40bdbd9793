"""What an export is made by: a recipe turns tables of whole groups into rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from gym_ray.export.counts import ExportCounts
from gym_ray.export.repeats import Identity

#: The file an export's rows go to, unless it has several.
TRAIN = "train"


@dataclasses.dataclass(frozen=True, slots=True)
class Converted:
    """What became of one table.

    Attributes:
        tally: what was read, written and left out.
        table: the rows for Parquet; None where the export has no such form.
        lines: the rows for JSONL, by file; taken only where JSONL is asked for.
        identities: of each row; where there are any, a row whose like is earlier is taken out.
        documents: JSON files of their own, by path below the dataset's folder; taken likewise.
    """

    tally: ExportCounts
    table: pa.Table | None
    lines: Mapping[str, Iterable[Mapping[str, Any]]]
    identities: Sequence[Identity] = ()
    documents: Iterable[tuple[str, Mapping[str, Any]]] = ()


class Recipe(Protocol):
    """Frozen and picklable. `convert` sees each group once and whole."""

    @property
    def columns(self) -> Sequence[str]:
        """Columns of stored rollouts it needs; `environment`, `model`, `run_id` are always."""

    @property
    def schema(self) -> pa.Schema | None:
        """Schema of the Parquet files; None where there are none."""

    @property
    def files(self) -> Sequence[str]:
        """JSONL files it writes, by name."""

    def convert(self, table: pa.Table) -> Converted: ...


def groups_of(table: pa.Table) -> list[list[int]]:
    """Row numbers of each group, in order: tasks may share an index, but not an id."""
    groups: dict[tuple[str, str], list[int]] = {}
    columns = zip(table["run_id"].to_pylist(), table["task_id"].to_pylist(), strict=True)
    for number, place in enumerate(columns):
        groups.setdefault(place, []).append(number)
    return list(groups.values())
