"""One call of a client: a batch at the service, from the first task to the last acknowledgement.

Four loops run beside the caller: tasks are taken as there is room, sent, their results fetched,
and what the caller has handled is acknowledged. Invariants:
* a row is in `_outstanding` from when it is taken until its result is here, or the service says
  it was acknowledged before; the batch ends well only when nothing is outstanding;
* the caller sees every index at most once: a result that is not outstanding is dropped;
* rows taken and not acknowledged are at most `max_in_flight`;
* fetching goes on whatever the caller does, since it is also the sign of life.

When the service does not hold the batch (it was restarted, or heard nothing for too long), the
batch is opened again and everything outstanding is given again, which is harmless.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Sequence,
)
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

from gym_ray.batches.result_page import MEDIA_TYPE, decode
from gym_ray.client.call_options import ResolvedOptions
from gym_ray.client.errors import CallTimeout, ClientError, ResultsMissing
from gym_ray.client.results import RolloutResult
from gym_ray.client.tasks import Tasks, each
from gym_ray.client.transport import MustReopen, ServiceTransport, TooLarge
from gym_ray.rollout import Rollout

T = TypeVar("T")

#: Rows, and bytes of rows, of one request at most.
_SENT_ROWS = 64
_SENT_BYTES = 4 * 1024 * 1024

#: Indices of one acknowledgement at most.
_ACKNOWLEDGED = 10_000

#: How often in a row the service may forget a batch, or rows, with no result in between.
_REOPENINGS = 5

#: Letting go takes so long at most; the service's lease does the rest.
_CLOSING_SECONDS = 5.0


class Batch:
    """One batch.

    Args:
        transport: reaches the service.
        tasks: task rows.
        repeats: rollouts per task; row `i` is repeat `i % repeats` of task `i // repeats`.
        wishes: options of the call.
        received: positions of tasks whose results the caller has.
        on_end: called when it has ended.
    """

    def __init__(
        self,
        transport: ServiceTransport,
        tasks: Tasks,
        repeats: int,
        options: ResolvedOptions,
        received: Collection[int],
        on_end: Callable[[Batch], None],
    ) -> None:
        self._transport = transport
        self._tasks = tasks
        self._repeats = repeats
        self._options = options
        self._received = frozenset(received)
        self._on_end = on_end
        name = options.name or f"unnamed-{secrets.token_hex(12)}"
        self._path = f"/batches/{quote(name, safe='')}"
        self._holder = secrets.token_hex(16)
        self._after = 0
        self._epoch = 0
        self._forgotten = 0
        self._reopening = asyncio.Lock()
        self._room = asyncio.Semaphore(0)
        self._outstanding: dict[int, bytes] = {}
        self._to_send: asyncio.Queue[int] = asyncio.Queue()
        self._taken_all = False
        self._here: asyncio.Queue[RolloutResult | None] = asyncio.Queue()
        self._handled: list[int] = []
        self._something_handled = asyncio.Event()
        self._all_acknowledged = asyncio.Event()
        self._all_acknowledged.set()
        self._loops: list[asyncio.Task[None]] = []
        self._deadline: float | None = None
        self._sending = False
        self._opened = False
        self._ended = False
        self._closed = False

    async def __aenter__(self) -> Batch:
        loop = asyncio.get_running_loop()
        if self._options.timeout_seconds is not None:
            self._deadline = loop.time() + self._options.timeout_seconds
        try:
            room = await self._in_time(self._open())
        except BaseException:
            await self.close()
            raise
        if room < self._repeats:
            await self.close()
            raise ValueError(
                f"a group of {self._repeats} rollouts is more than the service takes ({room})"
            )
        # A group can only be completed when all of it fits.
        for _ in range(min(room, max(self._options.max_in_flight, self._repeats))):
            self._room.release()
        self._loops = [
            asyncio.ensure_future(work)
            for work in (self._take(), self._send(), self._fetch(), self._acknowledge())
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def next(self) -> RolloutResult | None:
        """The next result; None when all that was asked for was there.

        Raises:
            ClientError: the call cannot go on.
        """
        if self._here.empty():
            result = await self._in_time(self._unless_broken(self._here.get()))
        else:
            result = self._here.get_nowait()
        if result is None:
            await self._in_time(self._unless_broken(self._all_acknowledged.wait()))
            if self._closed:
                raise ClientError("the client was closed before everything was there")
        return result

    def handled(self, results: Sequence[RolloutResult]) -> None:
        """The caller has these for good: acknowledge them."""
        self._to_acknowledge(
            result.index * self._repeats + result.rollout_index for result in results
        )

    async def close(self) -> None:
        """Give up what runs; with a name, what is finished is kept. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for loop in self._loops:
            loop.cancel()
        if self._loops:
            await asyncio.wait(self._loops)
        # So that whoever waits in another task for a result learns of it.
        self._here.put_nowait(None)
        self._all_acknowledged.set()
        try:
            if self._opened:
                await asyncio.shield(self._let_go())
        finally:
            self._on_end(self)

    # What is said to the service.

    async def _open(self) -> int:
        """Open the batch, or open it again; returns how many rows the service holds at most."""
        self._opened = True
        options = {
            "holder": self._holder,
            "lease_seconds": self._options.lease_seconds,
            "rollout_timeout_seconds": self._options.rollout_timeout_seconds,
            "seed": self._options.seed,
        }
        opened = await self._transport.ask("PUT", self._path, options)
        # Only now: a page of what is lost may have come while this was asked, with its cursor.
        self._after = 0
        return int(opened["room"])

    async def _take(self) -> None:
        """Take tasks as there is room for their rollouts."""
        index = 0
        position = 0
        async for task in each(self._tasks):
            if position in self._received:
                self._to_acknowledge(range(index, index + self._repeats))
            else:
                row = self._options.row_of(task, position)
                for repeat in range(self._repeats):
                    await self._room.acquire()
                    self._outstanding[index + repeat] = row
                    self._give(index + repeat)
            index += self._repeats
            position += 1
            # The next task is only made when it can be used.
            await self._room.acquire()
            self._room.release()
        self._taken_all = True
        self._end_if_all_here()

    async def _send(self) -> None:
        while True:
            first = await self._to_send.get()
            indices, size = {first}, len(self._outstanding.get(first, b""))
            while len(indices) < _SENT_ROWS and size < _SENT_BYTES and not self._to_send.empty():
                index = self._to_send.get_nowait()
                indices.add(index)
                size += len(self._outstanding.get(index, b""))
            await self._held(functools.partial(self._submit, sorted(indices)))
            self._sending = not self._to_send.empty()

    def _give(self, index: int) -> None:
        self._sending = True
        self._to_send.put_nowait(index)

    async def _submit(self, indices: Sequence[int]) -> None:
        """Give rows to the service. Those it knows it does not run again."""
        rows = [
            b'{"index": %d, "task_index": %d, "rollout_index": %d, "task": %b}'
            % (index, *divmod(index, self._repeats), self._outstanding[index])
            for index in indices
            if index in self._outstanding
        ]
        body = b'{"rows": [' + b", ".join(rows) + b"]}"
        try:
            answer = await self._transport.ask("POST", self._at("tasks"), body)
        except TooLarge:
            if len(rows) < 2:
                raise
            for half in (indices[: len(indices) // 2], indices[len(indices) // 2 :]):
                await self._submit(half)
            return
        for index in answer["acknowledged"]:
            if self._outstanding.pop(index, None) is not None:
                self._room.release()
        self._end_if_all_here()

    async def _fetch(self) -> None:
        wait = min(self._options.lease_seconds / 2, 20.0)
        while True:
            epoch = self._epoch
            try:
                content = await self._transport.content(
                    "GET",
                    self._at("results", after=self._after, wait=round(wait, 3)),
                    accept=MEDIA_TYPE,
                    waits_seconds=wait,
                )
            except MustReopen as lost:
                await self._reopen(epoch, lost)
                continue
            # Decoding a page takes a while, and rows of it are large.
            page = await asyncio.to_thread(decode, content)
            if epoch != self._epoch:
                continue  # What was opened again counts from the beginning.
            self._after = max(self._after, page.cursor)
            for index, rollout in page.results:
                self._receive(index, rollout)
            if page.results:
                self._end_if_all_here()
            elif self._outstanding and not page.pending and not self._sending:
                await self._give_again(epoch)

    def _receive(self, index: int, rollout: Rollout) -> None:
        if self._outstanding.pop(index, None) is None:
            return  # It was here before.
        self._forgotten = 0
        self._here.put_nowait(RolloutResult(*divmod(index, self._repeats), rollout))

    async def _acknowledge(self) -> None:
        while True:
            await self._something_handled.wait()
            indices = self._handled[:_ACKNOWLEDGED]
            await self._held(functools.partial(self._post_acknowledged, indices))
            del self._handled[: len(indices)]
            for index in indices:
                if index // self._repeats not in self._received:
                    self._room.release()
            if not self._handled:
                self._something_handled.clear()
                self._all_acknowledged.set()

    async def _post_acknowledged(self, indices: Sequence[int]) -> None:
        await self._transport.ask("POST", self._at("acknowledge"), {"indices": indices})

    async def _let_go(self) -> None:
        """Tell the service; it would find out by itself."""
        try:
            async with asyncio.timeout(_CLOSING_SECONDS):
                if self._options.name is None:
                    await self._transport.ask("DELETE", self._at(""), retries=1)
                    return
                if self._handled:
                    await self._post_acknowledged(self._handled[:_ACKNOWLEDGED])
                await self._transport.ask("POST", self._at("release"), retries=1)
        except (ClientError, MustReopen, TimeoutError):
            return

    # What goes wrong.

    async def _held(self, request: Callable[[], Awaitable[T]]) -> T:
        """The answer to a request; the batch is opened again where that is asked for."""
        while True:
            epoch = self._epoch
            try:
                return await request()
            except MustReopen as lost:
                await self._reopen(epoch, lost)

    async def _reopen(self, epoch: int, lost: MustReopen) -> None:
        """Open the batch again, unless that was done since `epoch`."""
        async with self._reopening:
            if epoch != self._epoch:
                return
            self._count_forgotten(f"the service forgets this batch again and again: {lost}")
            await self._open()
            self._epoch += 1
            for index in self._outstanding:
                self._give(index)

    async def _give_again(self, epoch: int) -> None:
        """The service waits for nothing, and this client does: perhaps what it sent just now
        has crossed the answer; give it again.
        """
        async with self._reopening:
            if epoch != self._epoch:
                return
            missing = sorted(self._outstanding)
            self._count_forgotten(
                f"the service knows nothing of {len(missing)} rollouts, the first of index "
                f"{missing[0] if missing else 0}"
            )
            for index in missing:
                self._give(index)

    def _count_forgotten(self, message: str) -> None:
        self._forgotten += 1
        if self._forgotten > _REOPENINGS:
            raise ResultsMissing(message)

    async def _unless_broken(self, waiting: Coroutine[Any, Any, T]) -> T:
        """What is awaited, unless one of the loops fails before."""
        wanted = asyncio.ensure_future(waiting)
        try:
            while not wanted.done():
                running = [loop for loop in self._loops if not loop.done()]
                for loop in self._loops:
                    if loop.done() and not loop.cancelled() and loop.exception() is not None:
                        raise loop.exception()  # type: ignore[misc]
                await asyncio.wait([wanted, *running], return_when=asyncio.FIRST_COMPLETED)
            return wanted.result()
        finally:
            wanted.cancel()

    async def _in_time(self, waiting: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout_at(self._deadline) as deadline:
                return await waiting
        except TimeoutError:
            if not deadline.expired():
                raise
            raise CallTimeout(
                f"not everything was there within {self._options.timeout_seconds:g} s: "
                f"{len(self._outstanding)} rollouts are missing; raise timeout_seconds, or call "
                "again under the same name"
            ) from None

    def _end_if_all_here(self) -> None:
        if self._taken_all and not self._outstanding and not self._ended:
            self._ended = True
            self._here.put_nowait(None)

    def _to_acknowledge(self, indices: Iterable[int]) -> None:
        self._handled += indices
        self._all_acknowledged.clear()
        self._something_handled.set()

    def _at(self, route: str, **query: Any) -> str:
        path = f"{self._path}/{route}" if route else self._path
        values = {"holder": self._holder, **query}
        return path + "?" + "&".join(f"{name}={value}" for name, value in values.items())
