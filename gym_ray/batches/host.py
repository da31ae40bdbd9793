"""Batches in memory: whose they are, what of them runs, and when they are forgotten.

Owned here: leases, running what a ledger says, and the bounds on memory. Not owned here: which
row is where (batch_ledger.py), how a rollout runs (`RunBackend`), HTTP (gateway).

Batches live as long as this host: when it is lost they are, and clients give again what they
have not received. Nothing is written to disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import hashlib
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Sequence

from gym_ray.batches.ledger import Ledger, Row
from gym_ray.batches.protocol import BatchError, BatchState, Opening, RunBackend
from gym_ray.batches.result_page import ResultPage
from gym_ray.errors import FailureKind, one_line
from gym_ray.rollout import Producer, Rollout, RolloutSpec

logger = logging.getLogger("ray.serve")

#: Rows of one batch at once: waiting, running, or finished and not acknowledged.
ROOM = 4096

#: Finished rollouts of all batches that are kept in memory; beyond, nothing new is started.
KEPT_BYTES = 1024 * 1024 * 1024

#: Batches at once: of a trainer that opens one for each rollout (verl), a whole step's.
MAX_BATCHES = 16_384

#: The first result of a page waits so long for others.
_GATHER_SECONDS = 0.01


class BatchHost:
    """Holds batches and runs their rows. Use it on one event loop.

    Args:
        make_backend: what runs the rollouts of a batch, by how it was opened.
        producer: fills the columns of rows that reach no backend.
        max_running: rollouts of one batch at once.
        retention_seconds: how long a batch nobody holds is kept.
        room, kept_bytes, max_batches: see the constants.
    """

    def __init__(
        self,
        make_backend: Callable[[Opening], RunBackend],
        *,
        producer: Producer,
        max_running: int,
        retention_seconds: float,
        room: int = ROOM,
        kept_bytes: int = KEPT_BYTES,
        max_batches: int = MAX_BATCHES,
    ) -> None:
        self._make_backend = make_backend
        self._producer = producer
        self._max_running = max_running
        self._retention_seconds = retention_seconds
        self._room = room
        self._kept_bytes = kept_bytes
        self._max_batches = max_batches
        self._batches: dict[str, _Batch] = {}
        self._short_of_memory = False

    async def open(self, name: str, opening: Opening) -> BatchState:
        known = self._batches.get(name)
        batch = known or _Batch(name, opening, self._make_backend(opening), Ledger(self._room))
        if known is None:
            self._evict()
            self._batches[name] = batch
        if batch.opening != opening:
            batch.backend = self._make_backend(opening)
            if batch.opening.holder != opening.holder:
                batch.ledger.disown()
            batch.opening = opening
        batch.holder = opening.holder
        batch.notify()  # A former holder that waits learns of it.
        self._touch(batch)
        self._set_timer(batch)
        self._start(batch)
        return self._state_of(batch)

    async def submit(
        self, name: str, holder: str, rows: Sequence[tuple[int, RolloutSpec]]
    ) -> list[int]:
        batch = self._held(name, holder)
        try:
            return [
                index
                for index, spec in rows
                if not batch.ledger.submit(index, batch.named(index, spec))
            ]
        finally:
            batch.notify()
            self._start(batch)

    async def results(self, name: str, holder: str, after: int, wait_seconds: float) -> ResultPage:
        batch = self._held(name, holder)
        page = batch.ledger.page(after)
        if page.results or not wait_seconds:
            return page
        batch.polls += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    while not page.results:
                        await batch.changed.wait()
                        self._held(name, holder)
                        page = batch.ledger.page(after)
            if page.results:
                await asyncio.sleep(_GATHER_SECONDS)
        finally:
            batch.polls -= 1
            self._touch(batch)
        self._held(name, holder)
        return batch.ledger.page(after)

    async def acknowledge(self, name: str, holder: str, indices: Sequence[int]) -> None:
        batch = self._held(name, holder)
        for index in batch.ledger.acknowledge(indices):
            batch.running.pop(index).cancel()
        self._start(batch)
        self._start_all()

    async def release(self, name: str, holder: str) -> None:
        batch = self._held(name, holder)
        self._give_up(batch)

    async def delete(self, name: str, holder: str | None) -> None:
        batch = self._held(name, holder) if holder is not None else self._find(name)
        if holder is None and batch.holder is not None:
            raise BatchError(
                "taken",
                f"a client holds batch {name!r}: name its secret, or wait until it let go",
            )
        self._forget(batch)

    async def state(self, name: str) -> BatchState:
        return self._state_of(self._find(name))

    async def stop(self) -> None:
        """Give up everything."""
        for batch in list(self._batches.values()):
            self._forget(batch)

    def _find(self, name: str) -> _Batch:
        batch = self._batches.get(name)
        if batch is None:
            raise BatchError("unknown", f"there is no batch {name!r}; open it with PUT")
        return batch

    def _held(self, name: str, holder: str) -> _Batch:
        """The batch, when `holder` holds it; this is a sign of life."""
        batch = self._find(name)
        if batch.holder is None and holder == batch.opening.holder:
            raise BatchError(
                "released", f"batch {name!r} was given up, as its client was silent; open it again"
            )
        # Who was displaced stays so when the one who took over has let go.
        if batch.holder != holder:
            raise BatchError(
                "taken", f"another client has taken over batch {name!r}; use a name of your own"
            )
        self._touch(batch)
        return batch

    # Leases.

    def _touch(self, batch: _Batch) -> None:
        batch.touched = asyncio.get_running_loop().time()

    def _set_timer(self, batch: _Batch) -> None:
        """Look at the batch when its holder, or nobody, will have been silent for too long."""
        if batch.timer is not None:
            batch.timer.cancel()
        silence = batch.lease_seconds if batch.holder else self._retention_seconds
        loop = asyncio.get_running_loop()
        batch.timer = loop.call_at(batch.touched + silence, self._check, batch)

    def _check(self, batch: _Batch) -> None:
        silent = asyncio.get_running_loop().time() - batch.touched
        if batch.polls:
            # Whoever waits for results is there, as far as can be told: a poll that lost its
            # client is cancelled, and every poll ends.
            self._touch(batch)
        elif batch.holder is not None and silent >= batch.lease_seconds:
            logger.warning("batch %s: its client is silent, what runs is given up", batch.name)
            self._give_up(batch)
        elif batch.holder is None and silent >= self._retention_seconds:
            self._forget(batch)
            return
        self._set_timer(batch)

    def _give_up(self, batch: _Batch) -> None:
        batch.holder = None
        for index in batch.ledger.give_up():
            batch.running.pop(index).cancel()
            batch.given_up[index] += 1
        batch.notify()
        self._set_timer(batch)
        self._start_all()  # Its results may give way now.

    def _forget(self, batch: _Batch) -> None:
        self._give_up(batch)
        assert batch.timer is not None
        batch.timer.cancel()
        del self._batches[batch.name]
        self._start_all()

    def _evict(self) -> None:
        """Room for one more batch: the one without a holder that was heard of the longest ago."""
        if len(self._batches) < self._max_batches:
            return
        left = [batch for batch in self._batches.values() if batch.holder is None]
        if not left:
            raise BatchError("full", f"there are {self._max_batches} batches in use; try later")
        self._forget(min(left, key=lambda batch: batch.touched))

    # Running.

    def _start_all(self) -> None:
        """There may be memory again. For anything else no batch waits for another."""
        if not self._short_of_memory:
            return
        self._short_of_memory = False
        for batch in self._batches.values():
            self._start(batch)

    def _start(self, batch: _Batch) -> None:
        while batch.ledger.any_waiting and len(batch.running) < self._max_running:
            started = batch.ledger.start(begun=not self._may_start())
            if started is None:
                return
            # In a context of its own: Serve would otherwise take the rollout for a part of the
            # request that happened to start it.
            batch.running[started[0]] = asyncio.get_running_loop().create_task(
                self._run(batch, *started), context=contextvars.Context()
            )

    def _may_start(self) -> bool:
        """Whether finished rollouts leave memory; unasked results give way, oldest first."""
        kept = sum(batch.ledger.kept_bytes for batch in self._batches.values())
        if kept < self._kept_bytes:
            return True
        # Of a batch that is held, those of rows its holder has not given (again).
        for batch in sorted(
            self._batches.values(), key=lambda batch: (batch.holder is not None, batch.touched)
        ):
            kept -= batch.ledger.forget_results(claimed=batch.holder is None)
            if kept < self._kept_bytes:
                return True
        self._short_of_memory = True
        return False

    async def _run(self, batch: _Batch, index: int, row: Row) -> None:
        rollout = await self._rollout_of(batch, row.spec)
        if batch.running.get(index) is asyncio.current_task():
            del batch.running[index]
        batch.ledger.finish(index, row, rollout)
        batch.notify()
        self._start(batch)

    async def _rollout_of(self, batch: _Batch, spec: RolloutSpec) -> Rollout:
        if spec.error is not None:
            return self._producer.failed(spec, FailureKind.TASK_INVALID, spec.error)
        try:
            return await batch.backend.run(spec)
        except Exception as error:
            # Costs this rollout only: without an answer its client would wait for ever.
            logger.exception("rollout %s of batch %s", spec.rollout_id, batch.name)
            kind = FailureKind.ENVIRONMENT_ERROR
            return self._producer.failed(spec, kind, one_line(error))

    def _state_of(self, batch: _Batch) -> BatchState:
        ledger = batch.ledger
        return BatchState(
            held=batch.holder is not None,
            room=ledger.room,
            waiting=ledger.waiting,
            running=ledger.running,
            finished=ledger.finished,
            acknowledged=ledger.acknowledged,
        )


class _Batch:
    """One batch.

    Attributes:
        opening: the last one.
        backend: runs its rollouts.
        holder: who may use it; None when nobody does.
        heard: when its holder, or the last one, was heard, by the event loop's clock.
        polls: requests that wait for results.
        given_up: how often each row was while it ran; running again it has another rollout ID.
    """

    def __init__(self, name: str, opening: Opening, backend: RunBackend, ledger: Ledger) -> None:
        self.name = name
        self.opening = opening
        self.backend = backend
        self.ledger = ledger
        self.holder: str | None = None
        self.touched = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.polls = 0
        self.given_up: Counter[int] = Counter()
        self._unseeded = uuid.uuid4().hex
        self.running: dict[int, asyncio.Task[None]] = {}
        self.changed = asyncio.Event()

    @property
    def lease_seconds(self) -> float:
        return self.opening.lease_seconds

    def notify(self) -> None:
        """Wake everybody who waits for results."""
        self.changed.set()
        self.changed = asyncio.Event()

    def named(self, index: int, spec: RolloutSpec) -> RolloutSpec:
        origin = self._unseeded if self.opening.seed is None else self.name
        identity = f"{origin}/{index}/{spec.task_id}/{self.given_up[index]}"
        rollout_id = hashlib.sha256(identity.encode()).hexdigest()[:32]
        return dataclasses.replace(spec, rollout_id=rollout_id)
