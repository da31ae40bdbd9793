"""A rollout for a terminal: what was said, and the verdict.

Rows, replies and tools are not trusted: nothing of theirs reaches the terminal as a control
sequence, and everything of theirs is indented, so that none of it can pose as the verdict.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gym_ray.rollout import Rollout

_INDENT = "  "

#: Characters that change the order others are shown in.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
#: Control and private characters, halves of surrogate pairs, and line ends that are no "\n".
_SHOWN_AS_CODES = frozenset({"Cc", "Cs", "Co", "Zl", "Zp"})


def plain(text: str) -> str:
    """`text` with everything that could act on a terminal shown as its code."""
    return "".join(
        character if character in "\n\t" or not _acts(character) else _code(character)
        for character in text
    )


def plain_line(text: str) -> str:
    """`plain` text on one line."""
    return plain(" ".join(text.split()))


def item_lines(
    item: Mapping[str, Any],
    *,
    policy: str = "policy",
    calls: str = "calls",
    characters: int | None = None,
) -> Iterator[str]:
    """An item of a conversation.

    Args:
        item: in the shape of the Responses API.
        policy: what the policy is called.
        calls: the verb of its calls.
        characters: of each text at most; None for all.
    """
    kind = item.get("type", "message")
    match kind:
        case "function_call":
            name, arguments = plain_line(str(item.get("name"))), str(item.get("arguments"))
            unread = " (cannot be read)" if item.get("status") == "incomplete" else ""
            yield f"{policy} {calls} {name}{unread}"
            yield from _indented(arguments, characters)
        case "function_call_output":
            yield "tool"
            yield from _indented(_text(item.get("output")), characters)
        case "reasoning":
            yield f"{policy}, reasoning"
            yield from _indented(_text(item.get("content") or item.get("summary")), characters)
        case _:
            role = str(item.get("role"))
            yield policy if role == "assistant" else plain_line(role)
            yield from _indented(_text(item.get("content")), characters)


def verdict_lines(rollout: Rollout) -> Iterator[str]:
    """The verdict on a rollout, or why there is none."""
    if rollout.reward is None:
        yield plain_line(f"no verdict: {rollout.error_kind}: {rollout.error}")
    else:
        yield f"verdict: reward {rollout.reward:g}"
    parts = {
        "components": _numbers(rollout.reward_components),
        "metrics": _numbers(rollout.metrics),
        "turns": ", ".join(f"{reward:g}" for reward in rollout.turn_rewards),
        "cut short": rollout.truncation_reason or "",
    }
    for name, values in parts.items():
        if values:
            yield f"{_INDENT}{name}: {plain_line(values)}"


def rollout_lines(rollout: Rollout, *, characters: int | None = None) -> Iterator[str]:
    """A whole rollout; see `item_lines`."""
    items: Sequence[Mapping[str, Any]] = [
        *json.loads(rollout.prompt),
        *json.loads(rollout.response),
    ]
    for item in items:
        yield from item_lines(item, characters=characters)
    yield from verdict_lines(rollout)


def _acts(character: str) -> bool:
    return character in _DIRECTIONS or unicodedata.category(character) in _SHOWN_AS_CODES


def _code(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _indented(text: str, characters: int | None) -> Iterator[str]:
    if characters is not None and len(text) > characters:
        text = f"{text[:characters]}… ({len(text)} characters)"
    for line in plain(text).split("\n"):
        yield f"{_INDENT}{line}" if line else ""


def _text(content: Any) -> str:
    if isinstance(content, str | None):
        return content or ""
    return "".join(str(part.get("text", "")) for part in content)


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())
