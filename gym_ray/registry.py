"""Finding environments, by registered name or entry point, and the verifiers a config names."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from gym_ray.config.environment import EnvironmentConfig, GroupVerifierConfig, VerifierConfig
from gym_ray.config.load import RunConfig
from gym_ray.environment import Environment, GymnasiumEnvironment, Outcome, judges_asked
from gym_ray.errors import ConfigError, one_line
from gym_ray.judging import judge_parameters
from gym_ray.tools import method_tools, tool_names
from gym_ray.verdict import VerifierPart
from gym_ray.verifiers.grouping import GroupPart, GroupVerifiers

ENTRY_POINT_GROUP = "gym_ray.environments"

#: Agents that offer the tools of the task row alone.
_WITHOUT_METHOD_TOOLS = ("single_turn", "gymnasium")


def registered() -> dict[str, str]:
    """Registered environments: name to `package.module:Class`."""
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    return {point.name: point.value for point in points}


def load_environments(config: RunConfig) -> dict[str, Environment]:
    """Build all environments of a config, and see that the judges they ask are there.

    Raises:
        ConfigError: see `load_environment` and `require_judges`.
    """
    environments = {
        name: load_environment(name, section, config.base_directory)
        for name, section in config.environments.items()
    }
    for name, environment in environments.items():
        require_judges(name, environment, config.judges)
    return environments


def load_environment(name: str, config: EnvironmentConfig, base_directory: str) -> Environment:
    """Build the environment a config section names.

    Args:
        name: key of the section under `environments:`.
        config: the section.
        base_directory: folder against which an entry point given as a path resolves.

    Raises:
        ConfigError: not found, not an Environment, or it refuses its params.
    """
    environment_class = load_class(name, config.entrypoint, base_directory)
    try:
        environment = environment_class(**config.params)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"environments.{name}.params: {environment_class.__name__} refuses them: "
            f"{one_line(error)}"
        ) from error
    _check_agent(name, config, environment)
    if not config.verifiers:
        return environment
    environment.parts = {
        part: _part(f"environments.{name}.verifiers.{part}", section, environment, base_directory)
        for part, section in config.verifiers.items()
    }
    return environment


def _part(
    where: str, section: VerifierConfig, environment: Environment, base_directory: str
) -> VerifierPart:
    """One verifier of a composed verdict."""
    name = where.rpartition(".")[2]
    if section.use == "environment":
        if section.params:
            raise ConfigError(f"{where}.params: the environment's own verifier takes none")
        on_loop = inspect.iscoroutinefunction(environment.verify)
        return VerifierPart(_own_verifier, on_loop, section.weight, section.gate, is_own=True)
    function = _function(where, section.use, base_directory)
    judges = _check_call(where, section.use, function, section.params, arguments=1)
    return VerifierPart(
        functools.partial(_call, function, section.params, judges),
        inspect.iscoroutinefunction(function),
        section.weight,
        section.gate,
        prefix=f"{name}/",
        judges=tuple(judges.values()),
    )


def _check_call(
    where: str,
    target: str,
    function: Callable[..., Any],
    params: Mapping[str, Any],
    *,
    arguments: int,
) -> dict[str, str]:
    """Refuse params the function does not take.

    Returns:
        Those of them that name a judge.
    """
    try:
        inspect.signature(function).bind(*[None] * arguments, **params)
    except TypeError as error:
        raise ConfigError(f"{where}.params: {target} refuses them: {error}") from None
    judges = {name: str(params[name]) for name in judge_parameters(function) if name in params}
    if judges and not inspect.iscoroutinefunction(function):
        raise ConfigError(f"{where}.use {target!r}: only an async function can ask a judge")
    return judges


def _own_verifier(environment: Environment, outcome: Outcome) -> Any:
    return environment.verify(outcome)


def _call(
    function: Callable[..., Any],
    params: Mapping[str, Any],
    judges: Mapping[str, str],
    environment: Environment,
    outcome: Outcome,
) -> Any:
    asked = {key: environment.judges[name] for key, name in judges.items()}
    return function(outcome, **{**params, **asked})


def require_judges(name: str, environment: Environment, judges: Collection[str]) -> None:
    """Refuse an environment that asks a judge the config does not have, before anything starts.

    Args:
        name: of the environment.
        environment: the same, built.
        judges: names of the judges there are.
    """
    _require(name, judges_asked(environment), judges)


def _require(name: str, asked: Collection[str], judges: Collection[str]) -> None:
    for judge in sorted(asked):
        if judge not in judges:
            nearest = difflib.get_close_matches(judge, judges, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"add a section judges.{judge}"
            raise ConfigError(
                f"environments.{name} asks judge {judge!r}, which is not there; {hint}"
            )


def _function(where: str, target: str, base_directory: str) -> Callable[..., Any]:
    module_name, separator, function_name = target.rpartition(":")
    if not separator:
        raise ConfigError(
            f"{where}.use {target!r}: write environment, package.module:function or "
            "path/to/file:function"
        )
    try:
        function = getattr(_import(module_name, base_directory), function_name)
    except Exception as error:
        raise ConfigError(
            f"{where}.use {target!r}: cannot be imported: {one_line(error)}"
        ) from error
    if not callable(function):
        raise ConfigError(f"{where}.use {target!r}: is not a function")
    found: Callable[..., Any] = function
    return found


def with_agents(config: RunConfig) -> RunConfig:
    """The config with an agent for every environment, where some are `auto`.

    Every command that runs rollouts, or stores a config, works with what this returns.

    Raises:
        ConfigError: the class of an environment whose agent is `auto` cannot be found.
    """
    sections = {
        name: section.model_copy(
            update={
                "agent": _agent_of(
                    section, load_class(name, section.entrypoint, config.base_directory)
                )
            }
        )
        if section.agent == "auto"
        else section
        for name, section in config.environments.items()
    }
    return config.model_copy(update={"environments": sections})


def _agent_of(section: EnvironmentConfig, found: type[Environment]) -> str:
    """The agent of a section; where it is `auto`, the one that fits the environment's class."""
    if section.agent != "auto":
        return section.agent
    if section.external is not None:
        return "external"
    if section.mcp_servers:
        return "tool_calling"
    if found.default_agent is not None:
        return found.default_agent
    carries_out = tool_names(found) or found.call_tool is not Environment.call_tool
    return "tool_calling" if carries_out else "single_turn"


def idle_tools(config: RunConfig) -> dict[str, str]:
    """Environments with `@tool` methods whose agent never offers them, and what to do about it.

    It is no error: a policy without tools is what another one is compared with.

    Args:
        config: as `with_agents` returns it.
    """
    told = {}
    for name, section in config.environments.items():
        if section.agent not in _WITHOUT_METHOD_TOOLS:
            continue
        names = tool_names(load_class(name, section.entrypoint, config.base_directory))
        if names:
            told[name] = (
                f"{', '.join(names)}: agent {section.agent} never offers them; set "
                "agent: tool_calling"
            )
    return told


def _check_agent(name: str, config: EnvironmentConfig, environment: Environment) -> None:
    """Refuse an environment the agent cannot act in, before anything starts."""
    agent = _agent_of(config, type(environment))
    if agent == "gymnasium" and not isinstance(environment, GymnasiumEnvironment):
        raise ConfigError(
            f"environments.{name}.agent gymnasium needs a gym_ray.GymnasiumEnvironment, and "
            f"{type(environment).__name__} is none"
        )
    try:
        environment.check_agent(agent)
    except ConfigError as error:
        raise ConfigError(f"environments.{name}.agent {agent}: {error}") from error
    if agent == "tool_calling":
        try:
            method_tools(environment)
        except ConfigError as error:
            raise ConfigError(f"environments.{name}: {error}") from error
    if config.mcp_servers and importlib.util.find_spec("mcp") is None:
        raise ConfigError(f"environments.{name}.mcp_servers: pip install 'gym-ray[mcp]'")


def load_class(name: str, entrypoint: str | None, base_directory: str) -> type[Environment]:
    """The environment class behind a registered name or an entry point."""
    target = entrypoint
    if target is None:
        known = registered()
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise ConfigError(
                f"environments.{name}: no environment is registered by that name; {hint}"
                f"registered: {', '.join(sorted(known)) or 'none'}; or set "
                f"environments.{name}.entrypoint to package.module:Class or path/to/folder:Class"
            )
        target = known[name]
    where = f"environments.{name}.entrypoint {target!r}"
    module_name, separator, class_name = target.rpartition(":")
    if not separator:
        raise ConfigError(f"{where}: write package.module:Class or path/to/folder:Class")
    try:
        module = _import(module_name, base_directory)
    except Exception as error:
        raise ConfigError(f"{where}: cannot be imported: {one_line(error)}") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, Environment):
        raise ConfigError(f"{where}: {class_name} is not a subclass of gym_ray.Environment")
    return found


def _import(module_name: str, base_directory: str) -> ModuleType:
    path = Path(base_directory, module_name).resolve()
    if "/" not in module_name and not path.exists():
        return importlib.import_module(module_name)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        raise ImportError(f"no {file}")
    # The digest keeps two folders of the same name apart; one import per process.
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    unique = f"gym_ray_environment_{path.stem}_{digest}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(
        unique, file, submodule_search_locations=[str(path)] if path.is_dir() else None
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    return module


def code_digest(name: str, config: EnvironmentConfig, base_directory: str) -> str:
    """Digest of an environment's source: every Python file of its folder, or its one file, and
    the files of the verifiers its config names.
    """
    module = sys.modules[load_class(name, config.entrypoint, base_directory).__module__]
    file = Path(str(module.__file__))
    files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(file.parent)}\0".encode())
        digest.update(path.read_bytes())
    for part, section in config.verifiers.items():
        if section.use != "environment":
            where = f"environments.{name}.verifiers.{part}"
            function = inspect.unwrap(_function(where, section.use, base_directory))
            digest.update(Path(inspect.getfile(function)).read_bytes())
    return digest.hexdigest()


def load_group_verifiers(config: RunConfig) -> GroupVerifiers:
    """The group verifiers of all environments of a config, by `ENVIRONMENT/NAME`.

    Raises:
        ConfigError: one cannot be found, refuses its params, or asks a judge that is not there.
    """
    verifiers = GroupVerifiers(
        {
            f"{environment}/{name}": _group_part(
                f"environments.{environment}.group_verifiers.{name}", group, config.base_directory
            )
            for environment, section in config.environments.items()
            for name, group in section.group_verifiers.items()
        }
    )
    _require("NAME.group_verifiers", verifiers.judges_asked(), config.judges)
    return verifiers


def _group_part(where: str, section: GroupVerifierConfig, base_directory: str) -> GroupPart:
    function = _function(where, section.use, base_directory)
    judges = _check_call(where, section.use, function, section.params, arguments=2)
    on_loop = inspect.iscoroutinefunction(function)
    return GroupPart(function, section.params, judges, on_loop, section.weight)


def environment_factory(name: str, config: EnvironmentConfig, base_directory: str) -> Any:
    """A picklable zero-argument callable that builds the environment, for other processes."""
    return functools.partial(load_environment, name, config, base_directory)
