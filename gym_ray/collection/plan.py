"""What a collection of a config would run, and what would keep it from running.

Every check that needs no engine is made, as the collection itself makes it, and one that fails
keeps none of the others back. Nothing is started, and nothing is left where the output goes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from gym_ray.authoring.findings import Finding
from gym_ray.collection import preconditions
from gym_ray.collection.cluster_choice import cluster_of, introduction
from gym_ray.collection.input import GENERATED_PREFIX, TaskInput
from gym_ray.collection.manifest import Manifest, is_asked_for_more, require_task, write_manifest
from gym_ray.config.environment import EnvironmentConfig
from gym_ray.config.load import RunConfig, load_config
from gym_ray.config.policy import PolicyConfig
from gym_ray.environment import Environment
from gym_ray.errors import GymRayError
from gym_ray.registry import load_environments, with_agents
from gym_ray.routing import Router
from gym_ray.store.index import contains
from gym_ray.store.run_directory import RunDirectory

T = TypeVar("T")

#: Rows that are no tasks of which the reason is told.
_SHOWN_ROWS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """What would be deployed.

    Attributes:
        name: `policy`, `judges.NAME` or `environments.NAME`.
        what: engine and model, or agent.
        min_replicas, max_replicas: of it.
        num_cpus, num_gpus: that one replica claims.
    """

    name: str
    what: str
    min_replicas: int
    max_replicas: int
    num_cpus: float
    num_gpus: float


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """Rollouts of a run.

    Attributes:
        rollouts: by environment; those of rows that are no tasks are under "".
        done: of them that are there already.
        first_invalid: why the first rows that are no tasks are none.
    """

    rollouts: Mapping[str, int]
    done: int
    first_invalid: Sequence[str]

    @property
    def expected(self) -> int:
        return sum(self.rollouts.values())


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What a collection would be, as far as it can be known.

    Attributes:
        findings: of every check.
        parts: what would be deployed.
        work: what would be run; None where input or output say too little.
    """

    findings: tuple[Finding, ...]
    parts: tuple[Part, ...] = ()
    work: Work | None = None

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)


def plan_of(source: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Check a config and say what a collection of it would run.

    Args:
        source: YAML file.
        overrides: dotted assignments over it.
    """
    findings: list[Finding] = []

    def made(check: str, what: Callable[[], T], about: Callable[[T], str]) -> T | None:
        try:
            found = what()
            findings.append(Finding(check, ok=True, detail=about(found)))
        except GymRayError as error:
            findings.append(Finding(check, ok=False, detail=str(error)))
            return None
        return found

    config = made(
        "config", lambda: with_agents(load_config(source, overrides)), lambda _: str(source)
    )
    if config is None:
        return Plan(tuple(findings))
    made("cluster", lambda: cluster_of(config), lambda _: introduction(config))
    environments = made("environments", lambda: load_environments(config), ", ".join)
    with contextlib.ExitStack() as stack:

        def opened() -> RunDirectory:
            directory = RunDirectory.open(config)
            stack.callback(directory.close)
            return directory

        directory = made("output", opened, _about_output)
        work = None
        if environments is not None:
            work = made("input", lambda: _work(config, environments, directory), _about_input)
        elif not config.collect.input.startswith(GENERATED_PREFIX):
            made("input", lambda: TaskInput(config, {}), lambda found: found.names)
    finished = work is not None and work.done == work.expected

    def check_start() -> str:
        preconditions.check(config)
        if finished:
            return "nothing is left to be run"
        preconditions.check_application(config)
        return "nothing is known to be missing"

    made("start", check_start, str)
    return Plan(tuple(findings), tuple(_parts(config)), work)


def _work(
    config: RunConfig, environments: dict[str, Environment], directory: RunDirectory | None
) -> Work:
    """Read the input, as the collection does, and count.

    Args:
        config: what is collected.
        environments: built.
        directory: of the run; None where it could not be opened, so that it counts as new.
    """
    rollouts: Counter[str] = Counter()
    first_invalid: list[str] = []
    done = 0
    stored = None if directory is None else directory.stored.index().done()
    with tempfile.TemporaryDirectory(prefix="gym-ray-plan-") as folder:
        manifest = _manifest(config, environments, directory, Path(folder, "manifest.parquet"))
        for batch in manifest.batches(["rollout_id", "environment", "error"]):
            rollouts.update(batch.column("environment").to_pylist())
            if stored is not None:
                done += int(contains(stored, batch.column("rollout_id")).sum())
            for error in dict.fromkeys(batch.column("error").drop_null().to_pylist()):
                if error not in first_invalid and len(first_invalid) < _SHOWN_ROWS:
                    first_invalid.append(error)
    return Work(dict(rollouts), done, first_invalid)


def _manifest(
    config: RunConfig,
    environments: dict[str, Environment],
    directory: RunDirectory | None,
    path: Path,
) -> Manifest:
    task_input = TaskInput(config, environments)
    extends: Manifest | None = None
    if directory is not None and directory.manifest.exists():
        extends = Manifest.read(directory.manifest)
        if not is_asked_for_more(extends, config.collect, task_input.fingerprints()):
            return extends
    router = Router(config.environments, environments)
    if extends is None and config.collect.max_failed_share < 1:
        require_task(task_input, router, limit=config.collect.limit)
    return write_manifest(
        path,
        task_input,
        router,
        num_repeats=config.collect.num_repeats,
        limit=config.collect.limit,
        extends=extends,
    )


def _about_output(directory: RunDirectory) -> str:
    state = "continues the run there" if directory.resumed else "a new run"
    return f"{directory.path}: {state}"


def _about_input(work: Work) -> str:
    invalid = work.rollouts.get("", 0)
    told = f"{work.expected} rollouts, {work.done} of them done"
    if not invalid:
        return told
    rows = "; ".join(work.first_invalid)
    return f"{told}, {invalid} of rows that are no tasks and will be failures: {rows}"


def _parts(config: RunConfig) -> Iterator[Part]:
    policies = {"policy": config.policy} | {
        f"judges.{name}": judge for name, judge in config.judges.items()
    }
    for name, policy in policies.items():
        yield _part(name, f"{policy.engine} {policy.model}", policy)
    for name, section in config.environments.items():
        yield _part(f"environments.{name}", f"agent {section.agent}", section)


def _part(name: str, what: str, section: PolicyConfig | EnvironmentConfig) -> Part:
    scale, claims = section.autoscaling, section.resources
    return Part(
        name=name,
        what=what,
        min_replicas=scale.min_replicas,
        max_replicas=scale.max_replicas,
        num_cpus=claims.total("CPU"),
        num_gpus=claims.total("GPU"),
    )


def render(plan: Plan) -> str:
    """A plan as lines of text."""
    lines = [
        f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check}: {finding.detail}"
        for finding in plan.findings
    ]
    lines += [f"would start {_render_part(part)}" for part in plan.parts]
    if plan.work is not None:
        left = plan.work.expected - plan.work.done
        of = ", ".join(f"{n} of {name}" for name, n in plan.work.rollouts.items() if name)
        lines.append(f"would run {left} rollouts{f' (in all {of})' if of else ''}")
    return "\n".join(lines)


def _render_part(part: Part) -> str:
    replicas = f"{part.max_replicas} replica{'s' * (part.max_replicas != 1)}"
    if part.min_replicas != part.max_replicas:
        replicas = f"{part.min_replicas} to {replicas}"
    gpus = f"{part.num_gpus:g} GPU{'s' * (part.num_gpus != 1)}" if part.num_gpus else "no GPU"
    return f"{part.name}: {part.what}, {replicas} with {part.num_cpus:g} CPU and {gpus} each"
