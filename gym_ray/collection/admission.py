"""Admission: how many rollouts may start now. A pure state machine.

Facts are pushed in (`started`, `finished`, `written`), the decision comes out (`startable`).

Invariants:
* running <= max_in_flight;
* running + unwritten <= max_in_flight + headroom, so a kill costs at most that many rollouts;
* a call is never started half full while waiting a moment would fill it, because a call to an
  environment costs the same for one rollout as for sixteen.
"""

from __future__ import annotations

#: Rollouts of one call to an environment replica, at most.
CALL_ROLLOUTS = 16

#: Finished rollouts that make a segment worth writing, at least and at most.
SEGMENT_ROWS = (4, 64)


class Admission:
    """Decides when rollouts start and when finished ones are written.

    Args:
        max_in_flight: rollouts running at once.

    Attributes:
        running: rollouts started and not finished.
        unwritten: rollouts finished and not durable yet.
        closed: set when draining; nothing starts any more.
    """

    def __init__(self, max_in_flight: int) -> None:
        low, high = SEGMENT_ROWS
        self.max_in_flight = max_in_flight
        self.headroom = max(low, max_in_flight // 2)
        self.segment_rows = min(max(max_in_flight // 4, low), high)
        self.call_rollouts = min(max(max_in_flight // 4, 1), CALL_ROLLOUTS)
        self.running = 0
        self.unwritten = 0
        self.closed = False

    def startable(self, waiting: int) -> int:
        """How many of `waiting` rollouts to start as one call now; 0 to wait."""
        if self.closed or waiting == 0:
            return 0
        wanted = min(waiting, self.call_rollouts)
        free = min(
            self.max_in_flight - self.running,
            self.max_in_flight + self.headroom - self.running - self.unwritten,
        )
        return wanted if wanted <= free else 0

    def started(self, count: int) -> None:
        self.running += count

    def finished(self, count: int, *, to_write: int) -> None:
        """`count` rollouts stopped running; `to_write` of them have a row (not to be retried)."""
        self.running -= count
        self.unwritten += to_write

    def written(self, count: int) -> None:
        self.unwritten -= count
