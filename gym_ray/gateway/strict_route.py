"""Request bodies that are JSON and nothing more.

Beside what `gym_ray.strict_json` refuses, escaped lone surrogates, which no answer can carry: all
of it is status 400.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from gym_ray import strict_json
from gym_ray.gateway.errors import bad_request

#: An escape that may be half of a pair, or stand alone.
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def value_of_body(body: bytes) -> Any:
    """The value of a request body.

    Raises:
        ApiError: 400, it is not strictly JSON.
    """
    try:
        value = strict_json.parse_json(body)
        if _SURROGATE_ESCAPE.search(body):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise bad_request("the body holds a lone surrogate, which is no character") from None
    except strict_json.InvalidJson as error:
        raise bad_request(f"the body {error}", param=error.field) from None
    return value


class StrictRoute(APIRoute):
    """A route whose body is read by `value_of_body`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = value_of_body(await self.body())
        return self._json
