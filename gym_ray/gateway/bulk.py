"""`POST /run/bulk`: many rollouts over one HTTP request, NDJSON in and NDJSON out.

Results are sent as rollouts complete, each with the index of its row. Invariants:
* every line of the request that is not blank gets exactly one line of the response;
* a line is read only when there is room for its rollout, and there is room again only when a
  result has been sent: at most `max_in_flight` rows are in memory here, running or waiting to
  be sent;
* when the client goes away, what runs is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from gym_ray.batches.protocol import RunBackend
from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.gateway.run import error_of, run_row
from gym_ray.routing import Router

logger = logging.getLogger(__name__)

_MEDIA_TYPE = "application/x-ndjson"


def bulk_router(
    backend: RunBackend, tasks: Router, *, max_in_flight: int, max_line_bytes: int
) -> APIRouter:
    """The route.

    Args:
        backend: runs the rollouts.
        tasks: finds the environment of a row.
        max_in_flight: rollouts of one request at once.
        max_line_bytes: a longer line is refused; the lines after it are not.
    """
    router = APIRouter()

    @router.post(
        "/run/bulk",
        summary="Run many rollouts",
        response_class=Response,
        responses={
            200: {"description": "A line per row, as it completes.", "content": {_MEDIA_TYPE: {}}}
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {_MEDIA_TYPE: {"schema": {"type": "string"}}},
            }
        },
    )
    async def run_bulk() -> Response:
        """A rollout for every line, a task row as `/run` takes it.

        Answers with a line per row, in the order they complete: `{"index": n, "result": {…}}`
        or `{"index": n, "error": {…}}`.
        """
        return _Bulk(backend, tasks, max_in_flight, max_line_bytes)

    return router


class _Bulk(Response):
    """Reads the request's body while it sends the response's.

    A response class of its own because Starlette's streaming response reads the request too,
    to notice that the client is gone, and would take lines away.
    """

    media_type = _MEDIA_TYPE

    def __init__(
        self, backend: RunBackend, tasks: Router, max_in_flight: int, max_line_bytes: int
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._backend = backend
        self._tasks = tasks
        self._max_line_bytes = max_line_bytes
        self._room = asyncio.Semaphore(max_in_flight)
        self._finished: asyncio.Queue[str | None] = asyncio.Queue()
        self._running: set[asyncio.Task[None]] = set()
        self._rows: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reading = asyncio.ensure_future(self._read(Request(scope, receive)))
        sending = asyncio.ensure_future(self._send(send))
        try:
            # Reading ends only when the client goes away.
            await asyncio.wait({reading, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (reading, sending, *self._running):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(reading, sending, return_exceptions=True)

    async def _read(self, request: Request) -> None:
        """Start a rollout per line, then wait until the client goes away."""
        index = 0
        try:
            async for line in _lines(request.stream(), self._max_line_bytes, self._room):
                task = asyncio.ensure_future(self._run(index, line))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
                index += 1
            self._rows = index
            self._finished.put_nowait(None)
            while (await request.receive())["type"] != "http.disconnect":
                pass
        except Exception:
            # ClientDisconnect in the middle of the body.
            return

    async def _run(self, index: int, line: bytes | None) -> None:
        try:
            if line is None:
                raise RolloutFailure(
                    FailureKind.TASK_INVALID,
                    f"is longer than {self._max_line_bytes} bytes (serve.max_body_bytes)",
                )
            row = await run_row(self._backend, self._tasks, line, line=index + 1)
            text = f'{{"index": {index}, "result": {row}}}\n'
        except RolloutFailure as failure:
            text = json.dumps({"index": index, **error_of(failure)}) + "\n"
        except Exception as error:
            # Costs its line only; a missing line would look like a lost rollout.
            logger.exception("row %d of a bulk request", index)
            broken = RolloutFailure(FailureKind.ENVIRONMENT_ERROR, one_line(error))
            text = json.dumps({"index": index, **error_of(broken)}) + "\n"
        self._finished.put_nowait(text)

    async def _send(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        sent = 0
        while sent != self._rows:
            text = await self._finished.get()
            if text is None:  # Now it is known how many rows there are.
                continue
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            sent += 1
            self._room.release()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _lines(
    chunks: AsyncIterator[bytes], limit: int, room: asyncio.Semaphore
) -> AsyncIterator[bytes | None]:
    """Lines that are not blank, each once there is room for it; None for one over the limit."""
    rest, skipping = bytearray(), False
    async for chunk in chunks:
        *ends, begin = chunk.split(b"\n")
        for end in ends:
            rest += end
            line, rest = bytes(rest), bytearray()
            too_long, skipping = skipping or len(line) > limit, False
            if too_long or line.strip():
                await room.acquire()
                yield None if too_long else line
        rest += begin
        if len(rest) > limit:
            rest, skipping = bytearray(), True
    if skipping or rest.strip():
        await room.acquire()
        yield None if skipping else bytes(rest)
