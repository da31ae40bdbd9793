"""What of a run is left to do: positions in its manifest without a durable rollout.

Rows that are no legal task are settled on the way: they become failed rollouts without any Ray.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gym_ray.collection.manifest import ROW_GROUP_ROWS, Manifest, ManifestRows
from gym_ray.errors import FailureKind
from gym_ray.rollout import Producer
from gym_ray.store.index import contains
from gym_ray.store.run_directory import RunDirectory

Positions = npt.NDArray[np.int64]


def remaining(
    directory: RunDirectory,
    manifest: Manifest,
    producer: Producer,
    say: Callable[[str], None] = lambda line: None,
) -> Positions:
    """Positions of the manifest's rows that are to run, in order.

    Args:
        directory: of the run.
        manifest: every rollout of it.
        producer: fills the columns of rows that are no legal task.
        say: told of what is not as the run left it.
    """
    for aside in directory.segments.set_aside_torn():
        say(f"{aside}: cannot be read, was moved there, and its rollouts run again")
    done = directory.stored.index().done()
    left: list[Positions] = []
    invalid: list[Positions] = []
    start = 0
    for batch in manifest.batches(["rollout_id", "error"]):
        is_open = ~contains(done, batch.column("rollout_id"))
        is_invalid = batch.column("error").is_valid().to_numpy(zero_copy_only=False)
        left.append(start + np.flatnonzero(is_open & ~is_invalid))
        invalid.append(start + np.flatnonzero(is_open & is_invalid))
        start += len(batch)
    _settle_invalid(directory, manifest, _joined(invalid), producer)
    return _joined(left)


def as_range(positions: Positions) -> pa.Table:
    """Positions as a stage is given them."""
    return pa.table({"position": pa.array(positions, type=pa.int64())})


def _joined(parts: list[Positions]) -> Positions:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _settle_invalid(
    directory: RunDirectory, manifest: Manifest, positions: Positions, producer: Producer
) -> None:
    rows = ManifestRows(manifest.path)
    for start in range(0, len(positions), ROW_GROUP_ROWS):
        specs = rows.read(positions[start : start + ROW_GROUP_ROWS])
        rollouts = [
            producer.failed(spec, FailureKind.TASK_INVALID, spec.error or "") for spec in specs
        ]
        directory.segments.write(f"invalid-{specs[0].rollout_id}", rollouts)
