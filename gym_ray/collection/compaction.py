"""Compaction: segments and earlier shards become large shards in dataset order.

Rows are sorted by (task_index, rollout_index) and a group never spans two row groups. The new
shards are in place before anything old is deleted, so a kill at any moment loses nothing; the
copies it may leave are told apart by `Index` and cleared by the next compaction.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gym_ray.collection.index import Index
from gym_ray.collection.segments import UNFINISHED

#: Rows of a row group and of a shard, at least; a group that crosses the line is kept whole.
ROW_GROUP_ROWS = 1024
SHARD_ROWS = 65_536


def compact(index: Index, rollouts: Path, segments: Path) -> int:
    """Rewrite everything `index` holds into shards under `rollouts`.

    Returns:
        How many shards the dataset now has.
    """
    old = [path for path in index.files if path.parent == rollouts]
    if not index.duplicates and len(old) == len(index.files):
        return len(old)
    generation = uuid.uuid4().hex[:8]
    number = 0
    for number, tables in enumerate(_shards(index), start=1):
        path = rollouts / f"shard-{generation}-{number - 1:05d}.parquet"
        _write_shard(path, tables)
    for path in old:
        path.unlink()
    shutil.rmtree(segments, ignore_errors=True)
    return number


def _write_shard(path: Path, row_groups: list[pa.Table]) -> None:
    unfinished = path.with_name(f"{path.name}{UNFINISHED}")
    with open(unfinished, "wb") as file:
        with pq.ParquetWriter(file, row_groups[0].schema, compression="zstd") as writer:
            for table in row_groups:
                writer.write_table(table, row_group_size=len(table))
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def _shards(index: Index) -> Iterator[list[pa.Table]]:
    """Tables, one per row group, collected into shards."""
    shard: list[pa.Table] = []
    rows = 0
    gather = Gather(index)
    for start, end in _row_groups(index.table["task_index"].to_numpy()):
        shard.append(gather.rows(start, end))
        rows += end - start
        if rows >= SHARD_ROWS:
            yield shard
            shard, rows = [], 0
    if shard:
        yield shard


def _row_groups(
    task_index: np.ndarray[tuple[int], np.dtype[np.int32]],
) -> Iterator[tuple[int, int]]:
    """Half-open ranges of about `ROW_GROUP_ROWS` rows that end where a group ends."""
    start, total = 0, len(task_index)
    while start < total:
        end = min(start + ROW_GROUP_ROWS, total)
        if end < total:
            end = int(np.searchsorted(task_index, task_index[end - 1], side="right"))
        yield start, end
        start = end


class Gather:
    """Fetches rows by position from files, holding each file only while it is still needed."""

    def __init__(self, index: Index) -> None:
        self._files = index.files
        self._file = index.table["file"].to_numpy()
        self._row = index.table["row"].to_numpy()
        self._left = np.bincount(self._file, minlength=len(index.files))
        self._open: dict[int, pa.Table] = {}

    def rows(self, start: int, end: int) -> pa.Table:
        files, rows = self._file[start:end], self._row[start:end]
        parts, order = [], []
        for number in np.unique(files):
            here = np.nonzero(files == number)[0]
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
            self._open[number] = pq.read_table(self._files[number])
        return self._open[number]
