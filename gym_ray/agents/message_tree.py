"""A conversation: the messages of a rollout as a tree, over the tokens of its transcript.

For callers that are handed whole message lists, turn after turn: agents that edit or compact
their history, and clients that speak chat completions. Each message is stored once. A list that
goes on from a turn the policy took is continued from that turn's very tokens; any other list is
rendered from its beginning and becomes a branch of the transcript.

Owned here: which messages are the same message, so that what a client did not change is not
taken for an edit. Arguments that were re-serialized are the same when they are equal as JSON;
reasoning that is left out is the same, as most clients cannot send it back; no content is the
same as empty content; call IDs of the assistant and the spelling of tool definitions do not
matter. Everything else is an edit.

Not owned here: tokens (transcript) and how a family renders or continues (renderers).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from gym_ray.renderers.messages import AssistantMessage, Message
from gym_ray.renderers.renderer import BridgeImpossible, RolloutRenderer
from gym_ray.transcript import Transcript
from gym_ray.turn import Generation, Tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """What the policy is to be sampled from next.

    Attributes:
        token_ids: int32 [P].
        messages: the conversation it stands for.
        tools: the tools offered in it.
        continues: number of the turn whose prompt and generation it starts with, or None when
            it was rendered from the beginning.
        obstacle: why the turn these messages go on from could not be continued; None when it
            was, and when they go on from no turn.
    """

    token_ids: Tokens
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    continues: int | None
    obstacle: str | None = None


class MessageTree:
    """Messages in, exact prompts out. Several calls may be in flight at once.

    Args:
        renderer: of the policy's model.

    Attributes:
        transcript: the tokens of every turn added.

    Example:
        >>> conversation = Conversation(renderer)                       # doctest: +SKIP
        >>> prompt = conversation.prompt(messages, tools)               # doctest: +SKIP
        >>> said = conversation.add(prompt, await sample(prompt.token_ids))  # doctest: +SKIP
    """

    transcript: Transcript

    def __init__(self, renderer: RolloutRenderer) -> None:
        self.transcript = Transcript()
        self._renderer = renderer
        self._beginnings: dict[str, _Node] = {}
        #: Asked for last, with no turn added since: choices of one request have the same prompt.
        self._last: Prompt | None = None

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> Prompt:
        """Prompt tokens of the next turn.

        Args:
            messages: the whole conversation.
            tools: definitions as `tools_for_chat` returns them. The tools stand in the history,
                so a conversation with other tools goes on from no earlier turn.
        """
        last, asked = self._last, (tuple(messages), tuple(tools))
        # 1 and True are equal, and are not rendered alike.
        if last is None or repr((last.messages, last.tools)) != repr(asked):
            last = self._last = self._prompt(messages, tools)
        return last

    def _prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Prompt:
        obstacle = None
        node, depth = self._beginning(tools).deepest(messages, sampled=True)
        if node.turn is not None:
            prompt, generation = self.transcript.history(node.turn)
            try:
                token_ids = self._renderer.bridge(prompt, generation, messages[depth:], tools)
                return Prompt(token_ids, tuple(messages), tuple(tools), node.turn)
            except BridgeImpossible as error:
                obstacle = str(error)
        token_ids = self._renderer.render(messages, tools)
        return Prompt(token_ids, tuple(messages), tuple(tools), None, obstacle)

    def add(
        self,
        prompt: Prompt,
        generation: Generation,
        *,
        tool_seconds: float = 0.0,
        told: Callable[[AssistantMessage], AssistantMessage] = lambda said: said,
    ) -> AssistantMessage:
        """Add the turn sampled from `prompt`.

        Args:
            prompt: as `prompt` returned it.
            generation: what the policy answered.
            tool_seconds: time spent in tools since the turn it continues.
            told: makes of what the policy said what the caller is told and will send back, such
                as the text before a stop text.

        Returns:
            What the caller is told.
        """
        self._last = None
        said = told(self._renderer.parse(generation.token_ids, prompt.token_ids, prompt.tools))
        turn = self.transcript.insert(prompt.token_ids, generation, tool_seconds=tool_seconds)
        node, depth = self._beginning(prompt.tools).deepest(prompt.messages, sampled=False)
        for message in prompt.messages[depth:]:
            node = node.add(message)
        node.add(said.as_message(), turn)
        return said

    def _beginning(self, tools: Sequence[dict[str, Any]]) -> _Node:
        return self._beginnings.setdefault(json.dumps(tools, sort_keys=True), _Node(None, None))


class _Node:
    """A message, after all those above it.

    Attributes:
        reasoning: the message's reasoning, None without.
        turn: number of the turn that sampled it; None when it was given.
    """

    __slots__ = ("_after", "reasoning", "turn")

    def __init__(self, reasoning: str | None, turn: int | None) -> None:
        self.reasoning = reasoning
        self.turn = turn
        self._after: dict[Hashable, list[_Node]] = {}

    def add(self, message: Message, turn: int | None = None) -> _Node:
        node = _Node(_reasoning(message), turn)
        self._after.setdefault(_identity(message), []).append(node)
        return node

    def deepest(self, messages: Sequence[Message], *, sampled: bool) -> tuple[_Node, int]:
        """The deepest node on a path of `messages`, and how many of them lead there.

        Among equally deep ones the newest counts.

        Args:
            messages: from the beginning of the conversation.
            sampled: count only messages that the policy sampled.
        """
        best, best_depth, best_turn = self, 0, -1
        open_nodes = [(self, 0)]
        while open_nodes:
            node, depth = open_nodes.pop()
            turn = -1 if node.turn is None else node.turn
            if (depth, turn) > (best_depth, best_turn) and (turn >= 0 or not sampled):
                best, best_depth, best_turn = node, depth, turn
            if depth < len(messages):
                open_nodes += [(after, depth + 1) for after in node._matching(messages[depth])]
        return best, best_depth

    def _matching(self, message: Message) -> Iterator[_Node]:
        reasoning = _reasoning(message)
        for node in self._after.get(_identity(message), ()):
            if reasoning is None or reasoning == node.reasoning:
                yield node


def _reasoning(message: Message) -> str | None:
    return message.get("reasoning_content") or None


def _identity(message: Message) -> Hashable:
    """What makes it this message, its reasoning apart."""
    calls = tuple(
        _call_identity(call.get("function") or call) for call in message.get("tool_calls") or ()
    )
    return (
        message["role"],
        _text(message.get("content")),
        calls,
        message.get("tool_call_id"),
        message.get("name"),
    )


def _call_identity(function: Mapping[str, Any]) -> Hashable:
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return function.get("name"), "text", arguments
    return function.get("name"), "json", json.dumps(arguments, sort_keys=True)


def _text(content: Any) -> str:
    """Text of a message's content; content that is not text alone by its JSON."""
    if content is None or isinstance(content, str):
        return content or ""
    if all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(part["text"] for part in content)
    return json.dumps(content, sort_keys=True)
