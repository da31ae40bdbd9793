"""The tally of a set of tasks: counts that add up, and per task the scores of the intervals.

Rollouts are gone once counted; the values of tasks wait on disk where they are many.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gym_ray.metrics.facts import Fact
from gym_ray.metrics.intervals import Floats, Values, bootstrap_intervals, interval_at_bound
from gym_ray.metrics.task_scores import Options, TaskScores, sample_std
from gym_ray.metrics.task_values import Block, TaskValues

#: Significant digits of rewards in histograms and quantiles: it bounds how many values there are.
_REWARD_DIGITS = 3

#: A histogram of at most so many values shows each of them; of more, as many equal bins.
_BINS = 10

_UP_TO = "avg-of-up-to-"


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over tasks that says what it is a mean of.

    Attributes:
        fraction: the mean.
        percent: a hundred times it.
        interval: bootstrap interval of `fraction`; None for fewer than two tasks.
        tasks: tasks it is a mean over: those with k rewards or more.
        task_coverage: of all tasks.
    """

    fraction: float
    percent: float
    interval: tuple[float, float] | None
    tasks: int
    task_coverage: float


@dataclasses.dataclass(frozen=True, slots=True)
class MeanReward:
    """The mean over rollouts that have a reward.

    Attributes:
        mean: None when there are none.
        std: sample deviation over rollouts.
        interval: of the mean, tasks drawn anew.
        coverage: rollouts with a reward / rollouts expected.
    """

    mean: float | None
    std: float | None
    interval: tuple[float, float] | None
    coverage: float


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """Mean, extremes and quantiles of a whole number per rollout."""

    mean: float
    min: float
    median: float
    p90: float
    max: float


@dataclasses.dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of a set of tasks.

    Attributes:
        tasks: with at least one rollout stored.
        expected: rollouts of the manifest, where there is one, else those stored.
        completed, truncated, failed, pending: sum to `expected`.
        reward: mean, with interval and coverage.
        scores: by measure: `pass@k`, `pass^k`, `best@k` (unless every reward is 0 or 1, when it is
            pass@k), `avg-of-k`, `avg-of-up-to-k` (as NeMo Gym has it: a task with fewer rewards
            counts with all it has; left out where it is avg-of-k), `majority@k` and `no_answer`
            (where the environment tells answers).
        across_runs: by k, deviation of the k means over tasks, one per rollout index (sample
            deviation), and it over sqrt(k).
        never_passed, sometimes_passed, always_passed: tasks, of those with a reward.
        truncation: truncated rollouts by reason.
        failure_kinds: failed rollouts by kind.
        turns, sampled_tokens, tokens: per rollout that took a turn; `tokens` is the whole sequence.
        histogram: `[low, high, rollouts]` of rewards to three digits; each value, if there are few.
        retried: rollouts of more than one attempt.
        retried_reward_difference: their mean reward minus that of the others.
    """

    tasks: int
    expected: int
    completed: int
    truncated: int
    failed: int
    pending: int
    reward: MeanReward
    scores: dict[str, Estimate]
    across_runs: dict[str, dict[str, float]]
    never_passed: int
    sometimes_passed: int
    always_passed: int
    truncation: dict[str, int]
    failure_kinds: dict[str, int]
    turns: Spread | None
    sampled_tokens: Spread | None
    tokens: Spread | None
    histogram: list[tuple[float, float, int]]
    retried: int
    retried_reward_difference: float | None


class MetricsAccumulator:
    """Counts tasks one after the other."""

    def __init__(self) -> None:
        self._tasks = 0
        self._status: Counter[str] = Counter()
        self._truncation: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._turns: Counter[float] = Counter()
        self._sampled: Counter[float] = Counter()
        self._tokens: Counter[float] = Counter()
        self._rewards: Counter[float] = Counter()
        # Of first tries and of retried rollouts: rewards, and their sum.
        self._attempts: Counter[bool] = Counter()
        self._tried = {False: [0.0, 0.0], True: [0.0, 0.0]}
        self._moments = _Moments()
        self._passing: Counter[str] = Counter()
        self._is_binary = True
        self._values = TaskValues()
        # By k, the sum of the i-th rewards of the tasks that have k, and how many these are.
        self._runs: dict[int, list[float]] = {}
        self._run_tasks: Counter[int] = Counter()

    def add(self, group: Sequence[Fact], scored: TaskScores) -> None:
        """Count one task."""
        rewards = [fact.reward for fact in group if fact.reward is not None]
        for fact in group:
            self._count(fact)
        if rewards:
            share = scored.passed / len(rewards)
            self._passing["never" if share == 0 else "always" if share == 1 else "sometimes"] += 1
        self._values.add(math.fsum(rewards), len(rewards), scored.scores)
        for name in scored.scores:
            measure, _, k = name.rpartition("-of-")
            if measure == "avg":
                runs = self._runs.setdefault(int(k), [0.0] * int(k))
                for position in range(int(k)):
                    runs[position] += rewards[position]
                self._run_tasks[int(k)] += 1
        self._tasks += 1

    def _count(self, fact: Fact) -> None:
        self._status[fact.status] += 1
        if fact.status == "truncated":
            self._truncation[str(fact.truncation_reason)] += 1
        if fact.error_kind is not None:
            self._failures[fact.error_kind] += 1
        if fact.turns:
            self._turns[fact.turns] += 1
            self._sampled[fact.sampled_tokens] += 1
            self._tokens[fact.tokens] += 1
        is_retried = fact.attempts > 1
        self._attempts[is_retried] += 1
        if fact.reward is None:
            return
        self._tried[is_retried][0] += 1
        self._tried[is_retried][1] += fact.reward
        self._moments.add(fact.reward)
        self._is_binary = self._is_binary and fact.reward in (0.0, 1.0)
        self._rewards[float(f"{fact.reward:.{_REWARD_DIGITS}g}")] += 1

    def metrics(self, options: Options, expected: int | None) -> Metrics:
        """What was counted; `expected` rollouts, or None where that is not known."""
        stored = self._status.total()
        total = stored if expected is None else expected
        reward, scores = self._estimates(options, total)
        return Metrics(
            tasks=self._tasks,
            expected=total,
            completed=self._status["completed"],
            truncated=self._status["truncated"],
            failed=self._status["failed"],
            pending=total - stored,
            reward=reward,
            scores=scores,
            across_runs=self._across_runs(),
            never_passed=self._passing["never"],
            sometimes_passed=self._passing["sometimes"],
            always_passed=self._passing["always"],
            truncation=dict(self._truncation.most_common()),
            failure_kinds=dict(self._failures.most_common()),
            turns=_spread(self._turns),
            sampled_tokens=_spread(self._sampled),
            tokens=_spread(self._tokens),
            histogram=_histogram(self._rewards),
            retried=self._attempts[True],
            retried_reward_difference=self._retried_difference(),
        )

    def _estimates(self, options: Options, expected: int) -> tuple[MeanReward, dict[str, Estimate]]:
        counted = 0
        names = _reported(self._values, best=not self._is_binary)
        columns = _Columns(self._values, names)
        sums, tasks = np.zeros(1 + len(names)), np.zeros(1 + len(names), dtype=np.int64)
        for block in columns:
            sums += [math.fsum(column) for column in (block.having[:, None] * block.sums).T]
            tasks += block.having @ (block.weights != 0)
            counted += int(block.having @ block.weights[:, 0])
        intervals = bootstrap_intervals(
            columns,
            confidence=options.confidence,
            resamples=options.resamples,
            seed=options.seed,
        )
        reward = MeanReward(
            mean=self._moments.mean if counted else None,
            std=self._moments.std,
            interval=intervals[0] if intervals else None,
            coverage=counted / expected if expected else 0.0,
        )
        scores = {}
        for column, name in enumerate(names, start=1):
            fraction, interval = float(sums[column] / tasks[column]), intervals[column]
            if name.startswith(_SHARES) and interval is not None and fraction in (0.0, 1.0):
                interval = interval_at_bound(
                    fraction == 1.0, int(tasks[column]), options.confidence
                )
            scores[name] = Estimate(
                fraction,
                100 * fraction,
                interval,
                int(tasks[column]),
                int(tasks[column]) / self._tasks,
            )
        return reward, scores

    def _across_runs(self) -> dict[str, dict[str, float]]:
        """Deviations as NeMo Gym's `std_dev_across_runs` and `std_err_across_runs`."""
        found = {}
        for k, runs in sorted(self._runs.items()):
            if k < 2:
                continue
            means = [total / self._run_tasks[k] for total in runs]
            std = sample_std(means, math.fsum(means) / k)
            found[str(k)] = {"std": std, "standard_error": std / math.sqrt(k)}
        return found

    def _retried_difference(self) -> float | None:
        (first, first_sum), (again, again_sum) = self._tried[False], self._tried[True]
        return again_sum / again - first_sum / first if first and again else None


#: Measures that are shares of passes whatever the rewards are.
_SHARES = ("pass@", "pass^", "majority@")


class _Columns:
    """The values of each block of tasks: rewards, then the measures. Can be read repeatedly."""

    def __init__(self, values: TaskValues, names: Sequence[str]) -> None:
        self._values = values
        self._names = names

    def __iter__(self) -> Iterator[Values]:
        for block in self._values:
            sums = np.zeros((len(block.having), 1 + len(self._names)))
            weights = np.zeros_like(sums)
            sums[:, 0], weights[:, 0] = block.totals.T
            for column, name in enumerate(self._names, start=1):
                values = _measured(block, name)
                is_defined = ~np.isnan(values)
                sums[:, column] = np.where(is_defined, values, 0.0)
                weights[:, column] = is_defined
            yield Values(sums, weights, block.having)


def _reported(values: TaskValues, *, best: bool) -> list[str]:
    """The measures there are, with `avg-of-up-to-k` for every k some task with rewards has not.

    Args:
        values: of all tasks.
        best: whether `best@k` is one of them.
    """
    measures = {name for block in values for name in block.measured}
    averages = [name for name in measures if name.startswith("avg-of-")]
    for block in values:
        for name in averages:
            is_short = np.isnan(_measured(block, name)) & (block.totals[:, 1] > 0)
            if is_short.any():
                measures.add(name.replace("avg-of-", _UP_TO))
    return sorted(
        (name for name in measures if best or not name.startswith("best@")), key=_reading_order
    )


def _measured(block: Block, name: str) -> Floats:
    """A measure of the tasks of a block [K], NaN where undefined."""
    if not name.startswith(_UP_TO):
        return block.measured.get(name, np.full(len(block.having), math.nan))
    values = _measured(block, name.replace(_UP_TO, "avg-of-"))
    total, rewards = block.totals.T
    whole = total / np.where(rewards > 0, rewards, math.nan)
    return np.where(np.isnan(values), whole, values)


class _Moments:
    """Mean and deviation of a stream (Welford 1962, Technometrics 4)."""

    def __init__(self) -> None:
        self._count, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        self._count += 1
        before = value - self.mean
        self.mean += before / self._count
        self._squares += before * (value - self.mean)

    @property
    def std(self) -> float | None:
        return math.sqrt(self._squares / (self._count - 1)) if self._count > 1 else None


def _reading_order(name: str) -> tuple[int, int]:
    measures = ("pass@", "pass^", "best@", _UP_TO, "avg-of-", "majority@")
    for place, measure in enumerate(measures):
        if name.startswith(measure):
            return place, int(name.removeprefix(measure))
    return len(measures), 0


def _spread(counted: Mapping[float, int]) -> Spread | None:
    if not counted:
        return None
    values = sorted(counted)
    reached = np.cumsum([counted[value] for value in values])
    total = int(reached[-1])

    def quantile(share: float) -> float:
        """The smallest value that at least this share of rollouts do not exceed."""
        return values[int(np.searchsorted(reached, math.ceil(share * total)))]

    mean = math.fsum(value * count for value, count in counted.items()) / total
    return Spread(mean, values[0], quantile(0.5), quantile(0.9), values[-1])


def _histogram(counted: Mapping[float, int]) -> list[tuple[float, float, int]]:
    values: list[Any] = sorted(counted)
    if len(values) <= _BINS:
        return [(value, value, counted[value]) for value in values]
    counts, edges = np.histogram(values, bins=_BINS, weights=[counted[value] for value in values])
    pairs = zip(edges[:-1], edges[1:], counts, strict=True)
    return [(float(low), float(high), int(count)) for low, high, count in pairs]
