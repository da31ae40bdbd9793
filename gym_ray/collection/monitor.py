"""The monitor: one small actor between the driver and the rollout stages.

Stages push what they have done and learn from the answer whether to go on; the driver reads
the sum for its progress line and sets the order. It belongs to the driver and dies with it.
"""

from __future__ import annotations

import time
from typing import Any, Literal, Protocol

from gym_ray.telemetry.progress import Counts

#: `run`; `drain`: start nothing, finish and write what runs; `stop`: give up what is left.
Order = Literal["run", "drain", "stop"]


#: A stage that has not reported for so long is gone.
_SILENT_SECONDS = 15.0


class MonitorLink(Protocol):
    """A stage's way to the monitor."""

    def started(self) -> int: ...

    async def report(self, stage: str, counts: Counts, *, obeyed: Order) -> Order: ...


class Monitor:
    """What the stages have done, and the order in force; on Ray, an actor's class."""

    def __init__(self) -> None:
        self._order: Order = "run"
        self._by_stage: dict[str, Counts] = {}
        self._obeyed: dict[str, Order] = {}
        self._heard: dict[str, float] = {}
        self._starts = 0

    def started(self) -> int:
        """A stage counts itself in; returns how many starts there were so far."""
        self._starts += 1
        return self._starts

    def report(self, stage: str, counts: Counts, *, obeyed: Order) -> Order:
        """A stage's counts since it started, under the order it last heard of.

        Returns:
            The order in force.
        """
        self._by_stage[stage] = counts
        self._obeyed[stage] = obeyed
        self._heard[stage] = time.monotonic()
        return self._order

    def drained(self) -> bool:
        """Whether every live stage has heard that it should drain, and has nothing to finish."""
        now = time.monotonic()
        return all(
            obeyed != "run" and self._by_stage[stage].running + self._by_stage[stage].unwritten == 0
            for stage, obeyed in self._obeyed.items()
            if now - self._heard[stage] < _SILENT_SECONDS
        )

    def starts(self) -> int:
        """How many stages have started so far, restarts included."""
        return self._starts

    def set_order(self, order: Order) -> None:
        self._order = order

    def total(self) -> Counts:
        total = Counts()
        for counts in self._by_stage.values():
            total.add(counts)
        return total


class ActorLink:
    """The way to a monitor that is an actor.

    Args:
        monitor: its handle.
    """

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor

    def started(self) -> int:
        """See `Monitor.started`."""
        import ray

        return int(ray.get(self._monitor.started.remote(), timeout=60))

    async def report(self, stage: str, counts: Counts, *, obeyed: Order) -> Order:
        """See `Monitor.report`."""
        order: Order = await self._monitor.report.remote(stage, counts, obeyed=obeyed)
        return order


class LocalLink:
    """The way to a monitor in the same process.

    Args:
        monitor: the monitor.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def started(self) -> int:
        """See `Monitor.started`."""
        return self._monitor.started()

    async def report(self, stage: str, counts: Counts, *, obeyed: Order) -> Order:
        """See `Monitor.report`."""
        return self._monitor.report(stage, counts, obeyed=obeyed)
