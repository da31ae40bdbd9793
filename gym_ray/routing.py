"""Routing: which configured environment a task row belongs to."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gym_ray.config.environment import EnvironmentConfig
from gym_ray.environment import Environment
from gym_ray.task import agent_name, invalid


class Router:
    """Routes rows and lets the environment check the fields its verifier needs.

    Order: an environment of exactly the row's agent name, then one that lists the name in
    `agent_refs`, then the only configured environment. Rows without an `agent_ref` that NeMo Gym
    prepared have the name in `task_source`.

    Args:
        sections: config of each environment.
        environments: the built environments, same keys; only `route` and
            `check` need them.
    """

    def __init__(
        self,
        sections: Mapping[str, EnvironmentConfig],
        environments: Mapping[str, Environment] = MappingProxyType({}),
    ) -> None:
        self._environments = dict(environments)
        self._names = list(sections)
        self._by_agent = {
            agent: name for name, section in sections.items() for agent in section.agent_refs
        } | {name: name for name in sections}

    @property
    def names(self) -> list[str]:
        """Names of the environments."""
        return list(self._names)

    def route(self, row: Mapping[str, Any]) -> str:
        """Name of the environment of a row.

        Raises:
            RolloutFailure: `task_invalid`: nowhere to go, or the environment refuses the row.
        """
        name = self.find(row)
        self.check(name, row)
        return name

    def check(self, name: str, row: Mapping[str, Any]) -> None:
        """Let an environment check the fields of a row.

        Raises:
            RolloutFailure: `task_invalid`: it refuses the row.
        """
        self._environments[name].check_task(row)

    def find(self, row: Mapping[str, Any]) -> str:
        """Name of the environment of a row, which has yet to check it.

        Raises:
            RolloutFailure: `task_invalid`: nowhere to go.
        """
        agent = agent_name(row)
        if agent is None and isinstance(source := row.get("task_source"), str):
            agent = source
        if agent in self._by_agent:
            return self._by_agent[agent]
        if len(self._names) == 1:
            return self._names[0]
        known = ", ".join(sorted(self._by_agent))
        if agent is None:
            raise invalid(
                f"has no agent_ref, and several environments are configured; write "
                f'"agent_ref": {{"name": "…"}} with one of: {known}'
            )
        nearest = difflib.get_close_matches(agent, self._by_agent, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise invalid(
            f"asks for agent {agent!r}, which no environment answers to; {hint}"
            f"known: {known}; or list it in an environment's agent_refs"
        )
