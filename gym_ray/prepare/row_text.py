"""Setting one field of a row and leaving every other character of its text as it was.

A row that is parsed and written again is another text: numbers lose digits, escapes and spaces
change. Prepared rows are told apart from their source only by what was asked to be added.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from gym_ray.task import invalid

_SPACE = re.compile(r"[ \t\n\r]*")


def read_row(raw: bytes) -> tuple[str, Any]:
    """Text and value of a line, which must be strictly JSON.

    Python's parser lets NaN and infinities through, which no other reader takes, and of a key
    that is there twice keeps the last, where others keep the first.

    Raises:
        RolloutFailure: `task_invalid`.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise invalid(f"is not UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        return text, _DECODER.decode(text)
    except ValueError as error:
        raise invalid(f"is not JSON ({error}); write one JSON object per line") from None
    except RecursionError:
        raise invalid("is JSON nested too deeply to be read") from None


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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise invalid(f"field {twice!r} is there twice; which one is meant?")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
