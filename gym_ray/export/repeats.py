"""Rows of an export that say the same as an earlier one, taken out when all parts are written.

Parts are converted apart from one another, so none knows what the others hold. Each leaves an
identity of its rows beside its files (24 bytes a row); then all are compared (duplicates.py: one
byte a row in memory), and only the parts that hold a repeat are written again, a row group at a
time.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gym_ray.export.counts import ExportCounts
from gym_ray.store.duplicates import duplicates
from gym_ray.store.parquet import OPTIONS
from gym_ray.store.places import is_remote, parquet_file, written_whole

_RECORD = struct.Struct("<16sII")
_REASON = "repeats one of another task"

Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Identity(NamedTuple):
    """What is to be known of a row to tell whether it repeats another, and to take it out.

    Attributes:
        digest: 16 bytes; the same for rows that say the same.
        length: its tokens.
        sampled_tokens: of them, sampled.
    """

    digest: bytes
    length: int
    sampled_tokens: int


def note(file: IO[bytes], identities: Sequence[Identity]) -> None:
    """Write down the identities of a part's next rows."""
    file.write(b"".join(_RECORD.pack(*identity) for identity in identities))


def take_out(parts: Sequence[tuple[Path, Sequence[Path]]], file: str, tally: ExportCounts) -> None:
    """Take out every row whose like is earlier, and delete the files of identities.

    Args:
        parts: of each part, in order, the file of identities and the files that hold its rows:
            Parquet, or JSON lines.
        file: name the rows are counted under.
        tally: of all parts; rows, lengths and reasons are corrected.
    """
    identities = [identity for identity, _ in parts]
    with _beside(identities[0]) as folder:
        repeated = duplicates(_digests(identities), folder)
    first = 0
    for identity, paths in parts:
        count = identity.stat().st_size // _RECORD.size
        mask = repeated[first : first + count]
        first += count
        if mask.any():
            _correct(tally, file, identity, mask)
            for path in paths:
                _rewrite(path, ~mask)
        identity.unlink()


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A folder for temporary files: on the output's disk, or on this machine's."""
    if not is_remote(path):
        yield path.parent
        return
    with tempfile.TemporaryDirectory(prefix="gym-ray-") as folder:
        yield Path(folder)


def _records(path: Path) -> Iterator[Identity]:
    with path.open("rb") as file:
        while block := file.read(_RECORD.size * 4096):
            yield from map(Identity._make, _RECORD.iter_unpack(block))


def _digests(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        for identity in _records(path):
            yield identity.digest.hex()


def _correct(tally: ExportCounts, file: str, path: Path, repeated: Mask) -> None:
    for identity, is_repeated in zip(_records(path), repeated, strict=True):
        if is_repeated:
            tally.lengths[identity.length] -= 1
            tally.sampled_tokens -= identity.sampled_tokens
    tally.lengths = +tally.lengths  # lengths that no row has any more
    count = int(repeated.sum())
    tally.rows[file] -= count
    tally.dropped[_REASON] += count


def _rewrite(path: Path, kept: Mask) -> None:
    if not path.exists():
        return
    with written_whole(path) as shorter:
        if path.suffix == ".parquet":
            _rewrite_parquet(path, shorter, kept)
        else:
            with path.open("rb") as lines:
                shorter.writelines(line for line, keep in zip(lines, kept, strict=True) if keep)


def _rewrite_parquet(path: Path, shorter: IO[bytes], kept: Mask) -> None:
    first = 0
    with (
        parquet_file(path) as source,
        pq.ParquetWriter(shorter, source.schema_arrow, **OPTIONS) as writer,
    ):
        for number in range(source.num_row_groups):
            table = source.read_row_group(number)
            found = table.filter(pa.array(kept[first : first + len(table)]))
            first += len(table)
            if len(found):
                writer.write_table(found, row_group_size=len(found))
