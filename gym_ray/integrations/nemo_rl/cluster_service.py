"""A service of the actor's own, in NeMo RL's cluster, whose policy is NeMo RL's vLLM servers.

Rollouts go to the environments' replicas directly: no HTTP but that between the policy replica
and NeMo RL's servers. The application starts with the first batch, not with `_spinup`: to examine
a server is to sample from it, and while NeMo RL sets up, its engines are loading or asleep, which
they do not survive being asked in.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from gym_ray.config.load import RunConfig
from gym_ray.errors import ConfigError, GymRayError, RolloutFailure, one_line
from gym_ray.integrations.nemo_rl.failures import GymTransportError
from gym_ray.integrations.nemo_rl.hosted import Hosted
from gym_ray.registry import with_agents
from gym_ray.rollout import Rollout, RolloutSpec, failed_rollout
from gym_ray.routing import Router
from gym_ray.serving.application import Application, application_name
from gym_ray.serving.environment_client import EnvironmentClient
from gym_ray.serving.gateway import GatewayPlan, environment_client
from gym_ray.task import parse_task

logger = logging.getLogger(__name__)

_SOURCE = "nemo_rl"

_CHECK_SECONDS = 30.0


class ClusterService:
    """Policy connections and environments as one Serve application, held by this process.

    Args:
        config: of the application.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._router = Router(config.environments)
        self._run_id = uuid.uuid4().hex[:12]
        self._room = asyncio.Semaphore(config.collect.max_in_flight)
        self._starting = asyncio.Lock()
        self._application: Application | None = None
        self._client: EnvironmentClient | None = None

    async def start(self) -> Hosted:
        """Find the environments' code; errors in the config are told before anything waits."""
        self._config = await asyncio.to_thread(with_agents, self._config)
        await asyncio.to_thread(application_name, self._config)
        return Hosted(self._config.environments)

    async def run(
        self, rows: Sequence[Mapping[str, Any]]
    ) -> AsyncGenerator[tuple[int, Rollout], None]:
        client = await self._deployed()
        running = [
            asyncio.ensure_future(self._one(client, position, row))
            for position, row in enumerate(rows)
        ]
        try:
            for done in asyncio.as_completed(running):
                yield await done
        finally:
            for rollout in running:
                rollout.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def check(self) -> None:
        if self._application is None:
            return
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                status = await asyncio.to_thread(_status, self._application.name)
        except Exception as error:
            raise GymTransportError(f"Ray Serve does not answer: {one_line(error)}") from None
        if status not in ("RUNNING", "DEPLOYING"):
            raise GymTransportError(f"application {self._application.name} is {status}")

    async def close(self) -> None:
        async with self._starting:
            application, self._application, self._client = self._application, None, None
            if application is not None:
                await asyncio.to_thread(application.close)

    async def _deployed(self) -> EnvironmentClient:
        """What reaches the application, which the first caller starts."""
        async with self._starting:
            if self._client is None:
                try:
                    application = await asyncio.to_thread(
                        Application.deploy, self._config, logger.info
                    )
                except ConfigError:
                    raise
                except GymRayError as error:
                    raise GymTransportError(str(error)) from None
                self._application = application
                # On this loop: Serve's router runs on the loop that makes the first call.
                self._client = environment_client(
                    GatewayPlan(self._config, application.name, application.policy, self._run_id),
                    {name: application.environment(name) for name in self._config.environments},
                    recorder=None,
                )
            return self._client

    async def _one(
        self, client: EnvironmentClient, position: int, row: Mapping[str, Any]
    ) -> tuple[int, Rollout]:
        text = json.dumps(row, ensure_ascii=False)
        spec = RolloutSpec(
            # Of its own, not of the task: rows of a group are equal.
            rollout_id=uuid.uuid4().hex,
            task_id="",
            task_index=0,
            rollout_index=position,
            environment="",
            source_file=_SOURCE,
            source_line=position,
            task=text,
        )
        try:
            routed = self._routed(spec)
        except RolloutFailure as failure:
            refused = failed_rollout(spec, failure.kind, failure.message, run_id=self._run_id)
            return position, refused
        async with self._room:
            return position, await client.run(routed)

    def _routed(self, spec: RolloutSpec) -> RolloutSpec:
        task = parse_task(
            spec.task, task_index=0, source_file=_SOURCE, source_line=spec.source_line
        )
        return dataclasses.replace(
            spec, task_id=task.task_id, environment=self._router.find(task.row)
        )


def _status(application: str) -> str:
    from ray import serve

    found = serve.status().applications.get(application)
    return "gone" if found is None else str(found.status.value)
