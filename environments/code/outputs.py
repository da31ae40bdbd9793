"""Whether two outputs are the same, as programming contests mean it."""

from __future__ import annotations

import math
import re
from typing import Any


def same_output(found: str, expected: str, float_tolerance: float) -> bool:
    r"""Equal word by word. How words are spread over lines does not count: even one row's expected
    outputs may have them on a line each in one test and all on one line in the next.

    Args:
        float_tolerance: when not 0, words that are numbers, as JSON writes them, are compared by
            value; two whole numbers are still compared exactly.

    >>> same_output("1 2 \n3\n\n", "1 2\n3", 0.0)
    True
    >>> same_output("0.33333", "0.333333", 1e-4)
    True
    """
    found_words, expected_words = found.split(), expected.split()
    return len(found_words) == len(expected_words) and all(
        _same_word(a, b, float_tolerance) for a, b in zip(found_words, expected_words, strict=True)
    )


def same_value(found: Any, expected: Any, float_tolerance: float) -> bool:
    """Equal JSON values; true and false are no numbers, and whole numbers have no tolerance.

    >>> same_value([1, {"a": 0.1}], [1.0, {"a": 0.1}], 0.0)
    True
    >>> same_value(True, 1, 0.0)
    False
    """
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(found, int | float) and isinstance(expected, int | float):
        are_whole = isinstance(found, int) and isinstance(expected, int)
        return found == expected or (not are_whole and _close(found, expected, float_tolerance))
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(
            same_value(a, b, float_tolerance) for a, b in zip(found, expected, strict=True)
        )
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            same_value(value, expected[key], float_tolerance) for key, value in found.items()
        )
    return type(found) is type(expected) and found == expected


#: A number as JSON has them; the fraction and the exponent make it no whole one.
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?P<more>(?:\.\d+)?(?:[eE][+-]?\d+)?)", re.ASCII)


def _same_word(found: str, expected: str, tolerance: float) -> bool:
    if found == expected:
        return True
    numbers = _NUMBER.fullmatch(found), _NUMBER.fullmatch(expected)
    if not tolerance or not numbers[0] or not numbers[1]:
        return False
    if not (numbers[0]["more"] or numbers[1]["more"]):
        return {found, expected} == {"0", "-0"}
    return _close(float(found), float(expected), tolerance)


def _close(found: float, expected: float, tolerance: float) -> bool:
    """Whether two numbers, of which one at most is whole, are as near as the tolerance says."""
    try:
        if not (math.isfinite(found) and math.isfinite(expected)):
            return False
        return tolerance > 0 and math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # a whole number greater than any float
        return False
