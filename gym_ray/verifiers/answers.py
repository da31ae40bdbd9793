"""Finding the final answer in what a model wrote. Linear in the text, whatever it holds."""

from __future__ import annotations

import re

# Escaped characters are matched first, so that `\{` and `\}` of set notation do not count.
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{...}`, outermost when nested; None without one.

    >>> last_boxed(r"so \boxed{\frac{1}{2}}, and \boxed{3 was cut")
    '\\frac{1}{2}'
    """
    found: str | None = None
    opened: list[int | None] = []  # where each open box's content starts; None: a plain brace
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "{":
            opened.append(None)
        elif token == "}":
            start = opened.pop() if opened else None
            if start is not None:
                found = text[start : match.start()].strip()
        elif len(token) > 2:
            opened.append(match.end())
    return found


def last_tagged(text: str, tag: str) -> str | None:
    """What stands after the last `<tag>`, up to `</tag>` or the end; None without the tag.

    >>> last_tagged("<answer>3</answer> no, <answer> 4 </answer>.", "answer")
    '4'
    """
    _, opening, rest = text.rpartition(f"<{tag}>")
    return rest.partition(f"</{tag}>")[0].strip() if opening else None


def last_line(text: str) -> str | None:
    """The last line that is not blank; None when all are."""
    stripped = text.strip()
    return stripped.splitlines()[-1].strip() if stripped else None
