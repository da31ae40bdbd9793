"""Who may be tried again after calls broke. A pure state machine.

A replica that dies takes everything in it along, and does not say whose fault it was: a row that
ends its process, every time it runs, would take new ones with it at every attempt. So rollouts
whose calls broke again and again are tried in ever smaller company, until one that breaks a call
does so by itself.

Invariants:
* a rollout whose calls broke once is tried like any other: replicas are lost for reasons of their
  own;
* of those whose calls broke twice, `_FEW` of an environment run at once;
* of those whose calls broke more often, one, and then it is to blame (`is_to_blame`).
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, TypeVar

T = TypeVar("T")

#: Of an environment at once, of rollouts whose calls broke twice.
_FEW = 8

#: Breaks after which a rollout is tried by itself.
_ALONE = 3


def is_to_blame(breaks: int) -> bool:
    """Whether one whose calls broke so often before is what broke its call now."""
    return breaks >= _ALONE


class Suspects(Generic[T]):
    """Rollouts that have a place to be tried in, and those that wait for one."""

    def __init__(self) -> None:
        self._running: Counter[tuple[str, int]] = Counter()
        self._waiting: dict[tuple[str, int], deque[T]] = {}

    def admit(self, environment: str, breaks: int, item: T) -> bool:
        """Whether it has a place now; else `left` gives it one."""
        lane = _lane(environment, breaks)
        if self._running[lane] < _places(lane[1]):
            self._running[lane] += 1
            return True
        self._waiting.setdefault(lane, deque()).append(item)
        return False

    def left(self, environment: str, breaks: int) -> T | None:
        """One that had a place is done with it; the one that has it now, if any waits."""
        lane = _lane(environment, breaks)
        if waiting := self._waiting.get(lane):
            return waiting.popleft()
        self._running[lane] -= 1
        return None

    def withdraw(self, environment: str, breaks: int, item: T) -> None:
        """One that waits is given up."""
        self._waiting[_lane(environment, breaks)].remove(item)


def is_suspect(breaks: int) -> bool:
    """Whether it needs a place."""
    return breaks >= 2


def _lane(environment: str, breaks: int) -> tuple[str, int]:
    return environment, min(breaks, _ALONE)


def _places(breaks: int) -> int:
    return 1 if breaks >= _ALONE else _FEW
