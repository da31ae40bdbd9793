"""Setting one field of a row and leaving every other character of its text as it was.

A row that is parsed and written again is another text: numbers lose digits, escapes and spaces
change. Prepared rows are told apart from their source only by what was asked to be added.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")


def with_field(text: str, row: Mapping[str, Any], key: str, value: Any) -> str:
    """The text of a JSON object with one top-level field set: in its place, or at the end.

    >>> with_field('{"a": 1.10,  "b":[]}', {"a": 1.1, "b": []}, "b", 2)
    '{"a": 1.10,  "b":2}'
    >>> with_field('{"a": 1.10}', {"a": 1.1}, "b", {"c": "é"})
    '{"a": 1.10, "b": {"c": "é"}}'

    Args:
        text: of the object.
        row: the object.
        key: the field.
        value: what it becomes.
    """
    shown = json.dumps(value, ensure_ascii=False)
    if key in row:
        start, end = next(place[1:] for place in _fields(text) if place[0] == key)
        return text[:start] + shown + text[end:]
    end = len(text[: text.rindex("}")].rstrip())
    separator = "" if text[:end].endswith("{") else ", "
    return f"{text[:end]}{separator}{json.dumps(key)}: {shown}{text[end:]}"


def _fields(text: str) -> Iterator[tuple[str, int, int]]:
    """Names of the top-level fields, and where their values begin and end."""
    at = _after_space(text, text.index("{") + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        start = _after_space(text, _after_space(text, at) + 1)
        _, end = _DECODER.raw_decode(text, start)
        yield name, start, end
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # It matches nothing, too.
    return match.end()


#: Of texts that were read strictly before.
_DECODER = json.JSONDecoder()
