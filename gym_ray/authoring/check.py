"""`gym-ray env check`: whether an environment does what a run will rely on.

Owned here: what is asked of an environment, and saying in one line what to change. Rollouts run
through the ordinary runner and verifier processes, with replies that are given instead of
sampled; neither Ray nor a model is needed.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import pickle
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np

from gym_ray.agents import AGENTS, Toolbox
from gym_ray.authoring.findings import CheckReport, Finding
from gym_ray.authoring.judges import scripted_judges, unscripted
from gym_ray.authoring.loop_clock import LoopClock
from gym_ray.config.environment import EnvironmentConfig
from gym_ray.config.load import RunConfig, load_config
from gym_ray.environment import judges_asked
from gym_ray.errors import ConfigError, RolloutFailure
from gym_ray.policies.engine import GenerationRequest
from gym_ray.registry import (
    environment_factory,
    idle_tools,
    load_environment,
    require_judges,
    with_agents,
)
from gym_ray.renderers import load_renderer
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.renderers.tokenizers import ByteTokenizer
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.sampling import Sampling
from gym_ray.task import Task, parse_task, rollout_id_of
from gym_ray.turn import Generation, VersionSpan
from gym_ray.verifiers.verification import Verification

#: Example rows that are tried; more would only take longer.
MAX_ROWS = 50

#: Copies of every rollout that run at once to see whether they disturb each other.
COPIES = 8

#: Longest the event loop may stand still: other rollouts of the replica wait meanwhile.
LOOP_PAUSE_SECONDS = 1.0

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
            where an environment that asks a judge has a scripted one.
        name: which environment of the config, where it has several.

    Raises:
        ConfigError: there is no such config, the environment cannot be loaded, or it has no
            example rows.
    """
    file = path
    if path.is_dir():
        own = path / "check.yaml"
        file = own if own.is_file() else path / "config.yaml"
    config = with_agents(load_config(file))
    if name is None:
        if len(config.environments) > 1:
            raise ConfigError(
                f"{file} has several environments; name one with --environment: "
                f"{', '.join(config.environments)}"
            )
        name = next(iter(config.environments))
    if name not in config.environments:
        raise ConfigError(
            f"{file} has no environment {name!r}; it has {', '.join(config.environments)}"
        )
    return asyncio.run(_Check(config, name, file.parent).run())


class _Check:
    def __init__(self, config: RunConfig, name: str, folder: Path) -> None:
        self._config = config
        self._name = name
        self._folder = folder
        self._section: EnvironmentConfig = config.environments[name]
        self._environment = load_environment(name, self._section, config.base_directory)
        self._toolbox = Toolbox(self._environment, self._section.agent_options)
        self._findings: list[Finding] = []

    async def run(self) -> CheckReport:
        environment = type(self._environment).__name__
        self._add("loads", True, f"{environment}, agent {self._section.agent}")
        self._tools()
        tasks = self._tasks()
        if self._judges() and tasks:
            self._pickles(tasks[0])
            factory = environment_factory(self._name, self._section, self._config.base_directory)
            async with Verification(
                self._environment,
                factory,
                processes=2,
                timeout_seconds=self._config.verification.timeout_seconds,
            ) as verification:
                await self._verify_all(tasks, verification)
        return CheckReport(self._name, len(tasks), tuple(self._findings))

    def _add(self, check: str, ok: bool, detail: str) -> None:
        self._findings.append(Finding(check, ok, detail))

    def _judges(self) -> bool:
        """Give the environment its judges; whether it can be judged here at all."""
        require_judges(self._name, self._environment, self._config.judges)
        asked = sorted(judges_asked(self._environment))
        if not asked:
            return True
        if (problem := unscripted(self._config, asked)) is not None:
            self._add("judges", False, problem)
            return False
        self._environment.judges = scripted_judges(self._config, asked, _renderer())
        self._add("judges", True, f"{', '.join(asked)}, scripted")
        return True

    def _tools(self) -> None:
        """Tools that the policy is never offered make every reward that of doing nothing."""
        idle = idle_tools(self._config).get(self._name)
        if idle is not None:
            self._add("tools", False, idle)

    def _tasks(self) -> list[Task]:
        file = self._folder / "data" / "example.jsonl"
        if not file.is_file():
            file = Path(self._config.collect.input)
        if not file.is_file():
            raise ConfigError(
                f"no example rows: write {self._folder / 'data' / 'example.jsonl'}, "
                "five or more tasks a reader can learn the format from"
            )
        tasks, problems = [], []
        lines = [line for line in file.read_bytes().splitlines() if line.strip()]
        for number, line in enumerate(lines[:MAX_ROWS], start=1):
            try:
                task = parse_task(
                    line, task_index=number - 1, source_file=str(file), source_line=number
                )
                self._environment.check_task(task.row)
                tasks.append(task)
            except RolloutFailure as failure:
                problems.append(f"{file}:{number}: row {failure.message}")
        self._add(
            "example rows",
            bool(tasks) and not problems,
            problems[0] if problems else f"{len(tasks)} of {file}" if tasks else f"none in {file}",
        )
        return tasks

    def _pickles(self, task: Task) -> None:
        try:
            pickle.dumps((task, self._section))
            pickle.loads(
                pickle.dumps(
                    environment_factory(self._name, self._section, self._config.base_directory)
                )
            )()
        except Exception as error:
            self._add("pickles", False, f"cannot be built in another process: {error}")
        else:
            self._add("pickles", True, "can be built in another process")

    async def _verify_all(self, tasks: Sequence[Task], verification: Verification) -> None:
        play = functools.partial(self._play, verification=verification)
        golds = [(task, gold) for task in tasks if (gold := self._gold(task)) is not None]
        empty = {task.task_id: await play(task, "") for task in tasks}
        self._report("empty replies", list(empty.values()))
        gold_rollouts = [await play(task, gold) for task, gold in golds]
        if golds:
            self._gold_beats_empty(gold_rollouts, empty)
        else:
            self._add(
                "gold answers",
                True,
                "not checked: gold_answer() returns none for these rows",
            )
        tried = [*golds, *((task, "") for task in tasks)]
        before = [*gold_rollouts, *empty.values()]
        again = [await play(task, reply) for task, reply in tried]
        self._same(
            "determinism",
            before,
            again,
            "verify must depend on nothing but its outcome (no clock, no unseeded randomness)",
        )
        clock = LoopClock()
        async with clock:
            together = await asyncio.gather(
                *(play(task, reply) for task, reply in tried for _ in range(COPIES))
            )
        self._same(
            "concurrency",
            [rollout for rollout in before for _ in range(COPIES)],
            together,
            "one instance serves many rollouts: what belongs to one goes into reset's state",
        )
        await self._odd_replies(tasks[0], play, clock)

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

    def _gold(self, task: Task) -> str | None:
        try:
            return self._environment.gold_answer(task)
        except Exception as error:
            self._add("gold answers", False, f"gold_answer raised {type(error).__name__}: {error}")
            return None

    def _gold_beats_empty(self, golds: Sequence[Rollout], empty: dict[str, Rollout]) -> None:
        wrong = [
            f"line {gold.spec.source_line}: gold {_shown(gold)}, "
            f"empty {_shown(empty[gold.spec.task_id])}"
            for gold in golds
            if not _reward(gold) > _reward(empty[gold.spec.task_id])
        ]
        rewards = [_reward(gold) for gold in golds]
        self._add(
            "gold answers",
            not wrong,
            f"{len(golds)} get {min(rewards):g} to {max(rewards):g}, more than an empty reply"
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

    async def _play(self, task: Task, reply: str, *, verification: Verification) -> Rollout:
        """One rollout in which the policy says `reply` at every turn."""
        renderer = _renderer()
        runner = Runner(
            environment=self._environment,
            agent_name=self._section.agent,
            agent=AGENTS[self._section.agent],
            renderer=renderer,
            model="given",
            generate=_given(reply, renderer.stop_token_ids[0]),
            verification=verification,
            agent_options=self._section.agent_options,
            toolbox=self._toolbox,
        )
        spec = RolloutSpec(
            rollout_id=rollout_id_of(task.task_id, self._name, 0),
            task_id=task.task_id,
            task_index=task.task_index,
            rollout_index=0,
            environment=self._name,
            source_file=task.source_file,
            source_line=task.source_line,
            task=json.dumps(task.row),
        )
        settings = RunSettings(
            run_id="check",
            sampling=Sampling(max_output_tokens=2**20),
            timeout_seconds=self._config.collect.rollout_timeout_seconds,
        )
        return await runner.run(spec, settings, attempt=1)


@functools.cache
def _renderer() -> RolloutRenderer:
    """The ChatML renderer over bytes, which any text fits."""
    return load_renderer(None)


def _given(reply: str, stop_token: int) -> Callable[[GenerationRequest], Awaitable[Generation]]:
    """A policy that says `reply` whatever it is asked."""
    token_ids = ByteTokenizer().encode(reply, split_special_tokens=True)
    tokens = np.asarray([*token_ids, stop_token], dtype=np.int32)

    async def generate(request: GenerationRequest) -> Generation:
        return Generation(
            token_ids=tokens,
            logprobs=np.zeros(len(tokens), dtype=np.float32),
            stop_reason="stop",
            version_spans=(VersionSpan(0, 0, len(tokens)),),
            queued_seconds=0.0,
            generation_seconds=0.0,
        )

    return generate


def _reward(rollout: Rollout) -> float:
    """A failed rollout is worth less than any other here."""
    return -math.inf if rollout.reward is None else rollout.reward


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
