"""The choice of where a collection runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

from gym_ray.collection.hosting import Hosting, Say
from gym_ray.collection.stop import StopSignal
from gym_ray.config.load import RunConfig
from gym_ray.errors import ConfigError


def hosting_for(config: RunConfig, log: Path, say: Say, stop: StopSignal) -> Hosting:
    """The parts of a collection, none of which is up yet.

    Args:
        config: of the run.
        log: file that takes what processes on this machine that are not Ray's write.
        say: told, in one line each, what is being waited for.
        stop: asked while waiting.
    """
    if cluster_of(config) == "local":
        from gym_ray.collection.embedded import EmbeddedHosting

        return EmbeddedHosting(config, log, say, stop.raise_if_requested)
    from gym_ray.collection.ray_hosting import RayHosting

    return RayHosting(config, log, say, stop)


def cluster_of(config: RunConfig) -> Literal["local", "ray"]:
    """Where a collection runs.

    Raises:
        ConfigError: `cluster` is `local`, and the config has what takes Ray.
    """
    needed = _what_takes_ray(config)
    if config.cluster is None:
        return "ray" if needed or _joined_cluster() else "local"
    if config.cluster == "local" and needed:
        raise ConfigError(f"cluster is local, and {needed}; leave cluster out, or set it to ray")
    return config.cluster


def introduction(config: RunConfig) -> str:
    """Where a collection runs, and why there, in one line."""
    where = cluster_of(config)
    if where == "local":
        alone = "as the config says" if config.cluster else "one replica of everything suffices"
        return f"collecting in processes of this command (cluster: local; {alone})"
    why = "as the config says" if config.cluster else _what_takes_ray(config) or _joined_cluster()
    return f"collecting on Ray (cluster: ray; {why})"


def _what_takes_ray(config: RunConfig) -> str | None:
    """What of a config only Ray can do, for a person to read; None when nothing does."""
    if config.judges:
        return "judges need Ray"
    if config.policy.resources.bundles is not None:
        return "policy.resources.bundles needs Ray"
    if config.policy.engine_args.get("distributed_executor_backend") == "ray":
        return "policy.engine_args.distributed_executor_backend is ray"
    sections = {"policy": config.policy} | {
        f"environments.{name}": section for name, section in config.environments.items()
    }
    for name, section in sections.items():
        if section.autoscaling.max_replicas > 1:
            return f"{name}.autoscaling.max_replicas is {section.autoscaling.max_replicas}"
    for name, environment in config.environments.items():
        if environment.agent == "external":
            return f"environments.{name}.agent external needs the gateway, which is on Ray"
    return None


def _joined_cluster() -> str | None:
    """Why a command would be on a cluster that is there already; None where there is none."""
    if os.environ.get("RAY_ADDRESS"):
        return "RAY_ADDRESS is set"
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return "this process is connected to a cluster"
    return None
