"""The dialogue of one rollout: the policy is told messages and answers.

Agents see no difference between a policy that takes tokens and one that takes messages. A token
dialogue renders once, then bridges, and never renders history anew. A chat dialogue keeps the
messages; token fields the policy tells travel on them, and go into the transcript, which refuses
a prompt that does not continue it. Not owned here: limits and truncation (turn_taking).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from gym_ray.agents.agent import AgentContext, Chatter, bridge_prompt, render_prompt
from gym_ray.agents.tool_use import ToolUse
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.chat import ChatAnswer
from gym_ray.renderers.items import tools_for_chat
from gym_ray.renderers.messages import AssistantMessage, Message
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.transcript import TokenlessTranscript, Transcript
from gym_ray.turn import Generation, StopReason, Tokens, Turn


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """One turn of the policy.

    Attributes:
        message: what it said.
        stop_reason: why it ended.
        output_tokens: how many tokens it has.
    """

    message: AssistantMessage
    stop_reason: StopReason
    output_tokens: int


class Dialogue(Protocol):
    """One rollout's conversation with the policy."""

    @property
    def transcript(self) -> Transcript | TokenlessTranscript:
        """Its turns so far."""
        ...

    async def turn(
        self, messages: list[Message], *, tool_seconds: float = 0.0, use: ToolUse | None = None
    ) -> PolicyAnswer:
        """Tell the policy `messages` and let it answer.

        Args:
            messages: the whole prompt at first, then only what is new.
            tool_seconds: spent in tools or in the environment since the previous turn.
            use: how tools may be used in this turn; None where none are offered.

        Raises:
            RolloutFailure: the turn could not be sampled.
            BridgeImpossible: the family cannot continue what the policy said in the last turn.
        """
        ...


def dialogue_of(attempt: AgentContext, tools: Sequence[dict[str, Any]]) -> Dialogue:
    """The dialogue of an attempt.

    Args:
        attempt: what the agent was given.
        tools: definitions offered, Responses-API shape.
    """
    chat_tools = tools_for_chat(tools)
    if attempt.renderer is not None:
        return TokenDialogue(attempt, attempt.renderer, chat_tools)
    assert attempt.chat is not None, "a policy without a renderer takes messages"
    return ChatDialogue(attempt.chat, chat_tools)


class TokenDialogue:
    """A dialogue over tokens."""

    def __init__(
        self, attempt: AgentContext, renderer: RolloutRenderer, tools: list[dict[str, Any]]
    ) -> None:
        self._renderer = renderer
        self._sample = attempt.sample
        self._sampling = attempt.sampling
        self._tools = tools
        self._transcript = Transcript()
        self._last: tuple[Tokens, Generation] | None = None

    @property
    def transcript(self) -> Transcript:
        return self._transcript

    async def turn(
        self, messages: list[Message], *, tool_seconds: float = 0.0, use: ToolUse | None = None
    ) -> PolicyAnswer:
        prompt = await self._prompt(messages)
        tag = None if use is None else use.structural_tag
        generation = await self._sample(prompt, self._sampling.guided_by(tag))
        self._transcript.append(prompt, generation, tool_seconds=tool_seconds)
        self._last = prompt, generation
        message = self._renderer.parse(generation.token_ids, prompt, self._tools)
        return PolicyAnswer(message, generation.stop_reason, len(generation.token_ids))

    async def _prompt(self, messages: list[Message]) -> Tokens:
        if self._last is None:
            return await render_prompt(self._renderer, messages, self._tools)
        prompt, generation = self._last
        return await bridge_prompt(
            self._renderer, prompt, generation.token_ids, messages, self._tools
        )


class ChatDialogue:
    """A dialogue over messages."""

    def __init__(self, chat: Chatter, tools: list[dict[str, Any]]) -> None:
        self._chat = chat
        self._tools = tuple(tools)
        self._history: tuple[Message, ...] = ()
        self._call_ids: set[str] = set()
        self._told = Transcript()
        self._tokenless = TokenlessTranscript()
        self._used_tokens = 0

    @property
    def transcript(self) -> Transcript | TokenlessTranscript:
        return self._tokenless if self._tokenless.turns else self._told

    async def turn(
        self, messages: list[Message], *, tool_seconds: float = 0.0, use: ToolUse | None = None
    ) -> PolicyAnswer:
        history = (*self._history, *messages)
        answer = await self._chat(
            history,
            self._tools,
            tool_choice="auto" if use is None else use.tool_choice,
            parallel_tool_calls=use is None or use.parallel,
            used_tokens=self._used_tokens,
        )
        self._add(answer, tool_seconds)
        message = self._with_distinct_calls(answer.message)
        self._history = (*history, {**message.as_message(), **_token_fields(answer)})
        self._used_tokens = answer.prompt_tokens + answer.output_tokens
        return PolicyAnswer(message, answer.stop_reason, answer.output_tokens)

    def _add(self, answer: ChatAnswer, tool_seconds: float) -> None:
        told = answer.generation is not None and answer.prompt_token_ids is not None
        earlier = self._told.turns if not told else self._tokenless.turns
        if earlier:
            raise RolloutFailure(
                FailureKind.POLICY_ERROR,
                "the policy returned token IDs in some turns and none in others; all servers of "
                "policy.engine_args.base_urls must be alike",
            )
        if answer.generation is not None and answer.prompt_token_ids is not None:
            self._told.append(answer.prompt_token_ids, answer.generation, tool_seconds=tool_seconds)
            return
        self._tokenless.turns.append(
            Turn(
                prompt_length=answer.prompt_tokens,
                generation_length=answer.output_tokens,
                stop_reason=answer.stop_reason,
                version_spans=(),
                queued_seconds=0.0,
                generation_seconds=answer.seconds,
                tool_seconds=tool_seconds,
            )
        )

    def _with_distinct_calls(self, message: AssistantMessage) -> AssistantMessage:
        """Some servers count a turn's calls from 0 again; a result must find its own call."""
        calls = []
        for call in message.tool_calls:
            call_id, number = call.id, 1
            while call_id in self._call_ids:
                number += 1
                call_id = f"{call.id}_{number}"
            self._call_ids.add(call_id)
            calls.append(dataclasses.replace(call, id=call_id))
        return dataclasses.replace(message, tool_calls=tuple(calls))


def _token_fields(answer: ChatAnswer) -> Message:
    if answer.generation is None:
        return {}
    return {
        "prompt_token_ids": answer.prompt_token_ids,
        "generation_token_ids": answer.generation.token_ids,
        "generation_log_probs": answer.generation.logprobs,
    }
