"""How old the tokens of rollouts may get: which turns start, and which an update ends.

Owned here: keeping `StalenessLimit` on one policy replica. A turn that would already be too stale
is not started; while an update makes its way, turns it would make too stale are dropped or waited
for, and turns with a limit that ask meanwhile wait for its end. So whatever is being sampled with
a limit is within it, at every moment. A turn that ended in time stays as it is, however many
updates come after. Not owned here: the limit itself (`collect.max_staleness`), updating.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.weights import StalenessLimit

T = TypeVar("T")


@dataclasses.dataclass(slots=True)
class _Running:
    oldest: int
    limit: StalenessLimit
    stale_by: int = 0

    def staleness(self, version: int) -> int:
        return version - self.oldest


class TurnAges:
    """The turns in work of one replica that have a limit. Use it on one event loop."""

    def __init__(self) -> None:
        self._version = 0
        self._running: dict[asyncio.Future[Any], _Running] = {}
        self._open = asyncio.Event()
        self._open.set()

    async def sample(self, limit: StalenessLimit, turn: Awaitable[T]) -> T:
        """What `turn` returns.

        Raises:
            RolloutFailure: `policy_stale`, at its start or at an update.
        """
        try:
            # In a loop: another update may have begun before this was told of the end of one.
            while not self._open.is_set():
                await self._open.wait()
            running = _Running(self._oldest(limit), limit)
            self._require_within(running, self._version)
        except BaseException:
            _close(turn)
            raise
        task = asyncio.ensure_future(turn)
        self._running[task] = running
        try:
            return await task
        except asyncio.CancelledError:
            if running.stale_by:
                raise _stale(running, self._version + running.stale_by) from None
            raise
        finally:
            del self._running[task]

    @contextlib.asynccontextmanager
    async def making_way(self, version: int) -> AsyncIterator[None]:
        """Around the update to `version`: begins when nothing too stale for it is in work."""
        self._open.clear()
        try:
            stale = {
                task: running
                for task, running in self._running.items()
                if running.staleness(version) > running.limit.versions
            }
            for task, running in stale.items():
                if running.limit.when_stale == "drop":
                    running.stale_by = version - self._version
                    task.cancel()
            if stale:
                await asyncio.wait(stale)
            yield
            self._version = version
        finally:
            self._open.set()

    def _oldest(self, limit: StalenessLimit) -> int:
        known = limit.oldest_version
        return self._version if known is None else min(known, self._version)

    def _require_within(self, running: _Running, version: int) -> None:
        if running.staleness(version) > running.limit.versions:
            raise _stale(running, version)


def _stale(running: _Running, version: int) -> RolloutFailure:
    return RolloutFailure(
        FailureKind.POLICY_STALE,
        f"the rollout has tokens of policy version {running.oldest} and the policy is at "
        f"{version}; collect.max_staleness allows {running.limit.versions}",
    )


def _close(turn: Awaitable[object]) -> None:
    """A coroutine that is never awaited would be warned about."""
    if asyncio.iscoroutine(turn):
        turn.close()
