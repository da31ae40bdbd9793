"""What to do about an embedded collection's process that died: whose fault it may have been.

A row whose environment ends its process takes every rollout in it along, and would do so at every
attempt. So those that were in a process that ended are tried in ever smaller company, after all
others, until one that ends it does so by itself: that one has failed.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.collection.manifest import Manifest, ManifestRows
from gym_ray.collection.remaining import Positions
from gym_ray.errors import FailureKind
from gym_ray.rollout import Producer
from gym_ray.store.run_directory import RunDirectory

#: In flight at once, of rollouts that were in so many processes that ended. One death may have
#: any cause, so those that saw one are tried like all others.
_COMPANY = {2: 8, 3: 1}
_ALONE = max(_COMPANY)


class ProcessEnded(Exception):
    """The process that runs the rollouts ended.

    Attributes:
        rollouts: those that were in their environment then, by ID.
    """

    rollouts: frozenset[str] = frozenset()


class Deaths:
    """The deaths of one run's processes, and the rollouts that were in them.

    Args:
        directory: of the run.
        manifest: every rollout of it.
        producer: fills the columns of rollouts that end their process.
    """

    def __init__(self, directory: RunDirectory, manifest: Manifest, producer: Producer) -> None:
        self._directory = directory
        self._manifest = manifest
        self._producer = producer
        self._counts: dict[int, int] = {}
        self._failed: list[int] = []

    def next(self, left: Positions, max_in_flight: int) -> tuple[Positions, int]:
        """What of the positions that are left is to run now, and how many of them at once."""
        seen = np.array([self._counts.get(int(position), 0) for position in left])
        least = int(seen.min())
        if least < min(_COMPANY):
            return left[seen < min(_COMPANY)], max_in_flight
        return left[seen == least], min(_COMPANY[least], max_in_flight)

    def add(self, ended: ProcessEnded) -> None:
        """Note a death; a rollout that was alone in it for that reason becomes a failure."""
        positions = _positions(self._manifest, ended.rollouts)
        blamed = [p for p in positions.tolist() if self._counts.get(p, 0) == _ALONE]
        for position in positions.tolist():
            self._counts[position] = min(self._counts.get(position, 0) + 1, _ALONE)
        if not blamed:
            return
        self._failed += blamed
        kind = FailureKind.ENVIRONMENT_UNAVAILABLE
        failed = [
            self._producer.failed(spec, kind, f"{ended}; this rollout was alone in it")
            for spec in ManifestRows(self._manifest.path).read(np.array(blamed))
        ]
        self._directory.segments.write(f"ended-{failed[0].spec.rollout_id}", failed)

    def without_failed(self, left: Positions) -> Positions:
        """Positions without those that failed here: the next command tries them again, as it does
        with every failure that may pass.
        """
        return left[~np.isin(left, self._failed)]


def _positions(manifest: Manifest, rollouts: frozenset[str]) -> Positions:
    wanted = pa.array(sorted(rollouts), type=pa.string())
    found = [np.zeros(0, dtype=np.int64)]
    start = 0
    for batch in manifest.batches(["rollout_id"]):
        ids = batch.column("rollout_id").cast(pa.string())
        found.append(start + np.flatnonzero(pc.is_in(ids, value_set=wanted)))
        start += len(batch)
    return np.concatenate(found)
