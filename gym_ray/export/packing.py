"""How well rows of many lengths fill sequences of one length."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Packing:
    """Lengths of rows and what packing them would give.

    Attributes:
        rows, tokens, sampled_tokens: totals.
        mean, p50, p90, p99, longest: of the rows' lengths in tokens; percentiles are lengths that
            occur (nearest rank).
        padded_fill: tokens / (rows * longest): what is not padding when each row has a sequence.
        length: of a packed sequence.
        too_long: rows that are longer, and left out of the next two.
        sequences: packed ones that are needed.
        packed_fill: tokens in them / (sequences * length).
    """

    rows: int
    tokens: int
    sampled_tokens: int
    mean: float
    p50: int
    p90: int
    p99: int
    longest: int
    padded_fill: float
    length: int
    too_long: int
    sequences: int
    packed_fill: float


def packing_of(
    lengths: Mapping[int, int], *, sampled_tokens: int, length: int | None
) -> Packing | None:
    """Statistics of a histogram of lengths; None when it is empty.

    Args:
        lengths: rows by their length in tokens.
        sampled_tokens: of all of them.
        length: of a packed sequence; None for the longest row.
    """
    rows = sum(lengths.values())
    if not rows:
        return None
    tokens = sum(size * count for size, count in lengths.items())
    longest = max(lengths)
    target = length or longest
    fitting = {size: count for size, count in lengths.items() if size <= target}
    sequences = sequences_needed(fitting, target)
    packed = sum(size * count for size, count in fitting.items())
    return Packing(
        rows=rows,
        tokens=tokens,
        sampled_tokens=sampled_tokens,
        mean=tokens / rows,
        p50=_percentile(lengths, rows, 50),
        p90=_percentile(lengths, rows, 90),
        p99=_percentile(lengths, rows, 99),
        longest=longest,
        padded_fill=tokens / (rows * longest) if longest else 0.0,
        length=target,
        too_long=rows - sum(fitting.values()),
        sequences=sequences,
        packed_fill=packed / (sequences * target) if sequences else 0.0,
    )


def sequences_needed(lengths: Mapping[int, int], length: int) -> int:
    """Sequences of `length` that hold all rows, by best fit over decreasing lengths.

    Rows of one length are placed many at a time, each in a sequence of its own, so that time
    goes with the number of distinct lengths: a packing that exists, not the best there is.

    Args:
        lengths: rows by length, none longer than `length`.
    """
    rooms: list[int] = []  # distinct free lengths of sequences, ascending
    free: dict[int, int] = {}  # sequences by free length
    sequences = 0
    for size in sorted((size for size in lengths if size > 0), reverse=True):
        left = lengths[size]
        while left:
            at = bisect.bisect_left(rooms, size)
            if at == len(rooms):
                # As many as are filled with rows of this length alone.
                opened = -(-left // (length // size))
                sequences += opened
                full, rest = divmod(left, length // size)
                _give(rooms, free, length - length // size * size, full)
                _give(rooms, free, length - rest * size, 1 if rest else 0)
                break
            room = rooms[at]
            moved = min(left, free[room])
            free[room] -= moved
            if not free[room]:
                del free[room], rooms[at]
            _give(rooms, free, room - size, moved)
            left -= moved
    return sequences


def _give(rooms: list[int], free: dict[int, int], room: int, count: int) -> None:
    if not count or not room:
        return
    if room not in free:
        bisect.insort(rooms, room)
        free[room] = 0
    free[room] += count


def _percentile(lengths: Mapping[int, int], rows: int, percent: int) -> int:
    wanted, seen = -(-rows * percent // 100), 0
    for size in sorted(lengths):
        seen += lengths[size]
        if seen >= wanted:
            return size
    return max(lengths)
