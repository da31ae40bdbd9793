"""Pieces of HTML for notebooks, in which nothing is but what they say.

All text is escaped and plain (`plain_text.py`); there is no script and no link, and nothing is
fetched. Notebooks typeset mathematics in what they show, whose commands can make links: the classes
of the frame keep them from it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from gym_ray.conversation.plain_text import plain, shortened

_FRAME = "font-family: system-ui, sans-serif; line-height: 1.4; max-width: 70em; text-align: left"
_NOT_TYPESET = "tex2jax_ignore mathjax_ignore no-mathjax"
_BLOCK = (
    "white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.2em 0 0.4em 1em; "
    "background: none; border: 0; padding: 0; text-align: left"
)
_CELL = "text-align: left; vertical-align: top; padding: 0.1em 0.8em 0.1em 0"
_QUIET = "opacity: 0.65"

#: Longer texts are folded, and much longer ones shortened: a notebook keeps what it shows.
_OPEN_LINES = 40
_OPEN_CHARACTERS = 4_000
_MOST_LINES = 5_000
_MOST_CHARACTERS = 100_000


def frame(*parts: str) -> str:
    """Pieces of HTML as one output."""
    return f'<div class="{_NOT_TYPESET}" style="{_FRAME}">{"".join(parts)}</div>'


def escaped(text: object) -> str:
    """Any text as HTML."""
    return html.escape(plain(str(text)))


def heading(text: str, note: str = "") -> str:
    """A line in bold, and what stands beside it."""
    beside = f' <span style="{_QUIET}">{escaped(note)}</span>' if note else ""
    return f'<div style="margin-top: 0.5em"><b>{escaped(text)}</b>{beside}</div>'


def paragraph(text: str) -> str:
    """A line of text."""
    return f"<div>{escaped(text)}</div>"


def block(text: str, *, mark: str = "", name: str = "text", is_folded: bool = False) -> str:
    """A text as it is, with its line breaks; a long one is folded.

    Args:
        text: of any length.
        mark: put before it.
        name: what it is called when it is folded.
        is_folded: fold it though it is short.
    """
    head, left_out, tail = shortened(text, lines=_MOST_LINES, characters=_MOST_CHARACTERS)
    if left_out:
        head = f"{head}\n[{left_out:,} characters left out]\n{tail}"
    inner = f'<pre style="{_BLOCK}">{escaped(mark + head)}</pre>'
    is_long = len(text) > _OPEN_CHARACTERS or text.count("\n") >= _OPEN_LINES
    return folded(f"{name}, {len(text):,} characters", inner) if is_folded or is_long else inner


def folded(title: str, inner: str) -> str:
    """HTML that is seen when its title is clicked."""
    return (
        f'<details style="margin-left: 1em"><summary style="{_QUIET}">{escaped(title)}</summary>'
        f"{inner}</details>"
    )


def table_html(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; without names it has no head."""
    head = "".join(f'<th style="{_CELL}">{escaped(name)}</th>' for name in names)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escaped(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return (
        '<table style="border-collapse: collapse; margin: 0.3em 0">'
        + (f"<thead><tr>{head}</tr></thead>" if head else "")
        + f"<tbody>{body}</tbody></table>"
    )
