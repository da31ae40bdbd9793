"""Chat messages as this package passes them: what goes in, and what the policy said.

Owned here: the shapes. A message going in is a plain dict of the chat-completions shape,
because that is what every chat template reads. What the policy said comes out as a frozen
`AssistantMessage`, because rollouts keep it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

#: `role`, `content` (str) and, where they apply, `reasoning_content`, `tool_calls`,
#: `tool_call_id`, `name`.
Message: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class ToolCall:
    """One attempt of the policy to call a tool.

    Attributes:
        id: pairs the call with its result; unique within a rollout.
        name: the tool asked for, "" when the attempt names none.
        arguments: a JSON object as text; for a malformed attempt, the text as it was sampled.
        error: None for a well-formed call, else one line saying what is wrong with it, fit to
            be shown to the policy as the tool's result.
    """

    id: str
    name: str
    arguments: str
    error: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class AssistantMessage:
    """What the policy said in one turn.

    Attributes:
        content: text outside reasoning and tool calls.
        reasoning: text of the reasoning channel, None when the policy opened none.
        tool_calls: every attempt in order, malformed ones included.
    """

    content: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()

    def as_message(self) -> Message:
        """The same as a chat message, to be rendered again as history."""
        message: Message = {"role": "assistant", "content": self.content}
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "type": "function",
                    "id": call.id,
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        return message


def call_id_prefix(turn: str) -> str:
    """What the IDs of a turn's calls begin with: no two turns have the same.

    Args:
        turn: what no other turn is called, such as the ID of its policy call.
    """
    return f"call_{hashlib.blake2b(turn.encode(), digest_size=12).hexdigest()}"


def with_tool_names(messages: Sequence[Message]) -> list[Message]:
    """The same messages, tool results with the name of the tool they are of.

    Clients of chat completions leave that name out, and some families render it.
    """
    names: dict[str, str] = {}
    named: list[Message] = []
    for message in messages:
        for call in message.get("tool_calls") or ():
            names[str(call.get("id"))] = _tool_name(call)
        name = names.get(str(message.get("tool_call_id")), "")
        if message.get("role") == "tool" and name and not message.get("name"):
            message = {**message, "name": name}
        named.append(message)
    return named


def _tool_name(call: Mapping[str, Any]) -> str:
    return str((call.get("function") or call).get("name") or "")
