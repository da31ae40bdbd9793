"""Reading a dataset back: Arrow, or rollouts one by one. Works while a run is unfinished."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.errors import ConfigError
from gym_ray.rollout import Rollout
from gym_ray.store.index import Index
from gym_ray.store.places import each, open_path, parquet_file
from gym_ray.store.row_fetcher import RowFetcher
from gym_ray.store.rows import from_table
from gym_ray.store.run_directory import dataset_files
from gym_ray.store.schema import SCHEMA

_BATCH_ROWS = 1024
_ROW = "row number"


class Rollouts:
    """The rollouts of a run directory, each once, in dataset order.

    Iterating yields `Rollout` values and holds about a thousand of them at a time.

    Example:
        >>> for rollout in read_rollouts("runs/demo"):            # doctest: +SKIP
        ...     print(rollout.reward, rollout.token_ids.shape)
    """

    def __init__(self, index: Index, columns: Sequence[str] | None = None) -> None:
        self._index = index
        self._columns = columns

    def __len__(self) -> int:
        return len(self._index.table)

    def __iter__(self) -> Iterator[Rollout]:
        if self._columns is not None:
            raise ConfigError(
                "a rollout needs all columns: use tables() or to_arrow(), or leave columns out"
            )
        for table in self.tables():
            yield from from_table(table)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Arrow tables of about a thousand rows; nothing but `columns` is read from disk."""
        wanted = self._columns if columns is None else _checked(columns)
        gather = RowFetcher(self._index, wanted)
        for start in range(0, len(self), _BATCH_ROWS):
            table = gather.rows(start, min(start + _BATCH_ROWS, len(self)))
            yield table if wanted is None else table.select(wanted)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Everything as one Arrow table, in memory."""
        wanted = self._columns if columns is None else _checked(columns)
        tables = list(self.tables(wanted))
        if tables:
            return pa.concat_tables(tables)
        empty = SCHEMA.empty_table()
        return empty if wanted is None else empty.select(wanted)


def read_rollouts(
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    filter: pc.Expression | None = None,
) -> Rollouts:
    """Open the dataset of a run directory, complete or not.

    Args:
        path: a run directory, or a folder of Parquet shards, here or in an object store.
        columns: read these alone, as Arrow tables.
        filter: keep the rollouts for which it is true. Of a rollout stored twice the copy that
            counts is judged.

    Example:
        >>> import pyarrow.compute as pc
        >>> read_rollouts(                                        # doctest: +SKIP
        ...     "runs/demo", columns=["prompt", "response"], filter=pc.field("reward") >= 0.8
        ... ).to_arrow()

    Raises:
        ConfigError: nothing there, it holds no rollouts, or a column is none of a rollout's.
    """
    wanted = None if columns is None else _checked(columns)
    index = Index.read(rollout_files(open_path(path)))
    return Rollouts(index if filter is None else _filtered(index, filter), wanted)


def rollout_files(folder: Path) -> list[Path]:
    """The Parquet files of a run directory, or of a folder of them.

    Raises:
        ConfigError: nothing there, or it holds no rollouts.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name the output of a collection")
    files = dataset_files(folder) or sorted(folder.glob("*.parquet"))
    if not files and not (folder / "run.yaml").exists():
        raise ConfigError(f"{folder}: holds no rollouts; name the output of a collection")
    runs: set[str] = set()
    for file, found in zip(files, each(files, _runs), strict=True):
        if found is None:
            raise ConfigError(f"{file}: is not a file of rollouts")
        runs |= found
    if len(runs) > 1:
        _refuse_common_rollouts(folder, files)
    return files


def _runs(file: Path) -> set[str] | None:
    """At least two of the runs that rollouts of a file are of, if there are; None if it has none.

    By the statistics of its row groups: the column itself is read where those are missing.
    """
    opened = parquet_file(file)
    if not {"rollout_id", "run_id"} <= set(opened.schema_arrow.names):
        return None
    leaves = [opened.schema.column(number).path for number in range(len(opened.schema))]
    leaf = leaves.index("run_id")
    found: set[str] = set()
    for number in range(opened.metadata.num_row_groups):
        statistics = opened.metadata.row_group(number).column(leaf).statistics
        if statistics is None or not statistics.has_min_max:
            return set(pc.unique(opened.read(columns=["run_id"])["run_id"]).to_pylist())
        found |= {statistics.min, statistics.max}
    return found


def _refuse_common_rollouts(folder: Path, files: Sequence[Path]) -> None:
    """IDs of rollouts tell them apart within a run: two runs of the same tasks have the same."""
    columns = ["rollout_id", "run_id"]
    table = pa.concat_tables(parquet_file(file).read(columns=columns) for file in files)
    runs = table.group_by("rollout_id").aggregate([("run_id", "count_distinct")])
    common = pc.sum(pc.greater(runs["run_id_count_distinct"], 1)).as_py()
    if common:
        raise ConfigError(
            f"{folder}: holds {common} rollouts of several runs under one ID, as runs of the same "
            "tasks have them; keep each run in a folder of its own"
        )


def _checked(columns: Sequence[str]) -> list[str]:
    for name in columns:
        if name not in SCHEMA.names:
            near = difflib.get_close_matches(name, SCHEMA.names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "docs/dataset.md lists them"
            raise ConfigError(f"rollouts have no column {name!r}; {hint}")
    return list(columns)


def _filtered(index: Index, filter: pc.Expression) -> Index:
    """The entries whose row passes, found a row group at a time from the columns it may name."""
    text = str(filter)
    columns = [name for name in SCHEMA.names if re.search(rf"\b{name}\b", text)]
    passing = np.zeros(len(index.table), dtype=bool)
    files, rows = index.table["file"].to_numpy(), index.table["row"].to_numpy()
    for number, path in enumerate(index.files):
        here = np.nonzero(files == number)[0]
        passing[here] = _passing_rows(path, columns, filter)[rows[here]]
    return dataclasses.replace(index, table=index.table.filter(pa.array(passing)))


def _passing_rows(path: Path, columns: list[str], filter: pc.Expression) -> np.ndarray[Any, Any]:
    file = parquet_file(path)
    found: list[np.ndarray[Any, Any]] = []
    for number in range(file.metadata.num_row_groups):
        table = file.read_row_group(number, columns=columns)
        rows = file.metadata.row_group(number).num_rows
        table = table.append_column(_ROW, pa.array(np.arange(rows)))
        try:
            kept = table.filter(filter)[_ROW].to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError) as error:
            raise ConfigError(
                f"filter {filter}: {error}; docs/dataset.md has the columns"
            ) from None
        passes = np.zeros(rows, dtype=bool)
        passes[kept] = True
        found.append(passes)
    return np.concatenate(found) if found else np.zeros(0, dtype=bool)
