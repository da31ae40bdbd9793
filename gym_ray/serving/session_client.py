"""How the gateway reaches sessions: each call goes to the replica its session's ID names.

Owned here: finding the replica, and telling a lost session from one that this process has not
heard of yet. Refusals and failures cross Serve as values and are raised here.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

from gym_ray.agents.sessions import Closing, OpenedSession, SessionError, SessionState, owner_of
from gym_ray.errors import FailureKind, RolloutFailure, one_line, pauses
from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.engine import GenerationRequest
from gym_ray.rollout import RolloutSpec
from gym_ray.runner import RunSettings
from gym_ray.serving.recorder import RecordTarget
from gym_ray.telemetry.traces import is_traced
from gym_ray.turn import Generation

#: A replica that is new may be unknown to a gateway for a moment: it is asked for again, with
#: `pauses` between.
_TRIES = 6
_BACKOFF_SECONDS = 0.1
_BACKOFF_MAXIMUM_SECONDS = 1.0

#: Beyond a call's own time, to reach the replica.
_GRACE_SECONDS = 30.0


class SessionClient:
    """The `SessionBackend` over environment deployments.

    Args:
        environments: Serve handle of each environment.
        settings: what all sessions share; the timeout is a session's.
        target: where their rollouts are recorded; None to keep none.
        start_seconds: how long a replica may take to start.
        call_seconds: how long a policy call may take.
        verify_seconds: how long verifying may take.
        trace_share: share of the sessions that are traced.
    """

    def __init__(
        self,
        environments: Mapping[str, Any],
        settings: RunSettings,
        target: RecordTarget | None,
        *,
        start_seconds: float,
        call_seconds: float,
        verify_seconds: float,
        trace_share: float = 0.0,
    ) -> None:
        self._environments = dict(environments)
        self._settings = settings
        self._target = target
        self._start_seconds = start_seconds
        self._call_seconds = call_seconds
        self._verify_seconds = verify_seconds
        self._trace_share = trace_share

    async def open(self, spec: RolloutSpec) -> OpenedSession:
        """Open a session on any replica of the environment."""
        call = self._environments[spec.environment].open_session
        seconds = self._start_seconds + self._settings.timeout_seconds
        traced = is_traced(spec.rollout_id, self._trace_share)
        try:
            answer: OpenedSession = await _answer(
                call.remote(spec, self._settings, self._target, traced), seconds
            )
        except SessionError as error:
            if error.refusal != "gone":
                raise
            raise RolloutFailure(
                FailureKind.ENVIRONMENT_UNAVAILABLE,
                "the replica was lost while it opened the session; open another",
            ) from error
        return answer

    async def state(self, session_id: str, key: str) -> SessionState:
        answer: SessionState = await self._ask(session_id, "session_state", 0.0, key)
        return answer

    async def close(self, session_id: str, key: str, closing: Closing) -> SessionState:
        seconds = self._verify_seconds
        answer: SessionState = await self._ask(session_id, "close_session", seconds, key, closing)
        return answer

    async def chat(self, session_id: str, key: str, request: ChatRequest) -> ChatAnswer:
        seconds = self._call_seconds
        answer: ChatAnswer = await self._ask(session_id, "session_chat", seconds, key, request)
        return answer

    async def generate(self, session_id: str, key: str, request: GenerationRequest) -> Generation:
        seconds = self._call_seconds
        answer: Generation = await self._ask(session_id, "session_generate", seconds, key, request)
        return answer

    async def _ask(self, session_id: str, method: str, seconds: float, *arguments: Any) -> Any:
        """What the owner of a session answers; raises what it refuses."""
        owner = owner_of(session_id)
        if owner is None or owner[0] not in self._environments:
            raise SessionError("unknown", "there is no session of this id with this key")
        environment, replica = owner
        handle = self._environments[environment].options(session_id=replica, method_name=method)
        backoff = pauses(_BACKOFF_SECONDS, _BACKOFF_MAXIMUM_SECONDS)
        for pause in (*itertools.islice(backoff, _TRIES - 1), None):
            try:
                return await _answer(handle.remote(session_id, *arguments), seconds)
            except SessionError as error:
                if error.refusal != "gone" or pause is None:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")


async def _answer(response: Any, seconds: float) -> Any:
    """The value of a Serve call; failures that came as values are raised."""
    try:
        async with asyncio.timeout(seconds + _GRACE_SECONDS):
            answer = await response
    except asyncio.CancelledError:
        response.cancel()
        raise
    except TimeoutError:
        response.cancel()
        raise RolloutFailure(
            FailureKind.ENVIRONMENT_UNAVAILABLE, "the environment replica gave no answer in time"
        ) from None
    except Exception as error:
        if _lost(error):
            raise SessionError(
                "gone", "the replica that held this session is gone, and it too"
            ) from error
        raise RolloutFailure(FailureKind.ENVIRONMENT_UNAVAILABLE, one_line(error)) from error
    if isinstance(answer, RolloutFailure | SessionError):
        raise answer
    return answer


def _lost(error: Exception) -> bool:
    """Whether the replica died under the call."""
    from ray.exceptions import ActorDiedError

    return isinstance(error, ActorDiedError)
