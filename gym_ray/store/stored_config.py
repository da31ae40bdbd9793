"""`run.yaml`: the config of a run as it was written, and the facts of the run.

This is the one place that reads the file and that writes it. It is written whole, but copies of it
may not be: a file that ends early is often legal YAML that lacks sections. So the run's ID comes
last, and a file without it is torn.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gym_ray.config.load import PLAIN_KEYS, RunConfig, load_config, resolve
from gym_ray.errors import ConfigError, FileAbsent, FileTorn, one_line
from gym_ray.store.origin import is_ours, mark_of
from gym_ray.store.places import write_text_whole
from gym_ray.store.stored_text import stored_text

CONFIG_FILE = "run.yaml"

_INSTEAD = "name the output of a collection"

#: Licenses of datasets by name, by environment; None where a dataset declares none.
Licenses = Mapping[str, Mapping[str, str | None]]


@dataclasses.dataclass(frozen=True, slots=True)
class StoredConfig:
    """What `run.yaml` says.

    Attributes:
        file: where it was read.
        tree: the sections of the config, as written: of any version, and not checked.
        values: the same with the value of every `${…}` that has one here.
        facts: the section `run`: ID, kind, versions, fingerprint of the model.
        is_ours: this user wrote it, on this machine; else it may be anybody's.
    """

    file: Path
    tree: Mapping[str, Any]
    values: Mapping[str, Any]
    facts: Mapping[str, Any]
    is_ours: bool = False

    @classmethod
    def read(cls, folder: Path, *, instead: str = _INSTEAD) -> StoredConfig:
        """Read the `run.yaml` of a folder.

        Args:
            folder: the run directory.
            instead: what the user may do where the file is of something else.

        Raises:
            FileAbsent: it has none.
            FileUnreadable: a folder is in its place, it is no text, or it may not be read.
            FileTorn: only the beginning is there, or it is not of a run.
        """
        file = folder / CONFIG_FILE
        torn = functools.partial(_torn, file, instead)
        text = stored_text(file)
        try:
            tree = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise torn(one_line(error)) from None
        if not isinstance(tree, dict):
            raise torn("no sections in it")
        facts = tree.pop("run", None)
        if not isinstance(facts, dict) or not facts.get("id"):
            raise torn("no run.id in it")
        # Half a line is legal YAML, too. Of JSON, which ends by itself, it never is.
        if not text.endswith(("\n", "}")):
            raise torn("its last line does not end")
        try:
            values = resolve(tree)
        except ConfigError as error:
            raise torn(str(error)) from None
        for name, section in values.items():
            inner = section.values() if name == "environments" and isinstance(section, dict) else ()
            if name not in PLAIN_KEYS and not all(
                _may_be_section(part) for part in (section, *inner)
            ):
                raise torn(f"{name} is no section")
        mark = facts.pop("origin", None)
        ours = is_ours(text.replace(_origin(mark), "", 1), mark)
        return cls(file, tree, values, facts, ours)

    @classmethod
    def read_if_there(cls, folder: Path, *, instead: str = _INSTEAD) -> StoredConfig | None:
        """The same, and None for a folder that has no `run.yaml`; the caller tells its user."""
        try:
            return cls.read(folder, instead=instead)
        except FileAbsent:
            return None

    def checked(self, overrides: Sequence[str] = (), *, trust: bool = False) -> RunConfig:
        """The config, checked; entry points given as paths resolve as they did for the run.

        The code that it names runs where the config is used, so one that came from elsewhere is
        not given out.

        Args:
            overrides: dotted assignments over it.
            trust: the user has said that it may be anybody's.

        Raises:
            ConfigError: it came from elsewhere, is of another version, or an override is wrong.
        """
        if not (trust or self.is_ours):
            raise ConfigError(
                f"{self.file} was not written by you on this machine, or was changed since, and "
                "the code that it names is not run: give --trust-run if you trust its author, or, "
                "to reverify, a config of your own with --config"
            )
        config = load_config(self.tree, overrides)
        base_directory = self.facts.get("base_directory")
        if base_directory is None:
            return config
        return config.model_copy(update={"base_directory": base_directory})

    def section(self, name: str) -> Mapping[str, Any]:
        """The values of a section; empty where there is none.

        Raises:
            ConfigError: a reference stands in its place that has no value here.
        """
        found = self.values.get(name) or {}
        if not isinstance(found, Mapping):
            raise ConfigError(
                f"{self.file}: {name} is {found}, which has no value here; set the variables it "
                "refers to"
            )
        return found

    def licenses(self, environments: Iterable[str]) -> Licenses:
        """What the datasets of these environments declare."""
        sections = self.section("environments")
        try:
            return {
                name: {
                    dataset["name"]: dataset.get("license")
                    for dataset in (sections.get(name) or {}).get("datasets") or ()
                }
                for name in environments
            }
        except (TypeError, KeyError, AttributeError):
            raise _torn(self.file, _INSTEAD, "a list of datasets is none") from None


def _may_be_section(part: Any) -> bool:
    return isinstance(part, dict | None) or (isinstance(part, str) and "${" in part)


def write_config(folder: Path, config: RunConfig, facts: Mapping[str, Any]) -> None:
    """Write `run.yaml` in one step.

    Args:
        folder: of the run.
        config: every `${…}` of it is kept as it was written. A command that continues the run
            compares its own with it.
        facts: of the run, with its `id`.
    """
    last = {key: value for key, value in facts.items() if key != "id"} | {"id": facts["id"]}
    text = config.to_yaml() + yaml.safe_dump({"run": last}, sort_keys=False)
    mark = mark_of(text)
    if mark is not None:
        before, id_, after = text.rpartition("\n  id: ")
        text = f"{before}\n{_origin(mark)[:-1]}{id_}{after}"
    write_text_whole(folder / CONFIG_FILE, text)


def _origin(mark: object) -> str:
    """The line of the mark, which is itself not part of what is marked."""
    return f"  origin: {mark}\n"


def _torn(file: Path, instead: str, why: str) -> FileTorn:
    return FileTorn(
        f"{file} is not of a gym-ray run; {instead}. If it was once, only part of it is there "
        f"({why}): restore it from a copy"
    )
