"""Preconditions: what is refused before a collection starts anything."""

from __future__ import annotations

from gym_ray.collection.cluster_choice import cluster_of
from gym_ray.collection.trackers import require_trackers
from gym_ray.config.load import RunConfig
from gym_ray.errors import ConfigError


def check(config: RunConfig) -> None:
    """Refuse a config whose collection could only fail.

    Raises:
        ConfigError: it has to run where it cannot, the output would be thrown away, nobody would
            start an agent, or a library is missing that reports need.
    """
    from gym_ray.serving.job import require_kept_output

    cluster_of(config)
    require_kept_output("collect.output", config.collect.output)
    _check_agents(config)
    require_trackers(config)


def check_application(config: RunConfig) -> None:
    """Refuse a config whose application could only fail; see `serving.preconditions`.

    Apart from `check`, as a finished run needs no application: that its model is gone is no reason
    not to compact it.
    """
    from gym_ray.serving import preconditions

    listens = any(section.agent == "external" for section in config.environments.values())
    local = cluster_of(config) == "local"
    preconditions.check_application(config, listens=listens, local=local)


def _check_agents(config: RunConfig) -> None:
    for name, section in config.environments.items():
        if section.agent == "external" and section.external is None:
            raise ConfigError(
                f"environments.{name}.agent is external, and collect has nothing to start: set "
                f"environments.{name}.external.command or .url"
            )
