"""Text of others as lines that only say what they say, in so many cells of a terminal.

Covered: control sequences, characters that hide or reorder others, halves of surrogate pairs, and
lines that look as if they were another speaker's (a shown text has its own indentation). Not
covered: letters that look like others.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

_TAB = "    "


def plain(text: str) -> str:
    r"""The text, with a mark such as `\x1b` or `\u202e` for every character that is not seen.

    Line breaks stay, tabs become spaces.
    """
    text = text.replace("\r\n", "\n").replace("\t", _TAB)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(map(_seen, text))


def plain_line(text: object, most: int = 200) -> str:
    """The text on one line and in at most so many characters, of which the last is then `…`."""
    given = str(text)
    # Whatever is cut off anyway is not looked at.
    line = " ".join(plain(given[: 4 * most]).split())
    return line if len(line) <= most and len(given) <= 4 * most else f"{line[: most - 1]}…"


def shortened(text: str, *, lines: int, characters: int) -> tuple[str, int, str]:
    """Beginning and end of a text, and how many characters lie between them.

    Args:
        text: of any length.
        lines: of both together at most, of which the end has a quarter.
        characters: likewise.
    """
    if len(text) <= characters and text.count("\n") < lines:
        return text, 0, ""
    head = "\n".join(text[: characters * 3 // 4].split("\n")[: lines * 3 // 4])
    tail = "\n".join(text[-(characters // 4) :].split("\n")[-(lines // 4) :])
    between = len(text) - len(head) - len(tail)
    return (head, between, tail) if between > 0 else (text, 0, "")


def wrapped(text: str, width: int) -> Iterator[str]:
    """Lines of a plain text, none of them wider; breaks at spaces where there are any."""
    for line in text.split("\n"):
        yield from _wrapped_line(line.rstrip(), width)


def cells(text: str) -> int:
    """Cells of a terminal that a plain text takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _wrapped_line(line: str, width: int) -> Iterator[str]:
    while cells(line) > width:
        end = _fitting(line, width)
        space = line.rfind(" ", 1, end + 1)
        # What is indented, such as code, is not broken before its first word.
        if space > 0 and line[:space].strip():
            end = space
        yield line[:end].rstrip()
        line = line[end:].lstrip(" ")
    yield line


def _fitting(line: str, width: int) -> int:
    """How many of the first characters fit; at least one, so that there is an end."""
    taken = 0
    for number, character in enumerate(line):
        taken += _cells(character)
        if taken > width:
            return max(1, number)
    return len(line)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _seen(character: str) -> str:
    if character == "\n" or character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()
