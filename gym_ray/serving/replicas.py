"""What runs inside a Serve replica: the policy's engine, or an environment.

Failures of a rollout or of a turn come back as values, not as exceptions: an exception crossing
Serve is wrapped, logged and counted as the replica's fault, and means here that the transport
or the replica broke.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Mapping,
    Sequence,
)
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from gym_ray.agents import AGENTS, Agent, Toolbox
from gym_ray.agents.bridging import MULTI_TURN, require_bridge
from gym_ray.agents.external import ExternalAgent
from gym_ray.agents.mcp_servers import McpServers
from gym_ray.agents.session import SessionError
from gym_ray.config.load import RunConfig
from gym_ray.environment import judges_asked
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure, one_line
from gym_ray.gateway.sessions import Closing, OpenedSession, SessionState
from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.engine import ChatEngine, GenerationRequest, PolicyInfo
from gym_ray.registry import environment_factory, load_environment, require_judges
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.serving import autoscaling
from gym_ray.serving.coalescing import as_they_finish
from gym_ray.serving.engines import build_engine
from gym_ray.serving.judges import connect_judges
from gym_ray.serving.live_weights import LiveWeights
from gym_ray.serving.policy_client import PolicyClient, Reply, Request
from gym_ray.serving.recorder import RecordTarget
from gym_ray.serving.session_host import SessionHost
from gym_ray.serving.turn_observer import TurnObserver
from gym_ray.serving.weights_record import WeightsStore
from gym_ray.telemetry.logs import set_up_logs
from gym_ray.telemetry.traces import Span, attempt_span, flush_traces
from gym_ray.turn import Generation
from gym_ray.weights import Place, ReplicaWeights, UpdateRefused, WeightsUpdate

if TYPE_CHECKING:
    from gym_ray.renderers.renderer import RolloutRenderer

logger = logging.getLogger("ray.serve")

T = TypeVar("T")

#: Serve's name of the policy in every application.
POLICY_DEPLOYMENT = "policy"

#: What a session does not do, as a value.
Refused: TypeAlias = RolloutFailure | SessionError


class PolicyReplica:
    """One engine. Tokens in, tokens and logprobs out; or messages both ways."""

    async def __init__(self, config: RunConfig) -> None:  # type: ignore[misc]
        set_up_logs(config.observability.log_format)
        self._engine = build_engine(config)
        self._info = await self._engine.start()
        self._weights = LiveWeights(
            self._engine, _replica_tag(), _weights_store(config.policy.model)
        )
        await self._weights.start()
        self._observer = TurnObserver(self._engine, config.policy.model)
        logger.info(
            "policy %s serves %s, engine seed %d",
            self._info.engine, self._info.model, self._info.seed,
        )  # fmt: skip

    async def generate(
        self, requests: Sequence[Request]
    ) -> AsyncIterator[list[tuple[int, Reply | RolloutFailure]]]:
        """Sample turns at once; yields `(position, answer)` as they are ready."""
        turns = [
            self._observer.watch(request, self._generate(index, request))
            for index, request in enumerate(requests)
        ]
        async with contextlib.aclosing(as_they_finish(turns)) as batches:
            async for answers in batches:
                yield answers

    async def _generate(self, index: int, request: Request) -> tuple[int, Reply | RolloutFailure]:
        try:
            async with asyncio.timeout(request.timeout_seconds) as deadline:
                return index, await self._answer(request)
        except RolloutFailure as failure:
            if failure.kind is FailureKind.POLICY_ERROR:
                await self._leave_if_broken()
            return index, failure
        except Exception as error:
            if deadline.expired():
                message = f"no answer within {request.timeout_seconds:g} s"
                return index, RolloutFailure(FailureKind.POLICY_TIMEOUT, message)
            logger.exception("request %s failed", request.request_id)
            await self._leave_if_broken()
            return index, RolloutFailure(FailureKind.POLICY_ERROR, one_line(error))

    async def _answer(self, request: Request) -> Reply:
        if not isinstance(request, ChatRequest):
            return await self._weights.generate(request)
        if not isinstance(self._engine, ChatEngine):
            raise RolloutFailure(
                FailureKind.POLICY_REJECTED, "this policy takes tokens, not messages"
            )
        return await self._engine.chat(request)

    async def _leave_if_broken(self) -> None:
        """End this process when its engine is dead.

        Until Serve's health checks had noticed, it would go on taking turns and failing them at
        once; a gone replica gets none, and is replaced.
        """
        try:
            await self._engine.check_health()
        except Exception:
            logger.exception("the engine is dead; this replica ends")
            os._exit(1)

    async def info(self) -> PolicyInfo:
        weights = self._weights.current
        return dataclasses.replace(
            self._info,
            fingerprint=weights.fingerprint or weights.loaded or self._info.fingerprint,
            weights_version=weights.version,
        )

    # Called on all replicas at once; see `weights.py`.

    async def weights(self) -> ReplicaWeights:
        return self._weights.current

    async def check_weights(
        self, update: WeightsUpdate, place: Place
    ) -> UpdateRefused | str | None:
        return await self._weights.check(update, place)

    async def update_weights(
        self, update: WeightsUpdate, expected: str | None, among: Mapping[str, Place]
    ) -> ReplicaWeights:
        own = self._weights.current.replica
        if own not in among:
            return self._weights.current  # It has come up since, from the record.
        return await self._weights.update(update, expected, among[own])

    async def record_autoscaling_stats(self) -> dict[str, float]:  # Serve asks for it by this name.
        return self._observer.load()

    async def check_health(self) -> None:
        await self._engine.check_health()

    async def __del__(self) -> None:  # Serve awaits it when it stops a replica.
        self._observer.close()
        self._weights.stop()
        await self._engine.stop()
        await asyncio.to_thread(flush_traces)


class EnvironmentReplica:
    """One environment: whole rollouts, many at once.

    Args:
        name: key of the environment's config section.
        config: the whole config.
        policy: Serve handle of the policy.
        judges: Serve handles of the judges.
    """

    async def __init__(  # type: ignore[misc]
        self, name: str, config: RunConfig, policy: Any, judges: Mapping[str, Any]
    ) -> None:
        from gym_ray.verifiers.verification import Verification

        set_up_logs(config.observability.log_format)
        section = config.environments[name]
        client = PolicyClient(policy, start_seconds=config.policy.startup_timeout_seconds)
        environment = load_environment(name, section, config.base_directory)
        require_judges(name, environment, judges)
        self._verification = Verification(
            environment,
            environment_factory(name, section, config.base_directory),
            processes=config.verification.processes,
            timeout_seconds=config.verification.timeout_seconds,
        )
        self._mcp_servers = McpServers(name, section.mcp_servers)
        asked = {judge: judges[judge] for judge in sorted(judges_asked(environment))}
        renderer, remote_tools, _, environment.judges = await asyncio.gather(
            asyncio.to_thread(load_policy_renderer, config),
            self._mcp_servers.start(),
            self._verification.start(),
            connect_judges(config, asked, load_policy_renderer),
        )
        if renderer is not None:
            require_bridge(name, section.agent, renderer)
        toolbox = Toolbox(environment, section.agent_options, remote_tools)

        def runner(agent_name: str, agent: Agent) -> Runner:
            return Runner(
                environment=environment,
                agent_name=agent_name,
                agent=agent,
                renderer=renderer,
                model=config.policy.model,
                generate=client.generate,
                chat=client.chat if renderer is None else None,
                turn_timeout_seconds=config.policy.request_timeout_seconds,
                verification=self._verification,
                agent_options=section.agent_options,
                toolbox=toolbox,
                priority=section.priority,
            )

        # Whatever the environment's own agent is, an outside one can open sessions on it.
        self._sessions = SessionHost(name, _replica_tag(), lambda agent: runner("external", agent))
        agent = AGENTS.get(section.agent)
        if agent is None:
            agent = ExternalAgent(section.external, self._sessions, config.base_directory)
        self._runner = runner(section.agent, agent)
        self._running = 0

    async def run(
        self,
        specs: Sequence[RolloutSpec],
        attempts: Sequence[int],
        settings: RunSettings,
        traceparents: Mapping[str, str] = MappingProxyType({}),
    ) -> AsyncIterator[list[Rollout]]:
        """Run up to 16 rollouts at once; yields those that finished, as they finish.

        Args:
            specs, attempts: which rollouts, and which attempts at them.
            settings: what they share.
            traceparents: W3C contexts of those that are traced, by rollout id.
        """
        rollouts = [
            self._counted(self._run(spec, settings, attempt, traceparents.get(spec.rollout_id)))
            for spec, attempt in zip(specs, attempts, strict=True)
        ]
        async with contextlib.aclosing(as_they_finish(rollouts)) as batches:
            async for finished in batches:
                yield finished

    async def _counted(self, rollout: Awaitable[Rollout]) -> Rollout:
        self._running += 1
        try:
            return await rollout
        finally:
            self._running -= 1

    async def _run(
        self, spec: RolloutSpec, settings: RunSettings, attempt: int, traceparent: str | None
    ) -> Rollout:
        span = attempt_span(spec, attempt, traceparent)
        if span is None:
            return await self._runner.run(spec, settings, attempt=attempt)
        rollout = await self._runner.run(
            spec, settings, attempt=attempt, traceparent=span.traceparent
        )
        if rollout.verification_seconds:
            ago = rollout.verification_seconds
            Span("verification", span.traceparent, {}, seconds_ago=ago).end({})
        span.end_rollout(rollout)
        return rollout

    # Sessions: what these refuse or fail with comes back as a value, see the module.

    async def open_session(
        self, spec: RolloutSpec, settings: RunSettings, target: RecordTarget | None
    ) -> OpenedSession | Refused:
        return await _as_value(self._sessions.open(spec, settings, target))

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

    async def __del__(self) -> None:  # Serve awaits it when it stops a replica.
        await self._sessions.stop()
        await self._mcp_servers.stop()
        await self._verification.stop()
        await asyncio.to_thread(flush_traces)


async def _as_value(answer: Awaitable[T]) -> T | Refused:
    try:
        return await answer
    except (RolloutFailure, SessionError) as refused:
        return refused


def _replica_tag() -> str:
    """Name of this replica, by which `OwnerRouter` knows it."""
    from ray import serve

    tag: str = serve.get_replica_context().replica_id.unique_id
    return tag


def _weights_store(model: str) -> WeightsStore | None:
    """Where this replica finds its weights; None for a judge's."""
    from ray import serve

    context = serve.get_replica_context()
    is_policy = context.deployment == POLICY_DEPLOYMENT
    return WeightsStore(context.app_name, model) if is_policy else None


def check_renderer(config: RunConfig) -> None:
    """Refuse, before anything starts, an agent that the policy's renderer cannot carry.

    Raises:
        ConfigError: see `require_bridge`; or an outside agent's calls could not be recorded, since
            the policy takes messages only. Single-turn configs load nothing and always pass.
    """
    if takes_messages_only(config):
        _refuse_outside_agents(config)
        return
    agents = {
        name: section.agent
        for name, section in config.environments.items()
        if section.agent in MULTI_TURN
    }
    if not agents:
        return
    renderer = load_policy_renderer(config)
    assert renderer is not None
    for name, agent in agents.items():
        require_bridge(name, agent, renderer)


def _refuse_outside_agents(config: RunConfig) -> None:
    for name, section in config.environments.items():
        if section.agent == "external":
            raise ConfigError(
                f"environments.{name}.agent external needs a policy that takes tokens, and this "
                "one takes messages only; set policy.engine_args.api=completions, or another agent"
            )


def takes_messages_only(config: RunConfig) -> bool:
    """Whether the policy speaks chat completions and nothing else, so that no renderer is needed.

    Raises:
        ConfigError: the arguments of a remote policy are wrong.
    """
    if config.policy.engine != "openai":
        return False
    from gym_ray.policies.openai import OpenAIArgs

    return OpenAIArgs.parse(config.policy.engine_args).api == "chat"


def load_policy_renderer(config: RunConfig) -> RolloutRenderer | None:
    """The renderer of the policy's model; None for a policy that takes messages only."""
    if takes_messages_only(config):
        return None
    from gym_ray.renderers.renderer import load_renderer

    policy = config.policy
    return load_renderer(model_path_of(config), policy.renderer, policy.thinking_retention)


def model_path_of(config: RunConfig) -> str | None:
    """Where the policy's tokenizer is; None for the scripted policy, which needs no files."""
    if config.policy.engine == "scripted":
        return None
    from gym_ray.policies.bundled import resolve_model

    return resolve_model(config.policy.model)
