"""`gym-ray env check`: whether an environment does what a run will rely on.

Owned here: what is asked of an environment, and saying in one line what to change. Rollouts run
through the ordinary runner and verifier processes, with replies that are given instead of
sampled; neither Ray nor a model is needed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import pickle
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from gym_ray.authoring.conversation import rollout_lines
from gym_ray.authoring.findings import CheckReport, Finding
from gym_ray.authoring.given import Script, follow, script_of
from gym_ray.authoring.loop_clock import LoopClock
from gym_ray.authoring.rehearsal import Rehearsal, byte_renderer
from gym_ray.authoring.subject import Subject, lines_of
from gym_ray.errors import ConfigError, RolloutFailure, one_line
from gym_ray.registry import environment_factory, idle_tools
from gym_ray.rollout import Rollout
from gym_ray.task import Task

#: Example rows that are tried; more would only take longer.
MAX_ROWS = 50

#: Copies of every rollout that run at once to see whether they disturb each other.
COPIES = 8

#: Rollouts at once; the work of many more would look like a loop that stands still.
TOGETHER = 32

#: Longest the event loop may stand still: other rollouts of the replica wait meanwhile.
LOOP_PAUSE_SECONDS = 1.0

#: Characters of each text in the rollout that is shown at the end.
_SHOWN_CHARACTERS = 400

#: Replies no policy should be able to hang or crash a verifier with.
_ODD_REPLIES = {
    "200,000 characters": "((1+" * 50_000,
    "control characters": "\x00\x1b[2J\u202e\ufeff\U0001f9ea" * 50,
    "unclosed markup": "\\boxed{" * 2000 + "<answer>" * 2000 + "```python\n" * 500,
    "deep JSON": "[" * 5000 + "]" * 5000,
}


def check_environment(path: Path, name: str | None = None) -> CheckReport:
    """Check the environment of a folder or of a config file.

    Args:
        path: a folder with `config.yaml`, or the YAML file. In a folder `check.yaml` comes first,
            where an environment that asks a judge has a scripted one; one without either may have
            a config of its name beside it.
        name: which environment of the config, where it has several.

    Raises:
        ConfigError: there is no such config, the environment cannot be loaded, or it has no
            example rows.
    """
    return asyncio.run(_Check(Subject.find(path, name=name)).run())


class _Check:
    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._environment = subject.environment
        self._findings: list[Finding] = []

    async def run(self) -> CheckReport:
        environment = type(self._environment).__name__
        self._add("loads", True, f"{environment}, agent {self._subject.section.agent}")
        self._tools()
        tasks = self._tasks()
        example = ""
        if self._judges() and tasks:
            self._pickles(tasks[0])
            async with Rehearsal(self._subject, processes=2) as rehearsal:
                example = await self._verify_all(tasks, rehearsal)
        return CheckReport(self._subject.name, len(tasks), tuple(self._findings), example)

    def _add(self, check: str, ok: bool, detail: str) -> None:
        self._findings.append(Finding(check, ok, detail))

    def _judges(self) -> bool:
        """Give the environment its judges; whether it can be judged here at all."""
        try:
            asked = self._subject.give_judges(byte_renderer())
        except ConfigError as error:
            self._add("judges", False, str(error))
            return False
        if asked:
            self._add("judges", True, f"{', '.join(asked)}, scripted")
        return True

    def _tools(self) -> None:
        """Tools that the policy is never offered make every reward that of doing nothing."""
        idle = idle_tools(self._subject.config).get(self._subject.name)
        if idle is not None:
            self._add("tools", False, idle)

    def _tasks(self) -> list[Task]:
        file = self._subject.example_file
        if not file.is_file():
            file = self._subject.input_file or file
        if not file.is_file():
            raise ConfigError(
                f"no example rows: write {self._subject.example_file}, "
                "five or more tasks a reader can learn the format from"
            )
        tasks, problems = [], []
        for number, line in itertools.islice(lines_of(file), MAX_ROWS):
            try:
                tasks.append(self._subject.parse(line, number - 1, str(file), number))
            except RolloutFailure as failure:
                problems.append(f"{file}:{number}: row {failure.message}")
        self._add(
            "example rows",
            bool(tasks) and not problems,
            problems[0] if problems else f"{len(tasks)} of {file}" if tasks else f"none in {file}",
        )
        return tasks

    def _pickles(self, task: Task) -> None:
        subject = self._subject
        factory = environment_factory(subject.name, subject.section, subject.config.base_directory)
        try:
            pickle.dumps((task, subject.section))
            pickle.loads(pickle.dumps(factory))()
        except Exception as error:
            self._add("pickles", False, f"cannot be built in another process: {error}")
        else:
            self._add("pickles", True, "can be built in another process")

    async def _verify_all(self, tasks: Sequence[Task], rehearsal: Rehearsal) -> str:
        """One of the rollouts, for a person to read."""

        async def play(task: Task, script: Script) -> Rollout:
            return await rehearsal.play(task, follow(script))

        golds = self._golds(tasks)
        empty = [await play(task, "") for task in tasks]
        self._report("empty replies", empty)
        gold_rollouts = [await play(tasks[index], gold) for index, gold in golds.items()]
        if golds:
            beaten = [empty[index] for index in golds]
            self._gold_beats_empty(list(golds.values()), gold_rollouts, beaten)
        elif not self._has("gold answers"):
            self._add(
                "gold answers",
                True,
                "not checked: gold_answer() returns none for these rows",
            )
        tried: list[tuple[Task, Script]] = [
            *((tasks[index], gold) for index, gold in golds.items()),
            *((task, "") for task in tasks),
        ]
        before = [*gold_rollouts, *empty]
        again = [await play(task, script) for task, script in tried]
        self._same(
            "determinism",
            before,
            again,
            "verify must depend on nothing but its outcome (no clock, no unseeded randomness)",
        )
        clock, crowd = LoopClock(), asyncio.Semaphore(TOGETHER)

        async def among_others(task: Task, script: Script) -> Rollout:
            async with crowd:
                return await play(task, script)

        async with clock:
            together = await asyncio.gather(
                *(among_others(task, script) for task, script in tried for _ in range(COPIES))
            )
        self._same(
            "concurrency",
            [rollout for rollout in before for _ in range(COPIES)],
            together,
            "one instance serves many rollouts: what belongs to one goes into reset's state",
        )
        await self._odd_replies(tasks[0], play, clock)
        played = "the gold answer" if golds else "an empty reply"
        shown = rollout_lines(before[0], characters=_SHOWN_CHARACTERS)
        return "\n".join([f"{played} to line {before[0].spec.source_line}:", *shown])

    async def _odd_replies(
        self, task: Task, play: Callable[[Task, str], Awaitable[Rollout]], clock: LoopClock
    ) -> None:
        started = time.perf_counter()
        failed = {}
        async with clock:
            for name, reply in _ODD_REPLIES.items():
                rollout = await play(task, reply)
                if rollout.status == "failed":
                    failed[name] = f"{rollout.error_kind}: {rollout.error}"
        seconds = time.perf_counter() - started
        self._add(
            "odd replies",
            not failed,
            f"{len(_ODD_REPLIES)} verified in {seconds:.1f} s"
            if not failed
            else "; ".join(f"{name}: {problem}" for name, problem in failed.items()),
        )
        self._add(
            "event loop",
            clock.longest <= LOOP_PAUSE_SECONDS,
            f"stood still for {clock.longest:.2f} s at most"
            + (
                ""
                if clock.longest <= LOOP_PAUSE_SECONDS
                else "; write verify (and tools) as a plain def, which runs elsewhere"
            ),
        )

    def _golds(self, tasks: Sequence[Task]) -> dict[int, Script]:
        """Which tasks have a gold answer, and the policy that gives it."""
        golds: dict[int, Script] = {}
        for index, task in enumerate(tasks):
            try:
                gold = self._environment.gold_answer(task)
            except Exception as error:
                problem = f"gold_answer raised {one_line(error)}"
                self._add("gold answers", False, f"line {task.source_line}: {problem}")
                continue
            try:
                if gold is not None:
                    golds[index] = script_of(gold)
            except ValueError as error:
                self._add("gold answers", False, f"line {task.source_line}: {error}")
        return golds

    def _has(self, check: str) -> bool:
        return any(finding.check == check for finding in self._findings)

    def _gold_beats_empty(
        self,
        golds: Sequence[Script],
        rollouts: Sequence[Rollout],
        empty: Sequence[Rollout],
    ) -> None:
        wrong = [
            f"line {rollout.spec.source_line}: gold {_shown(rollout)}, "
            f"empty {_shown(without)}{_hindrance(script, rollout)}"
            for script, rollout, without in zip(golds, rollouts, empty, strict=True)
            if not _reward(rollout) > _reward(without)
        ]
        lowest, highest = min(rollouts, key=_reward), max(rollouts, key=_reward)
        span = f"{_reward(lowest):g}"
        if _reward(lowest) < _reward(highest):
            span += f" (line {lowest.spec.source_line}) to {_reward(highest):g}"
        self._add(
            "gold answers",
            not wrong,
            f"{len(golds)} get {span}, more than an empty reply"
            if not wrong
            else f"a gold answer must be rewarded more than an empty one; {wrong[0]}",
        )

    def _report(self, check: str, rollouts: Sequence[Rollout]) -> None:
        failed = [rollout for rollout in rollouts if rollout.status == "failed"]
        if failed:
            first = failed[0]
            detail = f"line {first.spec.source_line}: {first.error_kind}: {first.error}"
            self._add(check, False, f"{len(failed)} of {len(rollouts)} failed; {detail}")
        else:
            rewards = [_reward(rollout) for rollout in rollouts]
            self._add(check, True, f"verified, rewards {min(rewards):g} to {max(rewards):g}")

    def _same(
        self, check: str, one: Sequence[Rollout], other: Sequence[Rollout], advice: str
    ) -> None:
        different = [
            f"line {first.spec.source_line}: {_shown(first)}, then {_shown(second)}"
            for first, second in zip(one, other, strict=True)
            if _judged(first) != _judged(second)
        ]
        verdicts = sum(rollout.status != "failed" for rollout in one)
        if different:
            self._add(check, False, f"{len(different)} verdicts differ; {different[0]}; {advice}")
        elif not verdicts:
            self._add(check, False, "there is no verdict to compare: every rollout failed")
        else:
            self._add(check, True, f"{verdicts} verdicts, all the same again")


def _reward(rollout: Rollout) -> float:
    """A failed rollout is worth less than any other here."""
    return -math.inf if rollout.reward is None else rollout.reward


def _hindrance(script: Script, rollout: Rollout) -> str:
    """What may have kept a gold answer from its reward."""
    steps = 1 if isinstance(script, str) else len(script)
    if rollout.reward is not None and len(rollout.turns) < steps:
        return f"; only {len(rollout.turns)} of its {steps} steps were played"
    items = json.loads(rollout.response)
    names = {item.get("call_id"): item["name"] for item in items if "name" in item}
    for item in items:
        output = str(item.get("output", ""))
        if output.startswith("Error: "):
            return f"; {names.get(item['call_id'])} said {output[:200]!r}"
    return ""


def _judged(rollout: Rollout) -> object:
    return (
        rollout.status,
        rollout.reward,
        dict(rollout.reward_components),
        dict(rollout.metrics),
        rollout.error_kind,
    )


def _shown(rollout: Rollout) -> str:
    if rollout.reward is None:
        return f"{rollout.error_kind}: {rollout.error}"
    scores = {**rollout.reward_components, **rollout.metrics}
    return f"reward {rollout.reward:g}" + (f" {scores}" if scores else "")
