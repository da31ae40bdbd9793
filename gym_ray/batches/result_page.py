"""Pages: finished rollouts of a batch on their way to a client, as an Arrow IPC stream.

The columns are those of the dataset (schema.py) and `index`; where the page ends and how much is
still to come stand in the schema's metadata. Owned here: both directions of the binary form. Not
owned here: which rollouts are on a page (serving) and the JSON form for other clients (gateway).
"""

from __future__ import annotations

import dataclasses
import re

import pyarrow as pa

from gym_ray.rollout import Rollout
from gym_ray.store.rows import from_table, to_table

MEDIA_TYPE = "application/vnd.apache.arrow.stream"

#: What a batch may be called.
BATCH_NAME = re.compile(r"[A-Za-z0-9._:-]{1,200}")

_INDEX = "index"
_CURSOR = b"gym_ray.cursor"
_PENDING = b"gym_ray.pending"


@dataclasses.dataclass(frozen=True, slots=True)
class ResultPage:
    """Finished rollouts that are new to the client.

    Attributes:
        cursor: what to ask for the page after this one with.
        pending: rows given to the service whose results come on later pages.
        results: index of the row, and its rollout.
    """

    cursor: int
    pending: int
    results: tuple[tuple[int, Rollout], ...]


def encode(page: ResultPage) -> bytes:
    """The page as an Arrow IPC stream."""
    table = to_table([rollout for _, rollout in page.results])
    indices = pa.array([index for index, _ in page.results], type=pa.int64())
    table = table.add_column(0, pa.field(_INDEX, pa.int64(), nullable=False), indices)
    counts = {_CURSOR: b"%d" % page.cursor, _PENDING: b"%d" % page.pending}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **counts})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def decode(content: bytes) -> ResultPage:
    """The inverse of `encode`; the arrays are views of `content`.

    Raises:
        ValueError: it is no such stream.
    """
    try:
        table = pa.ipc.open_stream(content).read_all()
        metadata = table.schema.metadata or {}
        cursor, pending = int(metadata[_CURSOR]), int(metadata[_PENDING])
        indices = table.column(_INDEX).to_pylist()
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError(f"not a page of rollouts: {error}") from error
    rollouts = from_table(table.drop_columns(_INDEX))
    return ResultPage(cursor, pending, tuple(zip(indices, rollouts, strict=True)))
