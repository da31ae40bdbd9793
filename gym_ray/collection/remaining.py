"""What of a run is left to do: the manifest rows without a durable rollout, as a file of their own.

Rows that are no legal task are settled on the way: they become failed rollouts without any Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gym_ray.collection.manifest import ROW_GROUP_ROWS, Manifest
from gym_ray.errors import FailureKind
from gym_ray.rollout import failed_rollout
from gym_ray.store.index import contains
from gym_ray.store.places import written_whole
from gym_ray.store.rows import specs_from_table
from gym_ray.store.run_directory import RunDirectory
from gym_ray.store.schema import MANIFEST_SCHEMA


def write_remaining(directory: RunDirectory, manifest: Manifest, model: str) -> int:
    """Write the manifest rows that are not done.

    Args:
        directory: of the run; rows go to its `remaining`.
        manifest: every rollout of it.
        model: name for the `model` column of rows that are no legal task.

    Returns:
        How many rollouts are to run.
    """
    done = directory.stored.index().done()
    count = 0
    with (
        written_whole(directory.remaining) as file,
        pq.ParquetWriter(file, MANIFEST_SCHEMA, compression="zstd") as writer,
    ):
        for table in _open_rows(directory, manifest, done, model):
            for start in range(0, len(table), ROW_GROUP_ROWS):
                writer.write_table(table.slice(start, ROW_GROUP_ROWS))
            count += len(table)
    return count


def _open_rows(
    directory: RunDirectory, manifest: Manifest, done: Any, model: str
) -> Iterator[pa.Table]:
    """Valid manifest rows that are not done, regrouped into full row groups."""
    waiting: list[pa.Table] = []
    rows = 0
    for batch in manifest.batches():
        table = pa.Table.from_batches([batch]).cast(MANIFEST_SCHEMA)
        table = table.filter(pa.array(~contains(done, table["rollout_id"])))
        _settle_invalid(directory, table.filter(table["error"].is_valid()), model)
        table = table.filter(table["error"].is_null())
        waiting.append(table)
        rows += len(table)
        if rows >= ROW_GROUP_ROWS:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, rows = [], 0
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()


def _settle_invalid(directory: RunDirectory, table: pa.Table, model: str) -> None:
    specs = specs_from_table(table)
    if specs:
        rollouts = [
            failed_rollout(
                spec,
                FailureKind.TASK_INVALID,
                spec.error or "",
                run_id=directory.id,
                model=model,
            )
            for spec in specs
        ]
        directory.segments.write(f"invalid-{specs[0].rollout_id}", rollouts)
