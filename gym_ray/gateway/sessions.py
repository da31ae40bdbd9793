"""Sessions: a rollout whose agent is outside and speaks OpenAI's API.

`POST /sessions` opens one and tells its key; every policy call below `/sessions/{id}/v1` with
that key is a turn of the rollout; `verify`, `reward` or expiry ends it, `DELETE` throws it away.

Owned here: the routes, and which refusal is which status. Not owned here: the session itself,
its key and its limits, which live where its ID says (`SessionBackend` reaches them), and the
OpenAI routes, which are mounted once more over a session's policy.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any
from urllib.parse import quote

import pydantic
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from gym_ray.agents.sessions import Closing, Refusal, SessionBackend, SessionError, SessionState
from gym_ray.gateway.backend import PolicyBackend
from gym_ray.gateway.errors import ApiError, bad_request
from gym_ray.gateway.openai_routes import openai_routes
from gym_ray.gateway.security import bearer_key, unauthorized
from gym_ray.gateway.strict_route import StrictRoute
from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.engine import GenerationRequest
from gym_ray.rollout import RolloutSpec
from gym_ray.routing import Router
from gym_ray.task import parse_task
from gym_ray.turn import Generation
from gym_ray.verdict import Verdict

#: Where tasks of sessions say they come from.
SOURCE = "sessions"

#: Session keys known to be right are remembered, so that a policy call is one hop, not two.
_KNOWN_KEYS = 4096


class SessionRequest(pydantic.BaseModel):
    """A session to open."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)

    task: dict[str, Any]
    """A task row, as in a collection's input."""
    environment: str | None = None
    """Name of the environment; left out, the row is routed as in a collection."""


class VerifyRequest(pydantic.BaseModel):
    """The end of a session."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)

    answer: str | None = None
    """ID of the completion or response that the rollout ends with; left out, the newest of the
    task's conversation."""


#: What ending a session without a body asks for.
_NEWEST = VerifyRequest()


class RewardRequest(VerifyRequest):
    """A reward from outside."""

    reward: Annotated[float, Field(allow_inf_nan=False)]
    reward_components: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = {}
    """Weighted parts, which sum to the reward."""


def session_routes(
    sessions: SessionBackend,
    tasks: Router,
    policy: PolicyBackend,
    *,
    timeout_seconds: float = 300.0,
) -> APIRouter:
    """All routes of sessions.

    Args:
        sessions: reaches them.
        tasks: finds the environment of a row.
        policy: the deployment's, for what is the same in every session.
        timeout_seconds: a policy call that takes longer is aborted.
    """
    router = APIRouter(prefix="/sessions", route_class=StrictRoute, tags=["sessions"])
    keyed = _asking_for_the_key_of(sessions)
    routes = APIRouter(prefix="/{session_id}", route_class=keyed)

    @router.post("", status_code=201, summary="Open a session")
    async def open_session(body: SessionRequest, request: Request) -> dict[str, Any]:
        spec = _spec_of(body, tasks)
        try:
            opened = await sessions.open(spec)
        except SessionError as error:
            raise _api_error(error) from None
        root = str(request.base_url).rstrip("/")
        return {
            "id": opened.session_id,
            "key": opened.key,
            "base_url": f"{root}/sessions/{quote(opened.session_id, safe='')}/v1",
            "expires_at": opened.expires_at.isoformat(),
            "rollout_id": opened.rollout_id,
        }

    @routes.get("", summary="How a session stands")
    async def session_state(session_id: str, request: Request) -> dict[str, Any]:
        try:
            return _state_of(await sessions.state(session_id, _key(request)))
        except SessionError as error:
            raise _api_error(error) from None

    @routes.post("/verify", summary="End a session and have it verified")
    async def verify(
        session_id: str, request: Request, body: VerifyRequest = _NEWEST
    ) -> dict[str, Any]:
        return await close(session_id, request, Closing("verify", answer=body.answer))

    @routes.post("/reward", summary="End a session with a reward from outside")
    async def reward(session_id: str, body: RewardRequest, request: Request) -> dict[str, Any]:
        try:
            verdict = Verdict(body.reward, body.reward_components)
        except ValueError as error:
            raise bad_request(str(error), param="reward_components") from None
        return await close(session_id, request, Closing("reward", verdict, body.answer))

    @routes.delete("", summary="Throw a session away; its row counts as cancelled")
    async def abandon(session_id: str, request: Request) -> dict[str, Any]:
        return await close(session_id, request, Closing("abandon"))

    async def close(session_id: str, request: Request, closing: Closing) -> dict[str, Any]:
        try:
            return _state_of(await sessions.close(session_id, _key(request), closing))
        except SessionError as error:
            raise _api_error(error) from None

    async def policy_of_session(session_id: str, request: Request) -> PolicyBackend:
        return _SessionPolicy(sessions, session_id, _key(request), policy)

    # Agents nobody here wrote have model names of their own in them.
    calls = openai_routes(
        policy_of_session,
        timeout_seconds=timeout_seconds,
        any_model=True,
        item_references=True,
        route_class=keyed,
    )
    routes.include_router(calls, prefix="/v1")
    router.include_router(routes)
    return router


def _asking_for_the_key_of(sessions: SessionBackend) -> type[StrictRoute]:
    """Routes of one session, which look at nothing but its ID and the key before both fit: a
    body is what anybody can send, and reading one can cost as much as they like.
    """
    known: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def require_key(session_id: str, key: str) -> None:
        if (session_id, key) in known:
            return
        try:
            await sessions.state(session_id, key)
        except SessionError as error:
            raise _api_error(error) from None
        known[session_id, key] = None
        while len(known) > _KNOWN_KEYS:
            known.popitem(last=False)

    class SessionRoute(StrictRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                await require_key(request.path_params["session_id"], _key(request))
                return await handle(request)

            return guarded

    return SessionRoute


#: Tokens of one answer that no session gives.
_NO_LIMIT = 2**31 - 1


class _SessionPolicy:
    """The `PolicyBackend` of one session: calls go to where it lives."""

    def __init__(
        self, sessions: SessionBackend, session_id: str, key: str, policy: PolicyBackend
    ) -> None:
        self.info = policy.info
        self.renderer = policy.renderer
        # What a call leaves open is for the session to decide, whose rollout may have other limits
        # than the gateway.
        self.sampling = dataclasses.replace(policy.sampling, max_output_tokens=_NO_LIMIT)
        self._sessions = sessions
        self._session_id = session_id
        self._key = key

    async def chat(self, request: ChatRequest) -> ChatAnswer:
        try:
            return await self._sessions.chat(self._session_id, self._key, request)
        except SessionError as error:
            raise _api_error(error) from None

    def choices(self, requests: Sequence[ChatRequest]) -> Sequence[Coroutine[Any, Any, ChatAnswer]]:
        return [self.chat(request) for request in requests]

    async def generate(self, request: GenerationRequest) -> Generation:
        try:
            return await self._sessions.generate(self._session_id, self._key, request)
        except SessionError as error:
            raise _api_error(error) from None


#: Status, and class of the error as OpenAI names it. OpenAI's clients try 409, 429 and 5xx again.
_STATUS: dict[Refusal, tuple[int, str]] = {
    "unknown": (404, "invalid_request_error"),
    "gone": (410, "invalid_request_error"),
    "ended": (400, "invalid_request_error"),
    "conflict": (409, "invalid_request_error"),
    "busy": (429, "rate_limit_error"),
    "full": (503, "server_error"),
    "unrecorded": (503, "server_error"),
}


def _api_error(error: SessionError) -> ApiError:
    status, kind = _STATUS[error.refusal]
    return ApiError(status, error.message, code=f"session_{error.refusal}", type=kind)


def _key(request: Request) -> str:
    key = bearer_key(request.headers)
    if key is None:
        raise unauthorized("the session's key")
    return key


def _spec_of(body: SessionRequest, tasks: Router) -> RolloutSpec:
    """The rollout of a session. Its ID is its own: a task may have many sessions."""
    text = json.dumps(body.task, ensure_ascii=False)
    task = parse_task(text, task_index=0, source_file=SOURCE, source_line=0)
    if body.environment is not None and body.environment not in tasks.names:
        raise bad_request(
            f"there is no environment {body.environment!r}; there are: {', '.join(tasks.names)}",
            param="environment",
        )
    return RolloutSpec(
        rollout_id=uuid.uuid4().hex,
        task_id=task.task_id,
        task_index=0,
        rollout_index=0,
        environment=body.environment or tasks.find(task.row),
        source_file=SOURCE,
        source_line=0,
        task=text,
    )


def _state_of(state: SessionState) -> dict[str, Any]:
    values = {name: getattr(state, name) for name in SessionState.__slots__}
    return {
        "id": values.pop("session_id"),
        **values,
        "expires_at": state.expires_at.isoformat(),
        "reward_components": dict(state.reward_components),
        "metrics": dict(state.metrics),
    }
