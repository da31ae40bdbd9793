"""The conversations of a session, and which of them is the task's.

An agent may ask the policy for more than its task: a title, a summary, a guard's opinion, the work
of a sub-agent. What is verified is the task's conversation, whatever was asked last. A turn belongs
to the conversation of an earlier one if it

- goes on from it, also under another system message or with other tools (a handoff, a clock);
- opens as that conversation does: the same system message, and a first message that begins alike
  (an edited history, a second try, an agent that writes its history into its question);
- takes over from one that cannot go on, with the same system message and tools: its last calls have
  no outputs, or its prompt has outgrown the context (a compacted history).

The task's conversation is the one that asks in the task's own words, else one that holds them;
among these, and where none does, the one with the most turns, then one that offers tools, then
the first.

Not covered: a helper that speaks with the agent's own voice (the same messages, and one more that
asks for a title) is a turn like any other. Whoever closes the session can name the answer that
counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

from gym_ray.agents.same_message import text_of, value_of
from gym_ray.renderers.items import messages_from_items
from gym_ray.renderers.messages import Message
from gym_ray.task import Task


@dataclasses.dataclass(slots=True)
class Conversation:
    """Turns that are one conversation.

    Attributes:
        opening: text of its system message, and of the message after it.
        tools: offered in its newest turn.
        asks: 2 where a message is the task's own question, 1 where one holds it, else 0.
        turns: their numbers, in order.
        unanswered: whether the newest turn made calls.
        outgrown: whether the prompt after the newest turn left no room in the context.
    """

    opening: tuple[str, str]
    tools: Hashable
    asks: int
    turns: list[int] = dataclasses.field(default_factory=list)
    unanswered: bool = False
    outgrown: bool = False


class Conversations:
    """Which turns of a session are one conversation.

    Args:
        question: the task's own words, "" where it has none.
    """

    def __init__(self, question: str) -> None:
        self._question = question.strip()
        self._conversations: list[Conversation] = []
        self._of_turn: dict[int, Conversation] = {}

    def add(
        self,
        turn: int,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        follows: int | None,
        calls: bool,
    ) -> None:
        """A turn was taken.

        Args:
            turn: its number; numbers ascend.
            messages: its prompt.
            tools: offered in it.
            follows: number of the turn its messages go on from; None when they do from none.
            calls: whether the policy called tools.
        """
        found = self._find(messages, tools, follows)
        if found is None:
            asks = max((self._asks(message) for message in messages), default=0)
            found = Conversation(_opening(messages), value_of(tools), asks)
            self._conversations.append(found)
        found.turns.append(turn)
        found.tools = value_of(tools)
        found.unanswered, found.outgrown = calls, False
        self._of_turn[turn] = found

    def outgrow(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], follows: int | None
    ) -> None:
        """A prompt left no room in the context; arguments as in `add`."""
        found = self._find(messages, tools, follows)
        if found is not None:
            found.outgrown = True

    def of_task(self) -> Conversation | None:
        """The task's conversation; None before the first turn."""
        return max(
            self._conversations,
            key=lambda one: (one.asks, len(one.turns), bool(one.tools), -one.turns[0]),
            default=None,
        )

    def of_turn(self, turn: int) -> Conversation:
        """The conversation of a turn."""
        return self._of_turn[turn]

    def _find(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], follows: int | None
    ) -> Conversation | None:
        if follows is not None:
            return self._of_turn[follows]
        system, first = _opening(messages)
        newest_first = sorted(self._conversations, key=lambda one: one.turns[-1], reverse=True)
        for one in newest_first:
            before = one.opening[1]
            if one.opening[0] == system and (first.startswith(before) if before else not first):
                return one
        offered = value_of(tools)
        for one in newest_first:
            left = one.unanswered or one.outgrown
            if left and (one.opening[0], one.tools) == (system, offered):
                return one
        return None

    def _asks(self, message: Message) -> int:
        text = text_of(message.get("content"))
        if not self._question or self._question not in text:
            return 0
        return 2 if message["role"] == "user" and text == self._question else 1


def _opening(messages: Sequence[Message]) -> tuple[str, str]:
    """Text of the system message a conversation begins with, and of the message after it."""
    system: list[str] = []
    for message in messages:
        text = text_of(message.get("content"))
        if message["role"] != "system":
            return "\n".join(system), text
        system.append(text)
    return "\n".join(system), ""


def question_of(task: Task) -> str:
    """The task's own words: what its user says last."""
    for item in reversed(task.input_items):
        if item.get("type", "message") == "message" and item.get("role") == "user":
            (message,) = messages_from_items([item])
            return str(message["content"])
    return ""
