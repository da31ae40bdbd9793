"""Parquet files of a run: written with checksums, and read with errors that name the file.

A disk or a copy that changes a bit is noticed where the bit is read: pages carry checksums, which
are compared. Files of elsewhere may have none, and are then believed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gym_ray.errors import FileTorn

#: How every file of ours is written.
OPTIONS: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


class StoredParquet(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file of which everything that cannot be read is a `FileTorn` with its path.

    Args:
        path: what it is called.
        source: what Arrow opens; the path by default.
        options: Arrow's.
    """

    def __init__(self, path: Path, source: Any = None, **options: Any) -> None:
        self._called = path
        with whole(path):
            super().__init__(
                path if source is None else source, page_checksum_verification=True, **options
            )

    def read(self, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
        self._require(columns)
        with whole(self._called):
            return super().read(columns=columns, **options)

    def read_row_group(
        self, i: int, columns: Sequence[str] | None = None, **options: Any
    ) -> pa.Table:
        self._require(columns)
        with whole(self._called):
            return super().read_row_group(i, columns=columns, **options)

    def iter_batches(
        self, *arguments: Any, columns: Sequence[str] | None = None, **options: Any
    ) -> Iterator[pa.RecordBatch]:
        self._require(columns)
        with whole(self._called):
            batches = super().iter_batches(*arguments, columns=columns, **options)
        while True:
            with whole(self._called):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _require(self, columns: Sequence[str] | None) -> None:
        """Arrow passes over columns that are not there."""
        there = self.schema_arrow.names
        for name in columns or ():
            if name.split(".")[0] not in there:
                raise _torn(self._called, f"it has no column {name.split('.')[0]!r}")


@contextlib.contextmanager
def whole(path: Path, *further: type[Exception]) -> Iterator[None]:
    """What Arrow says of a file's contents becomes `FileTorn`; that there is none, stays.

    Args:
        path: of the file.
        further: errors of our own reading, of a file that holds something else.
    """
    try:
        yield
    except (pa.ArrowException, OSError, *further) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _torn(path, str(error) or type(error).__name__) from None


def _torn(path: Path, why: str) -> FileTorn:
    return FileTorn(f"{path}: no whole Parquet file of a run ({why}); restore it from a copy")
