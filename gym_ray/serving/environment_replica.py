"""The replica of an environment: whole rollouts, and sessions of agents outside.

Failures of a rollout or of a session come back as values, not as exceptions: an exception crossing
Serve is wrapped, logged and counted as the replica's fault, and means here that the transport or
the replica broke.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Mapping,
    Sequence,
)
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from gym_ray.agents import AGENTS, Agent, Toolbox
from gym_ray.agents.bridging import require_bridge
from gym_ray.agents.external import ExternalAgent
from gym_ray.agents.mcp_servers import McpServers
from gym_ray.agents.sessions import Closing, OpenedSession, SessionError, SessionState
from gym_ray.config.load import RunConfig
from gym_ray.environment import judges_asked
from gym_ray.errors import RolloutFailure
from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.engine import GenerationRequest
from gym_ray.registry import environment_factory, load_environment, require_judges
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.serving import autoscaling
from gym_ray.serving.attempts import of_one_call, run_attempt
from gym_ray.serving.host import Host
from gym_ray.serving.judges import connect_judges
from gym_ray.serving.policy_client import PolicyClient
from gym_ray.serving.policy_renderer import load_policy_renderer
from gym_ray.serving.recorder import RecordTarget
from gym_ray.serving.session_host import SessionHost
from gym_ray.telemetry.traces import flush_traces
from gym_ray.turn import Generation

T = TypeVar("T")

#: What a session does not do, as a value.
Refused: TypeAlias = RolloutFailure | SessionError


class EnvironmentReplica:
    """One environment: whole rollouts, many at once.

    Args:
        name: key of the environment's config section.
        config: the whole config.
        policy: handle of the policy.
        judges: handles of the judges.
        host: where it lives.
    """

    def __init__(
        self, name: str, config: RunConfig, policy: Any, judges: Mapping[str, Any], host: Host
    ) -> None:
        from gym_ray.verifiers.verification import Verification

        self._name = name
        self._config = config
        self._section = section = config.environments[name]
        self._client = PolicyClient(policy, start_seconds=config.policy.startup_timeout_seconds)
        self._environment = load_environment(name, section, config.base_directory)
        require_judges(name, self._environment, judges)
        self._judges = {judge: judges[judge] for judge in sorted(judges_asked(self._environment))}
        self._verification = Verification(
            self._environment,
            environment_factory(name, section, config.base_directory),
            processes=config.verification.processes,
            timeout_seconds=config.verification.timeout_seconds,
        )
        self._mcp_servers = McpServers(name, section.mcp_servers)
        self._tag = host.tag
        self._is_started = False
        self._running = 0

    async def start(self) -> None:
        """Have everything that rollouts need.

        Raises:
            ConfigError, GymRayError: something of it cannot be had.
        """
        config, section, environment = self._config, self._section, self._environment
        renderer, remote_tools, _, environment.judges = await asyncio.gather(
            asyncio.to_thread(load_policy_renderer, config),
            self._mcp_servers.start(),
            self._verification.start(),
            connect_judges(config, self._judges, load_policy_renderer),
        )
        if renderer is not None:
            require_bridge(self._name, section.agent, renderer)
        self._toolbox = toolbox = Toolbox(environment, section.agent_options, remote_tools)

        def runner(agent_name: str, agent: Agent) -> Runner:
            return Runner(
                environment=environment,
                agent_name=agent_name,
                agent=agent,
                renderer=renderer,
                model=config.policy.model,
                generate=self._client.generate,
                chat=self._client.chat if renderer is None else None,
                turn_timeout_seconds=config.policy.request_timeout_seconds,
                verification=self._verification,
                agent_options=section.agent_options,
                toolbox=toolbox,
                priority=section.priority,
            )

        # Whatever the environment's own agent is, an outside one can open sessions on it.
        self._sessions = SessionHost(self._name, self._tag, lambda agent: runner("external", agent))
        agent = AGENTS.get(section.agent)
        if agent is None:
            agent = ExternalAgent(section.external, self._sessions, config.base_directory)
        self._runner = runner(section.agent, agent)
        self._is_started = True

    async def run(
        self,
        specs: Sequence[RolloutSpec],
        attempts: Sequence[int],
        settings: RunSettings,
        traceparents: Mapping[str, str] = MappingProxyType({}),
    ) -> AsyncIterator[list[Rollout]]:
        """Run up to 16 rollouts at once; yields those that finished, as they finish; see
        `of_one_call`.

        Args:
            specs, attempts: which rollouts, and which attempts at them.
            settings: what they share.
            traceparents: W3C contexts of those that are traced, by rollout id.
        """
        rollouts = [
            self._counted(
                run_attempt(
                    self._runner, spec, settings, attempt, traceparents.get(spec.rollout_id)
                )
            )
            for spec, attempt in zip(specs, attempts, strict=True)
        ]
        async with contextlib.aclosing(of_one_call(rollouts)) as batches:
            async for finished in batches:
                yield finished

    async def _counted(self, rollout: Awaitable[Rollout]) -> Rollout:
        self._running += 1
        try:
            return await rollout
        finally:
            self._running -= 1

    # Sessions: what these refuse or fail with comes back as a value, see the module.

    async def open_session(
        self, spec: RolloutSpec, settings: RunSettings, target: RecordTarget | None, traced: bool
    ) -> OpenedSession | Refused:
        return await _as_value(self._sessions.open(spec, settings, target, traced=traced))

    async def session_state(self, session_id: str, key: str) -> SessionState | Refused:
        return await _as_value(self._sessions.state(session_id, key))

    async def session_chat(
        self, session_id: str, key: str, request: ChatRequest
    ) -> ChatAnswer | Refused:
        return await _as_value(self._sessions.chat(session_id, key, request))

    async def session_generate(
        self, session_id: str, key: str, request: GenerationRequest
    ) -> Generation | Refused:
        return await _as_value(self._sessions.generate(session_id, key, request))

    async def close_session(
        self, session_id: str, key: str, closing: Closing
    ) -> SessionState | Refused:
        return await _as_value(self._sessions.close(session_id, key, closing))

    async def record_autoscaling_stats(self) -> dict[str, float]:  # Serve asks for it by this name.
        return {autoscaling.ROLLOUTS: self._running + self._sessions.count()}

    async def check_health(self) -> None:
        self._verification.check_health()

    async def stop(self) -> None:
        """End what it started."""
        if self._is_started:
            await self._sessions.stop()
        await self._mcp_servers.stop()
        await self._verification.stop()
        if self._is_started:
            await self._toolbox.stop()
        await asyncio.to_thread(flush_traces)


async def _as_value(answer: Awaitable[T]) -> T | Refused:
    try:
        return await answer
    except (RolloutFailure, SessionError) as refused:
        return refused
