"""Stored rollouts as tables of whole groups, in parts that can be read apart from one another.

Owned here: which files and row groups hold which groups, and that no rollout is seen twice. Not
owned here: what is made of the tables.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.errors import ConfigError
from gym_ray.store.index import Index
from gym_ray.store.places import parquet_file
from gym_ray.store.row_fetcher import ROW_GROUP_ROWS, RowFetcher, whole_groups
from gym_ray.store.stored_run import StoredRun

#: Row groups of a part: 65,536 rows of a dataset as `compact` writes it, some seconds of work.
PART_ROW_GROUPS = 64


class Source(Protocol):
    """Rollouts in parts."""

    @property
    def rollouts(self) -> int:
        """How many there are."""

    @property
    def parts(self) -> int:
        """How many parts there are, at least one."""

    def tables(self, part: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Those of a part, each of whole groups sorted by `task_index`, `rollout_index`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shards:
    """Files whose row groups hold whole groups, in order. Picklable; one row group in memory.

    Attributes:
        row_groups: file and number of each.
        rollouts: rows of all of them.
    """

    row_groups: tuple[tuple[Path, int], ...]
    rollouts: int

    @property
    def parts(self) -> int:
        return -(-len(self.row_groups) // PART_ROW_GROUPS)

    def tables(self, part: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        mine = self.row_groups[part * PART_ROW_GROUPS : (part + 1) * PART_ROW_GROUPS]
        for path, numbers in itertools.groupby(mine, key=lambda entry: entry[0]):
            with parquet_file(path) as file:
                wanted = [name for name in columns if name in file.schema_arrow.names]
                for _, number in numbers:
                    table = file.read_row_group(number, columns=wanted)
                    ids = table["rollout_id"]
                    if pc.count_distinct(ids).as_py() != len(ids):
                        raise ConfigError(
                            f"{path}: holds a rollout twice; is it of several runs? Export each "
                            "run by itself"
                        )
                    yield table


@dataclasses.dataclass(frozen=True, slots=True)
class Gathered:
    """Files in any order, such as segments of a run that is not finished; read in one part.

    Holds an index of all rows, and all rows of the same `task_index` at once.
    """

    index: Index

    @property
    def rollouts(self) -> int:
        return len(self.index.table)

    @property
    def parts(self) -> int:
        return 1

    def tables(self, part: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        gather = RowFetcher(self.index)
        for start, end in whole_groups(self.index.table["task_index"].to_numpy(), ROW_GROUP_ROWS):
            table = gather.rows(start, end)
            yield table.select([name for name in columns if name in table.column_names])


def open_source(run: StoredRun) -> Source:
    """The rollouts of a run directory, finished or not, or of a folder of shards.

    Raises:
        ConfigError: there are none.
    """
    files = run.files()
    source: Source = _shards(files) or Gathered(run.index())
    if not source.rollouts:
        raise ConfigError(f"{run.path}: holds no rollouts yet")
    return source


def _shards(files: Sequence[Path]) -> Shards | None:
    """The files as they are, if no `task_index` is in two row groups."""
    found: list[tuple[int, int, Path, int]] = []
    rows = 0
    for path in files:
        metadata = parquet_file(path).metadata
        column = metadata.schema.names.index("task_index")
        # Leaf columns and top-level names coincide up to here: none before it is nested.
        for number in range(metadata.num_row_groups):
            statistics = metadata.row_group(number).column(column).statistics
            if statistics is None or not statistics.has_min_max:
                return None
            found.append((statistics.min, statistics.max, path, number))
        rows += metadata.num_rows
    found.sort(key=lambda entry: entry[:2])
    if any(after[0] <= before[1] for before, after in itertools.pairwise(found)):
        return None
    return Shards(tuple((path, number) for _, _, path, number in found), rows)
