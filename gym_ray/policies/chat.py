"""A policy call in messages: what OpenAI's chat completions ask for, and the answer with tokens.

Gateways, sessions and policies that take no token IDs speak this; everything else speaks tokens
(`engine.py`). Owned here, too: what a request means to whoever answers it over tokens, so that
it means the same in the gateway and in a session.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.call import Call
from gym_ray.renderers.messages import AssistantMessage, Message, ToolCall
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.renderers.tool_choice import structural_tag
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation, StopReason, Tokens

#: Fields that say which tokens a message of the assistant was, in NeMo Gym's words.
TOKEN_FIELDS = ("prompt_token_ids", "generation_token_ids", "generation_log_probs")

#: In place of everything else in a message of the assistant: ID of an output item of an earlier
#: answer, which only a session can look up.
ITEM_REFERENCE = "item_reference"


@dataclasses.dataclass(frozen=True, slots=True)
class ChatRequest:
    """One turn of a conversation.

    Attributes:
        call: what every policy call says.
        messages: the whole conversation. Messages of the assistant may carry `prompt_token_ids`,
            `generation_token_ids` and `generation_log_probs` of the call that sampled them.
        tools: definitions as `tools_for_chat` returns them.
        tool_choice: `auto`, `none`, `required`, or the name of the one tool to call.
        parallel_tool_calls: whether one turn may call several tools.
        required_prefix_token_ids: int32 [N], tokens the prompt has to start with; None for no
            wish beyond the messages' own token fields.
    """

    call: Call
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    required_prefix_token_ids: Tokens | None = None

    def with_sampling(self, sampling: Sampling) -> ChatRequest:
        """The same, drawn from another distribution."""
        return dataclasses.replace(self, call=dataclasses.replace(self.call, sampling=sampling))


@dataclasses.dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What the policy said.

    Attributes:
        message: the same, parsed.
        stop_reason: why the generation ended.
        prompt_token_ids: int32 [P]; None when the policy returns no token IDs.
        generation: sampled tokens and logprobs; None when the policy returns no token IDs.
        prompt_tokens, output_tokens: how many there were, as far as the policy says.
        seconds: the policy took, as far as it is known.
    """

    message: AssistantMessage
    stop_reason: StopReason
    prompt_token_ids: Tokens | None
    generation: Generation | None
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0


#: Reaches a policy; raises `RolloutFailure`.
Chat = Callable[[ChatRequest], Awaitable[ChatAnswer]]


def without_tokens(message: Message) -> Message:
    """The message as a template reads it."""
    return {key: value for key, value in message.items() if key not in TOKEN_FIELDS}


def offered_tools(request: ChatRequest) -> tuple[dict[str, Any], ...]:
    """The tools the policy is shown: none, when it may call none."""
    return () if request.tool_choice == "none" else request.tools


def guided_sampling(request: ChatRequest, renderer: RolloutRenderer) -> Sampling:
    """The request's sampling, guided so that a forced tool is called.

    Raises:
        RolloutFailure: `policy_rejected` when the call cannot be forced.
    """
    tag = structural_tag(
        renderer,
        offered_tools(request),
        request.tool_choice,
        parallel=request.parallel_tool_calls,
    )
    if tag is None:
        return request.call.sampling
    if request.call.sampling.structural_tag is not None:
        raise RolloutFailure(
            FailureKind.POLICY_REJECTED,
            "a response format and a tool choice that forces a call exclude each other",
        )
    return dataclasses.replace(request.call.sampling, structural_tag=tag)


def as_asked(said: AssistantMessage, request: ChatRequest) -> tuple[AssistantMessage, bool]:
    """The message as its client is told it.

    Without the stop text that ended it and what came after, whichever part of the message it is
    in, and with one call where only one is wanted. A call that names no tool is content: clients
    look a call's name up, and end where there is none.

    Returns:
        The message, and whether a stop text ended it.
    """
    stops = request.call.sampling.stop
    if said.reasoning is not None:
        reasoning = cut_at_stop(said.reasoning, stops)
        if len(reasoning) < len(said.reasoning):
            return AssistantMessage("", reasoning), True
    nameless = [call.arguments for call in said.tool_calls if not call.name]
    whole = "\n".join(filter(None, [said.content, *nameless]))
    content = cut_at_stop(whole, stops)
    given = [call for call in said.tool_calls if call.name]
    calls = [_cut_call(call, stops) for call in given]
    stopped = len(content) < len(whole) or calls != given
    wanted = calls if request.parallel_tool_calls else calls[:1]
    return AssistantMessage(content, said.reasoning, tuple(wanted)), stopped


def _cut_call(call: ToolCall, stops: Sequence[str]) -> ToolCall:
    """A call whose text a stop text ended; what could be read whole was not ended by one."""
    if call.error is None:
        return call
    return dataclasses.replace(call, arguments=cut_at_stop(call.arguments, stops))


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """`text` before the first of the stop texts in it."""
    found = [index for index in map(text.find, stops) if index >= 0]
    return text[: min(found)] if found else text
