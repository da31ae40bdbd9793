"""What a proxy of Serve answers while no gateway is up, and that a gateway's answers stay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from gym_ray.gateway.errors import install_error_handlers
from gym_ray.serving.starting import StartingAnswer
from tests.serve_proxy import without_a_route


def asked(app: Any, path: str = "/health") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what an application behind the middleware answers."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "asgi": {"spec_version": "2.4"},
        "method": "GET",
        "path": path,
        "headers": [],
        "query_string": b"",
    }
    asyncio.run(StartingAnswer(app)(scope, receive, send))
    start, *bodies = messages
    assert start["type"] == "http.response.start"
    assert {message["type"] for message in bodies} == {"http.response.body"}
    headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, b"".join(message.get("body", b"") for message in bodies)


@pytest.mark.parametrize("path", ["/health", "/batches/a'b", "/", "/v1/chat\n/completions"])
def test_a_service_that_starts_says_so_and_when_to_ask_again(path: str) -> None:
    status, headers, body = asked(without_a_route, path)

    assert (status, headers["retry-after"]) == (503, "2")
    error = json.loads(body)["error"]
    assert error["code"] == "starting"
    assert "the service is starting, or has ended" in error["message"]


async def _pieces() -> AsyncIterator[bytes]:
    yield b"one "
    yield b"two"


@pytest.mark.parametrize(
    "answer",
    [
        PlainTextResponse("fine"),
        PlainTextResponse("not found", 404),
        JSONResponse({"error": {"message": "Path '/a' not found. Ping http://.../-/routes "}}, 404),
        Response(b"", 404),
        Response(b"", 204),
        StreamingResponse(_pieces(), 404),
    ],
    ids=["200", "404", "404 that quotes it", "empty 404", "empty", "streamed 404"],
)
def test_answers_of_a_gateway_pass_as_they_are(answer: Response) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(scope, receive, send)

    status, headers, body = asked(app)

    assert status == answer.status_code
    assert "retry-after" not in headers
    assert body == getattr(answer, "body", b"one two")


def test_a_gateways_own_404_keeps_its_code() -> None:
    app = FastAPI()
    install_error_handlers(app)

    status, _, body = asked(app, "/nowhere")

    assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")
