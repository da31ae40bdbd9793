"""How turns reach the policy: those that start together travel together.

The turns that ask in the same pass of the event loop (the first turns of one call's rollouts
above all) are sent as one call; turns of one group then also land on one policy replica, which
holds their common prefix.

Every turn carries its own deadline, which the policy keeps: a turn whose rollout gave up is
aborted there, without a message of its own. A caller that wants a turn aborted the moment it
gives it up asks for one turn per call.
"""

from __future__ import annotations

from typing import Any

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.engine import GenerationRequest
from gym_ray.serving.coalescing import Coalescer
from gym_ray.turn import Generation

#: Turns of one call, at most.
CALL_TURNS = 16

#: Beyond the turns' own deadline, for the call to reach a replica, or a replica to start.
_GRACE_SECONDS = 30.0

#: What a call carries, turn by turn, and what comes back.
Request = GenerationRequest | ChatRequest
Reply = Generation | ChatAnswer

#: Of a token ID and a log-probability.
_ENTRY_BYTES = 4


def request_bytes(request: Request) -> int:
    """About how large a turn is on its way."""
    if isinstance(request, GenerationRequest):
        return _ENTRY_BYTES * len(request.prompt_token_ids)
    return sum(len(str(message.get("content"))) for message in request.messages)


def reply_bytes(reply: Reply | RolloutFailure) -> int:
    """About how large its answer is."""
    match reply:
        case Generation():
            return 2 * _ENTRY_BYTES * len(reply.token_ids)
        case ChatAnswer():
            said = reply.message
            tokens = 0 if reply.prompt_token_ids is None else len(reply.prompt_token_ids)
            sampled = 0 if reply.generation is None else reply_bytes(reply.generation)
            return len(str(said)) + _ENTRY_BYTES * tokens + sampled
    return 0


class PolicyClient:
    """Samples turns from the policy deployment.

    Args:
        policy: Serve handle of the policy.
        start_seconds: how long a policy replica may take to start.
        call_turns: turns of one call, at most.
    """

    def __init__(self, policy: Any, *, start_seconds: float, call_turns: int = CALL_TURNS) -> None:
        self._policy = policy
        self._stream: Any = None
        self._turns: Coalescer[Request, Any] = Coalescer(
            send=self._send,
            read=lambda _, batch: batch,
            seconds=lambda requests: (
                max(request.call.timeout_seconds for request in requests)
                + start_seconds
                + _GRACE_SECONDS
            ),
            bytes_of=request_bytes,
            size=call_turns,
            broken=FailureKind.POLICY_UNAVAILABLE,
            callee="policy replica",
        )

    async def generate(self, request: GenerationRequest) -> Generation:
        """Sample one turn.

        Raises:
            RolloutFailure: what the engine said, or `policy_unavailable`.
        """
        generation: Generation = await self._turns.ask(request)
        return generation

    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """Take one turn in messages.

        Raises:
            RolloutFailure: as `generate`.
        """
        answer: ChatAnswer = await self._turns.ask(request)
        return answer

    def _send(self, requests: Any) -> Any:
        if self._stream is None:
            self._stream = self._policy.options(stream=True, method_name="generate")
        return self._stream.remote(list(requests))
