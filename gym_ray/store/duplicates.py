"""Which rows have the content of an earlier one.

The first 16 bytes of the rows' hashes are spread over files by their first byte, and each file is
sorted by itself, so memory holds a 256th of them (24 bytes each) and one byte per row: 10 MB for
ten million rows. The chance that any two of ten million different tasks agree in 16 bytes of
SHA-256 is 10^-25.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

_FILES = 256
_RECORD = struct.Struct("<16sQ")
_RECORD_TYPE = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u8")])

#: Records of one file kept in memory before they are written.
_BUFFERED = 256


def duplicates(digests: Iterable[str], folder: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows repeat the content of an earlier row.

    Args:
        digests: of all rows, in order: task IDs, or other hashes of 32 hexadecimal digits or
            more.
        folder: where temporary files may be written.

    Returns:
        bool [rows].
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        parts = [Path(temporary, str(number)) for number in range(_FILES)]
        rows = _spread(digests, parts)
        found = np.zeros(rows, dtype=bool)
        for part in parts:
            if part.exists():
                found[_repeated(np.fromfile(part, dtype=_RECORD_TYPE))] = True
    return found


def _spread(digests: Iterable[str], parts: list[Path]) -> int:
    buffers = [bytearray() for _ in parts]
    row = -1
    for row, text in enumerate(digests):
        digest = bytes.fromhex(text[:32])
        buffer = buffers[digest[0]]
        buffer += _RECORD.pack(digest, row)
        if len(buffer) >= _BUFFERED * _RECORD.size:
            _append(parts[digest[0]], buffer)
    for part, buffer in zip(parts, buffers, strict=True):
        if buffer:
            _append(part, buffer)
    return row + 1


def _append(part: Path, buffer: bytearray) -> None:
    with open(part, "ab") as file:
        file.write(buffer)
    buffer.clear()


def _repeated(
    records: np.ndarray[Any, np.dtype[Any]],
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    ordered = records[np.lexsort((records["row"], records["low"], records["high"]))]
    same = (ordered["high"][1:] == ordered["high"][:-1]) & (
        ordered["low"][1:] == ordered["low"][:-1]
    )
    repeated: np.ndarray[Any, np.dtype[np.uint64]] = ordered["row"][1:][same]
    return repeated
