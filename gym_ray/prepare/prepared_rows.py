"""Prepared rows as Parquet: the task's JSON as it is, and where it came from.

A task's fields differ from row to row and environment to environment, so its JSON is one column of
text; columns of their own would invent nulls in every row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gym_ray.store.columns import Column, schema_of
from gym_ray.store.parquet import OPTIONS, StoredParquet
from gym_ray.store.schema import COLUMNS as STORED

_STORED = {column.name: column for column in STORED}
COLUMNS = (
    _STORED["task_id"],
    Column("environment", pa.string(), "environment the row belongs to"),
    Column("dataset", pa.string(), "name of the dataset it was declared in, or its file"),
    _STORED["source_file"],
    _STORED["source_line"],
    Column("task", pa.large_string(), "JSON: the row as it stands in the JSONL"),
)
PREPARED_SCHEMA = schema_of(COLUMNS)

#: Rows of a row group and the most text in it: what is held in memory before it is written.
_GROUP_ROWS = 1024
_GROUP_CHARACTERS = 16 * 1024 * 1024


class PreparedRowWriter:
    """Writes prepared rows to one Parquet file.

    Attributes:
        rows: written so far.
    """

    def __init__(self, path: Path) -> None:
        self.rows = 0
        self._writer = pq.ParquetWriter(path, PREPARED_SCHEMA, **OPTIONS)
        self._group: list[dict[str, Any]] = []
        self._characters = 0

    def write(self, row: dict[str, Any]) -> None:
        """Add a row: a value for each column."""
        self.rows += 1
        self._group.append(row)
        self._characters += len(row["task"])
        if len(self._group) >= _GROUP_ROWS or self._characters >= _GROUP_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        if self._group:
            self._writer.write_table(pa.Table.from_pylist(self._group, schema=PREPARED_SCHEMA))
        self._group = []
        self._characters = 0

    def __enter__(self) -> PreparedRowWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, a row group in memory at a time."""
    file = StoredParquet(path)
    for group in range(file.num_row_groups):
        yield from file.read_row_group(group).to_pylist()


def task_ids_of(path: Path) -> Iterator[str]:
    """The task IDs of a file, in order."""
    for batch in StoredParquet(path).iter_batches(batch_size=16_384, columns=["task_id"]):
        yield from batch.column(0).to_pylist()
