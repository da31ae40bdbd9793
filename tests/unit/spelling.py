"""Clients that send a history back in shapes of their own, and say what they were told."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from gym_ray.renderers.messages import Message

#: Draws one of some values.
Choose = Callable[..., Any]


def spelled(history: list[Message], choose: Choose) -> list[Message]:
    """The same conversation as some client would send it.

    Args:
        history: as the client was told.
        choose: draws one of its arguments.
    """
    messages = [_spelled(message, choose) for message in copy.deepcopy(history)]
    names = choose({}, {"prefix": "toolu_"})
    messages = [_renamed(message, names.get("prefix")) for message in messages]
    return _arranged(messages, choose)


def _spelled(message: Message, choose: Choose) -> Message:
    if message["role"] != "assistant":
        return {**message, "content": _blanks(message["content"], choose)}
    message = dict(message)
    for call in message.get("tool_calls", ()):
        arguments = json.loads(call["function"]["arguments"])
        call["function"]["arguments"] = _json(arguments, choose)
    reasoning = message.pop("reasoning_content", None)
    text = message["content"]
    if not text.strip():
        message["content"] = choose("", None, "\n", "  ") if message.get("tool_calls") else ""
    else:
        message["content"] = choose(_blanks(text, choose), [{"type": "text", "text": text}])
    if reasoning is not None:
        match choose("field", "dropped", "inline"):
            case "field":
                message["reasoning_content"] = _blanks(reasoning, choose)
            case "inline":
                message["content"] = f"<think>\n{reasoning}\n</think>\n\n{text}"
    return message


def _blanks(text: str, choose: Choose) -> str:
    return choose("", "", " ", "\n") + text + choose("", "", "\n\n") if text else text


def _json(arguments: Any, choose: Choose) -> str:
    return json.dumps(
        _other_numbers(arguments, choose),
        sort_keys=choose(False, True),
        indent=choose(None, 1),
        ensure_ascii=choose(False, True),
    )


def _other_numbers(value: Any, choose: Choose) -> Any:
    match value:
        case bool():
            return value
        case int():
            return choose(value, float(value)) if abs(value) < 2**53 else value
        case float() if value.is_integer():
            return choose(value, int(value))
        case dict():
            return {name: _other_numbers(member, choose) for name, member in value.items()}
        case list():
            return [_other_numbers(member, choose) for member in value]
    return value


def _renamed(message: Message, prefix: str | None) -> Message:
    """Other IDs of calls, the same in calls and results."""
    if prefix is None:
        return message
    if message["role"] == "tool":
        message["tool_call_id"] = prefix + message["tool_call_id"]
    for call in message.get("tool_calls", ()):
        call["id"] = prefix + call["id"]
    return message


def _arranged(messages: list[Message], choose: Choose) -> list[Message]:
    """Results in another order, or each right behind its call."""
    arranged: list[Message] = []
    while messages:
        message = messages.pop(0)
        results: list[Message] = []
        while messages and messages[0]["role"] == "tool":
            results.append(messages.pop(0))
        calls = message.get("tool_calls", [])
        manner = choose("together", "reversed", "interleaved", "thought first")
        if not calls or manner == "together":
            arranged += [message, *results]
        elif manner == "reversed":
            arranged += [message, *reversed(results)]
        elif manner == "thought first":
            said = {key: value for key, value in message.items() if key != "tool_calls"}
            if said["content"] or "reasoning_content" in said:
                arranged.append(said)
            arranged += [{"role": "assistant", "content": None, "tool_calls": calls}, *results]
        else:
            answered = {result["tool_call_id"]: result for result in results}
            for number, call in enumerate(calls):
                part = {**message, "tool_calls": [call]}
                arranged.append(part if not number else {"role": "assistant", "tool_calls": [call]})
                arranged += [answered[call["id"]]] if call["id"] in answered else []
    return arranged
