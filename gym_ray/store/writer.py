"""The writer: finished rollouts in, durable rollouts out, as segments.

The one way rollouts become durable, for `collect`, `reverify` and `serve`. Whoever adds a rollout
waits until it is in a file. So that this does not make many small files, what finishes within a
while is written together, and what finishes while a block is being written shares its next file.
Memory is bounded by who waits.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Sequence

from gym_ray.errors import FailureKind, one_line
from gym_ray.rollout import Rollout, failed_rollout
from gym_ray.store.rows import to_table
from gym_ray.store.segments import SegmentStore

#: Rollouts of one segment, at most.
_SEGMENT_ROLLOUTS = 512


@dataclasses.dataclass(frozen=True, slots=True)
class FlushRules:
    """When finished rollouts are written: at the first of these, or when their block is complete.

    Attributes:
        rollouts: so many wait, of all blocks.
        seconds: the first of them has waited so long.
        bytes: they take about so much memory; also the most of one segment, but for one rollout.
    """

    rollouts: int
    seconds: float
    bytes: int = 64 * 1024**2


class UnfitRollout(ValueError):
    """A rollout that no file can hold, such as one with half of a surrogate pair in a name."""


class SegmentWriter:
    """Makes rollouts durable, together what finishes together. Use it on one event loop.

    Args:
        store: where to.
        rules: when.

    Attributes:
        unwritten: rollouts that were added and are not durable yet.
    """

    def __init__(self, store: SegmentStore, rules: FlushRules) -> None:
        self._store = store
        self._rules = rules
        self._blocks: dict[str, _Block] = {}
        self.unwritten = 0
        self._waiting = 0
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: set[asyncio.Task[None]] = set()

    async def open(self, block: str, rollout_ids: Iterable[str]) -> set[str]:
        """Say what a block will hold, so that it is written as soon as all of that is there.

        Returns:
            Those that are durable already: an earlier writer died after it had written them.
        """
        durable = await asyncio.to_thread(self._store.durable, block)
        self._blocks.setdefault(block, _Block()).expected = len(set(rollout_ids) - durable)
        return durable

    async def add(self, block: str, rollout: Rollout) -> None:
        """Return once the rollout is durable. Cancelling does not unmake its row.

        Raises:
            UnfitRollout: no file can hold it.
            Exception: the store cannot be written to.
        """
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = _Entry(rollout, rollout.memory_bytes, durable)
        state = self._blocks.setdefault(block, _Block())
        state.waiting.append(entry)
        if state.expected is not None:
            state.expected -= 1
        self.unwritten += 1
        self._waiting += 1
        self._waiting_bytes += entry.size
        if self._waiting >= self._rules.rollouts or self._waiting_bytes >= self._rules.bytes:
            self.flush()
        elif state.expected == 0:
            self._write_soon(block, state)
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._rules.seconds, self.flush)
        await durable

    async def add_or_failure(self, block: str, rollout: Rollout) -> None:
        """As `add`, but of a rollout that no file can hold a failed one is kept in its place: a
        run in which it were missing could never be complete.
        """
        try:
            await self.add(block, rollout)
        except UnfitRollout as unfit:
            await self.add(block, _failure_of(rollout, unfit))

    def flush(self) -> None:
        """Write all that waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for name, block in self._blocks.items():
            self._write_soon(name, block)

    async def close(self) -> None:
        """Write all that waits, and return when that is done."""
        self.flush()
        while self._writing:
            await asyncio.wait(self._writing)

    def _write_soon(self, name: str, block: _Block) -> None:
        if not block.waiting:
            return
        block.is_due = True
        if not block.is_writing:
            block.is_writing = True
            task = asyncio.ensure_future(self._write(name, block))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _write(self, name: str, block: _Block) -> None:
        """Write what of a block is due, segment after segment."""
        while block.is_due:
            entries = self._take(block)
            block.is_due = bool(block.waiting)
            rollouts = [entry.rollout for entry in entries]
            errors = await asyncio.to_thread(self._errors_of_writing, name, rollouts)
            self.unwritten -= len(entries)
            for entry, error in zip(entries, errors, strict=True):
                if entry.durable.done():  # Nobody waits for it any more.
                    continue
                if error is None:
                    entry.durable.set_result(None)
                else:
                    entry.durable.set_exception(error)
        block.is_writing = False
        if not block.waiting and block.expected == 0:
            self._blocks.pop(name, None)

    def _take(self, block: _Block) -> list[_Entry]:
        """What goes into a block's next segment: one rollout at least."""
        count, size = 0, 0
        for entry in block.waiting[:_SEGMENT_ROLLOUTS]:
            if count and size + entry.size > self._rules.bytes:
                break
            count, size = count + 1, size + entry.size
        taken, block.waiting = block.waiting[:count], block.waiting[count:]
        self._waiting -= count
        self._waiting_bytes -= size
        return taken

    def _errors_of_writing(
        self, block: str, rollouts: Sequence[Rollout]
    ) -> Sequence[Exception | None]:
        """Write a segment; why each rollout is not durable, None where it is. Blocks."""
        try:
            self._store.write(block, rollouts)
        except Exception as error:
            unfit = [_unfit(rollout) for rollout in rollouts]
            if not any(unfit):
                return [error] * len(rollouts)
            # One that fits no file costs no other its row.
            fit = [rollout for rollout, why in zip(rollouts, unfit, strict=True) if why is None]
            others = iter(self._errors_of_writing(block, fit) if fit else ())
            return [why or next(others) for why in unfit]
        return [None] * len(rollouts)


@dataclasses.dataclass(eq=False, slots=True)
class _Entry:
    rollout: Rollout
    size: int
    durable: asyncio.Future[None]


@dataclasses.dataclass(eq=False, slots=True)
class _Block:
    """What of a block waits, and how much is still to come, where that is known.

    Attributes:
        is_due: what waits now is to be written.
        is_writing: a segment of it is being written; there is never more than one.
    """

    waiting: list[_Entry] = dataclasses.field(default_factory=list)
    expected: int | None = None
    is_due: bool = False
    is_writing: bool = False


def _unfit(rollout: Rollout) -> UnfitRollout | None:
    """Why no file can hold a rollout; None when one can."""
    try:
        to_table([rollout])
    except Exception as error:
        return UnfitRollout(f"the rollout fits no file: {one_line(error)}")
    return None


def _failure_of(rollout: Rollout, unfit: UnfitRollout) -> Rollout:
    return failed_rollout(
        rollout.spec,
        FailureKind.ENVIRONMENT_ERROR,
        str(unfit),
        run_id=rollout.run_id,
        agent=rollout.agent,
        model=rollout.model,
        attempts=rollout.attempts,
        started_at=rollout.started_at,
        seconds=rollout.seconds,
    )
