"""Task files: which rows are prepared, and what for.

They are declared in a config (`environments.NAME.datasets`) or named on the command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Literal

from gym_ray.config.load import RunConfig
from gym_ray.errors import ConfigError

Split = Literal["train", "validation", "example"]

#: Reading order. Of rows with the same content the first is kept, so validation comes before
#: training: what a policy is judged by, it is not trained on.
SPLITS: tuple[Split, ...] = ("validation", "train", "example")


@dataclasses.dataclass(frozen=True, slots=True)
class TaskFile:
    """One source of task rows.

    Attributes:
        split: which prepared file the rows go to.
        path: what `collect.input` takes.
        environment: whose rows these are; None where each row says it.
        name: what reports call it.
        license: of the rows; None where it is not told.
        weight: how often each row is written.
        prompt: path of a YAML file with the prompt template of raw rows; None for rows that have
            an input.
        key: where it was named, for messages.
        agent: `agent_ref` of rows that have none; the environment's name when None.
    """

    split: Split
    path: str
    environment: str | None = None
    name: str = ""
    license: str | None = None
    weight: float = 1.0
    prompt: str | None = None
    key: str = "task file"
    agent: str | None = None


def declared(config: RunConfig, splits: Collection[Split]) -> list[TaskFile]:
    """The task files a config declares for some splits, in reading order.

    Raises:
        ConfigError: there are none.
    """
    files = [
        TaskFile(
            split=dataset.type,
            path=dataset.path,
            environment=environment,
            name=dataset.name,
            license=dataset.license,
            weight=dataset.weight,
            prompt=dataset.prompt,
            key=f"environments.{environment}.datasets.{dataset.name}",
        )
        for environment, section in config.environments.items()
        for dataset in section.datasets
    ]
    wanted = [file for file in files if file.split in splits]
    if wanted:
        return in_reading_order(wanted)
    hint = " (its examples: --examples)" if files and "example" not in splits else ""
    raise ConfigError(
        f"the config declares no datasets of type {' or '.join(sorted(splits))}{hint}; add "
        "environments.NAME.datasets, or name files with --train, --validation or --example"
    )


def named(split: Split, texts: Sequence[str], config: RunConfig) -> list[TaskFile]:
    """Task files of a command line.

    Args:
        split: what for.
        texts: `PATH`, or `ENVIRONMENT=PATH` where the rows do not say whose they are.
        config: has the environments.
    """
    files = []
    for text in texts:
        environment, separator, path = text.partition("=")
        if not separator or environment not in config.environments:
            environment, path = "", text
        files.append(TaskFile(split, path, environment or None, name=path, key=f"--{split}"))
    return files


def in_reading_order(files: Sequence[TaskFile]) -> list[TaskFile]:
    """Validation first; see `SPLITS`."""
    return sorted(files, key=lambda file: SPLITS.index(file.split))
