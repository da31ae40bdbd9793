"""Serve's HTTP proxy without Ray: what it answers where no application has the path."""

from __future__ import annotations

import types
from typing import Any

from ray.serve._private.proxy import HTTPProxy, ResponseStatus


async def without_a_route(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers every path as the installed Serve does without a route."""
    request: Any = types.SimpleNamespace(path=scope["path"])
    async for message in HTTPProxy.not_found_response(None, request):  # type: ignore[arg-type]
        if not isinstance(message, ResponseStatus):
            await send(message)
