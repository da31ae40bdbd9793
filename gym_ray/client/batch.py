"""One call of a client: a batch at the service, from the first task to the last acknowledgement.

Four loops run beside the caller: tasks are taken as there is room, sent, their results fetched,
and what the caller has handled is acknowledged. Which rows those are is the ledger's to say
(ledger.py). Fetching goes on whatever the caller does, since it is also the sign of life.

When the service does not hold the batch (it was restarted, or heard nothing for too long), the
batch is opened again and everything outstanding is given again, which is harmless.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence, Sized
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

from gym_ray.batches.result_page import MEDIA_TYPE, decode
from gym_ray.client.call_options import ResolvedOptions
from gym_ray.client.errors import CallTimeout, ClientError
from gym_ray.client.ledger import ClientLedger
from gym_ray.client.results import RolloutResult
from gym_ray.client.tasks import Tasks, each
from gym_ray.client.transport import MustReopen, ServiceTransport, TooLarge

T = TypeVar("T")

#: Rows, and bytes of rows, of one request at most.
_SENT_ROWS = 64
_SENT_BYTES = 4 * 1024 * 1024

#: Indices of one acknowledgement at most.
_ACKNOWLEDGED = 10_000

#: Letting go takes so long at most; the service's lease does the rest.
_CLOSING_SECONDS = 5.0


class Batch:
    """One batch.

    Args:
        transport: reaches the service.
        tasks: task rows.
        repeats: rollouts per task; row `i` is repeat `i % repeats` of task `i // repeats`.
        options: those of the call.
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
        self._ledger = ClientLedger()
        #: Set, and replaced, when the ledger has learnt something.
        self._news = asyncio.Event()
        self._reopening = asyncio.Lock()
        self._here: asyncio.Queue[RolloutResult | None] = asyncio.Queue()
        self._loops: list[asyncio.Task[None]] = []
        self._deadline: float | None = None
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
        self._ledger.most = min(room, max(self._options.max_in_flight, self._repeats))
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
            await self._in_time(self._unless_broken(self._until(self._is_settled)))
            if self._closed:
                raise ClientError("the client was closed before everything was there")
        return result

    def handled(self, results: Sequence[RolloutResult]) -> None:
        """The caller has these for good: acknowledge them."""
        self._ledger.handled(
            result.index * self._repeats + result.rollout_index for result in results
        )
        self._tell()

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
        self._tell()
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
        self._ledger.opened()
        self._tell()
        return int(opened["room"])

    async def _take(self) -> None:
        """Take tasks as there is room for their rollouts."""
        position = 0
        async for task in each(self._tasks):
            indices = range(position * self._repeats, (position + 1) * self._repeats)
            if position in self._received:
                self._ledger.handled(indices)
                self._tell()
            else:
                row = self._options.row_of(task, position)
                for index in indices:
                    await self._until(lambda: self._ledger.has_room)
                    self._ledger.take(index, row)
                    self._tell()
            position += 1
            # The next task is only made when it can be used.
            await self._until(lambda: self._ledger.has_room)
        self._ledger.took_all()
        self._end_if_all_here()

    async def _send(self) -> None:
        while True:
            await self._until(lambda: self._ledger.has_to_send)
            indices = self._ledger.to_send(_SENT_ROWS, _SENT_BYTES)
            if indices:
                await self._held(functools.partial(self._submit, indices))
            self._ledger.sent()

    async def _submit(self, indices: Sequence[int]) -> None:
        """Give rows to the service. Those it knows it does not run again."""
        rows = [
            b'{"index": %d, "task_index": %d, "rollout_index": %d, "task": %b}'
            % (index, *divmod(index, self._repeats), row)
            for index, row in self._ledger.rows(indices)
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
        self._ledger.acknowledged_before(answer["acknowledged"])
        self._tell()
        self._end_if_all_here()

    async def _fetch(self) -> None:
        wait = min(self._options.lease_seconds / 2, 20.0)
        while True:
            epoch = self._ledger.epoch
            try:
                content = await self._transport.content(
                    "GET",
                    self._at("results", after=self._ledger.cursor, wait=round(wait, 3)),
                    accept=MEDIA_TYPE,
                    waits_seconds=wait,
                )
            except MustReopen as lost:
                await self._reopen(epoch, lost)
                continue
            # Decoding a page takes a while, and rows of it are large.
            page = await asyncio.to_thread(decode, content)
            if not self._ledger.read(epoch, page.cursor):
                continue  # What was opened again counts from the beginning.
            for index, rollout in page.results:
                if self._ledger.receive(index):
                    self._here.put_nowait(RolloutResult(*divmod(index, self._repeats), rollout))
            if page.results:
                self._end_if_all_here()
            elif missing := self._ledger.missing(page.pending):
                await self._give_again(epoch, missing)

    async def _acknowledge(self) -> None:
        while True:
            await self._until(lambda: self._ledger.has_to_acknowledge)
            indices = self._ledger.to_acknowledge(_ACKNOWLEDGED)
            await self._held(functools.partial(self._post_acknowledged, indices))
            self._ledger.acknowledged(indices)
            self._tell()

    async def _post_acknowledged(self, indices: Sequence[int]) -> None:
        await self._transport.ask("POST", self._at("acknowledge"), {"indices": indices})

    async def _let_go(self) -> None:
        """Tell the service; it would find out by itself."""
        try:
            async with asyncio.timeout(_CLOSING_SECONDS):
                if self._options.name is None:
                    await self._transport.ask("DELETE", self._at(""), retries=1)
                    return
                if self._ledger.has_to_acknowledge:
                    await self._post_acknowledged(self._ledger.to_acknowledge(_ACKNOWLEDGED))
                await self._transport.ask("POST", self._at("release"), retries=1)
        except (ClientError, MustReopen, TimeoutError):
            return

    # What goes wrong.

    async def _held(self, request: Callable[[], Awaitable[T]]) -> T:
        """The answer to a request; the batch is opened again where that is asked for."""
        while True:
            epoch = self._ledger.epoch
            try:
                return await request()
            except MustReopen as lost:
                await self._reopen(epoch, lost)

    async def _reopen(self, epoch: int, lost: MustReopen) -> None:
        """Open the batch again, unless that was done since `epoch`."""
        async with self._reopening:
            if epoch == self._ledger.epoch:
                self._ledger.lost(f"the service forgets this batch again and again: {lost}")
                await self._open()

    async def _give_again(self, epoch: int, missing: Sequence[int]) -> None:
        """The service waits for nothing, and this client does: perhaps what it sent just now
        has crossed the answer; give it again.
        """
        async with self._reopening:
            if epoch == self._ledger.epoch:
                self._ledger.lost(
                    f"the service knows nothing of {len(missing)} rollouts, the first of index "
                    f"{missing[0]}"
                )
                self._ledger.give_again(missing)
                self._tell()

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
            problem = self._transport.problem
            raise CallTimeout(
                f"within {self._options.timeout_seconds:g} s, {self._progress()}"
                + (f" ({problem})" if problem else "")
                + "; raise timeout_seconds, or call again under the same name"
            ) from None

    def _progress(self) -> str:
        """How many of how many rollouts are here, as far as it is known."""
        done, total = self._ledger.done, self._ledger.taken
        if total is None and isinstance(self._tasks, Sized):
            new = len(self._tasks) - sum(0 <= n < len(self._tasks) for n in self._received)
            total = new * self._repeats
        if total is not None:
            return f"{done} of {total} rollouts were there"
        left = self._ledger.outstanding
        return f"{done} rollouts were there, and {left} of those asked for were not"

    def _end_if_all_here(self) -> None:
        if self._ledger.complete and not self._ended:
            self._ended = True
            self._here.put_nowait(None)

    def _is_settled(self) -> bool:
        """Whether nothing is left to acknowledge, or will be any more."""
        return self._closed or not self._ledger.has_to_acknowledge

    def _tell(self) -> None:
        """Have those look again who wait for something of the ledger."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            await self._news.wait()

    def _at(self, route: str, **query: Any) -> str:
        path = f"{self._path}/{route}" if route else self._path
        values = {"holder": self._holder, **query}
        return path + "?" + "&".join(f"{name}={value}" for name, value in values.items())
