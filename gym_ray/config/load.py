"""Configuration: YAML read by OmegaConf, checked by pydantic, one small model per section
(sections.py).

Unknown keys are refused with the file, the key and the nearest valid one. A run saves the
resolved result as `run.yaml`.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field

from gym_ray.config.objectives import OBJECTIVES, fill
from gym_ray.config.sections import (
    CollectConfig,
    EnvironmentConfig,
    JudgeConfig,
    ObservabilityConfig,
    PolicyConfig,
    SamplingConfig,
    Section,
    ServeConfig,
    VerificationConfig,
)
from gym_ray.errors import ConfigError


class RunConfig(Section):
    """Everything a command needs."""

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

    from_environment: Annotated[dict[str, str], Field(exclude=True)] = Field(default_factory=dict)
    """Dotted keys whose value came from `${oc.env:…}`, and that expression."""

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
        """The resolved config as plain values; what came from an environment variable stays an
        interpolation, so that no secret is written to disk or compared.
        """
        tree: dict[str, Any] = self.model_dump(mode="json")
        for key, expression in self.from_environment.items():
            *path, last = key.split(".")
            section: Any = tree
            for part in path:
                section = section[int(part) if isinstance(section, list) else part]
            section[int(last) if isinstance(section, list) else last] = expression
        return tree

    def to_yaml(self) -> str:
        """The resolved config, every default spelled out."""
        from omegaconf import OmegaConf

        return str(OmegaConf.to_yaml(OmegaConf.create(self.to_tree())))


#: Fields of `RunConfig` that are not keys of a config file.
INTERNAL_FIELDS = ("base_directory", "from_environment", "from_objective")

#: Keys that say how fast or how long, not what is collected: a resumed run may change them.
TUNING_KEYS = (
    "policy.resources",
    "policy.autoscaling",
    "policy.startup_timeout_seconds",
    "policy.request_timeout_seconds",
    "verification.processes",
    "collect.output",
    # Says nothing by itself: the values it sets are compared.
    "collect.objective",
    "collect.extend",
    "collect.max_in_flight",
    "collect.max_attempts",
    "collect.max_failed_share",
    "collect.rollout_timeout_seconds",
    "collect.run_timeout_seconds",
    "collect.drain_timeout_seconds",
    "collect.report",
    "collect.report_seconds",
    "serve",
    "observability",
)


#: Keys of an environment that do not change what is collected.
_NOT_COLLECTED = ("resources", "autoscaling", "datasets", "max_in_flight", "priority")

#: Keys of a judge that say how fast it is asked.
_JUDGE_LIMITS = ("max_concurrency", "requests_per_minute", "max_retries")


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
        unresolved = OmegaConf.to_container(merged, resolve=False)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None
    assert isinstance(resolved, dict)
    for internal in INTERNAL_FIELDS:
        if internal in resolved:
            raise ConfigError(
                f"{where}: unknown key {internal!r}; valid keys: {', '.join(_keys_at([]))}"
            )
    from_environment = _from_environment(unresolved, resolved)
    collect = resolved.get("collect")
    objective = collect.get("objective") if isinstance(collect, dict) else None
    if objective is not None and objective in OBJECTIVES:
        from_objective = {**from_objective, **fill(resolved, objective)}
    internal_values = {
        "base_directory": base_directory,
        "from_environment": from_environment,
        "from_objective": from_objective,
    }
    try:
        return RunConfig.model_validate({**resolved, **internal_values})
    except pydantic.ValidationError as error:
        problems = "\n".join(_explain(where, problem) for problem in error.errors())
        raise ConfigError(problems) from None


def differing_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`key: old -> new` for every key that decides what is collected and differs.

    Keys under `TUNING_KEYS` are left out: they may change between two starts of one run.
    """
    old, new = dict(_leaves(before)), dict(_leaves(after))
    absent = "(absent)"
    return [
        f"{key}: {old.get(key, absent)!r} -> {new.get(key, absent)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent) and not _is_tuning(key)
    ]


def _is_tuning(key: str) -> bool:
    if any(key == tuning or key.startswith(f"{tuning}.") for tuning in TUNING_KEYS):
        return True
    parts = key.split(".")
    if len(parts) < 3:
        return False
    if parts[0] == "judges":
        return f"policy.{parts[2]}" in TUNING_KEYS or parts[2] in _JUDGE_LIMITS
    return parts[0] == "environments" and parts[2] in _NOT_COLLECTED


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def _from_environment(tree: Any, resolved: Any) -> dict[str, str]:
    """Expressions that read an environment variable, themselves or by way of other keys, by key.

    Where one stands for a whole section or list, those in that.

    Args:
        tree: not resolved.
        resolved: the same.
    """
    expressions = {key: text for key, text in _texts(tree) if "${" in text}
    found = {key: text for key, text in expressions.items() if "${oc.env:" in text}
    while True:
        through: dict[str, str] = {}
        for key, text in expressions.items():
            for name in _referred(key, text):
                inside = {each: found[each] for each in found if f"{each}.".startswith(f"{name}.")}
                value = _at(resolved, key)
                if not isinstance(value, Mapping | list):
                    through |= {key: text} if inside else {}
                    continue
                # Which part of it is which is told by the values: `${a.${b}}` names no path.
                known = {str(_at(resolved, each)): inner for each, inner in inside.items()}
                through |= {leaf: known[each] for leaf, each in _texts(value, key) if each in known}
        if through.keys() <= found.keys():
            return found
        found = through | found


#: `${a.b}`, `${a[0].b}`, `${oc.select:a.b}`, and `${.b}` from where it stands.
_REFERENCE = re.compile(r"\$\{\s*(?:oc\.select:\s*)?([\w.\[\]-]+)")


def _referred(key: str, text: str) -> Iterator[str]:
    """The keys that an expression at a key refers to, dotted."""
    for name in _REFERENCE.findall(text):
        path = re.sub(r"\[([^]]*)\]", r".\1", name).rstrip(".")
        inner = path.lstrip(".")
        up = len(path) - len(inner)
        yield ".".join([*key.split(".")[:-up], inner]) if up else inner


def _at(tree: Any, key: str) -> Any:
    """What is at a dotted key; None where nothing is, or names of keys have dots themselves."""
    for part in key.split("."):
        if isinstance(tree, list):
            tree = tree[int(part)] if part.isdecimal() and int(part) < len(tree) else None
        else:
            tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _texts(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    elif isinstance(tree, str):
        yield prefix, tree
    for key, value in items:
        yield from _texts(value, f"{prefix}.{key}" if prefix else str(key))


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
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from None


def _explain(where: str, problem: Mapping[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] != "extra_forbidden":
        got = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
        return f"{where}: {key or 'config'}: {problem['msg']}{got}"
    valid = _keys_at(location[:-1])
    nearest = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"valid keys: {', '.join(valid)}"
    return f"{where}: unknown key {key!r}; {hint}"


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
