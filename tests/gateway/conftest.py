"""A gateway over a scripted policy, on a port of its own, and OpenAI's client for it."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI

from gym_ray.gateway.app import GatewaySettings, create_app
from gym_ray.gateway.backend import PolicyBackend
from tests.gateway.policies import WatchedEngine, token_policy

KEY = "the-key"
START_SECONDS = 20.0

Connect = Callable[..., openai.OpenAI]


@contextlib.contextmanager
def serving(app: FastAPI, listener: socket.socket | None = None) -> Iterator[str]:
    """Base URL of a real server of `app`, in a thread; `listener` is bound, if it is given."""
    listener = listener or socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        listener.close()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """`connect(policy, settings)`: OpenAI's client for a gateway of its own."""
    with contextlib.ExitStack() as stack:

        def to(policy: PolicyBackend, settings: GatewaySettings | None = None) -> openai.OpenAI:
            app = create_app(policy=policy, settings=settings or GatewaySettings())
            url = stack.enter_context(serving(app))
            client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=30)
            return stack.enter_context(client)

        yield to


@pytest.fixture(scope="module")
def _gateway() -> Iterator[tuple[str, WatchedEngine]]:
    policy, engine = token_policy(context_length=2048)
    settings = GatewaySettings(api_key=KEY, max_body_bytes=200_000)
    with serving(create_app(policy=policy, settings=settings)) as url:
        yield url, engine


@pytest.fixture(autouse=True)
def engine(_gateway: tuple[str, WatchedEngine]) -> Iterator[WatchedEngine]:
    """What the gateway of `client` samples from."""
    engine = _gateway[1]
    engine.requests.clear()
    engine.held.clear()
    engine.cancelled.clear()
    yield engine
    engine.hold, engine.failure = False, None


@pytest.fixture(scope="module")
def url(_gateway: tuple[str, WatchedEngine]) -> str:
    """Where the gateway of `client` listens."""
    return _gateway[0]


# Making a client reads the system's certificates, so one serves a whole module.
@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    """OpenAI's client, with the right key and no retries."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    """A plain client of the same gateway, which sends JSON with the right key."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as http:
        yield http
