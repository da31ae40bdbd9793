"""`ng_collect_rollouts`: our `collect`, and NeMo Gym's files of the run.

Of `+output_jsonl_fpath=DIR/rollouts.jsonl`:

rollouts.jsonl                      rollouts that were verified, sorted
rollouts_failures.jsonl             the others, with `_ng_failure_class` and no reward
rollouts_materialized_inputs.jsonl  the task row of every rollout of the run
rollouts_aggregate_metrics.json     statistics
rollouts_run/                       our run directory: exact tokens, resumable
rollouts_run_inputs.jsonl           the input as rewritten, where arguments change rows

Not owned here: the shape of a row (nemo_gym), statistics (aggregate_metrics).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gym_ray.collection import RunSummary, collect
from gym_ray.collection.input import TaskInput
from gym_ray.collection.manifest import Manifest
from gym_ray.collection.report import demand_complete, render
from gym_ray.compat.aggregate_metrics import write_aggregate_metrics
from gym_ray.compat.arguments import RolloutArguments, parsed
from gym_ray.compat.configs import Configs, read_configs
from gym_ray.config.load import RunConfig
from gym_ray.errors import ConfigError, RolloutFailure
from gym_ray.export.export import export
from gym_ray.export.nemo_gym_rows import FAILURES, ROLLOUTS, NemoGymRecipe
from gym_ray.registry import load_environments
from gym_ray.store.stored_run import StoredRun
from gym_ray.task import read_row


class RolloutFiles:
    """Where everything of a command is.

    Args:
        rollouts: `+output_jsonl_fpath`.

    Attributes:
        failures, inputs, metrics: NeMo Gym's files.
        run: our run directory.
        rewritten: input of the run, where arguments change rows.
        exported: folder that is there only while files are made.
    """

    def __init__(self, rollouts: Path) -> None:
        def beside(name: str) -> Path:
            return rollouts.with_name(f"{rollouts.stem}_{name}")

        self.rollouts = rollouts
        self.failures = beside("failures.jsonl")
        self.inputs = beside("materialized_inputs.jsonl")
        self.metrics = beside("aggregate_metrics.json")
        self.run = beside("run")
        self.rewritten = beside("run_inputs.jsonl")
        self.exported = beside("run_export")


@dataclasses.dataclass(frozen=True, slots=True)
class Collected:
    """What was done.

    Attributes:
        summary: of our run.
        rows: of each of NeMo Gym's files, by path; none before a first rollout is done.
        left_out: rollouts that have no row there, by reason.
        max_failed_share: that the config allows.
    """

    summary: RunSummary
    rows: Mapping[str, int]
    left_out: Mapping[str, int]
    max_failed_share: float

    def to_json(self) -> str:
        """The summary of the run, and the files."""
        tree = json.loads(self.summary.to_json())
        return json.dumps({**tree, "files": self.rows, "left_out": self.left_out}, indent=2)

    def render(self) -> str:
        """The same for a terminal."""
        lines = [f"{path}: {rows} rows" for path, rows in self.rows.items()]
        lines += [f"left out: {count} {reason}" for reason, count in self.left_out.items()]
        return "\n".join([render(self.summary), *lines])


def collect_rollouts(texts: Sequence[str], *, quiet: bool = False) -> Collected:
    """Do what `ng_collect_rollouts` is asked for; `demand` says whether it could be done.

    Args:
        texts: arguments, `+key=value`.
        quiet: no progress on standard error.

    Raises:
        ConfigError: an argument, config, input or output is wrong; nothing was started.
        GymRayError: collection broke; what was collected is kept.
    """
    arguments, overrides = parsed(RolloutArguments, texts)
    files = RolloutFiles(Path(arguments.output_jsonl_fpath))
    configs = read_configs(arguments.config_paths)
    config = _config(configs, arguments, overrides, files)
    _check_output(files, resume=arguments.resume_from_cache)
    _rewrite(config, arguments, files)
    summary = collect(config, quiet=quiet)
    rows: dict[str, int] = {}
    left_out: Mapping[str, int] = {}
    if summary.pending < summary.expected:
        rows, left_out = _write(files, aggregates=not arguments.disable_aggregation, quiet=quiet)
    return Collected(summary, rows, left_out, config.collect.max_failed_share)


def demand(collected: Collected) -> None:
    """Refuse a run that is not whole.

    Raises:
        GymRayError: see `collection.report.demand_complete`.
    """
    demand_complete(
        collected.summary,
        max_failed_share=collected.max_failed_share,
        again="re-issue the same command with +resume_from_cache=true",
    )


def _config(
    configs: Configs, arguments: RolloutArguments, overrides: Sequence[str], files: RolloutFiles
) -> RunConfig:
    """The config of our run. What NeMo Gym has a default for is never the config's."""
    configs.require_ours(overrides)
    if arguments.agent_name is not None:
        name = configs.answering(arguments.agent_name)
        configs.tree["environments"] = {name: configs.tree["environments"][name]}
    else:
        configs.answer_all()
    config = configs.load(overrides)
    given = arguments.responses_create_params.given()
    sampling = {key: given[key] for key in type(config.sampling).model_fields if key in given}
    if arguments.num_repeats_add_seed:
        sampling["seed"] = 0
    collection: dict[str, Any] = {
        "input": str(files.rewritten) if _changes_rows(arguments) else arguments.input_jsonl_fpath,
        "output": str(files.run),
        "num_repeats": arguments.num_repeats or 1,
        "limit": arguments.limit,
    }
    if arguments.num_samples_in_parallel is not None:
        collection["max_in_flight"] = arguments.num_samples_in_parallel
    return config.model_copy(
        update={
            "sampling": config.sampling.model_copy(update=sampling),
            "collect": config.collect.model_copy(update=collection),
        }
    )


def _check_output(files: RolloutFiles, *, resume: bool) -> None:
    """NeMo Gym would clear what is there; rollouts are not taken away here."""
    found = next((path for path in (files.rollouts, files.run) if path.exists()), None)
    if found is not None and not resume:
        raise ConfigError(
            f"+output_jsonl_fpath={files.rollouts}: {found} is there already; add "
            "+resume_from_cache=true to continue it, delete it, or name another file"
        )
    if files.rollouts.exists() and not files.run.exists():
        raise ConfigError(
            f"+resume_from_cache=true: {files.rollouts} was not collected by gym-ray, which "
            f"continues {files.run}; name another file"
        )
    try:
        files.rollouts.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"+output_jsonl_fpath={files.rollouts}: cannot be written: {error.strerror}"
        ) from None


def _changes_rows(arguments: RolloutArguments) -> bool:
    return arguments.agent_name is not None or bool(arguments.responses_create_params.given())


def _rewrite(config: RunConfig, arguments: RolloutArguments, files: RolloutFiles) -> None:
    """Write the input with what the arguments say in every row, where they say something.

    A row's own sampling goes before the config's, and NeMo Gym's arguments before the row's. What
    is no row stays as it is: the run tells what is wrong with it.
    """
    key = "+input_jsonl_fpath"
    rows = TaskInput(config, load_environments(config), name=arguments.input_jsonl_fpath, key=key)
    if not _changes_rows(arguments):
        return
    params = arguments.responses_create_params.given()
    unfinished = files.rewritten.with_name(f"{files.rewritten.name}.unfinished")
    with open(unfinished, "wb") as file:
        for line in rows.lines():
            file.write(_changed(line.raw, arguments.agent_name, params) + b"\n")
    unfinished.replace(files.rewritten)


def _changed(raw: bytes, agent: str | None, params: Mapping[str, Any]) -> bytes:
    row = _row(raw)
    if row is None or not isinstance(row.get("responses_create_params"), dict):
        return raw
    row["responses_create_params"] |= params
    if agent is not None:
        row["agent_ref"] = {"type": "responses_api_agents", "name": agent}
    return json.dumps(row).encode()


def _row(raw: bytes | str) -> dict[str, Any] | None:
    try:
        row = read_row(raw)
    except RolloutFailure:  # Told where the row is run.
        return None
    return row if isinstance(row, dict) else None


def _write(
    files: RolloutFiles, *, aggregates: bool, quiet: bool
) -> tuple[dict[str, int], Mapping[str, int]]:
    """NeMo Gym's files of the run.

    Returns:
        Rows by path, and how many rollouts have none, by reason.
    """
    shutil.rmtree(files.exported, ignore_errors=True)  # Of a command that was killed.
    run = StoredRun.open(files.run)
    report = export(run, files.exported, "nemo-gym", NemoGymRecipe(), format="jsonl", quiet=quiet)
    for name, path in ((ROLLOUTS, files.rollouts), (FAILURES, files.failures)):
        os.replace(files.exported / f"{name}.jsonl", path)
    shutil.rmtree(files.exported)
    manifest = Manifest.read(run.manifest_file)
    expected, of_task = _write_inputs(manifest, files.inputs)
    if aggregates:
        write_aggregate_metrics(files.rollouts, files.metrics, expected, of_task)
    rows = {
        str(files.rollouts): report.rows[ROLLOUTS],
        str(files.failures): report.rows[FAILURES],
        str(files.inputs): sum(expected.values()),
    }
    return rows, report.dropped


def _write_inputs(manifest: Manifest, path: Path) -> tuple[Counter[str], Counter[int]]:
    """The task row of every rollout of the run; lines that are no rows are left out.

    Returns:
        Rows by agent, and by `_ng_task_index`.
    """
    counts: Counter[str] = Counter()
    of_task: Counter[int] = Counter()
    unfinished = path.with_name(f"{path.name}.unfinished")
    with open(unfinished, "w", encoding="utf-8") as file:
        for batch in manifest.batches():
            for spec in batch.to_pylist():
                row = _row(spec["task"])
                if row is None:
                    continue
                if not isinstance(row.get("agent_ref"), dict):
                    name = row.get("agent_ref") or spec["environment"]
                    row["agent_ref"] = {"type": "responses_api_agents", "name": name}
                of_task[row.setdefault("_ng_task_index", spec["task_index"])] += 1
                row["_ng_rollout_index"] = spec["rollout_index"]
                file.write(json.dumps(row) + "\n")
                counts[str(row["agent_ref"].get("name"))] += 1
    unfinished.replace(path)
    return counts, of_task
