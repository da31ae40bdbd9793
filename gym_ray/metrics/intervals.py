"""How sure a mean over tasks is: bootstrap intervals and paired tests, seeded.

Tasks are what is drawn anew, each with all its rollouts: rollouts of one task resemble each other,
and treating them as independent makes intervals too narrow (Miller 2024, "Adding Error Bars to
Evals", arXiv:2411.00640, section 2.2).

What they do not cover: what would be seen on tasks of another kind, and, with few tasks, anything
better than a rough idea.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

#: Up to so many differences all 2^n sign changes are gone through, instead of some at random.
_EXACT_DIFFERENCES = 12

#: Up to so many tasks of a kind, drawing task by task takes less time than a multinomial draw.
_TASKS_A_KIND = 4

#: How often each kind of task was drawn: numbers held at once, unless one resample has more.
_COUNTS_AT_ONCE = 500_000

#: Numbers of the random signs held at once.
_SIGNS_AT_ONCE = 4_000_000


class Values(NamedTuple):
    """What some tasks add to ratios.

    Attributes:
        sums: [K, M], per kind of task and measure; 0 where the measure is undefined for it.
        weights: [K, M], what the measure counts the task with; 0 where undefined.
        having: [K], how many tasks are of the kind.
    """

    sums: Floats
    weights: Floats
    having: Ints

    @classmethod
    def of(cls, sums: Floats, weights: Floats) -> Values:
        """One task each."""
        return cls(sums, weights, np.ones(len(sums), dtype=np.int64))


def bootstrap_intervals(
    blocks: Iterable[Values], *, confidence: float, resamples: int, seed: int
) -> list[tuple[float, float] | None]:
    """Percentile bootstrap intervals of ratios sum(sums) / sum(weights), one per column.

    Each resample draws as many tasks as there are, with replacement (Efron and Tibshirani 1993, "An
    Introduction to the Bootstrap", chapter 13). The percentiles are those of Hesterberg's expanded
    interval (2015, "What Teachers Should Know About the Bootstrap", The American Statistician 69,
    section 5): with n tasks, Phi(-+ sqrt(n / (n-1)) t_{n-1}), which takes back that the plain
    interval is too narrow when tasks are few.

    Args:
        blocks: the tasks, all with the same measures; gone through twice, one block in memory.
        confidence: e.g. 0.95.
        resamples: how many.
        seed: same seed, same intervals.

    Returns:
        Low and high per column; None where fewer than two tasks count.
    """
    tasks, counted = 0, np.zeros(0)
    for block in blocks:
        tasks += int(block.having.sum())
        counted = block.having @ (block.weights != 0) + (counted if len(counted) else 0)
    measures = len(counted)
    if tasks < 2 or resamples < 1:
        return [None] * measures
    ratios = _resampled(blocks, tasks, measures, resamples, np.random.default_rng(seed))
    found: list[tuple[float, float] | None] = []
    for column in range(measures):
        values = ratios[:, column][np.isfinite(ratios[:, column])]
        if counted[column] < 2 or not len(values):
            found.append(None)
            continue
        tail = _expanded_tail(int(counted[column]), confidence)
        low, high = np.quantile(values, [tail, 1 - tail])
        found.append((float(low), float(high)))
    return found


def interval_at_bound(passed: bool, tasks: int, confidence: float) -> tuple[float, float]:
    """The interval of a share that no task, or every task, adds to, where drawing anew tells
    nothing: all draws are alike.

    The exact binomial interval (Clopper and Pearson 1934, "The Use of Confidence or Fiducial Limits
    Illustrated in the Case of the Binomial", Biometrika 26) at 0 or n of n, whose free end is
    (alpha / 2) ^ (1 / n) away from the other bound.

    Args:
        passed: whether every task passed; none did if not.
        tasks: how many.
        confidence: e.g. 0.95.
    """
    end = ((1 - confidence) / 2) ** (1 / tasks)
    return (float(end), 1.0) if passed else (0.0, float(1 - end))


def interval_of_equal_changes(change: float, tasks: int, confidence: float) -> tuple[float, float]:
    """The interval of a mean change of shares that is -1, 0 or 1 for every task.

    At most a share u = 1 - (alpha / 2) ^ (1 / n) of all tasks changes otherwise, see
    `interval_at_bound`, and none by more than from the one bound to the other.

    Args:
        change: of every task.
        tasks: how many.
        confidence: e.g. 0.95.
    """
    _, others = interval_at_bound(False, tasks, confidence)
    reach = others * (1 + abs(change))
    return max(-1.0, change - reach), min(1.0, change + reach)


def _resampled(
    blocks: Iterable[Values],
    tasks: int,
    measures: int,
    resamples: int,
    rng: np.random.Generator,
) -> Floats:
    """The ratios [resamples, M] of tasks drawn anew.

    Block by block: how many of the tasks left to draw fall into the block is binomial.
    """
    totals = np.zeros((resamples, 2 * measures))
    to_draw, unseen = np.full(resamples, tasks), tasks
    for sums, weights, having in blocks:
        here = int(having.sum())
        drawn = to_draw if here == unseen else rng.binomial(to_draw, here / unseen)
        kinds = np.hstack([sums, weights])
        at_once = max(1, _COUNTS_AT_ONCE // len(kinds))
        for start in range(0, resamples, at_once):
            some = slice(start, start + at_once)
            totals[some] += _times_drawn(drawn[some], having, rng) @ kinds
        to_draw, unseen = to_draw - drawn, unseen - here
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios: Floats = totals[:, :measures] / totals[:, measures:]
    return ratios


def _times_drawn(drawn: Ints, having: Ints, rng: np.random.Generator) -> Floats:
    """How often each kind comes up [R, K] in so many draws [R] of its tasks."""
    tasks = int(having.sum())
    if tasks > _TASKS_A_KIND * len(having):
        return rng.multinomial(drawn, having / tasks).astype(np.float64)
    kind = np.repeat(np.arange(len(having)), having)
    counts = np.empty((len(drawn), len(having)))
    for row, times in enumerate(drawn):
        picked = kind[rng.integers(tasks, size=int(times), dtype=np.int32)]
        counts[row] = np.bincount(picked, minlength=len(having))
    return counts


def sign_flip_p_values(differences: Floats, *, resamples: int, seed: int) -> list[float]:
    """Two-sided p-values of "the mean of paired differences is 0", by changing signs.

    If A and B do not differ, each difference is as likely to have the other sign; p is the share of
    sign changes whose mean is at least as far from 0 as the one seen (Fisher 1935, "The Design of
    Experiments", section 21). All 2^n changes for few differences that are not 0, else so many at
    random, with the one seen counted among them: (1 + b) / (1 + m) (Phipson and Smyth 2010,
    "Permutation P-values Should Never Be Zero", Statistical Applications in Genetics and Molecular
    Biology 9).

    Args:
        differences: [T, M], per task both runs have and measure; 0 where the measure is undefined:
            its sign changes nothing.
        resamples: m.
        seed: same seed, same values.

    Returns:
        One per measure.
    """
    # Sums in another order differ in their last bits.
    sizes = np.abs(differences).sum(axis=0)
    seen = np.array([abs(math.fsum(column)) for column in differences.T])
    thresholds = seen - 1e-9 * np.maximum(1.0, sizes)
    rng = np.random.default_rng(seed)
    extreme = np.zeros(len(seen), dtype=np.int64)
    at_once = max(1, _SIGNS_AT_ONCE // max(1, len(differences)))
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        bits = rng.integers(0, 2, size=(count, len(differences)), dtype=np.int8)
        sums = (2.0 * bits - 1.0) @ differences
        extreme += np.count_nonzero(np.abs(sums) >= thresholds, axis=0)
    found = list((1 + extreme) / (1 + resamples))
    for column, values in enumerate(differences.T):
        moving = values[values != 0]
        if len(moving) <= _EXACT_DIFFERENCES:
            signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(moving))))
            is_extreme = np.abs(signs @ moving) >= thresholds[column]
            found[column] = np.mean(is_extreme)
    return [float(value) for value in found]


def _expanded_tail(tasks: int, confidence: float) -> float:
    """Share of resamples left out on each side."""
    normal = NormalDist()
    quantile = _student_quantile(tasks - 1, normal.inv_cdf((1 + confidence) / 2))
    return normal.cdf(-math.sqrt(tasks / (tasks - 1)) * quantile)


def _student_quantile(degrees: int, z: float) -> float:
    """Quantile of Student's t from the normal one (Abramowitz and Stegun 1964, 26.7.5)."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / degrees**power for power, term in enumerate(terms, start=1))
