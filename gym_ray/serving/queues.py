"""Rollouts that are to start, in one queue for each environment."""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Queues(Generic[T]):
    """First in, first out, environment by environment."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[tuple[int, T]]] = {}
        self._added = 0

    def add(self, environment: str, item: T) -> None:
        self._added += 1
        self._queues.setdefault(environment, deque()).append((self._added, item))

    def take(self, environment: str, count: int) -> list[T]:
        """The `count` that have waited longest, of those of an environment."""
        queue = self._queues[environment]
        return [queue.popleft()[1] for _ in range(count)]

    def remove(self, environment: str, item: T) -> None:
        """Take one out of the middle."""
        queue = self._queues[environment]
        queue.remove(next(place for place in queue if place[1] is item))

    def lengths(self) -> list[tuple[str, int]]:
        """Every environment and how many wait, the one whose first has waited longest first."""
        places = [
            (queue[0][0] if queue else math.inf, environment, len(queue))
            for environment, queue in self._queues.items()
        ]
        return [(environment, length) for _, environment, length in sorted(places)]
