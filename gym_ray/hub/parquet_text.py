"""Parquet files of task sets that others made, as JSONL: what `prepare` and its prompt templates
read, whatever the columns are called.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gym_ray.collection.parquet_tasks import PARQUET_SUFFIX, column_without_json, parquet_rows
from gym_ray.errors import ConfigError
from gym_ray.store.places import UNFINISHED

JSONL_SUFFIX = ".jsonl"


def convertible(name: str) -> bool:
    """Whether a file of that name may hold tasks."""
    return name.endswith(PARQUET_SUFFIX)


def write_jsonl(source: Path, target: Path) -> bool:
    """Write the rows of a Parquet file as JSON lines, a batch in memory at a time.

    Args:
        source: the Parquet file.
        target: is there whole afterwards, or not at all.

    Returns:
        False for a file of rollouts, which is left alone.

    Raises:
        ConfigError: it is no Parquet file, or has a column that JSON cannot hold.
    """
    try:
        schema = pq.read_schema(source)
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{source}: is no Parquet file: {error}") from None
    if "rollout_id" in schema.names:
        return False
    column = column_without_json(schema)
    if column is not None:
        raise ConfigError(
            f"{source}: column {column.name!r} is {column.type}, which JSON cannot hold; pull "
            "without --jsonl, and cast or drop the column"
        )
    unfinished = target.with_name(f"{target.name}{UNFINISHED}")
    with open(unfinished, "wb") as file:
        for row in parquet_rows(source):
            file.write(row + b"\n")
    os.replace(unfinished, target)
    return True
