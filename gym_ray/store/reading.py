"""Rollouts read back: Arrow, or one by one. Works while a run is unfinished."""

from __future__ import annotations

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
from gym_ray.store.places import parquet_file
from gym_ray.store.row_fetcher import RowFetcher
from gym_ray.store.rows import from_table
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

    def __init__(
        self,
        index: Index,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
    ) -> None:
        self._columns = None if columns is None else checked_columns(columns)
        self._index = index if filter is None else _filtered(index, filter)

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
        wanted = self._columns if columns is None else checked_columns(columns)
        gather = RowFetcher(self._index, wanted)
        for start in range(0, len(self), _BATCH_ROWS):
            table = gather.rows(start, min(start + _BATCH_ROWS, len(self)))
            yield table if wanted is None else table.select(wanted)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Everything as one Arrow table, in memory."""
        wanted = self._columns if columns is None else checked_columns(columns)
        tables = list(self.tables(wanted))
        if tables:
            return pa.concat_tables(tables)
        empty = SCHEMA.empty_table()
        return empty if wanted is None else empty.select(wanted)


def checked_columns(columns: Sequence[str]) -> list[str]:
    """The columns, if rollouts have them.

    Raises:
        ConfigError: they have not.
    """
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
    return index.only(pa.array(passing))


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
