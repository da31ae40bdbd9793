"""The policy calls of one attempt at a rollout: numbered, seeded, bounded in tokens and time.

Owned here: what one call says, and what is remembered of those that were made. Not owned here: how
a call reaches the policy, and what an agent makes of the answer.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.call import Call
from gym_ray.policies.chat import Chat, ChatAnswer, ChatRequest
from gym_ray.policies.engine import GenerationRequest, require_sound
from gym_ray.policies.weights import StalenessLimit
from gym_ray.renderers.messages import Message
from gym_ray.sampling import Sampling, turn_seed
from gym_ray.turn import Generation, Tokens

#: Reaches the policy; raises `RolloutFailure`.
Generate = Callable[[GenerationRequest], Awaitable[Generation]]


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """How rollouts of one environment reach the policy.

    Attributes:
        generate: with tokens.
        chat: with messages; None for a policy that takes tokens.
        stop_token_ids: tokens that end a turn.
        vocabulary_size: tokens that can be sampled are below it.
        turn_timeout_seconds: deadline of one turn.
        max_context_tokens: most tokens of prompt plus generation; None for the policy's own limit.
        priority: of the calls; lower numbers go first.
    """

    generate: Generate
    chat: Chat | None = None
    stop_token_ids: tuple[int, ...] = ()
    vocabulary_size: int = 2**31
    turn_timeout_seconds: float = 300.0
    max_context_tokens: int | None = None
    priority: int = 0


class PolicyCalls:
    """Makes the calls of one attempt; `sample` and `converse` are what an agent is given.

    Args:
        policy: see there.
        sampling: of the rollout.
        rollout_id, attempt: whose calls they are.
        ends_at: end of the attempt, on the running event loop's clock.
        staleness: the limit of the next turn, given the oldest version of the earlier ones.
        traceparent: W3C context of the rollout's trace; None when it is not traced.

    Attributes:
        samplings: how each turn was sampled, in order; only of turns in tokens.
    """

    def __init__(
        self,
        policy: Policy,
        sampling: Sampling,
        *,
        rollout_id: str,
        attempt: int,
        ends_at: float,
        staleness: Callable[[int | None], StalenessLimit | None] = lambda oldest_version: None,
        traceparent: str | None = None,
    ) -> None:
        self.samplings: list[Sampling] = []
        self._policy = policy
        self._sampling = sampling
        self._rollout_id = rollout_id
        self._attempt = attempt
        self._ends_at = ends_at
        self._staleness = staleness
        self._traceparent = traceparent
        self._made = 0
        self._oldest_version: int | None = None

    async def sample(self, prompt: Tokens, own: Sampling | None = None, /) -> Generation:
        """One turn in tokens; see `Sampler`."""
        sampling = own or self._sampling
        request = GenerationRequest(
            self._next(sampling, len(prompt), self._policy.stop_token_ids),
            prompt,
            staleness=self._staleness(self._oldest_version),
        )
        generation = await self._policy.generate(request)
        require_sound(generation, self._policy.vocabulary_size)
        self.samplings.append(sampling)
        versions = [span.version for span in generation.version_spans]
        if self._oldest_version is not None:
            versions.append(self._oldest_version)
        self._oldest_version = min(versions, default=None)
        return generation

    async def converse(
        self,
        messages: tuple[Message, ...],
        tools: tuple[dict[str, Any], ...],
        *,
        tool_choice: str,
        parallel_tool_calls: bool,
        used_tokens: int,
    ) -> ChatAnswer:
        """One turn in messages; see `Chatter`."""
        assert self._policy.chat is not None
        request = ChatRequest(
            self._next(self._sampling, used_tokens),
            messages,
            tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
        )
        answer = await self._policy.chat(request)
        if answer.stop_reason == "abort":
            raise RolloutFailure(FailureKind.POLICY_ERROR, "the server aborted the generation")
        return answer

    def _next(
        self, sampling: Sampling, used_tokens: int, stop_token_ids: tuple[int, ...] = ()
    ) -> Call:
        within = self._within_context(sampling, used_tokens)
        number, self._made = self._made, self._made + 1
        seed = self._sampling.seed
        if seed is not None:
            seed = turn_seed(seed, self._rollout_id, number, self._attempt)
        left = self._ends_at - asyncio.get_running_loop().time()
        return Call(
            request_id=f"{self._rollout_id}/{self._attempt}/{number}",
            sampling=within,
            stop_token_ids=stop_token_ids,
            seed=seed,
            timeout_seconds=max(0.0, min(self._policy.turn_timeout_seconds, left)),
            traceparent=self._traceparent,
            priority=self._policy.priority,
        )

    def _within_context(self, sampling: Sampling, used_tokens: int) -> Sampling:
        """`sampling` with no more tokens than `max_context_tokens` leaves after the prompt."""
        limit = self._policy.max_context_tokens
        if limit is None:
            return sampling
        room = limit - used_tokens
        if room < 1:
            raise RolloutFailure(
                FailureKind.POLICY_REJECTED,
                f"the prompt has {used_tokens} tokens and the context holds {limit}, as "
                f"agent_options.max_context_tokens is {limit}; shorten the prompt or raise it",
            )
        if room >= sampling.max_output_tokens:
            return sampling
        return dataclasses.replace(sampling, max_output_tokens=room)
