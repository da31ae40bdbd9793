"""How often each row is written, to which split, and in which order.

All of it follows from the task ID, so the same rows give the same files, a row that is added moves
no other to another split, and rows of the same content are always on the same side. No random
numbers, no state.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

Row = TypeVar("Row")

#: Hexadecimal digits of a task ID that make a number in [0, 1): 52 bits, exact in a double.
_DIGITS = 13


def is_validation(task_id: str, share: float) -> bool:
    """Whether a row of training data is held out.

    The first 13 hexadecimal digits of the task ID, a SHA-256, are a number in [0, 1); it is when
    that is less than `share`.
    """
    return _fraction(task_id, 0) < share


def copies(task_id: str, weight: float) -> int:
    """How often a row is written: `weight` rounded down, and once more for the share of the rows
    that is left over, those whose task ID's digits 14 to 26 are a number less than that share.
    """
    whole = int(weight)
    return whole + (_fraction(task_id, _DIGITS) < weight - whole)


def interleaved(sequences: Sequence[tuple[int, Iterable[Row]]]) -> Iterator[Row]:
    """Several sequences as one, in which every stretch has of each what the whole has.

    Row i of n stands at (i + 0.5) / n; rows at the same place are in the order of the sequences.

    >>> list(interleaved([(4, "abcd"), (2, "XY")]))
    ['a', 'X', 'b', 'c', 'Y', 'd']

    Args:
        sequences: length and rows of each.
    """
    placed = [
        _placed(order, length, rows) for order, (length, rows) in enumerate(sequences) if length
    ]
    for _, _, row in heapq.merge(*placed, key=lambda place: place[:2]):
        yield row


def _placed(order: int, length: int, rows: Iterable[Row]) -> Iterator[tuple[float, int, Row]]:
    for index, row in enumerate(rows):
        yield (index + 0.5) / length, order, row


def _fraction(task_id: str, start: int) -> float:
    return float(int(task_id[start : start + _DIGITS], 16) / 16**_DIGITS)
