"""The link of a stage to the driver: counts go up by way of the monitor, the order comes back.

The same for every stage actor, whatever it does to rollouts. Owned here: counting the actor in,
the heartbeat, and ending the work in hand when the order is to stop or the link breaks; what has
finished by then is written first.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from gym_ray.collection.monitor import MonitorLink, Order
from gym_ray.errors import GymRayError
from gym_ray.store.writer import SegmentWriter
from gym_ray.telemetry.progress import Counts

T = TypeVar("T")

#: How often a stage reports and hears the order in force.
_HEARTBEAT_SECONDS = 0.5


class CollectionStopped(Exception):
    """The driver gave the order to stop; what was not durable is left for the next command."""


class StageLink:
    """One stage's side.

    Args:
        monitor: the way to it.
        max_starts: starts of all stages of this pass, restarts included.
        writer: the stage's.
        measure: brings `counts` up to date, before each report.
        obey: told the order in force, after each report.

    Attributes:
        counts: what the stage has done.

    Raises:
        GymRayError: stages keep dying.
    """

    def __init__(
        self,
        monitor: MonitorLink,
        max_starts: int,
        writer: SegmentWriter,
        *,
        measure: Callable[[], None],
        obey: Callable[[Order], None] = lambda order: None,
    ) -> None:
        starts = monitor.started()
        if starts > max_starts:
            raise GymRayError(f"rollout stages keep dying ({starts - 1} starts); see Ray's logs")
        self.counts = Counts()
        self._monitor = monitor
        self._writer = writer
        self._measure = measure
        self._obey = obey
        self._name = uuid.uuid4().hex
        self._order: Order = "run"
        self._heart: asyncio.Task[None] | None = None

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns, unless the order is to stop before it has ended.

        Raises:
            CollectionStopped: it is; `work` was cancelled.
            Exception: what `work` raises, or what broke the link.
        """
        if self._heart is None:
            self._heart = asyncio.ensure_future(self._beat())
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._heart}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if task.cancelled():
            await self._writer.close()
            self._heart.result()
            raise CollectionStopped
        try:
            found = task.result()
        except ExceptionGroup as errors:
            raise _first(errors) from None
        await self._report()
        return found

    async def _beat(self) -> None:
        """Go on until the order is to stop."""
        while self._order != "stop":
            await self._report()
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    async def _report(self) -> None:
        self._measure()
        self._order = await self._monitor.report(self._name, self.counts, obeyed=self._order)
        self._obey(self._order)
        if self._order != "run":
            self._writer.flush()


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The first of errors of tasks that were started together, in whatever depth."""
    error: Exception = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
