"""The gateway as a Serve deployment: HTTP on one side, handles of the core application on the
other.

Owned here: what runs inside a gateway replica. Routes are in `gym_ray.gateway`, deploying it is
in `gateway_application.py`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from gym_ray.batches.protocol import Opening
from gym_ray.config.load import RunConfig
from gym_ray.errors import GymRayError
from gym_ray.gateway.app import GatewaySettings, create_app
from gym_ray.gateway.backend import PolicyBackend
from gym_ray.gateway.batches import batch_routes
from gym_ray.gateway.environments import environment_routes
from gym_ray.gateway.run import run_router
from gym_ray.gateway.sessions import session_routes
from gym_ray.gateway.token_chat import MessagePolicy, TokenPolicy
from gym_ray.gateway.weights import weights_router
from gym_ray.policies.engine import PolicyInfo
from gym_ray.policies.weights import RefusedUpdate, WeightsReport, WeightsUpdate
from gym_ray.routing import Router
from gym_ray.runner import RunSettings
from gym_ray.sampling import Sampling
from gym_ray.serving.application import CONTROLLER_DEPLOYMENT, ENVIRONMENT_DEPLOYMENT
from gym_ray.serving.batches import BatchClient, BatchReplica
from gym_ray.serving.environment_client import EnvironmentClient, client_settings, producer_of
from gym_ray.serving.options import POLICY_DEPLOYMENT
from gym_ray.serving.policy_client import PolicyClient
from gym_ray.serving.policy_renderer import load_policy_renderer
from gym_ray.serving.recorder import Recorder, RecordTarget
from gym_ray.serving.session_client import SessionClient
from gym_ray.telemetry.traces import flush_traces

#: Keys of `collect` that decide how `/run` runs a rollout.
_COLLECT_KEYS = (
    "max_attempts",
    "max_in_flight",
    "max_staleness",
    "rollout_timeout_seconds",
    "when_stale",
)


@dataclasses.dataclass(frozen=True)
class GatewayPlan:
    """What a gateway replica is told.

    Attributes:
        config: the whole config.
        core: name of the core application.
        policy: what its policy says of itself.
        run_id: names the rollouts of `/run` and of sessions.
        target: where those rollouts are recorded; None to keep none.
        api_key: bearer key to ask for; None asks for none. Not part of the printed form.
        admin_key: bearer key of `/weights`; None closes it. Not part of the printed form.
        loopback_only: see `GatewaySettings`.
    """

    config: RunConfig
    core: str
    policy: PolicyInfo
    run_id: str
    target: RecordTarget | None = None
    api_key: str | None = dataclasses.field(default=None, repr=False)
    admin_key: str | None = dataclasses.field(default=None, repr=False)
    loopback_only: bool = False

    def in_force(self) -> dict[str, Any]:
        """What clients notice of it; of the key, a digest."""
        config = self.config.model_dump(mode="json")
        key, admin_key = self.api_key or "", self.admin_key or ""
        return {
            **{f"sampling.{name}": value for name, value in config["sampling"].items()},
            **{f"collect.{name}": config["collect"][name] for name in _COLLECT_KEYS},
            "observability.trace_share": config["observability"]["trace_share"],
            **{f"serve.{name}": value for name, value in config["serve"].items()},
            # A `collect` that has the key in its config records nothing all the same.
            "serve.output": None if self.target is None else self.target.directory,
            "the bearer key": hashlib.sha256(key.encode()).hexdigest(),
            "the admin key": hashlib.sha256(admin_key.encode()).hexdigest(),
        }


class Gateway:
    """One gateway replica. Several may run; none keeps anything another needs.

    Args:
        plan: what it is told.
        batches: Serve handle of `Batches`.
    """

    async def __init__(self, plan: GatewayPlan, batches: Any) -> None:  # type: ignore[misc]
        config = plan.config
        self._plan = plan
        renderer = await asyncio.to_thread(load_policy_renderer, config)
        sampling = Sampling(**config.sampling.model_dump())
        start_seconds = config.policy.startup_timeout_seconds

        # A call of its own per turn, so that a client that goes away aborts exactly its own.
        client = PolicyClient(
            _handle(POLICY_DEPLOYMENT, plan.core), start_seconds=start_seconds, call_turns=1
        )
        environments = _environments(plan)
        rollouts = environment_client(plan, environments, _recorder_of(plan))
        tasks = Router(config.environments)
        policy: PolicyBackend = (
            MessagePolicy(plan.policy, sampling, client.chat)
            if renderer is None
            else TokenPolicy(plan.policy, renderer, sampling, client.generate)
        )
        sessions = SessionClient(
            environments,
            _settings(plan, sampling, config.serve.session_timeout_seconds),
            plan.target,
            start_seconds=start_seconds,
            call_seconds=config.policy.request_timeout_seconds,
            verify_seconds=config.verification.timeout_seconds,
            trace_share=config.observability.trace_share,
        )
        self._app = create_app(
            policy=policy,
            settings=GatewaySettings(
                api_key=plan.api_key,
                admin_key=plan.admin_key,
                loopback_only=plan.loopback_only,
                max_body_bytes=config.serve.max_body_bytes,
                policy_timeout_seconds=config.policy.request_timeout_seconds,
            ),
            routers=[
                weights_router(_PolicyWeights(_handle(CONTROLLER_DEPLOYMENT, plan.core))),
                session_routes(
                    sessions,
                    tasks,
                    policy,
                    timeout_seconds=config.policy.request_timeout_seconds,
                ),
                batch_routes(BatchClient(batches), tasks),
                run_router(rollouts, tasks),
                environment_routes(config.environments, config.sampling),
            ],
        )

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    async def in_force(self) -> dict[str, Any]:
        """For a command that finds this gateway running."""
        return self._plan.in_force()

    async def __del__(self) -> None:  # Serve awaits it when it stops a replica.
        await asyncio.to_thread(flush_traces)


class _PolicyWeights:
    """The policy's weights, by way of the core application's front."""

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    async def weights(self) -> WeightsReport:
        report: WeightsReport | GymRayError = await self._controller.weights.remote()
        if isinstance(report, GymRayError):
            raise report
        return report

    async def update_weights(self, update: WeightsUpdate) -> WeightsReport | RefusedUpdate:
        outcome: WeightsReport | RefusedUpdate | GymRayError
        outcome = await self._controller.update_weights.remote(update)
        if isinstance(outcome, GymRayError):
            raise outcome
        return outcome


class Batches(BatchReplica):
    """The one replica that holds the batches of all gateway replicas."""

    def __init__(self, plan: GatewayPlan) -> None:
        self._plan = plan
        self._recorder = _recorder_of(plan)
        self._environments: Mapping[str, Any] = {}
        super().__init__(
            self._client_of,
            producer=producer_of(plan.config, plan.run_id),
            max_running=plan.config.collect.max_in_flight,
            retention_seconds=plan.config.serve.batch_retention_seconds,
        )

    def _client_of(self, opening: Opening) -> EnvironmentClient:
        """A client of each opening's own: only rollouts of one batch share calls, so that giving
        a batch up reaches the engine whatever others do.
        """
        self._environments = self._environments or _environments(self._plan)
        return environment_client(self._plan, self._environments, self._recorder, opening)

    async def __del__(self) -> None:  # Serve awaits it when it stops a replica.
        await super().__del__()
        await asyncio.to_thread(flush_traces)


def environment_client(
    plan: GatewayPlan,
    environments: Mapping[str, Any],
    recorder: Recorder | None,
    opening: Opening | None = None,
) -> EnvironmentClient:
    """Runs rollouts in the environments of a core application.

    Args:
        plan: which application, and how rollouts run.
        environments: their Serve handles.
        recorder: makes them durable; None to keep none.
        opening: of a batch, for what it wants of its own.
    """
    config = plan.config
    sampling = Sampling(**config.sampling.model_dump())
    timeout_seconds = config.collect.rollout_timeout_seconds
    if opening is not None:
        if opening.seed is not None:
            sampling = dataclasses.replace(sampling, seed=opening.seed)
        timeout_seconds = min(timeout_seconds, opening.rollout_timeout_seconds or timeout_seconds)
    return EnvironmentClient(
        environments.__getitem__,
        client_settings(config, _settings(plan, sampling, timeout_seconds)),
        record=None if recorder is None else recorder.record,
    )


def _environments(plan: GatewayPlan) -> dict[str, Any]:
    """Serve handle of each environment."""
    return {
        name: _handle(ENVIRONMENT_DEPLOYMENT.format(name=name), plan.core)
        for name in plan.config.environments
    }


def _recorder_of(plan: GatewayPlan) -> Recorder | None:
    return Recorder(plan.target) if plan.target is not None else None


def _settings(plan: GatewayPlan, sampling: Sampling, timeout_seconds: float) -> RunSettings:
    return RunSettings(
        plan.run_id,
        sampling,
        timeout_seconds,
        max_staleness=plan.config.collect.max_staleness,
        when_stale=plan.config.collect.when_stale,
    )


def _handle(deployment: str, application: str) -> Any:
    from ray import serve

    return serve.get_deployment_handle(deployment, application)
