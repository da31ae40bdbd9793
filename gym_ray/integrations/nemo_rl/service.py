"""Where rollouts run, as the actor sees it: a service elsewhere, or one started in the cluster."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from gym_ray.errors import ConfigError
from gym_ray.integrations.nemo_rl.hosted import Hosted
from gym_ray.integrations.nemo_rl.settings import KEY, config_of, settings_of
from gym_ray.rollout import Rollout


class Service(Protocol):
    """Runs rollouts of task rows."""

    async def start(self) -> Hosted:
        """Make sure that it can be used, as far as the implementations say; what it hosts.

        Raises:
            ConfigError: it cannot be as configured.
            GymTransportError: it does not answer.
        """
        ...

    def run(self, rows: Sequence[Mapping[str, Any]]) -> AsyncGenerator[tuple[int, Rollout], None]:
        """One rollout per row, each with its row's position, as they complete.

        A failed rollout is one too. Closing the generator gives up what runs.

        Raises:
            GymTransportError, RolloutDataFailure: the service cannot do it.
        """
        ...

    async def check(self) -> None:
        """Raises GymTransportError when it is not well."""
        ...

    async def close(self) -> None:
        """Let go of it. Idempotent."""
        ...


def service_of(cfg: Mapping[str, Any]) -> Service:
    """The service of NeMo RL's `NemoGymConfig`. Starts nothing.

    Raises:
        ConfigError: the settings are wrong, or ask for what gym-ray does not have.
    """
    settings = settings_of(cfg.get("initial_global_config_dict") or {})
    if (cfg.get("token_capture") or {}).get("enabled"):
        raise ConfigError(
            "token_capture takes tokens from NeMo RL's own ledger, which NeMo Gym's model server "
            "fills turn by turn; gym-ray's rollouts bring their tokens along and do not pass it: "
            "set token_capture.enabled=false, and with it turn-level recovery and snapshots"
        )
    if cfg.get("require_routed_experts"):
        raise ConfigError(
            "rollouts carry no routed experts; set policy.router_replay.enabled=false"
        )
    if cfg.get("tokenizer_config"):
        raise ConfigError(f"rollouts are of text only; {KEY} cannot serve a model with images")
    if settings.service_url is not None:
        from gym_ray.integrations.nemo_rl.http_service import HttpService

        return HttpService(settings.service_url, settings)
    config = config_of(
        settings, base_urls=cfg.get("base_urls") or (), model_name=str(cfg.get("model_name"))
    )
    # Brings along Ray Serve, which an actor that speaks HTTP must not need.
    from gym_ray.integrations.nemo_rl.cluster_service import ClusterService

    return ClusterService(config)
