"""JSON as its standard has it, and nothing more.

Python's parser takes NaN and infinities, which no other reader takes, makes an infinity of a number
that is too large, and of a key that is there twice keeps the last, where others keep the first.
Whatever is read from outside is read here: one text must not mean two things to two readers.
"""

from __future__ import annotations

import collections
import json
import math
from typing import Any, NoReturn


class InvalidJson(ValueError):
    """A text is not strictly JSON.

    Args:
        reason: why, to follow the name of what was read: "… is not JSON".
        field: name of the key that is there twice, where that is the reason.
    """

    def __init__(self, reason: str, field: str | None = None) -> None:
        super().__init__(reason)
        self.field = field


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Args:
        text: the text; bytes are UTF-8.

    Raises:
        InvalidJson: the text is not strictly JSON, is no UTF-8, or is nested too deeply.
    """
    try:
        return _DECODER.decode(text.decode() if isinstance(text, bytes) else text)
    except InvalidJson:
        raise
    except UnicodeDecodeError as error:
        raise InvalidJson(f"is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except RecursionError:
        raise InvalidJson("is JSON nested too deeply to be read") from None
    except ValueError as error:
        raise InvalidJson(f"is not JSON ({error})") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    counts = collections.Counter(name for name, _ in pairs)
    twice = next(name for name, count in counts.items() if count > 1)
    raise InvalidJson(f"has field {twice!r} twice; which one is meant?", twice)


def refuse_constant(name: str) -> NoReturn:
    """What a decoder of strict JSON does with `NaN` and `Infinity` (its `parse_constant`).

    Raises:
        InvalidJson: always.
    """
    raise InvalidJson(f"is not JSON ({name} is no JSON number)")


def finite_number(text: str) -> float:
    """The number a text is, as a decoder of strict JSON reads it (its `parse_float`).

    Raises:
        InvalidJson: the number is too large to be one.
    """
    number = float(text)
    if not math.isfinite(number):
        raise InvalidJson(f"is not JSON ({text:.40} is too large for a number)")
    return number


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=refuse_constant, parse_float=finite_number
)
