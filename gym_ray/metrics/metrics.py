"""`metrics`: what a dataset of rollouts says about the policy, in one pass over it.

Definitions and their sources are in docs/metrics.md and beside each formula (`scores.py`,
`intervals.py`).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from gym_ray.environment import Environment
from gym_ray.errors import ConfigError, FileAbsent
from gym_ray.metrics.accumulator import Metrics, MetricsAccumulator
from gym_ray.metrics.facts import Report, groups
from gym_ray.metrics.task_scores import Options, TaskScores, score_task
from gym_ray.registry import load_environment
from gym_ray.store.stored_run import StoredRun


@dataclasses.dataclass(frozen=True, slots=True)
class MetricsReport:
    """Metrics of a dataset.

    Attributes:
        rollouts: where it is.
        options: how they were computed.
        overall: of all tasks.
        environments: of each environment's; tasks routed nowhere are under `(none)`.
        notes: why something is missing.
    """

    rollouts: str
    options: Options
    overall: Metrics
    environments: dict[str, Metrics]
    notes: list[str]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)


def metrics(
    rollouts: str | Path,
    options: Options | None = None,
    *,
    tasks: str | Path | None = None,
    report: Report = lambda rollouts: None,
) -> MetricsReport:
    """Compute the metrics of a run directory, complete or not, or of a folder of shards.

    Args:
        rollouts: where they are.
        options: how.
        tasks: a JSONL file to write the scores of every task to.
        report: called now and then with the number of rollouts read.

    Raises:
        ConfigError: there are no rollouts, or options are out of range.
    """
    options = options or Options()
    run, notes = StoredRun.open(rollouts), list[str]()
    overall = MetricsAccumulator()
    environments: dict[str, MetricsAccumulator] = {}
    with _TaskFile(tasks) as file:
        for scored in scored_tasks(run, options, notes, report, overall, environments):
            file.write(scored)
    expected = _expected(run)
    whole = overall.metrics(options, None if expected is None else sum(expected.values()))
    names = sorted({*environments, *(expected or ())})
    by_name = {
        name or "(none)": whole
        if len(names) == 1
        else environments.get(name, MetricsAccumulator()).metrics(
            options, None if expected is None else expected.get(name, 0)
        )
        for name in names
    }
    return MetricsReport(str(rollouts), options, whole, by_name, notes)


def scored_tasks(
    run: StoredRun,
    options: Options,
    notes: list[str],
    report: Report,
    overall: MetricsAccumulator,
    environments: dict[str, MetricsAccumulator],
) -> Iterator[TaskScores]:
    """The scores of every task, counted in the tallies on the way.

    Args:
        run: where the rollouts are.
        options, report: see `metrics`.
        notes: what is left out is added to it.
        overall, environments: what to count in; environments are added as they are met.

    Raises:
        ConfigError: see `metrics`.
    """
    _check(options)
    files = run.files()
    voting = _voting(run, notes, trust=options.trust_run)
    for group in groups(files, voting, report):
        name = group[0].environment
        scored = score_task(group, options, votes=name in voting)
        if name not in environments:
            # While there is one environment, its tally and the overall one are the same.
            if len(environments) == 1:
                environments[next(iter(environments))] = copy.deepcopy(overall)
            environments[name] = MetricsAccumulator() if environments else overall
        overall.add(group, scored)
        if environments[name] is not overall:
            environments[name].add(group, scored)
        yield scored


def _check(options: Options) -> None:
    if options.ks is not None and (not options.ks or min(options.ks) < 1):
        raise ConfigError("k must be whole numbers from 1, e.g. 1,4,16")
    if not 0 < options.confidence < 1:
        raise ConfigError(f"confidence is {options.confidence:g}; write e.g. 0.95")
    if options.resamples < 100:
        raise ConfigError(f"{options.resamples} resamples are too few; take 100 or more")


def _voting(run: StoredRun, notes: list[str], *, trust: bool) -> dict[str, Environment]:
    """Environments of a run that tell the answer a reply settles on."""
    stored = run.config_if_there()
    if stored is None:
        notes.append(f"no majority@k: {run.path} has no run.yaml to say which environments judged")
        return {}
    try:
        config = stored.checked(trust=trust)
    except ConfigError as error:
        notes.append(f"no majority@k: {error}")
        return {}
    found = {}
    for name, section in config.environments.items():
        try:
            environment = load_environment(name, section, config.base_directory)
        except ConfigError as error:
            notes.append(f"no majority@k of {name}: {error}")
            continue
        if type(environment).answer is not Environment.answer:
            found[name] = environment
    return found


def _expected(run: StoredRun) -> Mapping[str, int] | None:
    """Rollouts of the manifest by environment; None without one."""
    try:
        return run.expected
    except FileAbsent:
        return None


class _TaskFile:
    """JSONL of task scores, in place whole or not at all; nothing for None."""

    def __init__(self, path: str | Path | None) -> None:
        self._path = None if path is None else Path(path)
        self._file: IO[str] | None = None

    def __enter__(self) -> _TaskFile:
        if self._path is not None:
            try:
                self._file = open(f"{self._path}.unfinished", "w")
            except OSError as error:
                raise ConfigError(f"{self._path}: cannot be written: {error.strerror}") from None
        return self

    def write(self, scored: TaskScores) -> None:
        if self._file is not None:
            self._file.write(json.dumps(dataclasses.asdict(scored)) + "\n")

    def __exit__(self, kind: type[BaseException] | None, *ended: Any) -> None:
        if self._file is None or self._path is None:
            return
        self._file.close()
        if kind is None:
            os.replace(f"{self._path}.unfinished", self._path)
        else:
            os.unlink(f"{self._path}.unfinished")
