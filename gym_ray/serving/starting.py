"""What Serve's proxies answer while no gateway is up: 503 with `Retry-After`.

Serve listens before anything is deployed, so for as long as a model loads. It then answers 404, by
which a client cannot tell a service that starts from one of another kind.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gym_ray.gateway.errors import ApiError

#: Code of the answer, for programs.
STARTING = "starting"

#: A replica that only has to be placed is up by then; one that loads weights is asked more often.
_RETRY_SECONDS = 2

#: Serve's own words for a path that no application serves. The gateway serves all paths, and what
#: it answers is JSON.
_NO_ROUTE = re.compile(rb"Path '.*' not found\. Ping http://\.\.\./-/routes ", re.DOTALL)


class StartingAnswer:
    """ASGI middleware of a proxy: says in place of "no such path" that the service starts.

    Args:
        app: the proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held: Message | None = None
        starts = False

        async def pass_on(message: Message) -> None:
            nonlocal held, starts
            if message["type"] == "http.response.start" and message["status"] == 404:
                held = message  # Whose 404 it is, the body says.
                return
            if held is not None:
                start, held = held, None
                starts = _NO_ROUTE.match(message.get("body", b"")) is not None
                if starts:
                    await _answer().response()(scope, receive, send)
                else:
                    await send(start)
            if not starts:
                await send(message)

        await self._app(scope, receive, pass_on if scope["type"] == "http" else send)


def _answer() -> ApiError:
    return ApiError(
        503,
        "no gateway is up here: the service is starting, or has ended; ask again in a few seconds",
        type="server_error",
        code=STARTING,
        headers={"Retry-After": str(_RETRY_SECONDS)},
    )
