"""`+config_paths=[…]`: gym-ray's configs and NeMo Gym's, read into one config of ours.

Sections of gym-ray's files are merged in their order. Agents of NeMo Gym's files are answered by
the environment that lists them in `agent_refs`: one of gym-ray's files, else one that came along.

Not owned here: what server instances declare (servers).
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gym_ray.compat.servers import Server, is_server, read_server
from gym_ray.config.load import INTERNAL_FIELDS, RunConfig, load_config, read_yaml
from gym_ray.errors import ConfigError, one_line
from gym_ray.registry import registered

_SECTIONS = [name for name in RunConfig.model_fields if name not in INTERNAL_FIELDS]


@dataclasses.dataclass(frozen=True, slots=True)
class Configs:
    """What the files say.

    Attributes:
        files: as named.
        tree: sections of gym-ray's, merged, interpolations not resolved.
        origin: the first file with sections of gym-ray's; else the first.
        servers: instances of NeMo Gym's.
    """

    files: Sequence[str]
    tree: dict[str, Any]
    origin: Path
    servers: Sequence[Server]

    def answering(self, agent: str) -> str:
        """The environment that answers to an agent; one that came along is added to the tree.

        Raises:
            ConfigError: there is none.
        """
        environments = self.tree.setdefault("environments", {})
        found = _listed(environments, agent)
        if found is not None:
            return found
        for name in registered():
            section = _listed_by_itself(name, agent)
            if section is not None and name not in environments:
                environments[name] = section
                return name
        known = sorted(_agents(environments))
        nearest = difflib.get_close_matches(agent, known, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ConfigError(
            f"no environment answers to agent {agent!r}; {hint}list it in a gym-ray config of "
            f"+config_paths: `environments: {{NAME: {{agent_refs: [{agent}]}}}}`"
        )

    def answer_all(self) -> None:
        """See that every agent of the files has an environment that answers to it.

        Raises:
            ConfigError: one has none.
        """
        for server in self.servers:
            if server.kind == "responses_api_agents":
                self.answering(server.name)

    def require_ours(self, overrides: Sequence[str]) -> None:
        """Refuse what would be ignored: their servers do not run here.

        Raises:
            ConfigError: a server has settings, or no file has a policy of ours.
        """
        for server in self.servers:
            for key in server.settings if server.kind != "responses_api_models" else ():
                raise ConfigError(
                    f"{server.file}: {key} has no meaning here: write it as environments.NAME."
                    "params (or .agent_options, .verifiers) of a gym-ray config in +config_paths, "
                    "and leave it out here (null)"
                )
        if "policy" not in self.tree and not any(text.startswith("policy.") for text in overrides):
            models = [s.name for s in self.servers if s.kind == "responses_api_models"]
            seen = f" ({', '.join(models)} is NeMo Gym's own server)" if models else ""
            raise ConfigError(
                f"no file of +config_paths has a policy section{seen}; add a gym-ray config, e.g. "
                "`policy: {engine: openai, model: NAME, engine_args: {base_urls: "
                "['http://HOST:PORT/v1']}}` for a server that runs, or {engine: vllm, model: NAME}"
            )

    def load(self, overrides: Sequence[str]) -> RunConfig:
        """The config of ours, with dotted assignments over it.

        Raises:
            ConfigError: see `load_config`.
        """
        return load_config(self.tree, overrides, origin=self.origin)


def read_configs(files: Sequence[str]) -> Configs:
    """Read config files.

    Raises:
        ConfigError: one is not readable, or has a key that means nothing here.
    """
    from omegaconf import OmegaConf

    trees: list[Any] = []
    servers: list[Server] = []
    origin: Path | None = None
    for name in files:
        path = Path(name)
        loaded = read_yaml(path)
        if not OmegaConf.is_dict(loaded):
            raise ConfigError(f"{path}: must hold sections or server instances, by name")
        own = OmegaConf.masked_copy(loaded, [key for key in loaded if key in _SECTIONS])
        if own:
            trees.append(own)
            origin = origin or path
        for key in loaded:
            if key not in _SECTIONS:
                servers.append(read_server(str(key), _instance(path, str(key), loaded), path))
    merged = OmegaConf.to_container(OmegaConf.merge({}, *trees), resolve=False)
    assert isinstance(merged, dict)
    tree = {str(key): value for key, value in merged.items()}
    return Configs(files, tree, origin or Path(files[0]), servers)


def _instance(path: Path, key: str, loaded: Any) -> Mapping[str, Any]:
    """A server instance of a file. Only models' interpolations may stay unresolved: they name
    what is on NeMo Gym's command line, and models are not taken from there.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    node = loaded._get_node(key)
    value = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else None
    if not is_server(value):
        nearest = difflib.get_close_matches(key, _SECTIONS, n=1, cutoff=0.6)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"sections: {', '.join(_SECTIONS)}"
        raise ConfigError(
            f"{path}: {key!r} is no section of a gym-ray config and no server instance of a NeMo "
            f"Gym config; {hint}"
        )
    assert isinstance(value, dict)
    if "responses_api_models" in value:
        return value
    try:
        resolved = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {key}: {one_line(error)}; write the value itself") from None
    assert isinstance(resolved, dict)
    return resolved


def _agents(environments: Mapping[str, Any]) -> dict[str, str]:
    """Agent name to environment."""
    by_agent = {
        str(agent): name
        for name, section in environments.items()
        for agent in (section or {}).get("agent_refs") or ()
    }
    return {**by_agent, **{name: name for name in environments}}


def _listed(environments: Mapping[str, Any], agent: str) -> str | None:
    return _agents(environments).get(agent)


def _listed_by_itself(name: str, agent: str) -> dict[str, Any] | None:
    """Section of a registered environment in the config that came along with it, if that lists the
    agent; without datasets, since those of the agent are asked for.
    """
    module = registered()[name].partition(":")[0]
    spec = importlib.util.find_spec(module)
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / "config.yaml"
    if path is None or not path.exists():
        return None
    section = read_yaml(path).get("environments", {}).get(name)
    if section is None or agent not in (name, *section.get("agent_refs", ())):
        return None
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(section, resolve=False)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items() if key != "datasets"}
