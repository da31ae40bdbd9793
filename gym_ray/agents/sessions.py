"""Sessions of agents outside: how they are reached, and what opening, asking, closing returns."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Literal, Protocol

from gym_ray.errors import FailureKind
from gym_ray.policies.chat import (
    ChatAnswer,
    ChatRequest,
)
from gym_ray.policies.engine import GenerationRequest
from gym_ray.rollout import RolloutSpec, Status, TruncationReason
from gym_ray.turn import Generation
from gym_ray.verdict import Verdict


@dataclasses.dataclass(frozen=True, slots=True)
class OpenedSession:
    """A session that was just opened, and the key to it, which is told this once."""

    session_id: str
    key: str
    rollout_id: str
    expires_at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class SessionState:
    """How a session stands.

    Attributes:
        session_id, rollout_id: its own, and that of its row.
        open: whether it takes policy calls.
        turns: policy calls recorded, those of all branches.
        expires_at: when it ends at the latest.
        status: of its rollout; None until that is over, as is all below.
        truncation_reason, reward, reward_components, metrics, error_kind, error: as in the row.
        turns_left_out: policy calls that do not belong to the conversation that is the rollout:
            their history was edited or compacted, or they are of a conversation beside it.
    """

    session_id: str
    rollout_id: str
    open: bool
    turns: int
    expires_at: datetime.datetime
    status: Status | None = None
    truncation_reason: TruncationReason | None = None
    reward: float | None = None
    reward_components: Mapping[str, float] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    error_kind: FailureKind | None = None
    error: str | None = None
    turns_left_out: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Closing:
    """How a session ends.

    Attributes:
        how: `verify` by the environment, with a `reward` of the client's, or `abandon` for nothing.
        verdict: the client's.
        answer: ID of the completion or response that the rollout ends with; None for the newest of
            the task's conversation.
    """

    how: Literal["verify", "reward", "abandon"]
    verdict: Verdict | None = None
    answer: str | None = None


class SessionBackend(Protocol):
    """Reaches sessions, wherever they live. All methods raise `SessionError`."""

    async def open(self, spec: RolloutSpec) -> OpenedSession:
        """Open a session; raises `RolloutFailure` when the environment refuses the task."""
        ...

    async def state(self, session_id: str, key: str) -> SessionState:
        """How a session stands."""
        ...

    async def close(self, session_id: str, key: str, closing: Closing) -> SessionState:
        """End a session and wait until its row is durable."""
        ...

    async def chat(self, session_id: str, key: str, request: ChatRequest) -> ChatAnswer:
        """A policy call; raises `RolloutFailure` too. Cancelling it aborts it."""
        ...

    async def generate(self, session_id: str, key: str, request: GenerationRequest) -> Generation:
        """A policy call in tokens; raises `RolloutFailure` too. Cancelling it aborts it."""
        ...


def owner_of(session_id: str) -> tuple[str, str] | None:
    """Environment and replica of a session, `{environment}.{replica}.{random}`; None for text
    that is no session ID.
    """
    parts = session_id.rsplit(".", 2)
    return (parts[0], parts[1]) if len(parts) == 3 and all(parts) else None


#: Why a session refuses: it is not there (or not with this key), the replica that had it is
#: gone, it is over, it cannot do this in its state, it has too many calls in work, there are too
#: many sessions, or its rollout could not be made durable.
Refusal = Literal["unknown", "gone", "ended", "conflict", "busy", "full", "unrecorded"]


class SessionError(Exception):
    """A session does not do what is asked of it. Picklable: both arguments travel in `args`.

    Args:
        refusal: why, for machines.
        message: why, and what to do, for a person.
    """

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(refusal, message)
        self.refusal: Refusal = refusal
        self.message = message

    def __str__(self) -> str:
        return self.message
