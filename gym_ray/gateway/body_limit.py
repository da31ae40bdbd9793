"""No request is larger than it may be, whether or not it says how large it is, and no crowd of
large ones takes all the memory there is.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gym_ray.gateway.errors import ApiError

#: What is sent beyond the limit is read and dropped for so long, because a client that is cut
#: off while it sends never sees the answer.
_DRAIN_SECONDS = 5.0

#: Bodies up to here are not counted together: what small requests take, others decide.
_SMALL_BYTES = 1024 * 1024
#: Bytes of large bodies that are being read at once, in bodies of the largest size. Parsed, a body
#: may take thirty times its size.
_BODIES_AT_ONCE = 4


class BodyLimit:
    """ASGI middleware that answers 413 to bodies that are too large, counting as it reads, and
    503 to large ones while others fill what there is for them.

    Args:
        app: what is guarded.
        max_bytes: largest body let through.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._held_bytes = 0  # of large bodies, in all requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _declared_bytes(Headers(scope=scope)) > self._max_bytes:
            await self._drain(receive)
            await self._too_large().response()(scope, receive, send)
            return
        read_bytes = held_bytes = 0
        is_whole = False

        def let_go() -> None:
            nonlocal held_bytes
            self._held_bytes -= held_bytes
            held_bytes = 0

        async def counted() -> Message:
            nonlocal read_bytes, held_bytes, is_whole
            if is_whole:
                # Read and understood: what is listened for now is that the client goes away, and
                # an answer may take minutes.
                let_go()
                return await receive()
            message = await receive()
            is_whole = not message.get("more_body", False)
            read_bytes += len(message.get("body", b""))
            refused: ApiError | None = None
            if read_bytes > self._max_bytes:
                refused = self._too_large()
            elif read_bytes > _SMALL_BYTES:
                self._held_bytes += read_bytes - held_bytes
                held_bytes = read_bytes
                if self._held_bytes > _BODIES_AT_ONCE * self._max_bytes:
                    refused = self._too_many()
            if refused is not None:
                if message.get("more_body", False):
                    await self._drain(receive)
                raise refused
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            let_go()

    async def _drain(self, receive: Receive) -> None:
        """Drop what is still coming: at most as much as would have been allowed."""
        dropped_bytes = 0
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while dropped_bytes <= self._max_bytes:
                    message = await receive()
                    dropped_bytes += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"the body is larger than {self._max_bytes} bytes; send less, or raise "
            "serve.max_body_bytes",
            code="request_too_large",
        )

    def _too_many(self) -> ApiError:
        return ApiError(
            503,
            f"large bodies of other requests hold {_BODIES_AT_ONCE * self._max_bytes} bytes, which "
            "is all there is for them: try again later, or raise serve.max_body_bytes",
            type="server_error",
            code="busy",
            headers={"Retry-After": "1"},
        )


def _declared_bytes(headers: Headers) -> int:
    try:
        return int(headers.get("content-length", "0"))
    except ValueError:
        return 0  # what is no number is counted while reading
