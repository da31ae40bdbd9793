"""Configuration: YAML read by OmegaConf, checked by pydantic, one small model per section
(the other modules).

Unknown keys are refused with the file, the key and the nearest valid one. A run saves the
result as `run.yaml`: every default spelled out, and every `${…}` as it was written, so that what
an environment variable holds is never on disk.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from gym_ray.config.commands import CollectConfig, ObservabilityConfig, ServeConfig
from gym_ray.config.environment import EnvironmentConfig, VerificationConfig
from gym_ray.config.objectives import OBJECTIVES, fill
from gym_ray.config.policy import JudgeConfig, PolicyConfig, SamplingConfig
from gym_ray.config.section import Section
from gym_ray.errors import ConfigError, one_line


class RunConfig(Section):
    """Everything a command needs."""

    cluster: Literal["local", "ray"] | None = None
    """Where a collection runs: `local`, in processes of the command itself; `ray`, on the cluster
    that RAY_ADDRESS names, or one started here. Left out: `local` where one replica of everything
    suffices and RAY_ADDRESS is not set. A run begun in one of them may be continued in the
    other."""
    policy: PolicyConfig = PolicyConfig()
    judges: dict[str, JudgeConfig] = Field(default_factory=dict)
    """Models that verifiers ask, by the name they know them by."""
    environments: dict[str, EnvironmentConfig]
    verification: VerificationConfig = VerificationConfig()
    sampling: SamplingConfig = SamplingConfig()
    collect: CollectConfig = CollectConfig()
    serve: ServeConfig = ServeConfig()
    observability: ObservabilityConfig = ObservabilityConfig()
    base_directory: Annotated[str, Field(exclude=True)] = "."
    """Folder of the config file, against which entry points given as paths resolve."""

    as_written: Annotated[dict[str, Any], Field(exclude=True)] = Field(default_factory=dict)
    """The file and the overrides, in which no `${…}` is resolved."""

    from_objective: Annotated[dict[str, Any], Field(exclude=True)] = Field(default_factory=dict)
    """Dotted keys whose value came from `collect.objective`, and that value."""

    @pydantic.field_validator("environments")
    @classmethod
    def _some_environment(cls, value: dict[str, EnvironmentConfig]) -> dict[str, EnvironmentConfig]:
        if not value:
            raise ValueError("name at least one environment, e.g. `environments: {math: {}}`")
        return value

    @pydantic.model_validator(mode="after")
    def _staleness_is_known(self) -> RunConfig:
        if self.collect.max_staleness is not None and self.policy.engine == "openai":
            raise ValueError(
                "collect.max_staleness needs a policy whose weights' versions are known, and "
                "policy.engine openai has none; leave it out"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _priorities_take_effect(self) -> RunConfig:
        if not self.has_priorities:
            return self
        if self.policy.engine == "openai":
            raise ValueError(
                "environments.NAME.priority needs policy.engine vllm: the queue of a remote policy "
                "is its server's"
            )
        given = self.policy.engine_args.get("scheduling_policy", "priority")
        if given != "priority":
            raise ValueError(
                f"environments.NAME.priority needs policy.engine_args.scheduling_policy priority, "
                f"not {given}; leave it out"
            )
        return self

    @property
    def has_priorities(self) -> bool:
        """Whether some environment's turns go before another's."""
        return any(section.priority for section in self.environments.values())

    @property
    def quotas(self) -> dict[str, int]:
        """Rollouts at once of the environments that have a limit of their own."""
        limits = {name: section.max_in_flight for name, section in self.environments.items()}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def to_tree(self) -> dict[str, Any]:
        """The config as plain values, every `${…}` as it was written: no secret is written to disk
        or compared. `resolve` is the way back.
        """
        tree: dict[str, Any] = _with_references(self.model_dump(mode="json"), self.as_written)
        return tree

    def environment_variables(self) -> set[str]:
        """Names of the environment variables that `${oc.env:…}` reads."""
        texts = leaves(self.to_tree())
        return {name for _, text in texts for name in _VARIABLE.findall(str(text))}

    def to_yaml(self) -> str:
        """`to_tree` as YAML."""
        from omegaconf import OmegaConf

        return str(OmegaConf.to_yaml(OmegaConf.create(self.to_tree())))


#: Keys of a config file that are values by themselves, and no sections.
PLAIN_KEYS = ("cluster",)

#: Fields of `RunConfig` that are not keys of a config file.
INTERNAL_FIELDS = ("base_directory", "as_written", "from_objective")

_VARIABLE = re.compile(r"\$\{oc\.env:\s*(\w+)")


def load_config(
    source: RunConfig | Mapping[str, Any] | str | Path,
    overrides: Sequence[str] = (),
    *,
    origin: Path | None = None,
) -> RunConfig:
    """Read and check a configuration.

    Args:
        source: a YAML file, a mapping of the same shape, or a config made already.
        overrides: dotted assignments, e.g. `collect.num_repeats=16`; values are YAML.
        origin: file that a mapping was read from: messages name it, and entry points given as
            paths resolve against its folder.

    Raises:
        ConfigError: unreadable, not YAML, an unknown key, or a value out of range. The message
            names the file, the key, and what to write instead.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    where, base_directory = "config", str(Path.cwd())
    from_objective: dict[str, Any] = {}
    if isinstance(source, RunConfig):
        tree: Any = source.to_tree()
        base_directory = source.base_directory
        from_objective = source.from_objective
    elif isinstance(source, Mapping):
        tree = dict(source)
        if origin is not None:
            where, base_directory = str(origin), str(origin.resolve().parent)
    else:
        where, base_directory = str(source), str(Path(source).resolve().parent)
        tree = read_yaml(Path(source))
        if not OmegaConf.is_dict(tree):
            raise ConfigError(
                f"{where}: must hold sections such as policy:, environments:, collect:"
            )
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"override {override!r} must look like collect.num_repeats=16")
        try:
            OmegaConf.from_dotlist([override])
        except (yaml.YAMLError, OmegaConfBaseException, LookupError, ValueError) as error:
            raise ConfigError(f"override {override!r} is not KEY=YAML: {error}") from None
    try:
        merged = OmegaConf.merge(OmegaConf.create(tree), OmegaConf.from_dotlist(list(overrides)))
        resolved = OmegaConf.to_container(merged, resolve=True)
        as_written = OmegaConf.to_container(merged, resolve=False)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None
    assert isinstance(resolved, dict)
    for internal in INTERNAL_FIELDS:
        if internal in resolved:
            raise ConfigError(
                f"{where}: unknown key {internal!r}; valid keys: {', '.join(_keys_at([]))}"
            )
    collect = resolved.get("collect")
    objective = collect.get("objective") if isinstance(collect, dict) else None
    if objective is not None and objective in OBJECTIVES:
        from_objective = {**from_objective, **fill(resolved, objective)}
    internal_values = {
        "base_directory": base_directory,
        "as_written": as_written,
        "from_objective": from_objective,
    }
    try:
        return RunConfig.model_validate({**resolved, **internal_values})
    except pydantic.ValidationError as error:
        problems = "\n".join(_explain(where, problem) for problem in error.errors())
        raise ConfigError(problems) from None


def resolve(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A config as it was written, or a part of one, with the value of every `${…}`.

    Those that have none here, such as of an environment variable that is not set, stay as they are.

    Raises:
        ConfigError: a `${…}` is not one that could have been written.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved: dict[str, Any] = _resolved(OmegaConf.create(dict(tree)))
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from None
    return resolved


def _resolved(node: Any) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    def value_of(key: Any) -> Any:
        try:
            value = node[key]
        except OmegaConfBaseException:
            return OmegaConf.to_container(node, resolve=False)[key]
        return _resolved(value) if OmegaConf.is_config(value) else value

    if OmegaConf.is_list(node):
        return [value_of(index) for index in range(len(node))]
    return {key: value_of(key) for key in node}


def _with_references(values: Any, as_written: Any) -> Any:
    """`values`, with what `as_written` has in their place where that is a `${…}`."""
    if isinstance(as_written, str) and "${" in as_written:
        return as_written
    if isinstance(values, dict) and isinstance(as_written, Mapping):
        return {key: _with_references(value, as_written.get(key)) for key, value in values.items()}
    if isinstance(values, list) and isinstance(as_written, list) and len(values) == len(as_written):
        return [_with_references(*pair) for pair in zip(values, as_written, strict=True)]
    return values


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a tree and their values; a list, or an empty section, is a value."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def read_yaml(path: Path) -> Any:
    """A YAML file as OmegaConf reads it, interpolations not resolved.

    Raises:
        ConfigError: there is none, or it is not readable.
    """
    import yaml
    from omegaconf import OmegaConf

    try:
        return OmegaConf.load(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; name the YAML file in it") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ConfigError(
            f"{path}{line}: not readable as YAML: {error.problem}; a config holds sections such "
            "as policy:, environments:, collect:"
        ) from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {one_line(error)}") from None


def _explain(where: str, problem: Mapping[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] != "extra_forbidden":
        got = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
        return f"{where}: {key or 'config'}: {problem['msg']}{got}"
    valid = _keys_at(location[:-1])
    nearest = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
    if len(location) == 1:  # Of a section that was not named.
        nearest = keys_named(location[0]) or nearest
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"valid keys: {', '.join(valid)}"
    return f"{where}: unknown key {key!r}; {hint}"


def keys_named(name: str) -> list[str]:
    """Dotted keys of a config that end in a name, such as `collect.num_repeats`."""
    return [key for key in _dotted_keys(RunConfig) if key.rpartition(".")[2] == name]


def _dotted_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        if name in INTERNAL_FIELDS:
            continue
        yield f"{prefix}{name}"
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _dotted_keys(kind, f"{prefix}{name}.")


def _keys_at(location: Sequence[str]) -> list[str]:
    """Names of the keys of the section at `location`; environments are keyed by their name."""
    model: Any = RunConfig
    for part in location:
        if isinstance(model, type) and issubclass(model, Section):
            model = model.model_fields[part].annotation
        elif typing.get_origin(model) in (dict, list):
            model = typing.get_args(model)[-1]
        if isinstance(model, types.UnionType):
            model = typing.get_args(model)[0]
    if isinstance(model, type) and issubclass(model, Section):
        return [name for name in model.model_fields if name not in INTERNAL_FIELDS]
    return []
