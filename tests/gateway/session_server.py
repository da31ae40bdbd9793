"""Sessions over HTTP, on replicas in the process of the tests, and calls of their routes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai

from gym_ray.agents.sessions import Closing, OpenedSession, SessionError, SessionState, owner_of
from gym_ray.config.environment import EnvironmentConfig
from gym_ray.gateway.app import GatewaySettings, create_app
from gym_ray.gateway.sessions import session_routes
from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.engine import GenerationRequest
from gym_ray.rollout import RolloutSpec
from gym_ray.routing import Router
from gym_ray.serving.recorder import RecordTarget
from gym_ray.turn import Generation
from tests.gateway.conftest import serving
from tests.gateway.policies import MODEL, token_policy
from tests.sessions import Replica

KEY = "the-gateways-key"

#: Of every session that is not told otherwise.
SESSION_SECONDS = 60.0


class Replicas:
    """A `SessionBackend` over replicas in this process, which can be lost."""

    def __init__(self, target: RecordTarget, **replica: Any) -> None:
        self.target = target
        self.replica: Replica | None = None
        self.seconds = SESSION_SECONDS
        self._options = replica

    async def open(self, spec: RolloutSpec) -> OpenedSession:
        # Made here: a replica belongs to the event loop it is used on.
        self.replica = self.replica or Replica("first", **self._options)
        settings = dataclasses.replace(self.replica.settings, timeout_seconds=self.seconds)
        return await self.replica.host.open(spec, settings, self.target)

    def lose(self) -> None:
        self.replica = Replica("second")

    async def state(self, session_id: str, key: str) -> SessionState:
        return await self._owner(session_id).host.state(session_id, key)

    async def close(self, session_id: str, key: str, closing: Closing) -> SessionState:
        return await self._owner(session_id).host.close(session_id, key, closing)

    async def chat(self, session_id: str, key: str, request: ChatRequest) -> ChatAnswer:
        return await self._owner(session_id).host.chat(session_id, key, request)

    async def generate(self, session_id: str, key: str, request: GenerationRequest) -> Generation:
        return await self._owner(session_id).host.generate(session_id, key, request)

    def _owner(self, session_id: str) -> Replica:
        if owner_of(session_id) is None or self.replica is None:
            raise SessionError("unknown", "there is no session of this id with this key")
        return self.replica


@contextlib.contextmanager
def serving_sessions(replicas: Replicas) -> Iterator[str]:
    """Address of a gateway whose sessions live on `replicas`."""
    policy, _ = token_policy()
    tasks = Router({"sums": EnvironmentConfig(), "other": EnvironmentConfig()})
    routes = session_routes(replicas, tasks, policy)
    app = create_app(policy=policy, settings=GatewaySettings(api_key=KEY), routers=[routes])
    with serving(app) as url:
        yield url


def call(
    method: str, url: str, key: str | None, body: dict[str, Any] | None = None
) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def opened(url: str, row: dict[str, Any]) -> dict[str, Any]:
    status, session = call("POST", f"{url}/sessions", KEY, {"task": row, "environment": "sums"})
    assert status == 201, session
    return session


def client_of(session: dict[str, Any]) -> openai.OpenAI:
    """OpenAI's client, told nothing but where the session is."""
    return openai.OpenAI(
        base_url=session["base_url"], api_key=session["key"], max_retries=0, timeout=30
    )


def of(url: str, session: dict[str, Any], route: str = "") -> str:
    return f"{url}/sessions/{session['id']}{route}"


def ask(client: openai.OpenAI, text: str) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=MODEL, messages=messages)


def prompt_of(row: dict[str, Any]) -> str:
    return str(row["responses_create_params"]["input"])


def code_of(answer: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]
