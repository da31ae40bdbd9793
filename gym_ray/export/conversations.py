"""Rollouts as chat conversations: what SFT and DPO rows are made of.

Owned here: items to messages with the prompt kept and the policy's message last, and which
rollouts have no such form. Not owned here: which rollouts are good enough.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa

from gym_ray.export.counts import ExportCounts
from gym_ray.nemo_gym import last_items
from gym_ray.renderers.items import messages_from_items, tools_for_chat
from gym_ray.renderers.messages import Message
from gym_ray.store.columns import Column, struct, structs
from gym_ray.strict_json import refuse_constant

Reasoning = Literal["keep", "inline", "drop"]

#: What `attempts_of` reads of a stored row.
COLUMNS = (
    "rollout_id", "task_id", "run_id", "task_index", "rollout_index", "environment", "model",
    "status", "reward", "turns", "prompt", "response", "left_out", "tools",
)  # fmt: skip

#: A message in Parquet, where a column has one type: what a message lacks is null, and the
#: arguments of a call, which differ from tool to tool, are JSON text.
MESSAGES = structs(
    "messages",
    "the prompt, then all the policy said and was shown; the last message is the policy's",
    Column("role", pa.string(), "`system`, `user`, `assistant` or `tool`"),
    Column("content", pa.string(), "text of the message; empty where it only calls tools"),
    Column(
        "reasoning_content",
        pa.string(),
        "the policy's reasoning, with `--reasoning keep`; null where there is none",
    ),
    structs(
        "tool_calls",
        "calls the policy made; null where it made none",
        Column("type", pa.string(), "`function`"),
        Column("id", pa.string(), "what the answering message's `tool_call_id` repeats"),
        struct(
            "function",
            "what is called",
            Column("name", pa.string(), "of the tool"),
            Column("arguments", pa.string(), "JSON text of an object; in JSONL the object"),
        ),
    ),
    Column("tool_call_id", pa.string(), "of a `tool` message: the call it answers; else null"),
    shape="message",
)
TOOLS = Column(
    "tools",
    pa.string(),
    "JSON text of the definitions offered, in the nested shape of chat templates; null where there "
    "are none. In JSONL a list of objects",
)


class NoConversation(Exception):
    """A rollout has no form a trainer could learn from; the reason is for a report."""


@dataclasses.dataclass(frozen=True, slots=True)
class StoredAttempt:
    """What is known of one rollout without its tokens.

    Attributes:
        row: the stored row's columns.
        length: tokens of the final branch up to the policy's last, as the policy counts them.
        sampled_tokens: of them, sampled.
    """

    row: Mapping[str, Any]
    length: int
    sampled_tokens: int

    @property
    def reward(self) -> float | None:
        found: float | None = self.row["reward"]
        return found

    @property
    def truncated(self) -> bool:
        return bool(self.row["status"] == "truncated")

    @property
    def turns_left_out(self) -> int:
        """Turns of the policy that are in no conversation made of it."""
        left = json.loads(self.row["left_out"])
        return sum(1 for items in left for _ in last_items(items))

    @property
    def origin(self) -> dict[str, Any]:
        """Which rollout it was; `task_id` is what the rows of a task have in common."""
        return {name: self.row[name] for name in ("task_id", "rollout_id", "run_id", "environment")}


@dataclasses.dataclass(frozen=True, slots=True)
class StoredConversation:
    """A rollout in chat form.

    Attributes:
        prompt: messages the policy was given to begin with.
        completion: what followed; the last message is the policy's.
        tools: definitions offered, in the nested shape of chat templates.
    """

    prompt: list[Message]
    completion: list[Message]
    tools: list[dict[str, Any]]

    @property
    def messages(self) -> list[Message]:
        return [*self.prompt, *self.completion]


def attempts_of(table: pa.Table) -> list[StoredAttempt]:
    """The rows of a table."""
    return [
        StoredAttempt(
            row=row,
            length=(
                row["turns"][-1]["prompt_length"] + row["turns"][-1]["generation_length"]
                if row["turns"]
                else 0
            ),
            sampled_tokens=sum(turn["generation_length"] for turn in row["turns"]),
        )
        for row in table.to_pylist()
    ]


def conversation_of(attempt: StoredAttempt, reasoning: Reasoning) -> StoredConversation:
    """The chat form of a rollout.

    Whatever the policy was told after its last word is left out, so that a rollout cut short
    after a tool call ends with that call.

    Args:
        attempt: the rollout.
        reasoning: of the policy's messages: kept in `reasoning_content`, put `inline` before
            the content as `<think>…</think>`, or left out.

    Raises:
        NoConversation: it said nothing, or made a call that cannot be read.
    """
    told, response = json.loads(attempt.row["prompt"]), json.loads(attempt.row["response"])
    if any(_is_malformed(item) for item in (*told, *response)):
        raise NoConversation("has a malformed tool call")
    try:
        prompt = messages_from_items(told)
        completion = messages_from_items(response)
    except ValueError:
        raise NoConversation("has items without a chat form") from None
    while completion and completion[-1]["role"] != "assistant":
        completion.pop()
    if not completion:
        raise NoConversation("has no message of the policy")
    last = completion[-1]
    if not last["content"].strip() and not last.get("tool_calls"):
        raise NoConversation("ends with an empty message")
    completion = [_with_reasoning(message, reasoning) for message in completion]
    return StoredConversation(prompt, completion, tools_for_chat(json.loads(attempt.row["tools"])))


def note_turns_left_out(attempts: Sequence[StoredAttempt], tally: ExportCounts) -> None:
    """Count what the policy said in these rollouts and is in none of their conversations."""
    left_out = sum(attempt.turns_left_out for attempt in attempts)
    if left_out:
        tally.noted["turns of edited histories, or beside the task's conversation, left out"] += (
            left_out
        )


def as_objects(messages: Sequence[Message]) -> list[Message]:
    """Messages for JSONL: arguments of calls are objects, which is what chat templates render."""
    return [
        message
        if "tool_calls" not in message
        else {**message, "tool_calls": [_with_object(call) for call in message["tool_calls"]]}
        for message in messages
    ]


def tools_as_text(tools: Sequence[Mapping[str, Any]]) -> str | None:
    """Tool definitions for a Parquet column: JSON, null when there are none."""
    return json.dumps(tools) if tools else None


def plain_text(conversation: StoredConversation) -> tuple[str, str] | None:
    """Prompt and answer, where that is all there is to a conversation: one message each."""
    prompt, completion = conversation.prompt, conversation.completion
    if len(prompt) != 1 or prompt[0]["role"] != "user" or conversation.tools:
        return None
    if len(completion) != 1 or completion[0].get("tool_calls"):
        return None
    return prompt[0]["content"], completion[0]["content"]


def _with_reasoning(message: Message, reasoning: Reasoning) -> Message:
    if "reasoning_content" not in message or reasoning == "keep":
        return message
    rest = {key: value for key, value in message.items() if key != "reasoning_content"}
    if reasoning == "inline":
        thought = message["reasoning_content"]
        rest["content"] = f"<think>\n{thought}\n</think>\n\n{message['content']}"
    return rest


def _is_malformed(item: Mapping[str, Any]) -> bool:
    if item.get("type") != "function_call":
        return False
    try:
        arguments = json.loads(item["arguments"], parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        return True
    return item.get("status") == "incomplete" or not isinstance(arguments, dict)


def without_ids(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as a template shows it: IDs of calls are new in every rollout."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return {**message, "tool_calls": calls, "tool_call_id": None}


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {
        **call,
        "function": {**function, "arguments": json.loads(function["arguments"])},
    }
