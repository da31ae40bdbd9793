"""Rows of a run fetched by position, in whole groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from gym_ray.store.index import Index
from gym_ray.store.places import each, parquet_file

#: Rows of a row group and of a shard, at least; a group that crosses the line is kept whole.
ROW_GROUP_ROWS = 1024


def whole_groups(
    task_index: np.ndarray[tuple[int], np.dtype[np.int32]], rows: int
) -> Iterator[tuple[int, int]]:
    """Half-open ranges of about so many rows that end where a group ends."""
    start, total = 0, len(task_index)
    while start < total:
        end = min(start + rows, total)
        if end < total:
            end = int(np.searchsorted(task_index, task_index[end - 1], side="right"))
        yield start, end
        start = end


class RowFetcher:
    """Fetches rows by position, holding each row group of a file only while it is needed.

    Args:
        index: what there is.
        columns: those to read; None for all.
    """

    def __init__(self, index: Index, columns: Sequence[str] | None = None) -> None:
        self._columns = None if columns is None else list(columns)
        sizes = list(each(index.files, _row_group_sizes))
        # Row groups of all files are numbered through, and so are the rows in them.
        self._groups = [
            (path, number)
            for path, own in zip(index.files, sizes, strict=True)
            for number in range(len(own))
        ]
        group_starts = _starts([size for own in sizes for size in own])
        file_starts = _starts([sum(own) for own in sizes])
        row = file_starts[index.table["file"].to_numpy()] + index.table["row"].to_numpy()
        self._group = np.searchsorted(group_starts, row, side="right") - 1
        self._row = row - group_starts[self._group]
        self._left = np.bincount(self._group, minlength=len(self._groups))
        self._open: dict[int, pa.Table] = {}

    def rows(self, start: int, end: int) -> pa.Table:
        groups, rows = self._group[start:end], self._row[start:end]
        parts, order = [], []
        for number in np.unique(groups):
            here = np.nonzero(groups == number)[0]
            parts.append(self._table(int(number)).take(pa.array(rows[here])))
            order.append(here)
            self._left[number] -= len(here)
            if self._left[number] == 0:
                del self._open[int(number)]
        positions = np.empty(end - start, dtype=np.int64)
        positions[np.concatenate(order)] = np.arange(end - start)
        return pa.concat_tables(parts).take(pa.array(positions))

    def _table(self, number: int) -> pa.Table:
        if number not in self._open:
            path, row_group = self._groups[number]
            self._open[number] = parquet_file(path).read_row_group(row_group, columns=self._columns)
        return self._open[number]


def _row_group_sizes(path: Path) -> list[int]:
    metadata = parquet_file(path).metadata
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def _starts(sizes: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Where each piece begins when pieces of these sizes are laid end to end."""
    return np.cumsum([0, *sizes], dtype=np.int64)[:-1]
