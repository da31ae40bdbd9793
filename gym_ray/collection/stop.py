"""When to stop early: a signal, or the run's deadline."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from gym_ray.errors import Interrupted


class StopSignal:
    """Collects wishes to stop; the first asks for a drain, a second is urgent.

    Args:
        deadline: `time.monotonic()` at which the run should stop by itself, or None.
        say: told when a signal comes while there is nothing in flight to be told of.

    Attributes:
        reason: `signal` or `run_timeout` once stopping was asked for, else None.
    """

    def __init__(self, deadline: float | None, say: Callable[[str], None]) -> None:
        self.reason: str | None = None
        self._told_by_others = False
        self._say = say
        self._deadline = deadline
        self._signals = 0

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Receive SIGINT and SIGTERM while inside; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.take_over()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def take_over(self) -> None:
        """Install the handlers; again after starting Ray, which installs its own."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._receive)
            signal.signal(signal.SIGTERM, self._receive)

    @contextlib.contextmanager
    def told_by_others(self) -> Iterator[None]:
        """While inside, whoever drives rollouts says what becomes of those in flight."""
        self._told_by_others = True
        try:
            yield
        finally:
            self._told_by_others = False

    def requested(self) -> bool:
        """Whether to start nothing more and drain."""
        deadline = self._deadline
        if self.reason is None and deadline is not None and time.monotonic() >= deadline:
            self.reason = "run_timeout"
        return self.reason is not None

    def raise_if_requested(self) -> None:
        """For waits in which there is nothing to drain yet.

        Raises:
            Interrupted: stopping was asked for.
        """
        if self.requested():
            raise Interrupted(f"stopped while starting up ({self.reason})")

    def urgent(self) -> bool:
        """Whether to give up even what is in flight."""
        return self._signals > 1

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self.reason = self.reason or "signal"
        if not self._told_by_others:
            self._say("stopping; what is starting now is waited for first, and nothing is lost")
