"""The index: one entry per stored row of a run, without its tokens.

It answers what is done, which copy of a rollout counts when there are two, and what the
summary says. Two copies arise when a retryable failure was run again, or when a compaction was
cut short; a row that is not failed beats one that is, then the later start wins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gym_ray.errors import RETRYABLE
from gym_ray.store.parquet import whole
from gym_ray.store.places import each, parquet_file

_COLUMNS = [
    "rollout_id", "task_index", "rollout_index", "environment", "status", "truncation_reason",
    "reward", "attempts", "error_kind", "error", "started_at", "seconds",
]  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Index:
    """Entries of every distinct rollout stored, in dataset order.

    Attributes:
        table: columns of `_COLUMNS` plus `sampled_tokens`, `without_token_ids` (token columns are
            null), `file` (position in `files`) and `row` (position in that file); sorted by
            task_index, rollout_index.
        files: the files read.
        duplicates: further copies that were found and left out.
    """

    table: pa.Table
    files: list[Path]
    duplicates: int

    @classmethod
    def read(cls, files: Sequence[Path]) -> Index:
        """Read the index columns of dataset files."""
        return cls(table=_entries_schema().empty_table(), files=[], duplicates=0).updated(files)

    def updated(self, files: Sequence[Path]) -> Index:
        """The index of these files, of which only those are read that were not there before.

        No two files ever have the same name (see `segments.py`), so what was read stays true.
        Where files are gone all is read: a copy that was left out may count now.
        """
        there, known = {str(path) for path in files}, {str(path) for path in self.files}
        if not known <= there:
            return Index.read(files)
        new = [path for path in files if str(path) not in known]
        if not new:
            return self
        parts = [self.table] if self.files else []
        parts += [
            _numbered(found, number)
            for number, found in enumerate(each(new, _entries), start=len(self.files))
        ]
        table = pa.concat_tables(parts)
        total = len(table)
        failed = pc.equal(table["status"], "failed")
        table = table.append_column("failed", failed)
        table = table.sort_by(
            [
                ("task_index", "ascending"),
                ("rollout_index", "ascending"),
                ("rollout_id", "ascending"),
                ("failed", "ascending"),
                ("started_at", "descending"),
            ]
        )
        ids = table["rollout_id"].to_numpy()
        first = np.ones(total, dtype=bool)
        first[1:] = ids[1:] != ids[:-1]
        table = table.filter(pa.array(first)).drop_columns(["failed"])
        return Index(
            table=table,
            files=[*self.files, *new],
            duplicates=self.duplicates + total - len(table),
        )

    def only(self, rows: pa.Array | pa.ChunkedArray | slice) -> Index:
        """Some entries, given as a mask or a range; files that hold none of them are left out."""
        if isinstance(rows, slice):
            start, end, step = rows.indices(len(self.table))
            if step == 1:
                table = self.table.slice(start, max(0, end - start))
            else:
                table = self.table.take(pa.array(np.arange(start, end, step)))
        else:
            table = self.table.filter(rows)
        numbers, own = np.unique(table["file"].to_numpy(), return_inverse=True)
        at = table.schema.get_field_index("file")
        return Index(
            table=table.set_column(at, "file", pa.array(own, type=pa.int32())),
            files=[self.files[number] for number in numbers],
            duplicates=0,
        )

    def done(self) -> np.ndarray[tuple[int], np.dtype[np.bytes_]]:
        """Sorted ids of rollouts that need not run again: all but retryable failures."""
        retryable = pa.array([str(kind) for kind in RETRYABLE])
        again = pc.fill_null(pc.is_in(self.table["error_kind"], value_set=retryable), False)
        ids = self.table.filter(pc.invert(again))["rollout_id"]
        return np.sort(ids.to_numpy().astype("S32"))


def count_by_status(table: pa.Table) -> dict[str, int]:
    """Entries by status, with 0 where there are none."""
    found = {
        entry["values"]: entry["counts"] for entry in pc.value_counts(table["status"]).to_pylist()
    }
    return {status: found.get(status, 0) for status in ("completed", "truncated", "failed")}


def contains(
    sorted_ids: np.ndarray[tuple[int], np.dtype[np.bytes_]], ids: pa.Array | pa.ChunkedArray
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of `ids` are among `sorted_ids`."""
    wanted = np.asarray(ids.to_pylist(), dtype="S32")
    if len(sorted_ids) == 0:
        return np.zeros(len(wanted), dtype=bool)
    at = np.minimum(np.searchsorted(sorted_ids, wanted), len(sorted_ids) - 1)
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = sorted_ids[at] == wanted
    return found


def _numbered(entries: pa.Table, number: int) -> pa.Table:
    return entries.append_column("file", pa.array(np.full(len(entries), number, dtype=np.int32)))


def _entries(path: Path) -> pa.Table:
    """The entries of a file.

    Raises:
        FileTorn: it is not whole, or holds something else.
    """
    file = parquet_file(path)
    with whole(path, AttributeError, KeyError, TypeError, ValueError, StopIteration):
        return _entries_of(file).cast(_entries_schema().remove(len(_COLUMNS) + 3))


def _entries_of(file: pq.ParquetFile) -> pa.Table:
    table = file.read(columns=[*_COLUMNS, "turns.list.element.generation_length"])
    turns = table["turns"].combine_chunks()
    if isinstance(turns, pa.ChunkedArray):
        turns = turns.chunk(0) if turns.num_chunks else pa.array([], type=turns.type)
    offsets = turns.offsets.to_numpy()
    lengths = pc.struct_field(turns.values, "generation_length").to_numpy(zero_copy_only=False)
    running = np.concatenate([[0], np.cumsum(lengths)])
    sampled = running[offsets[1:]] - running[offsets[:-1]]
    return (
        table.select(_COLUMNS)
        .append_column("sampled_tokens", pa.array(sampled.astype(np.int64)))
        .append_column(
            "without_token_ids", pa.array(_without_token_ids(file, np.diff(offsets) > 0))
        )
        .append_column("row", pa.array(np.arange(len(table), dtype=np.int64)))
        .replace_schema_metadata(None)
    )


def _without_token_ids(
    file: pq.ParquetFile, has_turns: np.ndarray[Any, np.dtype[np.bool_]]
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows have null for their tokens, reading tokens only of row groups that mix.

    The column's statistics count null and empty lists alike, and rows without a turn have empty
    ones: where that explains them all, none is null.
    """
    tokenless = np.zeros(len(has_turns), dtype=bool)
    leaf = next(
        number
        for number in range(len(file.schema))
        if file.schema.column(number).path.split(".")[0] == "token_ids"
    )
    start = 0
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        end = start + group.num_rows
        statistics = group.column(leaf).statistics
        without_turns = int(np.count_nonzero(~has_turns[start:end]))
        if statistics is None or statistics.null_count != without_turns:
            tokens = file.read_row_group(number, columns=["token_ids"])["token_ids"]
            tokenless[start:end] = tokens.is_null().to_numpy()
        start = end
    return tokenless


def _entries_schema() -> pa.Schema:
    from gym_ray.store.schema import SCHEMA

    fields = [SCHEMA.field(name) for name in _COLUMNS]
    added = [
        ("sampled_tokens", pa.int64()),
        ("without_token_ids", pa.bool_()),
        ("row", pa.int64()),
        ("file", pa.int32()),
    ]
    return pa.schema([*fields, *(pa.field(name, kind) for name, kind in added)])
