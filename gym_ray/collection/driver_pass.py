"""A pass whose one stage runs in the command itself, in a thread.

What Ray Data's stages cost at the start (a worker each, with everything it imports, and Ray Data's
own) is more than a small collection takes. A stage whose process is lost loses nothing that is
durable, and the command is lost no more often than a worker beside it would be.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from gym_ray.collection.manifest import Manifest
from gym_ray.collection.monitor import LocalLink, Monitor, Order
from gym_ray.collection.remaining import Positions, as_range
from gym_ray.collection.stage import RolloutStage, StageSettings
from gym_ray.collection.stage_link import CollectionStopped
from gym_ray.config.commands import LogFormat
from gym_ray.telemetry.logs import set_up_logs
from gym_ray.telemetry.progress import Counts


@functools.cache
def stage_loop() -> asyncio.AbstractEventLoop:
    """The event loop of the stages of this process, in a thread of its own.

    There is one for all collections, and it never ends: Serve keeps what its handles share, such as
    connections to replicas, with the loop that first used them.
    """
    loop = asyncio.new_event_loop()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    threading.Thread(target=run, name="stages", daemon=True).start()
    return loop


async def run_stage(
    settings: StageSettings, manifest: str, left: Positions, monitor: Monitor
) -> None:
    """Run what is left of a run in one stage.

    Args:
        settings: of the stage.
        manifest: of the run.
        left: positions of its rows that are to run.
        monitor: is told how far it is, and says when to stop.

    Raises:
        Exception: what ended it early, unless that was an order to stop.
    """
    try:
        stage = RolloutStage(settings, manifest, LocalLink(monitor), max_starts=1)
        async for _ in stage(as_range(left)):
            pass
    except CollectionStopped:
        pass


class DriverPass:
    """See `RunningPass`.

    Args:
        manifest: of the run.
        left: positions of its rows that are to run.
        settings: of the stage.
    """

    def __init__(self, manifest: Manifest, left: Positions, settings: StageSettings) -> None:
        self._monitor = Monitor()
        work = run_stage(settings, str(manifest.path.resolve()), left, self._monitor)
        self._ended = asyncio.run_coroutine_threadsafe(work, stage_loop())

    def running(self) -> bool:
        """See `RunningPass`."""
        return not self._ended.done()

    def wait(self, seconds: float) -> None:
        """See `RunningPass`."""
        concurrent.futures.wait([self._ended], timeout=seconds)

    def counts(self) -> Counts:
        """See `RunningPass`."""
        return self._monitor.total()

    def stages(self) -> int:
        """See `RunningPass`."""
        return 1

    def drained(self) -> bool:
        """See `RunningPass`."""
        return self._monitor.drained()

    def order(self, order: Order) -> None:
        """See `RunningPass`."""
        self._monitor.set_order(order)

    def raise_error(self) -> None:
        """See `RunningPass`."""
        if self._ended.done():
            self._ended.result()

    def close(self) -> None:
        """Give up what has not ended."""
        self._ended.cancel()


def logs_into(file: Path, log_format: LogFormat) -> Callable[[], None]:
    """Send what gym-ray logs in this process to a file, where a worker's would be Ray's.

    Returns:
        Ends it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = file.open("a")
    handler = set_up_logs(log_format, stream)

    def end() -> None:
        logging.getLogger("gym_ray").removeHandler(handler)
        stream.close()

    return end
