"""The replicas as Ray Serve has them: it awaits `__init__`, and `__del__` at the end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gym_ray.config.load import RunConfig
from gym_ray.serving.environment_replica import EnvironmentReplica
from gym_ray.serving.host import Host
from gym_ray.serving.policy_replica import PolicyReplica
from gym_ray.telemetry.logs import set_up_logs


class DeployedPolicy(PolicyReplica):
    """A policy replica in an actor of Serve."""

    async def __init__(self, config: RunConfig) -> None:  # type: ignore[misc]
        set_up_logs(config.observability.log_format)
        super().__init__(config, Host.of_serve(config.policy.model))
        await self.start()

    async def __del__(self) -> None:
        await self.stop()


class DeployedEnvironment(EnvironmentReplica):
    """An environment replica in an actor of Serve."""

    async def __init__(  # type: ignore[misc]
        self, name: str, config: RunConfig, policy: Any, judges: Mapping[str, Any]
    ) -> None:
        from gym_ray.verifiers.worker import die_with

        set_up_logs(config.observability.log_format)
        # One that is stuck in an author's code hears of nothing else.
        die_with(os.getppid())
        super().__init__(name, config, policy, judges, Host.of_serve(config.policy.model))
        await self.start()

    async def __del__(self) -> None:
        await self.stop()
