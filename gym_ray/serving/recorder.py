"""Rollouts that were served rather than collected: where they become durable.

A caller gets its answer only once its rollout is in a file (`store/writer.py`). Every process that
records has a block of its own, so no two ever write the same file.
"""

from __future__ import annotations

import dataclasses
import uuid

from gym_ray.rollout import Rollout
from gym_ray.store.places import open_path
from gym_ray.store.run_directory import RunDirectory
from gym_ray.store.segments import SegmentStore
from gym_ray.store.writer import FlushRules, SegmentWriter

#: Callers wait for their files, so only for a moment for one another.
_RULES = FlushRules(rollouts=512, seconds=0.05)


@dataclasses.dataclass(frozen=True, slots=True)
class RecordTarget:
    """Where served rollouts go.

    Attributes:
        directory: the run directory.
        run_id: identity of the run, which the rows carry.
    """

    directory: str
    run_id: str

    @classmethod
    def of(cls, directory: RunDirectory) -> RecordTarget:
        return cls(str(directory.path.resolve()), directory.id)


class Recorder:
    """Makes rollouts durable one by one, together what finishes together.

    Args:
        target: where to.
    """

    def __init__(self, target: RecordTarget) -> None:
        store = SegmentStore(open_path(target.directory) / "segments")
        self._writer = SegmentWriter(store, _RULES)
        self._block = f"served-{uuid.uuid4().hex[:12]}"

    async def record(self, rollout: Rollout) -> None:
        """Return once the rollout is durable.

        Raises:
            UnfitRollout: no file can hold it.
            OSError: it cannot be written.
        """
        await self._writer.add(self._block, rollout)
