"""A rollout as plain text, for a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

from gym_ray.conversation.card import Card, Extract, Passage, S, card_of
from gym_ray.conversation.plain_text import cells, shortened, wrapped

#: Longer lines are hard to read, and narrower columns hold no words.
_MOST_WIDTH = 100
_LEAST_WIDTH = 20
#: What is shown of one text, unless all is asked for.
_LINES = 60
_CHARACTERS = 6_000

_INDENT = "  "
#: What a passage begins with; the lines after it have as many spaces.
_MARKS = {"text": "", "reasoning": "(thinks) ", "call": "-> ", "result": "<- "}


def rollout_text(
    rollout: S, *, width: int | None = None, whole: bool = False, extract: Extract[S] | None = None
) -> str:
    """A rollout to read: the conversation, then the verdict beside what was expected.

    No character of it can steer a terminal, whatever the rollout holds, and no text in it looks as
    if another had said it.

    Args:
        rollout: a `gym_ray.Rollout`.
        width: of a line at most, in cells; None for the terminal's.
        whole: show long texts in full.
        extract: says what counted as the answer, such as
            `lambda rollout: environment.answer(rollout.task, rollout.text)`.
    """
    return "\n".join(_lines(card_of(rollout, extract), width_of(width), whole))


def width_of(width: int | None) -> int:
    """Cells that lines may take: the terminal's, within bounds, unless another width is given."""
    given = shutil.get_terminal_size().columns if width is None else width
    return max(_LEAST_WIDTH, min(given, _MOST_WIDTH) if width is None else given)


def write(text: str) -> None:
    """Print a text where it may have characters that the output's encoding lacks."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _lines(card: Card, width: int, whole: bool) -> Iterator[str]:
    yield from wrapped(card.title, width)
    for speech in card.speeches:
        yield ""
        yield from wrapped(f"{speech.who} ({speech.note})" if speech.note else speech.who, width)
        for passage in speech.passages:
            yield from _passage(passage, width, whole)
    yield ""
    yield "verdict"
    name_cells = max(cells(name) for name, _ in card.facts)
    room = width - len(_INDENT) - name_cells - 2
    for name, value in card.facts:
        start = _INDENT + name + " " * (name_cells - cells(name) + 2)
        if room >= _LEAST_WIDTH:
            yield from _hanging(start, value, width)
        else:
            yield from _hanging(_INDENT, name, width)
            yield from _hanging(2 * _INDENT, value, width)


def _passage(passage: Passage, width: int, whole: bool) -> Iterator[str]:
    start = _INDENT + _MARKS[passage.kind]
    if whole:
        yield from _hanging(start, passage.text, width)
        return
    head, left_out, tail = shortened(passage.text, lines=_LINES, characters=_CHARACTERS)
    yield from _hanging(start, head, width)
    if left_out:
        yield from _hanging(
            " " * len(start),
            f"[{left_out:,} characters left out; show(whole=True) has them]",
            width,
        )
        yield from _hanging(" " * len(start), tail, width)


def _hanging(start: str, text: str, width: int) -> Iterator[str]:
    """Lines that begin under one another, the first one after `start`."""
    for line in wrapped(text, max(1, width - cells(start))):
        yield (start + line).rstrip()
        start = " " * cells(start)
