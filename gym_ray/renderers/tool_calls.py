"""Attempts at tool calls as an agent is told them, whatever family read them.

Owned here: what makes a call well formed in every family (a name, and an object of arguments that
JSON can carry), the words about one that is not, the name that stands in a call nobody can read,
and what such a call is in a history that is rendered again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gym_ray.renderers.argument_values import decode_json, is_finite
from gym_ray.renderers.messages import Message, ToolCall

if TYPE_CHECKING:
    from renderers.base import ParsedToolCall

#: What is told to the policy about a tool call that cannot be carried out.
_PROBLEMS = {
    "invalid_json": "the tool call's arguments are not JSON",
    "unclosed_block": "the tool call is not closed",
    "missing_name": "the tool call has no function name",
    "malformed_structure": "the tool call needs a name and an object of arguments",
    "unknown_tool": "there is no tool of this name",
}
#: The same where a format has its own words: JSON between tags, and values between tags.
_JSON_PROBLEMS = {
    "invalid_json": "the text between the tool_call tags is not one JSON object",
    "unclosed_block": "the tool call is not closed by </tool_call>",
}
_VALUE_PROBLEMS = {
    "invalid_json": "a value is neither JSON nor text where the tool's schema allows text",
    "malformed_structure": "the tags of the tool call do not fit together",
}
_VALUE_TAGS = re.compile(r"<function=|<parameter|<arg_key|<invoke ")

#: Where a name may stand in a call that cannot be read; a longer one is none.
_NAMES = (
    re.compile(r'"name"\s*:\s*("(?:[^"\\\n]|\\.){0,256}")'),
    re.compile(r"<function=([^>\s]{1,256})>"),
    re.compile(r'<invoke name="([^"\n]{1,256})"'),
    re.compile(r"^\s*<tool_call[\w:]*>\s*([\w.-]{1,256})\s*<(?:arg_key|tool_sep)"),
)


def told_call(attempt: ParsedToolCall, call_id: str) -> ToolCall:
    """The call an attempt comes to, well formed or not.

    Args:
        attempt: as a family read it.
        call_id: its ID.
    """
    name, status = attempt.name, str(attempt.status)
    arguments = _object(attempt.arguments)
    if not _is_name(name):
        name = _name_in(attempt.raw)
        status = "missing_name" if status in ("ok", "unknown_tool") else status
    elif status in ("ok", "unknown_tool") and arguments is None:
        status = "malformed_structure"
    elif status in ("ok", "unknown_tool") and not is_finite(arguments):
        status = "invalid_json"
    if status in ("ok", "unknown_tool") and name and arguments is not None:
        error = None if status == "ok" else f"{status}: {_PROBLEMS[status]}"
        return ToolCall(call_id, name, _as_json(arguments), error)
    words = _PROBLEMS
    if _VALUE_TAGS.search(attempt.raw):
        words = {**words, **_VALUE_PROBLEMS}
    elif attempt.raw.startswith("<tool_call>"):
        words = {**words, **_JSON_PROBLEMS}
    problem = words.get(status, "the tool call could not be read")
    return ToolCall(call_id, name or "", attempt.raw, f"{status}: {problem}")


def readable_history(messages: Sequence[Message]) -> list[Message]:
    """The same messages, calls that cannot be read as the text they were sampled as: families
    write a call's arguments as JSON, and some leave out what is none."""
    return [_readable(message) if message.get("tool_calls") else message for message in messages]


def _readable(message: Message) -> Message:
    functions = [call.get("function") or call for call in message["tool_calls"]]
    unread = [not _is_name(f.get("name")) or _object(f.get("arguments")) is None for f in functions]
    texts = [
        str(function.get("arguments") or "")
        for function, is_text in zip(functions, unread, strict=True)
        if is_text
    ]
    if not texts or not isinstance(message.get("content") or "", str):
        return message
    pairs = zip(message["tool_calls"], unread, strict=True)
    calls = [call for call, is_text in pairs if not is_text]
    content = "\n".join(filter(None, [message.get("content"), *texts]))
    readable = {**message, "content": content, "tool_calls": calls}
    if not calls:
        del readable["tool_calls"]
    return readable


def _object(arguments: Any) -> dict[str, Any] | None:
    if arguments is None:
        return {}
    if isinstance(arguments, str):  # some models quote the object once more
        try:
            arguments = decode_json(arguments)
        except (ValueError, RecursionError):
            return None
    return arguments if isinstance(arguments, dict) else None


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isprintable() and bool(name.strip())


def _name_in(raw: str) -> str:
    """The name that stands in a call that could not be read; "" when there is none."""
    for pattern in _NAMES:
        found = pattern.search(raw)
        if found is None:
            continue
        name = found[1]
        if name.startswith('"'):
            try:
                name = decode_json(name)
            except ValueError:
                continue
        if _is_name(name):
            return str(name)
    return ""


def _as_json(arguments: dict[str, Any]) -> str:
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, legal in JSON only as an escape
        return json.dumps(arguments)
    return text
