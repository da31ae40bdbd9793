"""Responses-API items as chat messages: what rows hold, as people and chat templates read it.

Pure functions, no tokens. Not owned here: items of what a policy says (renderers/items.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

#: `role`, `content` (str) and, where they apply, `reasoning_content`, `tool_calls`,
#: `tool_call_id`.
Message: TypeAlias = dict[str, Any]


def messages_from_items(items: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Chat messages of a list of items.

    A turn of the policy is several items and one message: reasoning, text and function calls
    that follow each other are merged until something else comes between or a second text
    message starts. `developer` becomes `system`. Fields other systems add to items, such as
    token fields, are left out.

    Raises:
        ValueError: an item's type is not one of the four.
    """
    messages: list[Message] = []
    turn: Message | None = None
    previous = ""
    for item in items:
        kind = item.get("type", "message")
        role = {"developer": "system"}.get(item.get("role", ""), item.get("role", ""))
        if kind == "function_call_output":
            turn = None
            messages.append(
                {
                    "role": "tool",
                    "tool_call_id": item["call_id"],
                    "content": text_of(item["output"]),
                }
            )
        elif kind == "message" and role != "assistant":
            turn = None
            messages.append({"role": role, "content": text_of(item["content"])})
        elif kind in ("message", "function_call", "reasoning"):
            # Within a turn, reasoning comes first, then text, then calls.
            if turn is None or (kind != "function_call" and previous != "reasoning"):
                turn = {"role": "assistant", "content": ""}
                messages.append(turn)
            _add_to_turn(turn, kind, item)
        else:
            raise ValueError(f"item type {kind!r} has no chat form")
        previous = kind
    return messages


def messages_of_json(text: str) -> list[Message]:
    """Chat messages of what a row holds: the JSON text of a list of items.

    Raises:
        ValueError: it is none. Rows of other systems, and pulled ones, may hold anything.
    """
    return messages_from_items(_items(text))


def text_of_json(text: str) -> str:
    """Text of the last assistant message of the JSON text of a list of items, "" without one.

    Raises:
        ValueError: as `messages_of_json`.
    """
    return text_of_items(_items(text))


def text_of_items(items: Sequence[Mapping[str, Any]]) -> str:
    """Text of the last assistant message among `items`, "" when there is none."""
    for item in reversed(items):
        if item.get("type", "message") == "message" and item.get("role") == "assistant":
            return text_of(item["content"])
    return ""


def text_of(content: Any) -> str:
    """Text of an item's content: a text, or a list of text parts."""
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    try:
        text.encode()
    except UnicodeEncodeError:
        # JSON escapes may spell a lone surrogate, which is no character: tokenizers refuse it.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _add_to_turn(turn: Message, kind: str, item: Mapping[str, Any]) -> None:
    match kind:
        case "reasoning":
            earlier = turn.get("reasoning_content")
            text = _reasoning(item)
            turn["reasoning_content"] = text if earlier is None else f"{earlier}\n{text}"
        case "message":
            turn["content"] = text_of(item["content"])
        case _:
            turn.setdefault("tool_calls", []).append(
                {
                    "type": "function",
                    "id": item["call_id"],
                    "function": {"name": item["name"], "arguments": item["arguments"]},
                }
            )


def _reasoning(item: Mapping[str, Any]) -> str:
    """Full reasoning text where the item has it, else its summary."""
    return text_of(item.get("content") or item.get("summary") or "")


def _items(text: str) -> list[dict[str, Any]]:
    try:
        items = json.loads(text)
    except RecursionError:
        raise ValueError("is JSON nested too deeply to be read") from None
    if not isinstance(items, list):
        raise ValueError("is no list of items")
    for item in items:
        _require_item(item)
    return items


def _require_item(item: Any) -> None:
    if not isinstance(item, dict):
        raise ValueError("has an item that is no object")
    match item.get("type", "message"):
        case "message":
            texts, contents = [item.get("role")], [item.get("content")]
        case "function_call":
            texts, contents = [item.get(name) for name in ("call_id", "name", "arguments")], []
        case "function_call_output":
            texts, contents = [item.get("call_id")], [item.get("output")]
        case "reasoning":
            texts, contents = [], [item.get(name) or "" for name in ("content", "summary")]
        case kind:
            raise ValueError(f"has an item of type {kind!r}, which has no chat form")
    readable = all(isinstance(text, str) for text in texts) and all(map(_is_content, contents))
    if not readable:
        raise ValueError(f"has an item of type {item.get('type', 'message')!r} that lacks a text")


def _is_content(content: Any) -> bool:
    if isinstance(content, list):
        return all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content)
    return isinstance(content, str)
