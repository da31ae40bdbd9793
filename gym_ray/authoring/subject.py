"""What an author works on: one environment of a config, and rows to try it on."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from gym_ray.agents import AGENTS
from gym_ray.authoring.judges import scripted_judges, unscripted
from gym_ray.config.environment import EnvironmentConfig
from gym_ray.config.load import RunConfig, load_config
from gym_ray.environment import Environment, judges_asked
from gym_ray.errors import ConfigError, RolloutFailure
from gym_ray.registry import load_environment, require_judges, with_agents
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.task import Task, parse_task


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """One environment of a config.

    Attributes:
        config: the whole of it, with its agents chosen.
        name: of the environment.
        folder: where its example rows are looked for.
        environment: the same, built.
    """

    config: RunConfig
    name: str
    folder: Path
    environment: Environment

    @classmethod
    def find(cls, path: Path, overrides: Sequence[str] = (), name: str | None = None) -> Subject:
        """The environment of a folder or of a config file.

        Args:
            path: a YAML file; or a folder, with its config in it or of its name beside it.
            overrides: dotted assignments over the config.
            name: which environment of the config, where it has several.

        Raises:
            ConfigError: there is no such config, or the environment cannot be loaded.
        """
        file = _config_file(path)
        config = with_agents(load_config(file, overrides))
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
        environment = load_environment(name, config.environments[name], config.base_directory)
        require_judges(name, environment, config.judges)
        return cls(config, name, path if path.is_dir() else file.parent, environment)

    @property
    def section(self) -> EnvironmentConfig:
        """The environment's section of the config."""
        return self.config.environments[self.name]

    @property
    def agent(self) -> str:
        """The loop its rollouts are played in here; no agent outside is started."""
        return self.section.agent if self.section.agent in AGENTS else "single_turn"

    def give_judges(self, renderer: RolloutRenderer) -> list[str]:
        """Give the environment the judges it asks.

        Args:
            renderer: of the scripted policies they are.

        Returns:
            Their names.

        Raises:
            ConfigError: one of them is not scripted.
        """
        asked = sorted(judges_asked(self.environment))
        if asked:
            if (problem := unscripted(self.config, asked)) is not None:
                raise ConfigError(problem)
            self.environment.judges = scripted_judges(self.config, asked, renderer)
        return asked

    @property
    def example_file(self) -> Path:
        """Where the example rows are."""
        return self.folder / "data" / "example.jsonl"

    @property
    def input_file(self) -> Path | None:
        """`collect.input`, where that is a file."""
        given = Path(self.config.collect.input)
        for file in (given, Path(self.config.base_directory) / given):
            if file.is_file():
                return file
        return None

    def task(self, row: int) -> Task:
        """A row of `collect.input`, or of the example rows where that is no JSONL file here.

        Args:
            row: which one, from 1; blank lines do not count.

        Raises:
            ConfigError: there is no such row, or it is no legal task.
        """
        name, _, generating = self.config.collect.input.partition(":")
        if name == "env" and generating == self.name:
            source = f"{self.config.collect.input}"
            lines: Iterator[tuple[int, bytes]] = (
                (number, json.dumps(task).encode())
                for number, task in enumerate(self.environment.tasks(), start=1)
            )
        else:
            file = self.input_file or self.example_file
            if not file.is_file():
                raise ConfigError(
                    f"no rows: collect.input is {self.config.collect.input}, which is no JSONL "
                    f"file here, and there is no {self.example_file}"
                )
            source, lines = str(file), lines_of(file)
        found = next(itertools.islice(lines, row - 1, None), None)
        if found is None:
            raise ConfigError(f"{source} has no row {row}")
        number, line = found
        try:
            return self.parse(line, row - 1, source, number)
        except RolloutFailure as failure:
            raise ConfigError(f"{source}:{number}: row {failure.message}") from None

    def parse(self, line: bytes, index: int, source: str, number: int) -> Task:
        """A line of a file as a task that the environment accepts.

        Raises:
            RolloutFailure: `task_invalid`.
        """
        task = parse_task(line, task_index=index, source_file=source, source_line=number)
        self.environment.check_task(task.row)
        return task


def lines_of(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a JSONL file that are not blank, with their numbers."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


def _config_file(path: Path) -> Path:
    """The config of a folder: in it, or of its name beside it; a file as it is.

    `check.yaml` comes first, where an environment that asks a judge has a scripted one.
    """
    if path.is_file() or (path.suffix and not path.is_dir()):
        return path
    beside = path.resolve().with_name(f"{path.resolve().name}.yaml")
    for file in (path / "check.yaml", path / "config.yaml", beside):
        if file.is_file():
            return file
    raise ConfigError(
        f"{path}: there is no config.yaml in it and no {beside.name} beside it; "
        "name the YAML config, or write one with gym-ray env new"
    )
