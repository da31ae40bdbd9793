"""The Parquet files of a dataset: which there are, and that their rollouts can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.errors import ConfigError
from gym_ray.store.places import each, parquet_file
from gym_ray.store.segments import SegmentStore

#: Parquet files of a run that hold no rollouts: those that are to be, and those left to do.
MANIFEST_FILE = "manifest.parquet"
REMAINING_FILE = "remaining.parquet"


def dataset_files(folder: Path) -> list[Path]:
    """Every Parquet file of a run directory, or of a folder of shards, that may hold rollouts.

    Segments are listed before shards: should a compaction end in between, rows are seen twice,
    which `Index` sorts out, instead of not at all.
    """
    segments = list(SegmentStore(folder / "segments").files())
    shards = sorted((folder / "rollouts").glob("*.parquet"))
    if segments or shards:
        return segments + shards
    none = (MANIFEST_FILE, REMAINING_FILE)
    return sorted(path for path in folder.glob("*.parquet") if path.name not in none)


def require_one_dataset(folder: Path, files: Sequence[Path]) -> None:
    """See that the files hold rollouts, and no two of different runs under one ID.

    Raises:
        ConfigError: they do not.
        FileTorn: one is not whole.
    """
    runs: set[str] = set()
    for file, found in zip(files, each(files, _runs), strict=True):
        if found is None:
            raise ConfigError(f"{file}: is not a file of rollouts")
        runs |= found
    if len(runs) > 1:
        _refuse_common_rollouts(folder, files)


def _runs(file: Path) -> set[str] | None:
    """At least two of the runs that rollouts of a file are of, if there are; None if it has none.

    By the statistics of its row groups: the column itself is read where those are missing.
    """
    opened = parquet_file(file)
    if not {"rollout_id", "run_id"} <= set(opened.schema_arrow.names):
        return None
    leaves = [opened.schema.column(number).path for number in range(len(opened.schema))]
    leaf = leaves.index("run_id")
    found: set[str] = set()
    for number in range(opened.metadata.num_row_groups):
        statistics = opened.metadata.row_group(number).column(leaf).statistics
        if statistics is None or not statistics.has_min_max:
            return set(pc.unique(opened.read(columns=["run_id"])["run_id"]).to_pylist())
        found |= {statistics.min, statistics.max}
    return found


def _refuse_common_rollouts(folder: Path, files: Sequence[Path]) -> None:
    """IDs of rollouts tell them apart within a run: two runs of the same tasks have the same."""
    columns = ["rollout_id", "run_id"]
    table = pa.concat_tables(parquet_file(file).read(columns=columns) for file in files)
    runs = table.group_by("rollout_id").aggregate([("run_id", "count_distinct")])
    common = pc.sum(pc.greater(runs["run_id_count_distinct"], 1)).as_py()
    if common:
        raise ConfigError(
            f"{folder}: holds {common} rollouts of several runs under one ID, as runs of the same "
            "tasks have them; keep each run in a folder of its own"
        )
