"""`metrics A B`: two runs on the same tasks, compared task by task.

Pairing takes out how hard the tasks are, which is most of the noise between two means. Each task
counts once, however many rollouts it has in either run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np

from gym_ray.datasets.facts import Report
from gym_ray.datasets.intervals import Values, bootstrap_intervals, sign_flip_p_value
from gym_ray.datasets.metrics import scored_tasks
from gym_ray.datasets.task_scores import Options, TaskScores
from gym_ray.datasets.task_tally import Tally
from gym_ray.errors import ConfigError
from gym_ray.storage import place

#: Measures compared beside the reward.
_COMPARED = ("pass@", "pass^", "avg-of-", "majority@")


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
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
    reward: Difference
    scores: dict[str, Difference]
    environments: dict[str, Difference]
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
    before = _per_task(place(a), options, notes, report)
    after = _per_task(place(b), options, notes, report)
    both = [key for key in before if key in after]
    values: dict[str, list[tuple[float, float]]] = {}
    by_environment: dict[str, list[tuple[float, float]]] = {}
    unrewarded = 0
    for key in both:
        (name, first), (_, second) = before[key], after[key]
        if "reward" not in first or "reward" not in second:
            unrewarded += 1
            continue
        by_environment.setdefault(name, []).append((first["reward"], second["reward"]))
        for measure in first.keys() & second.keys():
            values.setdefault(measure, []).append((first[measure], second[measure]))
    if "reward" not in values:
        raise ConfigError(
            f"{a} and {b} have no task in common that has a reward in both; compare runs on the "
            "same task rows and environments"
        )
    reward = _difference(values.pop("reward"), options)
    return Comparison(
        a=str(a),
        b=str(b),
        options=options,
        only_a=len(before) - len(both),
        only_b=len(after) - len(both),
        unrewarded=unrewarded,
        reward=reward,
        scores={name: _difference(values[name], options) for name in sorted(values, key=_order)},
        environments={
            name or "(none)": _difference(pairs, options)
            for name, pairs in sorted(by_environment.items())
        },
        statement=_statement(reward, options),
        notes=list(dict.fromkeys(notes)),
    )


def _per_task(
    folder: Path, options: Options, notes: list[str], report: Report
) -> dict[bytes, tuple[str, dict[str, float]]]:
    """Environment and measures of every task, under a short key."""
    found = {}
    for scored in scored_tasks(folder, options, notes, report, Tally(), {}):
        key = hashlib.blake2b(
            f"{scored.environment}\0{scored.task_id}".encode(), digest_size=16
        ).digest()
        found[key] = (scored.environment, _measures(scored))
    return found


def _measures(scored: TaskScores) -> dict[str, float]:
    measures = {name: v for name, v in scored.scores.items() if name.startswith(_COMPARED)}
    if scored.mean_reward is not None:
        measures["reward"] = scored.mean_reward
    return measures


def _difference(pairs: list[tuple[float, float]], options: Options) -> Difference:
    first, second = np.asarray(pairs).T
    differences = second - first
    (interval,) = bootstrap_intervals(
        [Values.of(differences[:, None], np.ones((len(pairs), 1)))],
        confidence=options.confidence,
        resamples=options.resamples,
        seed=options.seed,
    )
    p_value = sign_flip_p_value(differences, resamples=options.resamples, seed=options.seed)
    assert p_value is not None, "there is a pair"
    return Difference(
        before=float(first.mean()),
        after=float(second.mean()),
        difference=math.fsum(differences) / len(pairs),
        interval=interval,
        p_value=p_value,
        tasks=len(pairs),
        raised=int(np.count_nonzero(differences > 0)),
        lowered=int(np.count_nonzero(differences < 0)),
    )


def _statement(reward: Difference, options: Options) -> str:
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
