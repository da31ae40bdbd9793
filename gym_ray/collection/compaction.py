"""Compaction: segments and earlier shards become large shards in dataset order.

Rows are sorted by (task_index, rollout_index) and a group never spans two row groups. The new
shards are in place before anything old is deleted, so a kill at any moment loses nothing; the
copies it may leave are told apart by `Index` and cleared by the next compaction.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gym_ray.store.index import Index
from gym_ray.store.parquet import OPTIONS
from gym_ray.store.places import each, remove_folder, written_whole
from gym_ray.store.row_fetcher import ROW_GROUP_ROWS, RowFetcher, whole_groups
from gym_ray.store.schema import SCHEMA
from gym_ray.store.segments import SegmentStore

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
    gather = RowFetcher(index)
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
    gather: RowFetcher,
    change: Callable[[pa.Table], pa.Table],
) -> None:
    """Write ranges of the index as row groups, holding one of them at a time."""
    with (
        written_whole(path) as file,
        pq.ParquetWriter(file, SCHEMA, **OPTIONS) as writer,
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
