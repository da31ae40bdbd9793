"""How long an event loop stands still while others wait for it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

#: Linux's account of this thread: nanoseconds on a CPU, nanoseconds waiting for one, turns on one.
_ACCOUNT = Path("/proc/thread-self/schedstat")


class LoopClock:
    """Measures how long the event loop stands still at most.

    Time in which other programs have the CPU is left out where the system tells it: it says
    nothing of what runs on the loop.

    Attributes:
        longest: seconds.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def __aenter__(self) -> None:
        self._task = asyncio.ensure_future(self._tick())

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)
        self._task.cancel()

    async def _tick(self) -> None:
        period, before = 0.05, time.perf_counter() - _waited()
        while True:
            await asyncio.sleep(period)
            now = time.perf_counter() - _waited()
            self.longest = max(self.longest, now - before - period)
            before = now


def _waited() -> float:
    """Seconds this thread has waited for a CPU; 0 where nobody counts them."""
    try:
        return int(_ACCOUNT.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
