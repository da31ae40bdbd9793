"""Admission: how many rollouts may start now. A pure state machine.

Facts are pushed in (`started`, `finished`, `written`), the decision comes out (`next_call`).

Invariants:
* running <= max_in_flight, and those of an environment with a quota <= that;
* running + unwritten <= max_in_flight + headroom, so a kill costs at most that many rollouts;
* nothing starts while those that are unwritten take `UNWRITTEN_BYTES` of memory or more;
* a call is never started half full while waiting a moment would fill it, because a call to an
  environment costs the same for one rollout as for sixteen;
* what waits longest starts first, whatever its environment, so what runs is a mixture as the input
  is; only an environment whose quota is full is passed over.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

#: Rollouts of one call to an environment replica, at most.
CALL_ROLLOUTS = 16

#: Finished rollouts that make a segment worth writing, at least and at most.
SEGMENT_ROWS = (4, 64)

#: Memory of finished rollouts that are not durable yet, beyond which nothing starts.
UNWRITTEN_BYTES = 256 * 1024**2

#: For callers that bound what they ask for themselves.
UNLIMITED = sys.maxsize


class Admission:
    """Decides when rollouts start and when finished ones are written.

    Args:
        max_in_flight: rollouts running at once.
        quotas: of those, rollouts of an environment; without one it may have all.

    Attributes:
        running: rollouts started and not finished.
        unwritten: rollouts finished and not durable yet.
        unwritten_bytes: about how much memory those take.
        closed: set when draining; nothing starts any more.
    """

    def __init__(
        self, max_in_flight: int, quotas: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        low, high = SEGMENT_ROWS
        self.max_in_flight = max_in_flight
        self.headroom = max(low, max_in_flight // 2)
        self.segment_rows = min(max(max_in_flight // 4, low), high)
        self.call_rollouts = _call_rollouts(max_in_flight)
        self.running = 0
        self.unwritten = 0
        self.unwritten_bytes = 0
        self.closed = False
        self._quotas = quotas
        self._of: Counter[str] = Counter()

    def next_call(self, waiting: Iterable[tuple[str, int]]) -> tuple[str, int] | None:
        """Which rollouts to start as one call now; None to wait.

        Args:
            waiting: environments and how many of each wait, the one that waits longest first.
        """
        if self.closed or self.unwritten_bytes >= UNWRITTEN_BYTES:
            return None
        free = min(
            self.max_in_flight - self.running,
            self.max_in_flight + self.headroom - self.running - self.unwritten,
        )
        for environment, count in waiting:
            wanted = min(count, self.call_rollouts)
            if (quota := self._quotas.get(environment)) is not None:
                wanted = min(wanted, _call_rollouts(quota))
                if wanted > quota - self._of[environment]:
                    continue
            if wanted:
                # Nothing smaller that waits less long may take the room this one waits for.
                return (environment, wanted) if wanted <= free else None
        return None

    def started(self, environment: str, count: int) -> None:
        self.running += count
        self._of[environment] += count

    def finished(self, environment: str, count: int, *, to_write: int, size: int = 0) -> None:
        """`count` rollouts stopped running.

        Args:
            to_write: of them, those that have a row (are not to be retried).
            size: bytes of memory of these.
        """
        self.running -= count
        self._of[environment] -= count
        self.unwritten += to_write
        self.unwritten_bytes += size

    def written(self, count: int, *, size: int = 0) -> None:
        """Rollouts are durable, or nobody wants them to be any more."""
        self.unwritten -= count
        self.unwritten_bytes -= size


def _call_rollouts(in_flight: int) -> int:
    """Rollouts of a call where so many run: some four calls at least, so that it is not all or
    nothing.
    """
    return min(max(in_flight // 4, 1), CALL_ROLLOUTS)
