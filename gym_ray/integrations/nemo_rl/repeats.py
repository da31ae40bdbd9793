"""Rows that NeMo RL asks for more than once, by the identity it gives them.

What broke its stream of results may have left rollouts running, or finished and not told. Asked
for again, one that runs is waited for and one that finished is told, so that each identity is
sampled once; one that failed for what another try may cure runs again.

Invariants: an identity runs once at any time; every call is told each of its rows once, or raises;
what no call waits for any more is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Any, Protocol

from gym_ray.integrations.nemo_rl.batch import Identity, NamedRow, changed
from gym_ray.integrations.nemo_rl.failures import TERMINAL, GymTransportError, failure_of
from gym_ray.rollout import Rollout

#: Memory of finished rollouts that may be asked for again. A group is asked for again within its
#: own time, so the newest are those that matter.
_KEPT_BYTES = 256 * 1024**2


class Runs(Protocol):
    """What runs rollouts; see `Service`."""

    def run(self, rows: Sequence[Mapping[str, Any]]) -> AsyncGenerator[tuple[int, Rollout], None]:
        """One rollout per row, each with its row's position, as they complete."""
        ...


class Repeats:
    """Rollouts by identity.

    Args:
        service: runs those that are new.
        kept_bytes: memory for those that have finished.
    """

    def __init__(self, service: Runs, kept_bytes: int = _KEPT_BYTES) -> None:
        self._service = service
        self._room = kept_bytes
        self._known: dict[Identity | None, _Asked] = {}
        self._calls: set[_Call] = set()

    async def run(self, rows: Sequence[NamedRow]) -> AsyncGenerator[tuple[int, Rollout], None]:
        """One rollout per row, each with its row's position, as they complete.

        A failed rollout is one too. What was given up with one call may be asked for by another.

        Raises:
            GymTerminalEpisodeFailure: an identity was another task's before; nothing has started.
            GymTransportError, RolloutDataFailure: the service cannot do it; after every rollout
                that there is.
        """
        asked = self._asked(rows)
        cannot: BaseException | None = None
        try:
            async for position in _as_they_end(asked):
                one = asked[position]
                error = one.end.exception()
                if error is None:
                    yield position, one.end.result()
                else:
                    cannot = cannot or error
        finally:
            await self._left(asked)
        if cannot is not None:
            raise cannot

    async def close(self) -> None:
        """Give up whatever runs."""
        await _give_up(self._calls)

    def _asked(self, rows: Sequence[NamedRow]) -> list[_Asked]:
        """What to wait for, row by row; new ones have been started."""
        asked = [self._known.get(row.identity) or _Asked(row) for row in rows]
        clashes = [
            changed(row)
            for row, one in zip(rows, asked, strict=True)
            if one.row.content != row.content
        ]
        if clashes:
            raise failure_of(clashes, len(rows))
        if new := [one for one in asked if one.call is None and not one.end.done()]:
            call = _Call(new)
            self._calls.add(call)
            for one in new:
                one.call = call
                if one.row.identity is not None:
                    self._known[one.row.identity] = one
            call.task = asyncio.ensure_future(self._run(call))
            call.task.add_done_callback(lambda task: self._ended(call, task))
        for one in asked:
            one.waiting += 1
        return asked

    async def _run(self, call: _Call) -> None:
        stream = self._service.run([one.row.task for one in call.asked])
        async with contextlib.aclosing(stream) as rollouts:
            async for position, rollout in rollouts:
                self._finished(call.asked[position], rollout)

    def _ended(self, call: _Call, task: asyncio.Task[None]) -> None:
        """A call to the service is over; those of its rollouts that did not come never will."""
        self._calls.discard(call)
        error: BaseException | None = None
        if not task.cancelled():
            error = task.exception() or GymTransportError("the service ended without a result")
        for one in call.running():
            self._forget(one)
            one.call = None
            one.end.set_exception(error or GymTransportError("it was given up before its end"))
            one.end.exception()  # Read: that nobody waits is no mistake.

    def _finished(self, one: _Asked, rollout: Rollout) -> None:
        one.call = None
        one.end.set_result(rollout)
        self._forget(one)
        worth_telling = rollout.error_kind is None or rollout.error_kind in TERMINAL
        if worth_telling and one.row.identity is not None:
            self._known[one.row.identity] = one
            self._room -= rollout.memory_bytes
            self._make_room()

    def _make_room(self) -> None:
        """Forget finished rollouts, the first one first, until the others fit."""
        finished = [one for one in self._known.values() if one.end.done()] if self._room < 0 else []
        for one in finished:
            if self._room >= 0:
                return
            self._room += one.end.result().memory_bytes
            self._forget(one)

    def _forget(self, one: _Asked) -> None:
        if one.row.identity is not None and self._known.get(one.row.identity) is one:
            del self._known[one.row.identity]

    async def _left(self, asked: Sequence[_Asked]) -> None:
        """A call waits no longer; what nobody waits for is given up."""
        for one in asked:
            one.waiting -= 1
        calls = {one.call for one in asked if one.call is not None}
        unwanted = {call for call in calls if not any(one.waiting for one in call.running())}
        for call in unwanted:
            for one in call.running():
                # At once: who asks from now on must not wait for what is being given up.
                self._forget(one)
        await _give_up(unwanted)


@dataclasses.dataclass(eq=False, slots=True)
class _Asked:
    """A row that was asked for.

    Attributes:
        row: the row.
        end: its rollout, or why there is none.
        waiting: how many calls want it.
        call: the call to the service that brings it; None before, and once it is there.
    """

    row: NamedRow
    end: asyncio.Future[Rollout] = dataclasses.field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    waiting: int = 0
    call: _Call | None = None


@dataclasses.dataclass(eq=False, slots=True)
class _Call:
    """A call to the service.

    Attributes:
        asked: the rows it is for.
        task: makes it.
    """

    asked: Sequence[_Asked]
    task: asyncio.Task[None] | None = None

    def running(self) -> list[_Asked]:
        """Those that have no end yet."""
        return [one for one in self.asked if not one.end.done()]


async def _give_up(calls: Collection[_Call]) -> None:
    tasks = [call.task for call in calls if call.task is not None]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _as_they_end(asked: Sequence[_Asked]) -> AsyncGenerator[int, None]:
    """Positions of rows whose rollout, or failure, is there; those that have one come first."""
    ended: asyncio.Queue[int] = asyncio.Queue()
    for position, one in enumerate(asked):
        one.end.add_done_callback(lambda _, position=position: ended.put_nowait(position))  # type: ignore[misc]
    for _ in asked:
        yield await ended.get()
