"""Rollouts in one row each, for tables."""

from __future__ import annotations

from collections.abc import Sequence

from gym_ray.conversation.card import Shown, ended
from gym_ray.conversation.items import messages_of_json, text_of_json
from gym_ray.conversation.plain_text import cells, plain_line

#: Characters of what was asked and said.
_MOST = 80


def row_of(rollout: Shown) -> dict[str, str]:
    """What a table may say of a rollout, by the name of the column."""
    return {
        "environment": plain_line(rollout.spec.environment or "(none)", 40),
        "task": str(rollout.spec.task_index),
        "repeat": str(rollout.spec.rollout_index),
        "status": ended(rollout),
        "reward": short_number(rollout.reward),
        "tokens": f"{rollout.sampled_tokens:,}",
        "asked": _asked(rollout.prompt),
        "said": plain_line(rollout.error, _MOST) if rollout.error else _said(rollout.response),
    }


def short_number(value: float | None) -> str:
    """`0.3333`, `none`."""
    return "none" if value is None else f"{value:.4g}"


def table_lines(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """A table in columns; what is too wide for a line is cut off, with `…` in its place."""
    lines = [list(names), *map(list, rows)]
    widths = [max(cells(line[column]) for line in lines) for column in range(len(names))]
    return [_cut("  ".join(map(_padded, line, widths)).rstrip(), width) for line in lines]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def _cut(line: str, width: int) -> str:
    if cells(line) <= width:
        return line
    while cells(line) >= width:
        line = line[:-1]
    return line + "…"


def _asked(prompt: str) -> str:
    """The beginning of the last thing the user said."""
    try:
        messages = messages_of_json(prompt)
    except ValueError:
        return "(unreadable)"
    texts = [message["content"] for message in messages if message["role"] == "user"]
    return plain_line(texts[-1], _MOST) if texts else ""


def _said(response: str) -> str:
    """The beginning of what the policy finally said."""
    try:
        return plain_line(text_of_json(response), _MOST)
    except ValueError:
        return "(unreadable)"
