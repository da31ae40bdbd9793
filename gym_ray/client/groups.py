"""Groups made of the results of a batch."""

from __future__ import annotations

from typing import Literal

from gym_ray.client.batch import Batch
from gym_ray.client.errors import GroupFailed
from gym_ray.client.results import RolloutGroup, RolloutResult

#: What becomes of a group with failed rollouts.
OnFailure = Literal["yield", "raise"]


class Groups:
    """Collects results until a task's are all there.

    Memory is bounded by what the batch lets be unacknowledged.

    Args:
        batch: yields `size` results per task.
        size: rollouts of a group.
        on_failure: see `OnFailure`.
    """

    def __init__(self, batch: Batch, size: int, on_failure: OnFailure) -> None:
        if on_failure not in ("yield", "raise"):
            raise ValueError(f'on_failure must be "yield" or "raise", not {on_failure!r}')
        self._batch = batch
        self._size = size
        self._on_failure = on_failure
        self._begun: dict[int, list[RolloutResult]] = {}

    async def next(self) -> RolloutGroup | None:
        """The next complete group; None when there is none any more.

        Raises:
            GroupFailed: see `OnFailure`.
            ClientError: the call cannot go on.
        """
        while (result := await self._batch.next()) is not None:
            results = self._begun.setdefault(result.index, [])
            results.append(result)
            if len(results) < self._size:
                continue
            del self._begun[result.index]
            ordered = tuple(sorted(results, key=lambda result: result.rollout_index))
            return self._passed(RolloutGroup(result.index, ordered))
        return None

    def _passed(self, group: RolloutGroup) -> RolloutGroup:
        if self._on_failure == "raise" and group.failures:
            first = group.failures[0]
            raise GroupFailed(
                f"group {group.index}: {len(group.failures)} of {self._size} rollouts failed, the "
                f"first with {first.error_kind}: {first.error}"
            )
        return group
