"""Chat over tokens, without memory: what one request brings is all there is.

A history that brings the tokens of its newest policy call is continued from these very tokens,
unless other tools are offered than stand in them; any other history is rendered. Sessions, which
remember, are elsewhere and use the pieces here.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from gym_ray.agents.agent import tokenize
from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.gateway.rendered_tools import tools_stand_in
from gym_ray.policies.chat import (
    Chat,
    ChatAnswer,
    ChatRequest,
    as_asked,
    guided_sampling,
    offered_tools,
    without_tokens,
)
from gym_ray.policies.engine import GenerationRequest, PolicyInfo, require_sound
from gym_ray.renderers.messages import AssistantMessage, Message
from gym_ray.renderers.renderer import BridgeImpossible, RolloutRenderer
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation, Tokens

#: Samples one continuation; raises `RolloutFailure`.
Generate = Callable[[GenerationRequest], Awaitable[Generation]]


@dataclasses.dataclass(frozen=True, slots=True)
class TokenPolicy:
    """A `PolicyBackend` over anything that samples tokens.

    Attributes:
        info: what the policy says of itself.
        renderer: of the policy's model.
        sampling: defaults for what a request leaves open.
        generate: samples one continuation.
    """

    info: PolicyInfo
    renderer: RolloutRenderer
    sampling: Sampling
    generate: Generate

    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """See `PolicyBackend.chat`."""
        return await self._chat(request, PromptOnce())

    def choices(self, requests: Sequence[ChatRequest]) -> Sequence[Coroutine[Any, Any, ChatAnswer]]:
        """See `PolicyBackend.choices`: the prompt is rendered once."""
        prompt = PromptOnce()
        return [self._chat(request, prompt) for request in requests]

    async def _chat(self, request: ChatRequest, prompt: PromptOnce) -> ChatAnswer:
        return await chat(
            request,
            renderer=self.renderer,
            generate=self.generate,
            context_length=self.info.context_length,
            prompt=prompt,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class MessagePolicy:
    """A `PolicyBackend` over a policy that takes messages only.

    Attributes:
        info, sampling: as in `TokenPolicy`.
        take_turn: takes one turn in messages.
        renderer: None, which says so.
    """

    info: PolicyInfo
    sampling: Sampling
    take_turn: Chat
    renderer: None = None

    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """See `PolicyBackend.chat`."""
        return await self.take_turn(request)

    def choices(self, requests: Sequence[ChatRequest]) -> Sequence[Coroutine[Any, Any, ChatAnswer]]:
        """See `PolicyBackend.choices`."""
        return [self.chat(request) for request in requests]

    async def generate(self, request: GenerationRequest) -> Generation:
        """Refused: there is no token path.

        Raises:
            RolloutFailure: `policy_rejected`.
        """
        raise RolloutFailure(
            FailureKind.POLICY_REJECTED, "this policy takes messages only, not prompts of tokens"
        )


class PromptOnce:
    """The prompt of requests with the same messages, rendered by whoever needs it first."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._tokens: Tokens | None = None

    async def tokens(self, render: Callable[[], Awaitable[Tokens]]) -> Tokens:
        """Prompt tokens int32 [P]; raises what `render` does, and is rendered anew then."""
        async with self._lock:
            if self._tokens is None:
                self._tokens = await render()
            return self._tokens


async def chat(
    request: ChatRequest,
    *,
    renderer: RolloutRenderer,
    generate: Generate,
    context_length: int,
    prompt: PromptOnce,
) -> ChatAnswer:
    """One turn.

    Args:
        request: what to answer.
        renderer: of the policy's model.
        generate: samples one continuation.
        context_length: most tokens of prompt plus generation; 0 when that is not known.
        prompt: of this request, perhaps shared with others.

    Raises:
        RolloutFailure: `policy_rejected` when the request can never be answered, else what
            `generate` raises.
    """
    tools = offered_tools(request)
    guided = guided_sampling(request, renderer)
    tokens = await prompt.tokens(
        lambda: prompt_tokens(
            renderer, request.messages, tools, required_prefix=request.required_prefix_token_ids
        )
    )
    check_room(tokens, context_length)
    generation = await generate(
        GenerationRequest(
            dataclasses.replace(
                request.call, sampling=guided, stop_token_ids=stop_tokens(request, renderer)
            ),
            tokens,
        )
    )
    require_sound(generation, renderer.vocabulary_size)
    # Stop tokens of the request's own end the turn, and no family knows them.
    said = generation.token_ids
    own = set(request.call.stop_token_ids) - set(renderer.stop_token_ids)
    if len(said) and int(said[-1]) in own:
        said = said[:-1]
    message = renderer.parse(said, tokens, tools, turn=request.call.request_id)
    return answer_of(request, message, tokens, generation)


def stop_tokens(request: ChatRequest, renderer: RolloutRenderer) -> tuple[int, ...]:
    """Tokens that end the turn: the family's own first, as in every other turn."""
    return tuple(dict.fromkeys((*renderer.stop_token_ids, *request.call.stop_token_ids)))


async def prompt_tokens(
    renderer: RolloutRenderer,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    *,
    required_prefix: Tokens | None = None,
) -> Tokens:
    """Prompt tokens int32 [P]; long prompts are tokenized off the event loop.

    Raises:
        RolloutFailure: `policy_rejected` when the family has no form for the messages, or
            cannot continue `required_prefix`.
    """
    return await tokenize(
        messages, lambda: _prompt_tokens(renderer, messages, tools, required_prefix)
    )


async def closed_prompt_tokens(
    renderer: RolloutRenderer, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
) -> Tokens:
    """Tokens int32 [T] of a conversation in which no turn of the policy is opened.

    Raises:
        RolloutFailure: as `prompt_tokens`.
    """

    def render() -> Tokens:
        plain = [without_tokens(message) for message in messages]
        return _rendered(renderer, lambda: renderer.render_closed(plain, tools))

    return await tokenize(messages, render)


def check_room(prompt: Tokens, context_length: int) -> None:
    """Raises `RolloutFailure` `policy_rejected` when a prompt leaves no room to generate."""
    if context_length and len(prompt) >= context_length:
        raise RolloutFailure(
            FailureKind.POLICY_REJECTED,
            f"the prompt has {len(prompt)} tokens and the context holds {context_length}; "
            "shorten the conversation",
        )


def check_length(
    renderer: RolloutRenderer | None,
    context_length: int,
    *,
    text: str = "",
    messages: Sequence[Message] = (),
    tools: Sequence[dict[str, Any]] = (),
) -> None:
    """Raises `RolloutFailure` `policy_rejected` for a prompt that surely overflows the context.

    It is asked before anything is tokenized: tokens of a text a hundred times too long would be
    made, in a hundred times its memory, only to be counted.

    Args:
        renderer: of the policy's model; None when it takes no tokens.
        context_length: most tokens of prompt plus generation; 0 when that is not known.
        text: of a prompt that is no conversation.
        messages, tools: of a conversation.
    """
    if renderer is None or not context_length:
        return
    characters = len(text) + _characters([tools, [_rendered_part(message) for message in messages]])
    if len(messages) <= context_length and not renderer.too_long(characters, context_length):
        return
    raise RolloutFailure(
        FailureKind.POLICY_REJECTED,
        f"the prompt has {characters} characters and the context holds {context_length} tokens, "
        "which cannot stand for as many; shorten the conversation",
    )


def _rendered_part(message: Message) -> list[Any]:
    """What of a message becomes tokens by its text; what it says of tokens does not."""
    return [message.get(name) for name in ("content", "reasoning_content", "tool_calls")]


def _characters(value: Any) -> int:
    """Characters of all strings in a JSON value, however deep."""
    waiting, characters = [value], 0
    while waiting:
        match waiting.pop():
            case str(text):
                characters += len(text)
            case dict(fields):
                waiting += fields.values()
            case list(items) | tuple(items):
                waiting += items
    return characters


def answer_of(
    request: ChatRequest, said: AssistantMessage, prompt: Tokens, generation: Generation
) -> ChatAnswer:
    """What the client is told; the tokens stay whole.

    Args:
        request: what was asked.
        said: the whole generation, parsed.
        prompt: int32 [P].
        generation: what was sampled.
    """
    message, stopped = as_asked(said, request)
    return ChatAnswer(
        message=message,
        stop_reason="stop" if stopped else generation.stop_reason,
        prompt_token_ids=prompt,
        generation=generation,
        prompt_tokens=len(prompt),
        output_tokens=len(generation.token_ids),
    )


def _prompt_tokens(
    renderer: RolloutRenderer,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    required_prefix: Tokens | None,
) -> Tokens:
    def tokens() -> Tokens:
        bridged = _bridged(renderer, messages, tools, required_prefix)
        if bridged is not None:
            return bridged
        return renderer.render([without_tokens(message) for message in messages], tools)

    return _rendered(renderer, tokens)


def _rendered(renderer: RolloutRenderer, tokens: Callable[[], Tokens]) -> Tokens:
    """What `tokens` returns. Families differ in what they refuse, and how; whatever it is, the
    messages are the cause."""
    try:
        return tokens()
    except (RolloutFailure, RecursionError):
        raise
    except Exception as error:
        raise RolloutFailure(
            FailureKind.POLICY_REJECTED,
            f"renderer {renderer.family} cannot render these messages: {one_line(error, 300)}",
        ) from error


def _bridged(
    renderer: RolloutRenderer,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    required_prefix: Tokens | None,
) -> Tokens | None:
    """The prompt that goes on from the newest tokens the history brings; None to render."""
    index = _newest_with_tokens(messages)
    history = None if index is None else _history(messages[index])
    if history is not None and not tools_stand_in(renderer, messages, tools, history[0]):
        index = history = None
    if required_prefix is not None and (
        history is None or not np.array_equal(np.concatenate(history), required_prefix)
    ):
        index = _last_assistant(messages)
        # Families look into a generation only for the end of its turn: where it began, which
        # the prefix does not tell, does not matter to them.
        ended = int(required_prefix[-1]) in renderer.stop_token_ids
        cut = len(required_prefix) - 1 if ended else len(required_prefix)
        history = (required_prefix[:cut], required_prefix[cut:])
    if history is None:
        return None
    try:
        later = messages[(index if index is not None else -1) + 1 :]
        return renderer.bridge(*history, later, tools)
    except BridgeImpossible as error:
        if required_prefix is None:
            return None
        raise RolloutFailure(
            FailureKind.POLICY_REJECTED, f"required_prefix_token_ids cannot be kept: {error}"
        ) from error


def _newest_with_tokens(messages: Sequence[Message]) -> int | None:
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].get("generation_token_ids"):
            return index
    return None


def _last_assistant(messages: Sequence[Message]) -> int | None:
    for index in range(len(messages) - 1, -1, -1):
        if messages[index]["role"] == "assistant":
            return index
    return None


def _history(message: Message) -> tuple[Tokens, Tokens]:
    return (
        np.asarray(message["prompt_token_ids"], dtype=np.int32),
        np.asarray(message["generation_token_ids"], dtype=np.int32),
    )
