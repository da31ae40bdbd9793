"""Compaction: segments and earlier shards become large shards in dataset order.

Rows are sorted by (task_index, rollout_index) and a group never spans two row groups. The new
shards are in place before anything old is deleted, so a kill at any moment loses nothing; the
copies it may leave are told apart by `Index` and cleared by the next compaction.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gym_ray.store.index import Index
from gym_ray.store.places import each, parquet_file, remove_folder, written_whole
from gym_ray.store.schema import SCHEMA
from gym_ray.store.segments import SegmentStore

#: Rows of a row group and of a shard, at least; a group that crosses the line is kept whole.
ROW_GROUP_ROWS = 1024
SHARD_ROWS = 65_536


def compact(
    index: Index,
    rollouts: Path,
    segments: Path,
    change: Callable[[pa.Table], pa.Table] = lambda table: table,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Rewrite everything `index` holds into shards under `rollouts`.

    Args:
        index: what there is.
        rollouts, segments: where shards and segments are.
        change: what becomes of the rows of whole groups on the way. A compaction that is cut short
            or extended later sees changed rows again.
        check: raises when this is no longer the writer of the folder; asked before whatever would
            be in another's way. Of segments only those in `index` are removed.

    Returns:
        How many shards the dataset now has.
    """
    old = [path for path in index.files if path.parent == rollouts]
    if is_compact(index, rollouts):
        return len(old)
    generation = uuid.uuid4().hex[:8]
    gather = Gather(index)
    number = 0
    for number, row_groups in enumerate(_shards(index), start=1):
        check()
        path = rollouts / f"shard-{generation}-{number - 1:05d}.parquet"
        _write_shard(path, row_groups, gather, change)
    check()
    list(each(index.files, lambda path: path.unlink(missing_ok=True)))
    if not any(SegmentStore(segments).files()):
        remove_folder(segments)
    return number


def is_compact(index: Index, rollouts: Path) -> bool:
    """Whether the dataset is nothing but shards, each rollout once."""
    return not index.duplicates and all(path.parent == rollouts for path in index.files)


def _write_shard(
    path: Path,
    row_groups: list[tuple[int, int]],
    gather: Gather,
    change: Callable[[pa.Table], pa.Table],
) -> None:
    """Write ranges of the index as row groups, holding one of them at a time."""
    with (
        written_whole(path) as file,
        pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer,
    ):
        for start, end in row_groups:
            writer.write_table(change(gather.rows(start, end)), row_group_size=end - start)


def _shards(index: Index) -> Iterator[list[tuple[int, int]]]:
    """Row groups as half-open ranges of the index, collected into shards."""
    shard: list[tuple[int, int]] = []
    for start, end in whole_groups(index.table["task_index"].to_numpy(), ROW_GROUP_ROWS):
        shard.append((start, end))
        if end - shard[0][0] >= SHARD_ROWS:
            yield shard
            shard = []
    if shard:
        yield shard


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


class Gather:
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
