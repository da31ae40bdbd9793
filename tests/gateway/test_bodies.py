"""How much of a request, and of many at once, the gateway takes in."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gym_ray.gateway.body_limit import BodyLimit
from gym_ray.gateway.errors import ApiError

MAX_BYTES = 4 * 1024 * 1024

#: More characters than the tests' context of 2048 tokens holds, whichever tokens they are.
LONG = "x" * 30_000


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": LONG}]}]},
        ),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}] * 2049}),
        (
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": "a"}],
                "tools": [{"type": "function", "function": {"name": "f", "description": LONG}}],
            },
        ),
        ("/v1/responses", {"input": LONG}),
        ("/v1/responses", {"input": "a", "instructions": LONG}),
        ("/v1/completions", {"prompt": LONG}),
        ("/v1/completions", {"prompt": ["a", LONG]}),
        ("/tokenize", {"prompt": LONG}),
        ("/tokenize", {"messages": [{"role": "user", "content": LONG}]}),
    ],
)
def test_what_cannot_fit_the_context_is_refused_by_its_characters(
    http: httpx.Client, route: str, body: dict[str, Any]
) -> None:
    answer = http.post(route, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "characters" in error["message"]  # and not so many tokens: none were made


class Held:
    """An application that reads its body and answers when it is told to."""

    def __init__(self) -> None:
        self.limit = BodyLimit(self._answer, max_bytes=MAX_BYTES)
        self.may_answer = asyncio.Event()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        scope["read"].set()
        await self.may_answer.wait()

    def post(self, size: int) -> tuple[asyncio.Task[None], asyncio.Event]:
        """A request under way, and when its body was read."""
        pieces = [b"x" * 65_536] * (size // 65_536)
        read = asyncio.Event()

        async def receive() -> dict[str, Any]:
            body = pieces.pop()
            return {"type": "http.request", "body": body, "more_body": bool(pieces)}

        scope = {"type": "http", "headers": [], "read": read}
        return asyncio.ensure_future(self.limit(scope, receive, lambda _: None)), read  # type: ignore[arg-type, return-value]


def test_large_bodies_at_once_are_bounded_and_small_ones_pass() -> None:
    async def scenario() -> None:
        held = Held()
        running = [held.post(MAX_BYTES) for _ in range(4)]
        for _, read in running:
            await read.wait()
        refused, _ = held.post(2 * 1024 * 1024)
        with pytest.raises(ApiError) as error:
            await refused
        assert (error.value.status_code, error.value.headers) == (503, {"Retry-After": "1"})
        small = [held.post(1024 * 1024) for _ in range(30)]
        for _, read in small:
            await read.wait()
        held.may_answer.set()
        await asyncio.gather(*(task for task, _ in running + small))
        again, _ = held.post(MAX_BYTES)
        await again

    asyncio.run(scenario())


def test_a_request_that_is_given_up_holds_nothing() -> None:
    async def scenario() -> None:
        held = Held()
        for _ in range(9):
            task, read = held.post(MAX_BYTES)
            await read.wait()
            task.cancel()
            await asyncio.wait({task})

    asyncio.run(scenario())


def test_requests_that_wait_for_their_answer_hold_nothing() -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await receive()  # as handlers do to see that a client goes away

    async def scenario() -> None:
        limit = BodyLimit(answer, max_bytes=MAX_BYTES)
        gone = asyncio.Event()

        def post() -> asyncio.Task[None]:
            pieces = [b"x" * MAX_BYTES]

            async def receive() -> dict[str, Any]:
                if pieces:
                    return {"type": "http.request", "body": pieces.pop(), "more_body": False}
                waiting.release()
                await gone.wait()
                return {"type": "http.disconnect"}

            scope = {"type": "http", "headers": []}
            return asyncio.ensure_future(limit(scope, receive, lambda _: None))  # type: ignore[arg-type, return-value]

        waiting = asyncio.Semaphore(0)
        running = []
        for _ in range(9):
            running.append(post())
            await waiting.acquire()
        gone.set()
        await asyncio.gather(*running)

    asyncio.run(scenario())
