"""The card of an export: a README that says what it is, of what, and what was left out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gym_ray.config.objectives import OBJECTIVES
from gym_ray.export.counts import ExportCounts
from gym_ray.export.licenses import front_matter, shown_licenses
from gym_ray.export.packing import Packing
from gym_ray.store.places import is_remote, open_path
from gym_ray.store.stored_config import Licenses
from gym_ray.store.stored_run import StoredRun, without_config

#: What the card says of the rows of each kind.
_ABOUT = {
    "rl": "Token sequences for policy-gradient training, one row per branch of a rollout.",
    "sft": "Conversations for supervised fine-tuning; the last message is the assistant's.",
    "dpo": "Preference pairs: two answers to the same prompt, the chosen one with more reward.",
    "nemo-gym": "Rollouts, failures and tasks in NeMo Gym's row shapes.",
    "atif": "Trajectories in the Agent Trajectory Interchange Format (ATIF), version 1.7.",
}


@dataclasses.dataclass(frozen=True, slots=True)
class ExportReport:
    """What `export` did; also `DIR/export.json`, where `output` is the folder's name only.

    Attributes:
        kind: `rl`, `sft`, `dpo`, `nemo-gym` or `atif`.
        output: the folder.
        source: what the rollouts are in, as `published_name` has it.
        options: of the recipe: filters and shapes.
        preset: those of them that the run's objective gave.
        license: as given.
        task_licenses: of the environments' declared datasets, by environment and dataset.
        rollouts, groups: read.
        pending: rollouts the run still lacks.
        rows: written, by file.
        dropped, noted: see `ExportCounts`.
        packing: of the rows' lengths; None where there are no rows or lengths.
        environments, models, runs: rollouts read, by origin.
        produced: facts of `run.yaml` about the run: versions, model fingerprint.
        notes: what is not known of the run, and why.
        seconds: wall time.
    """

    kind: str
    output: str
    source: str
    options: Mapping[str, Any]
    preset: Mapping[str, Any]
    license: str | None
    task_licenses: Licenses
    rollouts: int
    groups: int
    pending: int
    rows: Mapping[str, int]
    dropped: Mapping[str, int]
    noted: Mapping[str, int]
    packing: Packing | None
    highest_reward: float | None
    widest_difference: float | None
    environments: Mapping[str, int]
    models: Mapping[str, int]
    runs: Mapping[str, int]
    produced: Mapping[str, Any]
    notes: Sequence[str]
    seconds: float

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, default=str)


def counts_of(tally: ExportCounts) -> dict[str, Any]:
    """A tally's counters as plain dicts, largest first, without zeros."""
    return {
        name: dict(getattr(tally, name).most_common())
        for name in ("environments", "models", "runs")
    } | {
        name: {key: count for key, count in getattr(tally, name).most_common() if count}
        for name in ("dropped", "noted")
    }


def provenance(run: StoredRun, environments: Iterable[str]) -> dict[str, Any]:
    """What the run itself says of an export, as fields of the report.

    Args:
        run: where the rollouts are. One without `run.yaml` says nothing, and a note says that.
        environments: of the rollouts.

    Raises:
        StoredFileError: there is a `run.yaml` that cannot be relied on.
    """
    config = run.config_if_there()
    missing = "licenses of the tasks, filters of an objective, and what produced the rollouts"
    return {
        "task_licenses": run.licenses(environments),
        "produced": {} if config is None else published_facts(config.facts),
        "notes": (without_config(published_name(run.path), missing),) if config is None else (),
    }


def published_facts(run: Mapping[str, Any]) -> dict[str, Any]:
    """The `run` section of a `run.yaml` without where things are on this machine."""
    facts = {key: value for key, value in run.items() if key != "base_directory"}
    source = facts.get("source")
    if isinstance(source, dict) and "path" in source:
        facts["source"] = {**source, "path": published_name(open_path(str(source["path"])))}
    return facts


def published_name(path: Path) -> str:
    """A place as cards tell it: a URL whole, of a folder its name, as exports are published."""
    return str(path) if is_remote(path) else path.resolve().name


def preset_of(run: StoredRun, kind: str) -> dict[str, Any]:
    """Fields of the recipe `kind` as the objective of a run has them; {} for other objectives.

    Of rollouts without `run.yaml`, whose objective nobody knows, the report has a note.

    Raises:
        StoredFileError: there is a `run.yaml` that cannot be relied on.
    """
    config = run.config_if_there()
    objective = None if config is None else config.section("collect").get("objective")
    return dict(OBJECTIVES[objective].filters) if objective == kind else {}


def render(report: ExportReport) -> str:
    """The report for a person at a terminal."""
    rows = ", ".join(f"{count} in {file}" for file, count in report.rows.items())
    lines = [f"{rows} of {report.rollouts} rollouts in {report.groups} groups"]
    if report.preset:
        lines.append(f"  as the run's objective {report.kind} asks: {_preset(report)}")
    lines += [f"  left out: {count} {reason}" for reason, count in report.dropped.items()]
    lines += [f"  {count} {fact}" for fact, count in report.noted.items()]
    lines += [f"  {note}" for note in report.notes]
    if report.pending:
        lines.append(
            f"  the run is not finished: {report.pending} rollouts are pending, so groups may lack "
            "members"
        )
    if not any(report.rows.values()):
        lines.append(_nothing_left(report))
    if report.packing is not None:
        lines.append(_packing(report.packing))
    return "\n".join([*lines, f"dataset: {report.output}"])


#: Rewards that differ by less are equal to whoever asks for pairs.
_LEAST_DIFFERENCE = 1e-9


def _nothing_left(report: ExportReport) -> str:
    """Why an export has no rows, in terms of what its options could change."""
    if report.highest_reward is None:
        return "WARNING: nothing was exported: no rollout has a reward"
    widest, margin = report.widest_difference or 0.0, report.options.get("margin")
    if margin is not None and widest < max(margin - _LEAST_DIFFERENCE, _LEAST_DIFFERENCE):
        return (
            f"WARNING: nothing was exported: rewards of one task differ by {widest:g} at most, and "
            f"pairs of a margin of {margin:g} were asked for"
        )
    if report.options.get("drop_zero_variance") and not widest:
        return (
            "WARNING: nothing was exported: the rewards of every task are equal, and such groups "
            "were to be left out; the highest reward is " + f"{report.highest_reward:g}"
        )
    lowest = report.options.get("min_reward")
    asked = "" if lowest is None else f", and rewards from {lowest:g} on were asked for"
    return (
        f"WARNING: nothing was exported: the highest reward is {report.highest_reward:g}{asked}; "
        "`gym-ray metrics RUN` has the rewards of all environments"
    )


def card(report: ExportReport, names: list[str]) -> str:
    """`README.md` of the export, with the front matter the Hugging Face Hub reads.

    Args:
        report: what was done.
        names: files of the folder.
    """
    # The first format that is there: both hold the same rows.
    data = next((e for e in (".parquet", ".jsonl") if any(n.endswith(e) for n in names)), ".jsonl")
    files = {
        file: f"{file}-*.parquet"
        if data == ".parquet"
        else f"{file}.jsonl"
        if f"{file}.jsonl" in names
        else f"{file}/*.json"
        for file in report.rows
    }
    front: dict[str, Any] = {
        "configs": [
            {"config_name": file, "data_files": [{"split": "train", "path": path}]}
            for file, path in files.items()
        ],
        "tags": ["gym-ray", report.kind],
    }
    front |= (
        front_matter(report.task_licenses)
        if report.license is None
        else {"license": report.license}
    )
    options = {key: value for key, value in report.options.items() if value is not None}
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# gym-ray export: {report.kind}",
        _ABOUT[report.kind],
        "## Provenance",
        table(
            {
                "source": report.source,
                "runs": _counted(report.runs),
                "models": _counted(report.models),
                "environments": _counted(report.environments),
                "license": report.license
                or "not stated: those of the tasks and of the model apply",
                "licenses of the tasks": shown_licenses(report.task_licenses) or "not declared",
                **{f"run: {key}": shown(value) for key, value in report.produced.items()},
            }
        ),
        *report.notes,
        "## Counts",
        table(
            {
                "rollouts read": report.rollouts,
                "groups read": report.groups,
                "rollouts pending in the run": report.pending,
                **{f"rows in {file}": count for file, count in report.rows.items()},
                **{f"left out: {reason}": count for reason, count in report.dropped.items()},
                **dict(report.noted),
            }
        ),
        "## Filters and options",
        table({key: shown(value) for key, value in options.items()}) if options else "None.",
    ]
    if report.preset:
        sections.append(f"By the run's objective `{report.kind}`: {_preset(report)}.")
    if report.packing is not None:
        sections += ["## Lengths", _packing(report.packing)]
    return "\n\n".join(sections) + "\n"


def _preset(report: ExportReport) -> str:
    return ", ".join(f"{key}={shown(value)}" for key, value in report.preset.items())


def _packing(packing: Packing) -> str:
    text = (
        f"{packing.tokens:,} tokens in {packing.rows:,} rows, {packing.sampled_tokens:,} sampled; "
        f"length mean {packing.mean:.0f}, p50 {packing.p50}, p90 {packing.p90}, p99 {packing.p99}, "
        f"longest {packing.longest}; padded to the longest {packing.padded_fill:.0%} full, packed "
        f"{packing.packed_fill:.0%} ({packing.sequences:,} sequences of {packing.length})"
    )
    return text + (f"; {packing.too_long:,} rows are longer" if packing.too_long else "")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name or '(none)'} ({count})" for name, count in counts.items())


def shown(value: Any) -> str:
    """A value in a card."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def table(entries: Mapping[str, Any]) -> str:
    """A Markdown table of names and values."""
    rows = [
        f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in entries.items()
    ]
    return "\n".join(["| | |", "|---|---|", *rows])
