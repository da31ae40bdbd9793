"""Coalescing: requests that are made in the same pass of the event loop travel as one Serve call.

A Serve call costs about the same for one request as for sixteen. Requests that start together
are sent together, and answers come back as they are ready. What is large travels by itself: every
message has a limit, and is in memory several times while it is sent.

Owned here: which requests share a call, and that every one of them is settled: with its answer,
or with a failure when the call broke, ended early, or took too long. Not owned here: what a
request is (`policy_client.py`, `environment_client.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from gym_ray.errors import FailureKind, RolloutFailure, one_line

Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")

#: About how many bytes share one message, in either direction. One item may be larger.
MESSAGE_BYTES = 8 * 1024 * 1024


def parcels(
    items: Iterable[T], bytes_of: Callable[[T], int], *, size: int | None = None
) -> Iterator[list[T]]:
    """Items in order, in lists that may travel as one message each.

    Args:
        items: what travels.
        bytes_of: about how large an item is.
        size: items of one list, at most.
    """
    parcel: list[T] = []
    held = 0
    for item in items:
        more = bytes_of(item)
        if parcel and (len(parcel) == size or held + more > MESSAGE_BYTES):
            yield parcel
            parcel, held = [], 0
        parcel.append(item)
        held += more
    if parcel:
        yield parcel


class Coalescer(Generic[Q, A]):
    """Sends requests to a deployment, together where they start together.

    Args:
        send: starts one call with these requests; returns Serve's streaming response.
        read: `(position, answer)` of every answer in one element of that stream; a
            `RolloutFailure` for an answer settles the request as failed.
        seconds: how long a call with these requests may take.
        bytes_of: about how large a request is.
        size: requests of one call, at most. With 1 a request that is given up is cancelled at
            once; in a shared call, when nobody waits for any request of it any more.
        broken: kind of failure when a call breaks.
        callee: what the message calls the other side.
    """

    def __init__(
        self,
        *,
        send: Callable[[Sequence[Q]], Any],
        read: Callable[[Sequence[Q], Any], Iterable[tuple[int, A | RolloutFailure]]],
        seconds: Callable[[Sequence[Q]], float],
        bytes_of: Callable[[Q], int],
        size: int,
        broken: FailureKind,
        callee: str,
    ) -> None:
        self._send_call = send
        self._read = read
        self._seconds = seconds
        self._bytes_of = bytes_of
        self._size = size
        self._broken = broken
        self._callee = callee
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def ask(self, request: Q) -> A:
        """The answer to one request. Cancelling gives the request up.

        Raises:
            RolloutFailure: what the other side said, or that it could not be reached.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        if not self._waiting:
            # In a context of its own: Serve would otherwise take the call for a child of the first
            # waiter's request, and cancel everybody's requests with that one.
            loop.call_soon(self._send, context=contextvars.Context())
        self._waiting.append((request, future))
        return await future

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        waiting = [(request, future) for request, future in waiting if not future.done()]
        for parcel in parcels(waiting, lambda one: self._bytes_of(one[0]), size=self._size):
            call = asyncio.ensure_future(self._call(parcel))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, waiting: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        """One call; every request of it is settled when this returns."""
        requests = [request for request, _ in waiting]
        futures = [future for _, future in waiting]
        reason = f"the {self._callee} returned without an answer"
        answers: Any = None
        try:
            answers = self._send_call(requests)
            settled = asyncio.gather(*futures, return_exceptions=True)
            settled.add_done_callback(lambda _: _cancel_if_abandoned(answers, futures))
            async with asyncio.timeout(self._seconds(requests)):
                async for batch in answers:
                    for position, answer in self._read(requests, batch):
                        _settle(futures[position], answer)
        except TimeoutError:
            reason = f"the {self._callee} gave no answer in time"
            answers.cancel()
        except asyncio.CancelledError:
            reason = f"the call to the {self._callee} was cancelled"
            raise
        except Exception as error:
            reason = one_line(error)
        finally:
            for future in futures:
                _settle(future, RolloutFailure(self._broken, reason))


async def as_they_finish(
    coroutines: Sequence[Coroutine[Any, Any, T]], bytes_of: Callable[[T], int]
) -> AsyncGenerator[list[T], None]:
    """The other side of a call: run coroutines at once; yields what finished together, together,
    as far as it may travel as one message.

    Args:
        coroutines: what to run.
        bytes_of: about how large a result is.
    """
    running = {asyncio.ensure_future(coroutine) for coroutine in coroutines}
    try:
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for parcel in parcels([task.result() for task in done], bytes_of):
                yield parcel
    finally:
        for task in running:
            task.cancel()


def _settle(future: asyncio.Future[A], answer: A | RolloutFailure) -> None:
    if future.done():
        return
    if isinstance(answer, RolloutFailure):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _cancel_if_abandoned(answers: Any, futures: Sequence[asyncio.Future[A]]) -> None:
    """Nobody waits any more: stop what the replica still does for those that gave up."""
    if any(future.cancelled() for future in futures):
        with contextlib.suppress(Exception):
            answers.cancel()
