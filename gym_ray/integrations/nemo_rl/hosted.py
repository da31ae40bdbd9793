"""What a service hosts, as NeMo RL asks for it: which rows it has an environment for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gym_ray.config.environment import EnvironmentConfig
from gym_ray.errors import ConfigError
from gym_ray.routing import Router

#: What NeMo RL calls an entry that rows may name.
_ROUTABLE = ["responses_api_agents"]


class Hosted:
    """The environments of a service.

    Args:
        environments: config of each, as far as it is known: `agent` and `agent_refs`.
    """

    def __init__(self, environments: Mapping[str, EnvironmentConfig]) -> None:
        self._router = Router(environments)
        self._agents = {
            route: section.agent
            for name, section in environments.items()
            for route in (name, *section.agent_refs)
        }

    def entries(self) -> dict[str, list[str]]:
        """Every name that rows may go by, and that it is one."""
        return {route: list(_ROUTABLE) for route in self._agents}

    def implementations(self) -> dict[str, str]:
        """The agent loop behind each of those names."""
        return dict(self._agents)

    def environment_of(self, row: Mapping[str, Any]) -> str:
        """The environment of a row.

        Raises:
            RolloutFailure: `task_invalid`: none.
        """
        return self._router.find(row)


def hosted_by(answer: Mapping[str, Any]) -> Hosted:
    """What a service over HTTP hosts, as its `/environments` tells.

    Raises:
        ConfigError: it samples from what NeMo RL would not take into account.
    """
    refuse_cut_sampling(answer["sampling"], "the service's config")
    return Hosted(
        {
            # Not checked here: a newer service may have agents that this code does not know.
            name: EnvironmentConfig.model_construct(
                agent=section["agent"], agent_refs=section["agent_refs"]
            )
            for name, section in answer["environments"].items()
        }
    )


def refuse_cut_sampling(sampling: Mapping[str, Any], origin: str) -> None:
    """Refuse sampling that leaves tokens out, or ends turns, unknown to NeMo RL.

    Temperature and `top_p` stand in every row; what does not is not in its loss either, and would
    be a policy other than the one that is trained.

    Args:
        sampling: the section of a config.
        origin: whose it is.

    Raises:
        ConfigError: there is such a key.
    """
    for key in ("top_k", "stop"):
        if sampling.get(key):
            raise ConfigError(
                f"sampling.{key} of {origin} is {sampling[key]!r}, and NeMo RL trains as if every "
                "token could have been sampled: leave it out"
            )
