"""The values of tasks that means and their intervals are made of, in blocks.

Tasks of the same values are counted as one kind: rewards of 0 and 1 make few kinds of however many
tasks. Of more kinds than a block holds, the full blocks wait in a temporary file, so memory does
not grow with the tasks.
"""

from __future__ import annotations

import array
import math
import os
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from gym_ray.metrics.intervals import Floats, Ints

#: Kinds of a block. With twenty measures they take about two megabytes.
KINDS_AT_ONCE = 8192


class Block(NamedTuple):
    """Some kinds of tasks.

    Attributes:
        having: [K], tasks of the kind.
        totals: [K, 2], sum and number of the task's rewards.
        measured: by measure [K], NaN where undefined.
    """

    having: Ints
    totals: Floats
    measured: dict[str, Floats]


class TaskValues:
    """Counts tasks by their values."""

    def __init__(self) -> None:
        # By the names of the measures, and sum and number of rewards and the values, packed.
        self._kinds: Counter[tuple[tuple[str, ...], bytes]] = Counter()
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._full = _Blocks()

    def add(self, total: float, rewards: int, scores: Mapping[str, float]) -> None:
        """Count a task: sum and number of its rewards, and the scores defined for it."""
        names = tuple(scores)
        numbers = array.array("d", [total, rewards, *scores.values()])
        self._kinds[self._names.setdefault(names, names), numbers.tobytes()] += 1
        if len(self._kinds) == KINDS_AT_ONCE:
            self._full.append(self._block())
            self._kinds.clear()

    def __iter__(self) -> Iterator[Block]:
        yield from self._full
        if self._kinds:
            yield self._block()

    def _block(self) -> Block:
        totals = np.zeros((len(self._kinds), 2))
        measured: dict[str, Floats] = {}
        for row, (names, numbers) in enumerate(self._kinds):
            values = np.frombuffer(numbers)
            totals[row] = values[:2]
            for name, value in zip(names, values[2:], strict=True):
                if name not in measured:
                    measured[name] = np.full(len(totals), math.nan)
                measured[name][row] = value
        having = np.fromiter(self._kinds.values(), dtype=np.int64, count=len(self._kinds))
        return Block(having, totals, measured)


class _Blocks:
    """Blocks in a temporary file. Copies write into the same one, each its own blocks."""

    def __init__(self, file: IO[bytes] | None = None, starts: Sequence[int] = ()) -> None:
        # On disk with the first block; it goes with the last copy.
        self._file = file or tempfile.SpooledTemporaryFile(max_size=1, prefix="gym-ray-metrics-")  # noqa: SIM115
        self._starts = list(starts)

    def append(self, block: Block) -> None:
        self._starts.append(self._file.seek(0, os.SEEK_END))
        pickle.dump(block, self._file)

    def __iter__(self) -> Iterator[Block]:
        for start in self._starts:
            self._file.seek(start)
            yield pickle.load(self._file)

    def __deepcopy__(self, memo: Any) -> _Blocks:
        return _Blocks(self._file, self._starts)
