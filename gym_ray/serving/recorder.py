"""Rollouts that were served rather than collected: how they become durable, one by one.

A caller gets its answer only once its rollout is in a file. So that many callers at once do not
write many files, those that finish while one is being written, or within a moment, share the
next. Every process that records has a block of its own, so no two ever write the same file.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import Sequence

from gym_ray.rollout import Rollout
from gym_ray.store.places import open_path
from gym_ray.store.run_directory import RunDirectory
from gym_ray.store.segments import SegmentStore

#: How long the first rollout of a segment waits for others.
_WAIT_SECONDS = 0.05

#: Rollouts, and tokens of rollouts, of one segment at most.
_MAX_ROLLOUTS = 512
_MAX_TOKENS = 4_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class RecordTarget:
    """Where served rollouts go.

    Attributes:
        directory: the run directory.
        run_id: identity of the run, which the rows carry.
    """

    directory: str
    run_id: str

    @classmethod
    def of(cls, directory: RunDirectory) -> RecordTarget:
        return cls(str(directory.path.resolve()), directory.id)


class Recorder:
    """Makes rollouts durable, together what finishes together.

    Memory is bounded by the callers: each waits for its own rollout.

    Args:
        target: where to.
    """

    def __init__(self, target: RecordTarget) -> None:
        self._store = SegmentStore(open_path(target.directory) / "segments")
        self._block = f"served-{uuid.uuid4().hex[:12]}"
        self._waiting: list[tuple[Rollout, asyncio.Future[None]]] = []
        self._tokens = 0
        self._enough = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    async def record(self, rollout: Rollout) -> None:
        """Return once the rollout is durable.

        Raises:
            OSError: it cannot be written.
        """
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((rollout, durable))
        self._tokens += _tokens(rollout)
        if self._is_enough():
            self._enough.set()
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write())
        # Whoever gives up waiting does not unmake the row.
        await asyncio.shield(durable)

    async def _write(self) -> None:
        try:
            while self._waiting:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_WAIT_SECONDS):
                        await self._enough.wait()
                await self._write_segment()
        finally:
            self._writing = None

    async def _write_segment(self) -> None:
        count = self._segment_length()
        segment, self._waiting = self._waiting[:count], self._waiting[count:]
        self._tokens -= sum(_tokens(rollout) for rollout, _ in segment)
        if not self._is_enough():
            self._enough.clear()
        rollouts = [rollout for rollout, _ in segment]
        errors: Sequence[Exception | None] = [await self._written(rollouts)] * count
        if count > 1 and errors[0] is not None and not isinstance(errors[0], OSError):
            # One that fits no file (a metric's name that is no text, say) costs no other its row.
            errors = [await self._written([rollout]) for rollout in rollouts]
        for (_, durable), error in zip(segment, errors, strict=True):
            if durable.done():
                continue
            if error is None:
                durable.set_result(None)
            else:
                durable.set_exception(error)

    async def _written(self, rollouts: Sequence[Rollout]) -> Exception | None:
        """Why these are not durable; None when they are."""
        try:
            await asyncio.to_thread(self._store.write, self._block, rollouts)
        except Exception as error:
            return error
        return None

    def _is_enough(self) -> bool:
        return len(self._waiting) >= _MAX_ROLLOUTS or self._tokens >= _MAX_TOKENS

    def _segment_length(self) -> int:
        """How many of those that wait go into the next segment: one at least."""
        tokens = 0
        for count, (rollout, _) in enumerate(self._waiting[:_MAX_ROLLOUTS], start=1):
            tokens += _tokens(rollout)
            if tokens >= _MAX_TOKENS:
                return count
        return min(len(self._waiting), _MAX_ROLLOUTS)


def _tokens(rollout: Rollout) -> int:
    sides = sum(len(branch.token_ids) for branch in rollout.side_branches)
    return len(rollout.token_ids) + sides
