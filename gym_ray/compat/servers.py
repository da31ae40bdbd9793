"""Server instances of a NeMo Gym config: what they declare that has a meaning here.

    string_match_simple_agent:              # the instance
      responses_api_agents:                 # its type
        simple_agent: {datasets: […], …}    # its implementation, and settings

An agent's name says whose rows are whose, and its datasets are task files. Everything else says how
a server of theirs runs; what that is set to is kept by name, for the command that would ignore it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field

from gym_ray.config.environment import License
from gym_ray.config.section import Section
from gym_ray.errors import ConfigError

SERVER_TYPES = (
    "resources_servers",
    "responses_api_agents",
    "responses_api_models",
    "environment_servers",
)

#: Settings that describe a server, or point to another one.
_DESCRIPTIVE = {
    "agent_server", "datasets", "description", "domain", "entrypoint", "model_server",
    "resources_server", "value", "verified", "verified_url",
}  # fmt: skip


class NemoGymDataset(Section):
    """A dataset as NeMo Gym declares it."""

    name: str = Field(min_length=1)
    type: Literal["train", "validation", "example"]
    jsonl_fpath: str = Field(min_length=1)
    num_repeats: int = Field(1, ge=1, le=1000)
    source: dict[str, Any] | None = None
    gitlab_identifier: dict[str, Any] | None = None
    huggingface_identifier: dict[str, Any] | None = None
    license: License | None = None

    @pydantic.model_validator(mode="after")
    def _licensed(self) -> NemoGymDataset:
        if self.license is None and self.type != "example":
            raise ValueError(f"data for {self.type} needs a license")
        return self


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """One instance.

    Attributes:
        name: of the instance.
        kind: of `SERVER_TYPES`.
        file: that declares it.
        datasets: it declares.
        resources_server: that an agent names.
        settings: what else it is set to, by dotted key, nulls left out.
    """

    name: str
    kind: str
    file: Path
    datasets: Sequence[NemoGymDataset]
    resources_server: str | None
    settings: Mapping[str, Any]


def is_server(value: Any) -> bool:
    """Whether a top-level value of a config file is a server instance."""
    return isinstance(value, Mapping) and any(kind in value for kind in SERVER_TYPES)


def read_server(name: str, value: Mapping[str, Any], file: Path) -> Server:
    """One instance of a config file.

    Args:
        name: its key.
        value: what stands there.
        file: the config file.

    Raises:
        ConfigError: it has not the shape of one, or a dataset declares what we have no meaning for.
    """
    where = f"{file}: {name}"
    if len(value) != 1:
        raise ConfigError(f"{where}: one of {', '.join(SERVER_TYPES)} and nothing else, as a key")
    ((kind, implementations),) = value.items()
    if not isinstance(implementations, Mapping) or len(implementations) != 1:
        raise ConfigError(f"{where}.{kind}: one implementation as a key, with its settings")
    ((implementation, settings),) = implementations.items()
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{where}.{kind}.{implementation}: settings as keys and values")
    key = f"{name}.{kind}.{implementation}"
    reference = settings.get("resources_server")
    return Server(
        name=name,
        kind=kind,
        file=file,
        datasets=list(_datasets(f"{file}: {key}", settings.get("datasets"))),
        resources_server=reference.get("name") if isinstance(reference, Mapping) else None,
        settings={
            f"{key}.{setting}": content
            for setting, content in settings.items()
            if setting not in _DESCRIPTIVE and content is not None
        },
    )


def _datasets(where: str, declared: Any) -> Iterator[NemoGymDataset]:
    for number, tree in enumerate(declared or ()):
        try:
            yield NemoGymDataset.model_validate(
                {key: value for key, value in tree.items() if value is not None}
            )
        except pydantic.ValidationError as error:
            problems = [
                f"{where}.datasets.{number}.{'.'.join(map(str, problem['loc']))}: "
                + _explain(problem["type"], str(problem["loc"][-1:]), problem["msg"])
                for problem in error.errors()
            ]
            raise ConfigError("\n".join(problems)) from None


def _explain(kind: str, key: str, message: str) -> str:
    if kind != "extra_forbidden":
        return message
    if "prompt_config" in key:
        return "write the dataset in a gym-ray config, where it is `prompt` (docs/prepare.md)"
    return f"has no meaning here; valid keys: {', '.join(NemoGymDataset.model_fields)}"


def agent_of(server: Server, servers: Sequence[Server]) -> str:
    """The agent whose rows the datasets of a server are.

    Raises:
        ConfigError: not exactly one agent acts in a resources server.
    """
    if server.kind == "responses_api_agents":
        return server.name
    agents = [other.name for other in servers if other.resources_server == server.name]
    if len(agents) == 1:
        return agents[0]
    raise ConfigError(
        f"{server.file}: {server.name} declares datasets, and {len(agents)} agents act in it"
        f"{': ' if agents else ''}{', '.join(agents)}; declare them at the agent"
    )
