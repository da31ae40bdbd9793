"""Errors as OpenAI's API shapes them, and which status a failure of the policy has.

Owned here: the one shape every error of the gateway has, whoever raised it. Not owned here:
finding the errors; routes raise `ApiError`, policies raise `RolloutFailure`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gym_ray.errors import FailureKind, RolloutFailure

_LOGGER = logging.getLogger(__name__)

#: Status and type of what goes wrong with a policy call. Anything else is our own fault.
_FAILURES: Mapping[FailureKind, tuple[int, str]] = {
    FailureKind.POLICY_REJECTED: (400, "invalid_request_error"),
    FailureKind.TASK_INVALID: (400, "invalid_request_error"),
    FailureKind.POLICY_ERROR: (502, "server_error"),
    FailureKind.POLICY_UNAVAILABLE: (503, "server_error"),
    FailureKind.POLICY_STALE: (503, "server_error"),
    FailureKind.ENVIRONMENT_UNAVAILABLE: (503, "server_error"),
    FailureKind.CANCELLED: (503, "server_error"),
    FailureKind.POLICY_TIMEOUT: (504, "server_error"),
    FailureKind.ROLLOUT_TIMEOUT: (504, "server_error"),
}


class ApiError(HTTPException):
    """A request is answered with an error.

    Args:
        status: HTTP status.
        message: what is wrong and what to do about it.
        param: the field of the request it is about.
        code: for programs.
        type: OpenAI's class of the error.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers) if headers else None)
        self.message = message
        self.code = code
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}

    def response(self) -> Response:
        return error_response(self.status_code, self.body, self.headers)


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """Status 400."""
    return ApiError(400, message, param=param, code=code)


def error_of(error: BaseException) -> ApiError:
    """Any exception as what is answered; unexpected ones are logged and told by type only."""
    match error:
        case ApiError():
            return error
        case RolloutFailure():
            return _error_of_failure(error)
        case RecursionError():
            return bad_request("the request is nested too deeply")
        case RequestValidationError():
            return _error_of_validation(error)
        case HTTPException():
            return _error_of_http(error)
    _LOGGER.error("a request failed", exc_info=error)
    return ApiError(
        500,
        f"the gateway failed with {type(error).__name__}; its log has the details",
        type="server_error",
        code="internal_error",
    )


def error_response(
    status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    # Escaped, as messages may quote lone surrogates of a request, which UTF-8 cannot carry.
    content = json.dumps(body, ensure_ascii=True)
    return Response(content, status, headers, media_type="application/json")


def install_error_handlers(app: FastAPI) -> None:
    """Every error of `app`, foreseen or not, is answered in the one shape."""

    async def answer(request: Request, error: Exception) -> Response:
        return error_of(error).response()

    for kind in (HTTPException, RequestValidationError, RolloutFailure, RecursionError):
        app.add_exception_handler(kind, answer)
    app.add_middleware(_Unexpected)


class _Unexpected:
    """ASGI middleware that answers exceptions nobody foresaw.

    Not an exception handler: the framework raises those on after answering, and the server then
    cuts the connection, which fails the client's next request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            await error_of(error).response()(scope, receive, send)


def _error_of_failure(failure: RolloutFailure) -> ApiError:
    status, kind = _FAILURES.get(failure.kind, (500, "server_error"))
    code = "context_length_exceeded" if failure.is_overflow else str(failure.kind)
    if status >= 500:
        _LOGGER.warning("a request failed: %s", failure)
    return ApiError(status, failure.message, type=kind, code=code)


def _error_of_validation(error: RequestValidationError) -> ApiError:
    problems = error.errors()
    # Of what is wrong with the members of a union, what went deepest was meant.
    first = max(problems, key=lambda problem: len(problem["loc"]))
    param = ".".join(str(part) for part in first["loc"][1:] if _is_field(part)) or None
    if first["type"] == "json_invalid":
        return bad_request(f"the body is not valid JSON: {first.get('ctx', {}).get('error', '')}")
    if first["loc"] == ("body",):
        return bad_request(
            "the body has to be a JSON object, sent with the header Content-Type: application/json"
        )
    more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return bad_request(f"{param or 'request'}: {first['msg']}{more}", param=param)


def _is_field(part: int | str) -> bool:
    """Whether a part of a location is a field or an index, not the name of a type."""
    if isinstance(part, int):
        return True
    return re.fullmatch("[a-z_]+", part) is not None and part not in _TYPES


_TYPES = ("str", "int", "float", "bool", "list", "dict")


def _error_of_http(error: HTTPException) -> ApiError:
    message, code = {
        404: ("there is no such route; /openapi.json lists the routes", "not_found"),
        405: ("the route does not know this method", "method_not_allowed"),
    }.get(error.status_code, (error.detail, None))
    return ApiError(error.status_code, message, code=code, headers=error.headers)
