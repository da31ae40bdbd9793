"""Segments: where finished rollouts become durable.

A segment is a small Parquet file of rollouts of one block of the manifest:
`segments/<block>/<first rollout>-<random>.parquet`. It is written beside its name and renamed into
it, so a file that is there is whole, and "durable" and "visible" are one event. A block that is run
again (its worker died) asks which of its rollouts are durable and runs only the others. No name is
used twice: a rollout that comes again, of two writers or for two clients, must not take away those
that were beside it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from gym_ray.errors import FileTorn
from gym_ray.rollout import Rollout
from gym_ray.store.parquet import StoredParquet
from gym_ray.store.places import make_folder, parquet_file, write_table_whole
from gym_ray.store.rows import to_table
from gym_ray.store.schema import SCHEMA


class SegmentStore:
    """Writes and finds segments below one directory. Picklable."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, block: str, rollouts: Sequence[Rollout]) -> None:
        """Make rollouts of a block durable; when this returns, they are."""
        folder = self._directory / block
        make_folder(folder)
        path = folder / f"{rollouts[0].spec.rollout_id}-{uuid.uuid4().hex[:8]}.parquet"
        write_table_whole(path, to_table(rollouts))

    def durable(self, block: str) -> set[str]:
        """`rollout_id`s of a block that are in a segment."""
        found: set[str] = set()
        for path in sorted((self._directory / block).glob("*.parquet")):
            found.update(parquet_file(path).read(columns=["rollout_id"]).column(0).to_pylist())
        return found

    def set_aside_torn(self) -> list[Path]:
        """Move what cannot be read out of the way, so that its rollouts count as never run.

        Returns:
            Where it is now, in the folder `torn` beside this one.
        """
        aside = []
        for path in self.files():
            try:
                file = parquet_file(path)
                _require_rollouts(path, file)
                for group in range(file.num_row_groups):
                    file.read_row_group(group)
            except FileTorn:
                torn = self._directory.parent / "torn"
                make_folder(torn)
                aside.append(path.rename(torn / f"{path.parent.name}-{path.name}"))
        return aside

    def files(self) -> Iterator[Path]:
        """Every segment, in a stable order."""
        yield from sorted(self._directory.glob("*/*.parquet"))


def _require_rollouts(path: Path, file: StoredParquet) -> None:
    """Raises `FileTorn` for a Parquet file of something else."""
    there = file.schema_arrow
    common = set(SCHEMA.names) & set(there.names)  # earlier versions may have had fewer
    for name in sorted(common | {"rollout_id"}):
        if name not in common or there.field(name).type != SCHEMA.field(name).type:
            raise FileTorn(f"{path}: its column {name!r} is not that of a rollout")
