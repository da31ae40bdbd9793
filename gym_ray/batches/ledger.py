"""The ledger of one batch: which rows wait, run, are finished, or were acknowledged.

A pure state machine: facts go in, decisions come out; no tasks, clocks or clients. Invariants:
* an index has one content for as long as the ledger lives;
* a row is started at most once until it is given up, and never again once acknowledged;
* a result is told until it is acknowledged, and only to a holder that has given its row;
* at most `room` rows wait, run, or are finished and not acknowledged.
"""

from __future__ import annotations

import array
import dataclasses
from collections import deque
from collections.abc import Iterable

from gym_ray.batches.protocol import MAX_ROWS, BatchError
from gym_ray.batches.result_page import ResultPage
from gym_ray.rollout import Rollout, RolloutSpec

#: Results, and bytes of results, of one page; one result always fits.
_PAGE_RESULTS = 256
_PAGE_BYTES = 16 * 1024 * 1024

#: Acknowledged indices that do not continue the ones below, at most.
_MAX_AHEAD = 1_000_000

#: Stands for the content of a row that was acknowledged and never given.
_ANY_CONTENT = 0


class Ledger:
    """Rows of a batch by index.

    Args:
        room: see the module.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.kept_bytes = 0
        self._rows: dict[int, Row] = {}
        self._waiting: deque[int] = deque()
        self._begun: set[int] = set()
        self._finished: dict[int, int] = {}
        self._acknowledged = _Acknowledged()
        self._sequence = 0

    def submit(self, index: int, spec: RolloutSpec) -> bool:
        """A row is given.

        Returns:
            False when its result was acknowledged before.

        Raises:
            BatchError: `content`, `full` or `long`.
        """
        content = _content_of(spec)
        known = self._acknowledged.get(index)
        row = self._rows.get(index)
        if known is None and row is not None:
            known = row.content
        if known not in (None, content, _ANY_CONTENT):
            raise BatchError(
                "content",
                f"row {index} has another content than it had in this batch before; a batch "
                "goes on with the same tasks in the same order, other tasks need another name",
            )
        if row is not None:
            self._claim(index, row)
            return True
        if known is not None:
            return False
        if len(self._rows) >= self.room:
            raise BatchError(
                "full",
                f"the batch has {self.room} rows that wait, run, or are not acknowledged; "
                "acknowledge results before giving more",
            )
        if len(self._acknowledged) + len(self._rows) >= MAX_ROWS:
            raise BatchError("long", f"a batch has {MAX_ROWS} rows at most; begin another one")
        self._rows[index] = Row(spec, content)
        self._waiting.append(index)
        return True

    def start(self, *, begun: bool) -> tuple[int, Row] | None:
        """The next row to run; None when none waits.

        Args:
            begun: only if it ran before and was given up. A holder may wait for it to have done
                with results it holds, those of a group: it must not wait for their memory.
        """
        for index in list(self._waiting):
            row = self._rows.get(index)
            if row is None or row.started:
                self._waiting.remove(index)
            elif not begun or index in self._begun:
                self._waiting.remove(index)
                row.started = True
                return index, row
        return None

    def finish(self, index: int, row: Row, rollout: Rollout) -> None:
        """A row that was started has ended; one that was given up meanwhile is ignored."""
        if self._rows.get(index) is not row:
            return
        self._begun.discard(index)
        row.rollout = rollout
        row.bytes = rollout.memory_bytes
        self.kept_bytes += row.bytes
        self._enqueue(index, row)

    def page(self, after: int) -> ResultPage:
        """Results the holder has not been told up to cursor `after`."""
        fresh: list[int] = []
        for sequence, index in reversed(self._finished.items()):
            if sequence <= after:
                break
            if self._rows[index].claimed:
                fresh.append(index)
        results: list[tuple[int, Rollout]] = []
        cursor, size = after, 0
        for index in reversed(fresh):
            row = self._rows[index]
            if results and (len(results) >= _PAGE_RESULTS or size + row.bytes > _PAGE_BYTES):
                break
            assert row.rollout is not None
            results.append((index, row.rollout))
            cursor, size = row.sequence, size + row.bytes
        unfinished = sum(row.claimed and row.rollout is None for row in self._rows.values())
        return ResultPage(cursor, unfinished + len(fresh) - len(results), tuple(results))

    def acknowledge(self, indices: Iterable[int]) -> list[int]:
        """Results were received; returns the rows that run all the same.

        Raises:
            BatchError: `long`.
        """
        running = []
        for index in indices:
            row = self._rows.get(index)
            self._begun.discard(index)
            if self._acknowledged.get(index) is None:
                self._acknowledged.add(index, _ANY_CONTENT if row is None else row.content)
            if row is not None:
                self._drop(index, row)
                if row.started and row.rollout is None:
                    running.append(index)
        return running

    def disown(self) -> None:
        """Another holder: what it is told are the results of rows it gives itself."""
        for row in self._rows.values():
            row.claimed = False

    def give_up(self) -> list[int]:
        """Forget the rows that wait or run, as if they had never been given; returns those that
        run.
        """
        unfinished = {index: row for index, row in self._rows.items() if row.rollout is None}
        for index in unfinished:
            del self._rows[index]
        self._waiting.clear()
        running = [index for index, row in unfinished.items() if row.started]
        self._begun.update(running)
        return running

    def forget_results(self, *, claimed: bool) -> int:
        """Make room: results that nobody has fetched run again if they are asked for again.

        Args:
            claimed: also those of rows the holder has given.

        Returns:
            Bytes freed.
        """
        before = self.kept_bytes
        for index, row in list(self._rows.items()):
            if row.rollout is not None and (claimed or not row.claimed):
                self._drop(index, row)
        return before - self.kept_bytes

    @property
    def any_waiting(self) -> bool:
        """False when `start` has nothing to start."""
        return bool(self._waiting)

    @property
    def waiting(self) -> int:
        return sum(not row.started for row in self._rows.values())

    @property
    def running(self) -> int:
        return sum(row.started and row.rollout is None for row in self._rows.values())

    @property
    def finished(self) -> int:
        return len(self._finished)

    @property
    def acknowledged(self) -> int:
        return len(self._acknowledged)

    def _claim(self, index: int, row: Row) -> None:
        if row.claimed:
            return
        row.claimed = True
        if row.rollout is not None:  # Told anew, whatever cursor the holder has reached.
            del self._finished[row.sequence]
            self._enqueue(index, row)

    def _enqueue(self, index: int, row: Row) -> None:
        self._sequence += 1
        row.sequence = self._sequence
        self._finished[row.sequence] = index

    def _drop(self, index: int, row: Row) -> None:
        del self._rows[index]
        if row.rollout is not None:
            del self._finished[row.sequence]
            self.kept_bytes -= row.bytes


@dataclasses.dataclass(slots=True, eq=False)
class Row:
    """A row that was given and not acknowledged."""

    spec: RolloutSpec
    content: int
    claimed: bool = True
    started: bool = False
    rollout: Rollout | None = None
    sequence: int = 0
    bytes: int = 0


class _Acknowledged:
    """Contents of acknowledged rows, in 8 bytes each: almost all continue the ones below."""

    def __init__(self) -> None:
        self._dense = array.array("Q")
        self._ahead: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._dense) + len(self._ahead)

    def get(self, index: int) -> int | None:
        return self._dense[index] if index < len(self._dense) else self._ahead.get(index)

    def add(self, index: int, content: int) -> None:
        if len(self._ahead) >= _MAX_AHEAD:
            raise BatchError("long", "too many rows were acknowledged before earlier ones")
        self._ahead[index] = content
        while (following := self._ahead.pop(len(self._dense), None)) is not None:
            self._dense.append(following)


def _content_of(spec: RolloutSpec) -> int:
    """What tells contents apart: 64 bits of the task's hash, never `_ANY_CONTENT`."""
    return int(spec.task_id[:16], 16) or 1
