"""The README of a published folder: its front matter makes `datasets.load_dataset` find the splits.

Exports bring their own (datasets/card.py). Here are those of runs and of prepared tasks, and the
check of a card that somebody wrote.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from gym_ray.collection.summary import RunSummary
from gym_ray.errors import ConfigError
from gym_ray.export.card import published_facts, shown, table
from gym_ray.export.licenses import front_matter
from gym_ray.store.schema import SCHEMA
from gym_ray.store.stored_config import StoredConfig

#: Types that Arrow and `datasets` call differently.
_DTYPES = {pa.float32(): "float32", pa.float64(): "float64"}


def rollouts_card(summary: RunSummary, config: StoredConfig, license: str | None) -> str:
    """The card of a finished run.

    Args:
        summary: its counts.
        config: its `run.yaml`.
        license: of the dataset, as the Hub calls it; None where it is not stated.
    """
    run = published_facts(config.facts)
    model = config.section("policy").get("model")
    reward = summary.reward
    mean = "none" if reward.mean is None else f"{reward.mean:.4f}"
    sections = [
        "# gym-ray rollouts",
        "Verified rollouts with the token IDs and log-probabilities the policy sampled, one row "
        "per rollout. Columns: docs/dataset.md of gym-ray.",
        "## Provenance",
        table(
            {
                "run": summary.run_id,
                "model": model,
                "environments": ", ".join(summary.environments),
                "sampling": shown(config.section("sampling")),
                "license": license or "not stated: those of the tasks and of the model apply",
                **{f"run: {key}": shown(value) for key, value in run.items() if key != "id"},
            }
        ),
        "## Counts",
        table(
            {
                "rollouts": summary.expected,
                "completed": summary.completed,
                "truncated": summary.truncated,
                "failed": summary.failed,
                "mean reward": f"{mean} over {reward.coverage:.1%} of the rollouts",
                **{f"failed: {kind}": n for kind, n in summary.failure_kinds.items()},
                "rollouts without token columns": summary.without_token_ids,
                "sampled tokens": summary.sampled_tokens,
            }
        ),
    ]
    # `datasets` has no type for maps: it is told to read the other columns, and their types.
    kept = [field for field in SCHEMA if not pa.types.is_map(field.type)]
    front = _front(
        {"rollouts": {"train": "rollouts/*.parquet"}},
        "rollouts",
        {} if license is None else {"license": license},
        columns=[field.name for field in kept],
        dataset_info={"config_name": "rollouts", "features": [_feature(field) for field in kept]},
    )
    return "\n\n".join([front, *sections]) + "\n"


def prepared_card(report: Mapping[str, Any], splits: Sequence[str], license: str | None) -> str:
    """The card of prepared tasks.

    Args:
        report: `report.json` of `gym-ray prepare`.
        splits: the prepared files there are.
        license: of the dataset, as the Hub calls it; None for those of the task files.
    """
    files = report.get("task_files", [])
    stated = {"license": license}
    if license is None:
        # Environments may have datasets of the same name.
        each = {str(number): file.get("license") for number, file in enumerate(files)}
        stated = front_matter({"": each})
    counted = {
        "/".join(filter(None, (file.get("environment"), file.get("name")))): (
            f"{file.get('read')} read, {file.get('rejected')} rejected, "
            f"{file.get('duplicates')} duplicates; license {file.get('license') or 'not stated'}"
        )
        for file in files
    }
    sections = [
        "# gym-ray tasks",
        "Checked task rows for rollouts. In the Parquet files the column `task` is the row's JSON; "
        "in the JSONL files, which `gym-ray collect` and `prepare` read, rows stand as they are.",
        "## Counts",
        table({f"rows in {split}": report["written"].get(split, 0) for split in splits}),
        "## Task files",
        table(counted),
    ]
    # Parquet: the rows of a JSONL file need not have the same keys.
    front = _front({"tasks": {split: f"{split}.parquet" for split in splits}}, "tasks", stated)
    return "\n\n".join([front, *sections]) + "\n"


def checked_card(path: Path, names: Sequence[str]) -> str:
    """The text of a README.md that is to be the card.

    Args:
        path: of the file.
        names: of what is sent.

    Raises:
        ConfigError: its front matter does not say which files the splits are.
    """
    text = path.read_text()
    try:
        patterns = data_patterns(text)
    except (TypeError, KeyError, ValueError, yaml.YAMLError):
        raise ConfigError(
            f"{path}: its front matter has no `configs` with `data_files`, so nobody could load "
            "the dataset; add them, or remove the file to have a card made"
        ) from None
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(f"{path}: its front matter names {pattern}, which is not there")
    return text


def data_patterns(card: str) -> list[str]:
    """The files that are the dataset, as the front matter of a card names them.

    Raises:
        TypeError, KeyError, ValueError, yaml.YAMLError: it does not.
    """
    _, front, _ = card.split("---\n", 2)
    found: list[str] = []
    for config in yaml.safe_load(front)["configs"]:
        data = config["data_files"]
        for item in [data] if isinstance(data, str) else data:
            paths = item if isinstance(item, str) else item["path"]
            found += [paths] if isinstance(paths, str) else paths
    return found


def _front(
    configs: Mapping[str, Mapping[str, str]],
    kind: str,
    stated: Mapping[str, Any],
    *,
    columns: list[str] | None = None,
    dataset_info: Mapping[str, Any] | None = None,
) -> str:
    front: dict[str, Any] = {
        "configs": [
            {
                "config_name": name,
                "data_files": [{"split": split, "path": path} for split, path in splits.items()],
                **({} if columns is None else {"columns": columns}),
            }
            for name, splits in configs.items()
        ],
        "tags": ["gym-ray", kind],
        **stated,
    }
    if dataset_info is not None:
        front["dataset_info"] = dataset_info
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---"


def _feature(field: pa.Field) -> dict[str, Any]:
    """A column as `datasets` writes its type into a card."""
    return {"name": field.name, **_type(field.type)}


def _type(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"struct": [_feature(kind.field(n)) for n in range(kind.num_fields)]}
    if pa.types.is_list(kind):
        of = _type(kind.value_type)
        return {"list": of.get("dtype") or of.get("struct") or of}
    return {"dtype": _DTYPES.get(kind, str(kind))}
