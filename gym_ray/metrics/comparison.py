"""`metrics A B`: two runs on the same tasks, compared task by task.

Pairing takes out how hard the tasks are, which is most of the noise between two means. Each task
counts once, however many rollouts it has in either run. In memory are a key and a number per
measure of every task.
"""

from __future__ import annotations

import array
import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gym_ray.errors import ConfigError
from gym_ray.metrics.accumulator import MetricsAccumulator
from gym_ray.metrics.facts import Report
from gym_ray.metrics.intervals import (
    Floats,
    Values,
    bootstrap_intervals,
    interval_of_equal_changes,
    sign_flip_p_values,
)
from gym_ray.metrics.metrics import scored_tasks
from gym_ray.metrics.task_scores import Options, TaskScores
from gym_ray.metrics.task_values import KINDS_AT_ONCE
from gym_ray.store.stored_run import StoredRun

#: Measures of a task that are shares: their changes lie between -1 and 1.
_SHARES = ("pass@", "pass^")

#: Measures compared beside the reward.
_COMPARED = ("pass@", "pass^", "avg-of-", "majority@")

_KEY_BYTES = 16

Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclasses.dataclass(frozen=True, slots=True)
class MeasureDifference:
    """One measure in both runs, over the tasks for which both have it.

    Attributes:
        before, after: means over tasks, in A and in B.
        difference: after - before.
        interval: bootstrap interval of it, tasks drawn anew with both their values; None for fewer
            than two.
        p_value: of "there is no difference", by changing signs; not corrected for there being
            several measures.
        tasks: compared.
        raised, lowered: tasks by the sign of their difference.
    """

    before: float
    after: float
    difference: float
    interval: tuple[float, float] | None
    p_value: float
    tasks: int
    raised: int
    lowered: int


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """What B does differently from A.

    Attributes:
        a, b: where the rollouts are.
        options: how it was computed.
        only_a, only_b: tasks of one run alone, left out.
        unrewarded: tasks of both that have no reward in one of them, left out.
        reward: mean reward per task.
        scores: by measure.
        environments: difference of the reward, by environment.
        statement: the conclusion on the reward, in words.
        notes: why something is missing.
    """

    a: str
    b: str
    options: Options
    only_a: int
    only_b: int
    unrewarded: int
    reward: MeasureDifference
    scores: dict[str, MeasureDifference]
    environments: dict[str, MeasureDifference]
    statement: str
    notes: list[str]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)


def compare(
    a: str | Path,
    b: str | Path,
    options: Options | None = None,
    *,
    report: Report = lambda rollouts: None,
) -> Comparison:
    """Compare two datasets on the tasks both have, told by `task_id` and environment.

    Raises:
        ConfigError: a dataset is not there, or no task has a reward in both.
    """
    options = options or Options()
    notes: list[str] = []
    before = _Tasks.read(StoredRun.open(a), options, notes, report)
    after = _Tasks.read(StoredRun.open(b), options, notes, report)
    both, rows_a, rows_b = np.intersect1d(before.keys, after.keys, return_indices=True)
    names = [
        "reward",
        *sorted((before.values.keys() & after.values.keys()) - {"reward"}, key=_order),
    ]
    pairs = {name: (before.column(name)[rows_a], after.column(name)[rows_b]) for name in names}
    first, second = pairs["reward"]
    rewarded = ~(np.isnan(first) | np.isnan(second))
    if not rewarded.any():
        raise ConfigError(
            f"{a} and {b} have no task in common that has a reward in both; compare runs on the "
            "same task rows and environments"
        )
    found = _differences(pairs, rewarded, options)
    reward = found.pop("reward")
    environments = np.asarray(before.environments)[rows_a]
    by_environment = {
        name: _differences({"reward": (first, second)}, rewarded & (environments == code), options)
        for name, code in sorted(before.codes.items())
    }
    return Comparison(
        a=str(a),
        b=str(b),
        options=options,
        # A service may be asked for a task at several places: each time is a group of its own.
        only_a=len(np.unique(before.keys)) - len(both),
        only_b=len(np.unique(after.keys)) - len(both),
        unrewarded=len(both) - int(rewarded.sum()),
        reward=reward,
        scores=found,
        environments={
            name or "(none)": part["reward"] for name, part in by_environment.items() if part
        },
        statement=_statement(reward, options),
        notes=list(dict.fromkeys(notes)),
    )


class _Tasks:
    """The measures of every task of a run.

    Attributes:
        keys: [T], of the environment and the task.
        codes: a number per environment.
        environments: [T], whose tasks they are.
        values: by measure, up to the last task that has it; NaN where undefined.
    """

    def __init__(self) -> None:
        self._digests = bytearray()
        self.codes: dict[str, int] = {}
        self.environments = array.array("l")
        self.values: dict[str, array.array[float]] = {}

    @classmethod
    def read(cls, run: StoredRun, options: Options, notes: list[str], report: Report) -> _Tasks:
        tasks = cls()
        for scored in scored_tasks(run, options, notes, report, MetricsAccumulator(), {}):
            tasks._add(scored)
        return tasks

    def _add(self, scored: TaskScores) -> None:
        where = f"{scored.environment}\0{scored.task_id}"
        measures = {name: v for name, v in scored.scores.items() if name.startswith(_COMPARED)}
        if scored.mean_reward is not None:
            measures["reward"] = scored.mean_reward
        for name, value in measures.items():
            column = self.values.setdefault(name, array.array("d"))
            column.extend(itertools.repeat(math.nan, len(self.environments) - len(column)))
            column.append(value)
        self._digests += hashlib.blake2b(where.encode(), digest_size=_KEY_BYTES).digest()
        self.environments.append(self.codes.setdefault(scored.environment, len(self.codes)))

    @property
    def keys(self) -> np.ndarray[Any, np.dtype[np.bytes_]]:
        return np.frombuffer(self._digests, dtype=f"S{_KEY_BYTES}")

    def column(self, name: str) -> Floats:
        """A measure of every task [T]."""
        found = np.full(len(self.environments), math.nan)
        values = self.values.get(name, array.array("d"))
        found[: len(values)] = values
        return found


def _differences(
    pairs: Mapping[str, tuple[Floats, Floats]], of: Bools, options: Options
) -> dict[str, MeasureDifference]:
    """Measures compared over those of the tasks [T] that have them in both runs.

    Args:
        pairs: by measure, of A [T] and of B [T].
        of: [T], which tasks.
        options: how.
    """
    defined = {
        name: of & ~(np.isnan(first) | np.isnan(second)) for name, (first, second) in pairs.items()
    }
    names = [name for name in pairs if defined[name].any()]
    if not names:
        return {}
    weights = np.stack([defined[name] for name in names], axis=1)[of].astype(np.float64)
    changes = np.stack(
        [np.where(defined[name], pairs[name][1] - pairs[name][0], 0.0) for name in names], axis=1
    )[of]
    intervals = bootstrap_intervals(
        [
            Values.of(
                changes[start : start + KINDS_AT_ONCE], weights[start : start + KINDS_AT_ONCE]
            )
            for start in range(0, len(changes), KINDS_AT_ONCE)
        ],
        confidence=options.confidence,
        resamples=options.resamples,
        seed=options.seed,
    )
    for column, name in enumerate(names):
        found = changes[weights[:, column] > 0, column]
        alike = len(found) > 1 and found[0] in (-1.0, 0.0, 1.0) and bool((found == found[0]).all())
        if alike and name.startswith(_SHARES):
            first = float(found[0])
            intervals[column] = interval_of_equal_changes(first, len(found), options.confidence)
    p_values = sign_flip_p_values(changes, resamples=options.resamples, seed=options.seed)
    return {
        name: MeasureDifference(
            before=float(pairs[name][0][defined[name]].mean()),
            after=float(pairs[name][1][defined[name]].mean()),
            difference=math.fsum(changes[:, column]) / int(defined[name].sum()),
            interval=intervals[column],
            p_value=p_values[column],
            tasks=int(defined[name].sum()),
            raised=int(np.count_nonzero(changes[:, column] > 0)),
            lowered=int(np.count_nonzero(changes[:, column] < 0)),
        )
        for column, name in enumerate(names)
    }


def _statement(reward: MeasureDifference, options: Options) -> str:
    level = 1 - options.confidence
    way = "higher" if reward.difference > 0 else "lower"
    seen = (
        "B's mean reward is A's"
        if reward.difference == 0
        else f"B's mean reward is {abs(reward.difference):.4f} {way} than A's"
    )
    if reward.p_value <= level:
        return (
            f"{seen} on {reward.tasks} tasks: significant at the {level:.2g} level "
            f"(p = {reward.p_value:.4g}, paired permutation test)"
        )
    return (
        f"{seen} on {reward.tasks} tasks: not significant at the {level:.2g} level "
        f"(p = {reward.p_value:.4g}, paired permutation test); more tasks or rollouts may tell"
    )


def _order(name: str) -> tuple[int, int]:
    place = next(i for i, measure in enumerate(_COMPARED) if name.startswith(measure))
    return place, int(name.removeprefix(_COMPARED[place]))
