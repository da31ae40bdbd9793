"""Which key opens which route, however its path is spelled."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_ray.config.environment import EnvironmentConfig
from gym_ray.gateway.app import GatewaySettings, create_app
from gym_ray.gateway.sessions import session_routes
from gym_ray.gateway.weights import weights_router
from gym_ray.routing import Router
from gym_ray.serving.recorder import RecordTarget
from tests.gateway.conftest import serving
from tests.gateway.played import Weights
from tests.gateway.policies import token_policy
from tests.gateway.test_sessions import Replicas

KEY, ADMIN_KEY = "the-key", "the-admins"
UPDATE = json.dumps({"version": 1, "source": "/weights/1"}).encode()

#: Beginnings and ends that routers, servers and lists of names have disagreed about.
SPELLINGS = st.text(st.sampled_from("\n\r\t\0 \x0b\x0c\x1c\x85\u2028/;.%?#\\"), max_size=4)


@functools.cache
def application(*, api_key: str | None, admin_key: str | None) -> tuple[FastAPI, Weights]:
    weights = Weights()
    policy, _ = token_policy()
    tasks = Router({"sums": EnvironmentConfig()})
    app = create_app(
        policy=policy,
        settings=GatewaySettings(api_key=api_key, admin_key=admin_key),
        routers=[
            session_routes(Replicas(RecordTarget("/nowhere", "run")), tasks, policy),
            weights_router(weights),
        ],
    )
    return app, weights


def status_of(
    app: FastAPI, method: str, path: str, key: str | None, body: bytes = UPDATE
) -> tuple[int, int]:
    """Status of an answer, and how much of the body was read for it."""
    headers = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
    if key is not None:
        headers.append((b"authorization", f"Bearer {key}".encode()))
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "root_path": "", "query_string": b"", "headers": headers, "scheme": "http",
        "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 1), "http_version": "1.1",
    }  # fmt: skip
    statuses: list[int] = []
    read_bytes = 0

    async def receive() -> dict[str, Any]:
        nonlocal read_bytes
        read_bytes += len(body)
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    asyncio.run(app(scope, receive, send))
    return statuses[0], read_bytes


#: Keys that are set, and keys that are sent, of which none is the admin's.
DOORS = [(None, None, None), (KEY, None, KEY), (KEY, ADMIN_KEY, KEY), (None, ADMIN_KEY, None)]


@pytest.mark.parametrize(("api_key", "admin_key", "sent"), DOORS)
@settings(max_examples=150, deadline=None)
@given(before=SPELLINGS, after=SPELLINGS, method=st.sampled_from(["GET", "POST"]))
def test_no_spelling_of_an_admin_route_opens_to_a_lesser_key(
    api_key: str | None, admin_key: str | None, sent: str | None, before: str, after: str,
    method: str,
) -> None:  # fmt: skip
    app, weights = application(api_key=api_key, admin_key=admin_key)

    status, _ = status_of(app, method, f"{before}/weights{after}", sent)

    assert status in (307, 401, 403, 404)
    assert not weights.updates


@pytest.mark.parametrize("after", ["", "\n", "\r", "/", "//", ";x", "\n\n", "/\n", "\0"])
def test_no_spelling_of_any_route_opens_without_a_key_but_the_open_ones(after: str) -> None:
    app, _ = application(api_key=KEY, admin_key=ADMIN_KEY)
    for route in app.routes:
        path = re.sub(r"\{.*?\}", "sums.first.0", route.path)  # type: ignore[attr-defined]
        for method in ("GET", "POST", "DELETE", "PUT"):
            status, read_bytes = status_of(app, method, path + after, None)
            if path in ("/health", "/openapi.json"):
                assert status in (200, 307, 401, 405)
            else:
                # Below a session only its routes ask for its key: no route tells nothing.
                assert status in (307, 401, 404, 405), (method, path)
                assert read_bytes == 0, (method, path)


@pytest.mark.parametrize("route", ["/reward", "/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("key", [None, KEY, "made-up"])
def test_no_body_is_read_before_its_sessions_key_is_known(route: str, key: str | None) -> None:
    app, _ = application(api_key=KEY, admin_key=ADMIN_KEY)

    status, read_bytes = status_of(app, "POST", f"/sessions/sums.first.0{route}", key)

    assert (status, read_bytes) == (404 if key else 401, 0)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"host": "localhost:8000"}, 400),
        ({"host": "LOCALHOST.:8000"}, 400),
        ({"host": "[::1]:8000", "content-type": "application/json; charset=utf-8"}, 400),
        ({"origin": "http://localhost:3000"}, 400),
        ({"host": "rebound.example:8000"}, 403),
        ({"host": "127.0.0.1.example"}, 403),
        ({"host": "192.168.0.1"}, 403),
        ({"host": "localhost:80@evil.example"}, 403),
        ({"host": "[::1"}, 403),
        ({"host": "0.0.0.0:8000"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"content-type": "text/plain"}, 403),
        ({"content-type": "application/x-www-form-urlencoded"}, 403),
        ({"content-type": "multipart/form-data; boundary=x"}, 403),
    ],
)
def test_a_gateway_without_a_key_takes_nothing_from_web_pages(
    headers: dict[str, str], status: int
) -> None:
    policy, _ = token_policy()
    settings = GatewaySettings(loopback_only=True)
    app = create_app(policy=policy, settings=settings)
    with serving(app) as url, httpx.Client(base_url=url) as http:
        answer = http.post(
            "/v1/completions",
            content="{}",
            headers={"content-type": "application/json", **headers},
        )
        assert answer.status_code == status
        assert http.get("/health").status_code == 200


def test_the_admin_key_opens_the_admin_route() -> None:
    app, _ = application(api_key=KEY, admin_key=ADMIN_KEY)
    assert status_of(app, "GET", "/weights", ADMIN_KEY)[0] == 200
    assert status_of(app, "GET", "/weights", KEY)[0] == 401
