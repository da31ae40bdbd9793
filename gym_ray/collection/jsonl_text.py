"""Lines of JSONL files, compressed or not.

Rows come from anywhere, and a small file can be made that holds one line of any length: what is
longer than a row may be is refused before it is in memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from gym_ray.errors import ConfigError, one_line

#: By suffix, what a file is compressed with.
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

#: Bytes of a line at most.
MOST_LINE_BYTES = 256 * 1024**2

_BUFFER_BYTES = 1024**2


def text_lines(path: Path, key: str) -> Iterator[bytes]:
    """The lines of a file, with their ends.

    Args:
        path: the file; `.gz` and `.zst` are read as what they hold.
        key: what messages call the place where it was named.

    Raises:
        ConfigError: the file is damaged or cannot be read, or a line is too long.
    """
    number = 0
    try:
        with path.open("rb") as file, _plain(path, file) as text:
            while line := text.readline(MOST_LINE_BYTES + 1):
                number += 1
                if len(line) > MOST_LINE_BYTES:
                    raise ConfigError(
                        f"{key} {path}:{number}: is longer than {MOST_LINE_BYTES // 1024**2} MiB; "
                        "write one task row per line"
                    )
                yield line
    except (OSError, EOFError, pa.ArrowException) as error:
        raise ConfigError(f"{key} {path}: cannot be read to its end: {one_line(error)}") from None


def _plain(path: Path, file: IO[bytes]) -> Any:
    compression = COMPRESSIONS.get(path.suffix)
    stream: Any = file
    if compression is not None:
        stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)
    # Files of object stores know no lines of a limited length.
    return io.BufferedReader(stream, _BUFFER_BYTES)
