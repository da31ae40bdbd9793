"""Preconditions: what is refused before a collection starts anything."""

from __future__ import annotations

from gym_ray.collection.trackers import require_trackers
from gym_ray.config.load import RunConfig
from gym_ray.errors import ConfigError


def check(config: RunConfig) -> None:
    """Refuse a config whose collection could only fail.

    Raises:
        ConfigError: the output would be thrown away, the agent cannot be carried by the renderer,
            nobody would start it, or a library is missing that reports or traces need.
    """
    from gym_ray.serving.job import require_kept_output
    from gym_ray.serving.policy_renderer import check_renderer
    from gym_ray.telemetry.traces import require_traces

    require_kept_output("collect.output", config.collect.output)
    check_renderer(config)
    _check_agents(config)
    require_traces(config.observability.trace_share)
    require_trackers(config)


def _check_agents(config: RunConfig) -> None:
    for name, section in config.environments.items():
        if section.agent == "external" and section.external is None:
            raise ConfigError(
                f"environments.{name}.agent is external, and collect has nothing to start: set "
                f"environments.{name}.external.command or .url"
            )
