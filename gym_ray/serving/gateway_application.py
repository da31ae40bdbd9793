"""The gateway's Serve application: beside the core application, named after it, with leases of
its own.

It calls the core by name and holds none of its state, so it can come and go while collections
use the core. One gateway serves per cluster, at the root of Serve's one HTTP address.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import Any

from gym_ray.config.load import RunConfig
from gym_ray.errors import ConfigError
from gym_ray.gateway.security import is_loopback
from gym_ray.serving import options
from gym_ray.serving.application import (
    Application,
    Report,
    ask,
    delete,
    wait_until_not_deleting,
    wait_until_running,
)
from gym_ray.serving.gateway import Batches, Gateway, GatewayPlan
from gym_ray.serving.http import start_http
from gym_ray.serving.lease import APPLICATION_PREFIX, Lease, holders
from gym_ray.serving.recorder import RecordTarget

GATEWAY_DEPLOYMENT = "gateway"
BATCHES_DEPLOYMENT = "batches"
GATEWAY_SUFFIX = "-gateway"

#: Requests one replica takes. Each waits for a whole rollout, so this is no measure of load; it
#: has to be out of the way.
_MAX_ONGOING_REQUESTS = 65_536

#: The user has asked for the end; requests in work get so long.
_GRACEFUL_SHUTDOWN_SECONDS = 5

#: Thousands of requests that come at once keep the event loop busy for a while.
_HEALTH_CHECK_SECONDS = 300

_OPTIONS: dict[str, Any] = {
    "max_ongoing_requests": _MAX_ONGOING_REQUESTS,
    "graceful_shutdown_timeout_s": _GRACEFUL_SHUTDOWN_SECONDS,
    "health_check_timeout_s": _HEALTH_CHECK_SECONDS,
    "ray_actor_options": {"num_cpus": 0},
    **options.DEPLOYMENT_OPTIONS,
}

_START_SECONDS = 300.0


class GatewayApplication:
    """A running gateway that this process holds.

    Attributes:
        name: Serve's name of it.
        base_url: where it answers, without a slash at its end.
        api_key: what it asks for, as far as this process knows; None for nothing.
    """

    def __init__(self, name: str, base_url: str, lease: Lease, api_key: str | None) -> None:
        self.name = name
        self.base_url = base_url
        self.api_key = api_key
        self._lease = lease

    @classmethod
    def deploy(
        cls,
        config: RunConfig,
        core: Application,
        report: Report,
        check: Callable[[], None] = lambda: None,
        target: RecordTarget | None = None,
    ) -> GatewayApplication:
        """Adopt or start the gateway of a core application and wait until it answers.

        A gateway that runs already keeps its settings; where they differ from the config's,
        that is reported.

        Args:
            config: the whole config.
            core: the application it calls.
            report: told, in one line each, what is being waited for.
            check: called while waiting; raises to give up.
            target: where rollouts are recorded; None to keep none.

        Raises:
            ConfigError: another gateway answers on this cluster, or this one records elsewhere
                than to `target`, or HTTP is not to be had.
            GymRayError: it does not start.
        """
        from ray import serve

        base_url = start_http(config.serve, report)
        name = core.name + GATEWAY_SUFFIX
        api_key = _key(config.serve.api_key_env)
        plan = GatewayPlan(
            config=config,
            core=core.name,
            policy=core.policy,
            run_id=target.run_id if target is not None else uuid.uuid4().hex[:12],
            target=target,
            api_key=api_key,
            admin_key=_key(config.serve.admin_key_env),
            loopback_only=api_key is None and is_loopback(config.serve.host),
        )
        lease = Lease(name)
        try:
            wait_until_not_deleting(name, report, check)
            _require_only(name)
            adopted = name in serve.status().applications
            if adopted:
                report(f"using gateway {name}, which is running already")
            else:
                target = serve.RunTarget(
                    gateway_deployment(Gateway, config).bind(
                        plan, batches_deployment(Batches).bind(plan)
                    ),
                    name=name,
                    route_prefix="/",
                )
                serve.run_many([target], wait_for_applications_running=False)
            wait_until_running(name, _START_SECONDS, report, check)
            if adopted:
                _report_differences(name, plan, report, check)
        except BaseException:
            lease.release()
            if not lease.others():
                delete(name)
            raise
        return cls(name, base_url, lease, plan.api_key)

    def close(self) -> None:
        """Let go; take the gateway down when nobody else holds it."""
        self._lease.release()
        if not self._lease.others():
            delete(self.name)


def gateway_deployment(gateway_class: type[Gateway], config: RunConfig) -> Any:
    """The Serve deployment of a gateway, to be bound with what its class takes."""
    from ray import serve

    return serve.deployment(serve.ingress(None)(gateway_class)).options(
        name=GATEWAY_DEPLOYMENT, **_OPTIONS, **options.scaling(config.serve.autoscaling)
    )


def batches_deployment(batches_class: type[Batches]) -> Any:
    """The Serve deployment that holds the batches, to be bound likewise; always one replica."""
    from ray import serve

    return serve.deployment(batches_class).options(
        name=BATCHES_DEPLOYMENT, num_replicas=1, **_OPTIONS
    )


def _key(variable: str | None) -> str | None:
    return (os.environ.get(variable) or None) if variable else None


def _require_only(name: str) -> None:
    """One gateway per cluster: Serve has one address, and the gateway its root."""
    from ray import serve

    for other in serve.status().applications:
        ours = other.startswith(APPLICATION_PREFIX) and other.endswith(GATEWAY_SUFFIX)
        if ours and other != name and holders(other):
            raise ConfigError(
                f"gateway {other} serves another config on this cluster already (held by "
                f"{', '.join(holders(other))}); stop it, or use another cluster"
            )


def _report_differences(
    name: str, plan: GatewayPlan, report: Report, check: Callable[[], None]
) -> None:
    running = ask(GATEWAY_DEPLOYMENT, name, "in_force", _START_SECONDS, check)
    wanted = plan.in_force()
    differing = [key for key in sorted(wanted) if running.get(key) != wanted[key]]
    if plan.target is None:  # This command's rollouts are recorded elsewhere, by itself.
        differing = [key for key in differing if key != "serve.output"]
    elif "serve.output" in differing:
        raise ConfigError(
            f"gateway {name} runs already and records to {running.get('serve.output')}, not to "
            f"{plan.target.directory}; stop its holders ({', '.join(holders(name))}) or leave "
            "serve.output out"
        )
    if differing:
        report(f"it keeps its own settings, which differ: {', '.join(differing)}")
