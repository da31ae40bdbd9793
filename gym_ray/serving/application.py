"""The Serve application: policy, judges, environments and front, one to start and to take down.

The application's name is a digest of what it serves, so a command finds a running application
that fits it and never one that does not. `Application.deploy` adopts or starts; `close` takes
it down unless another process holds a lease on it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from gym_ray.config.load import RunConfig
from gym_ray.config.policy import PolicyConfig
from gym_ray.errors import ConfigError, GymRayError
from gym_ray.policies.engine import PolicyInfo
from gym_ray.registry import code_digest, with_agents
from gym_ray.serving import options
from gym_ray.serving.cluster import policies_of, unmet_demand
from gym_ray.serving.controller import Controller
from gym_ray.serving.deployed import DeployedEnvironment, DeployedPolicy
from gym_ray.serving.job import folder_on_every_node
from gym_ray.serving.judges import config_of_judge
from gym_ray.serving.lease import APPLICATION_PREFIX, Lease, holders
from gym_ray.serving.options import POLICY_DEPLOYMENT
from gym_ray.serving.weights_record import WeightsStore

JUDGE_DEPLOYMENT = "judge-{name}"
CONTROLLER_DEPLOYMENT = "controller"
ENVIRONMENT_DEPLOYMENT = "environment-{name}"

#: Sends calls of a session to the replica that has it.
OWNER_ROUTER = "gym_ray.serving.owner_router.OwnerRouter"

_POLL_SECONDS = 0.25
_DELETE_SECONDS = 60.0
_DESCRIBE_SECONDS = 2.0
_REPORT_SECONDS = 10.0

Report = Callable[[str], None]


class Application:
    """A running application that this process holds.

    Attributes:
        name: Serve's name of it.
        policy: what the policy says of itself.
        adopted: True when it was running already.
    """

    def __init__(self, name: str, lease: Lease, policy: PolicyInfo, *, adopted: bool) -> None:
        self.name = name
        self.policy = policy
        self.adopted = adopted
        self._lease = lease

    @classmethod
    def deploy(
        cls, config: RunConfig, report: Report, check: Callable[[], None] = lambda: None
    ) -> Application:
        """Adopt or start the application of `config` and wait until it serves.

        Args:
            config: what to serve.
            report: told, in one line each, what is being waited for.
            check: called while waiting; raises to give up.

        Raises:
            GymRayError: not up within `policy.startup_timeout_seconds`, or a replica cannot
                start; the message carries Serve's reason.
        """
        from ray import serve

        name = application_name(config)
        start_seconds = max(policy.startup_timeout_seconds for policy in policies_of(config))
        lease = Lease(name)
        try:
            serve.start(proxy_location="Disabled")
            take_down_unheld(except_for=name, report=report)
            wait_until_not_deleting(name, report, check)
            adopted = name in serve.status().applications
            if adopted:
                report(f"using application {name}, which is running already")
            else:
                report(f"starting application {name}")
                WeightsStore.forget(name)  # Those of an earlier one that was killed.
                target = serve.RunTarget(build(config), name=name, route_prefix=None)
                serve.run_many([target], wait_for_applications_running=False)
            wait_until_running(name, start_seconds, report, check, lambda: unmet_demand(config))
            timeout_seconds = config.policy.startup_timeout_seconds
            policy = ask(CONTROLLER_DEPLOYMENT, name, "describe", timeout_seconds, check)
            if policy.weights_version:
                report(f"its policy has weights {policy.weights_version}, see `gym-ray weights`")
        except BaseException:
            lease.release()
            if not lease.others():
                delete(name)
            raise
        return cls(name, lease, policy, adopted=adopted)

    def facts(self) -> dict[str, Any]:
        """What produces the rollouts, for `RunDirectory.record`."""
        return {
            "application": self.name,
            "engine": f"{self.policy.engine} {self.policy.engine_version}",
            "engine_seed": self.policy.seed,
            "model": self.policy.model,
            "model_fingerprint": self.policy.fingerprint,
            "weights_version": self.policy.weights_version,
            "gym_ray": importlib.metadata.version("gym-ray"),
            "ray": importlib.metadata.version("ray"),
            "python": sys.version.split()[0],
        }

    def environment(self, name: str) -> Any:
        """Serve handle of an environment deployment."""
        from ray import serve

        return serve.get_deployment_handle(ENVIRONMENT_DEPLOYMENT.format(name=name), self.name)

    def close(self, report: Report = lambda text: None) -> None:
        """Let go; take the application down when nobody else holds it."""
        self._lease.release()
        if self._lease.others():
            report(f"leaving application {self.name} to others that use it")
            return
        report(f"taking down application {self.name}")
        delete(self.name)


def build(config: RunConfig) -> Any:
    """The bound Serve graph of a config. Needs Serve imported, but no running cluster."""
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    base_directory = folder_on_every_node(config.base_directory)
    config = with_agents(config).model_copy(update={"base_directory": base_directory})

    def policy_deployment(name: str, section: PolicyConfig, own: RunConfig) -> Any:
        return (
            serve.deployment(DeployedPolicy)
            .options(
                name=name,
                **options.placement(section.resources),
                **options.policy_scaling(section.autoscaling),
                **options.draining(section.request_timeout_seconds),
                **options.COMMON,
            )
            .bind(own)
        )

    policy = policy_deployment(POLICY_DEPLOYMENT, config.policy, config)
    judges = {
        name: policy_deployment(
            JUDGE_DEPLOYMENT.format(name=name), section, config_of_judge(config, name)
        )
        for name, section in config.judges.items()
    }
    environments = {
        name: serve.deployment(DeployedEnvironment)
        .options(
            name=ENVIRONMENT_DEPLOYMENT.format(name=name),
            request_router_config=RequestRouterConfig(request_router_class=OWNER_ROUTER),
            **options.placement(section.resources),
            **options.environment_scaling(section.autoscaling),
            **options.draining(config.collect.rollout_timeout_seconds),
            **options.COMMON,
        )
        .bind(name, config, policy, judges)
        for name, section in config.environments.items()
    }
    return (
        serve.deployment(Controller)
        .options(
            name=CONTROLLER_DEPLOYMENT, num_replicas=1, **options.ON_HEAD_NODE, **options.COMMON
        )
        .bind(policy, environments, config.policy.model)
    )


def take_down_unheld(*, except_for: str, report: Report) -> None:
    """Delete gym-ray applications nobody holds: their process was killed.

    A gateway goes before the core application it calls; its name is the longer one.
    """
    from ray import serve

    for name in sorted(serve.status().applications, key=len, reverse=True):
        if name.startswith(APPLICATION_PREFIX) and name != except_for and not holders(name):
            report(f"taking down application {name}, whose owner is gone")
            delete(name)


#: Sections that decide what is served.
_SERVED = {"policy", "judges", "environments", "verification"}


def application_name(config: RunConfig) -> str:
    """Name of the application of a config: equal for equal policy, judges, environments and
    verification.

    The environments' code counts too: a verifier that was mended must not find the application
    with the old one, nor one project's replicas another's.
    """
    served = with_agents(config).model_dump(mode="json", include=_SERVED)
    for section in served["environments"].values():
        del section["max_in_flight"]  # Each collection's own.
    served["code"] = {
        name: code_digest(name, section, config.base_directory)
        for name, section in config.environments.items()
    }
    digest = hashlib.sha256(json.dumps(served, sort_keys=True).encode()).hexdigest()[:12]
    return f"{APPLICATION_PREFIX}{digest}"


def wait_until_not_deleting(name: str, report: Report, check: Callable[[], None]) -> None:
    """An application on its way down cannot be adopted; a new one can follow it."""
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    deadline = time.monotonic() + options.DRAIN_SECONDS + 60
    told = False
    while (found := serve.status().applications.get(name)) is not None:
        if found.status != ApplicationStatus.DELETING:
            return
        if time.monotonic() > deadline:
            raise GymRayError(f"application {name} is being taken down and does not end")
        if not told:
            report(f"waiting for an earlier application {name} to end")
            told = True
        check()
        time.sleep(_POLL_SECONDS)


def wait_until_running(
    name: str,
    timeout_seconds: float,
    report: Report,
    check: Callable[[], None],
    unmet: Callable[[], str | None] = lambda: None,
) -> None:
    """Wait for an application that was deployed.

    Args:
        name: Serve's name of it.
        timeout_seconds: how long it may take.
        report: told, now and then, what is being waited for.
        check: called while waiting; raises to give up.
        unmet: what the cluster lacks for it, for a person to read.

    Raises:
        GymRayError: it is not up in time, or cannot start; with Serve's reason.
    """
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    started = reported = time.monotonic()
    deadline = started + timeout_seconds
    while True:
        application = serve.status().applications.get(name)
        if application is None:
            raise GymRayError(f"application {name} was taken down by another process; try again")
        if application.status == ApplicationStatus.RUNNING:
            return
        # One that is unhealthy has lost a replica, with its node say, and Serve replaces it. A
        # replica that said why it cannot start would say so again, minutes later, twice.
        if application.status == ApplicationStatus.DEPLOY_FAILED or (
            application.status == ApplicationStatus.DEPLOYING and _own_error(_reason(application))
        ):
            raise _start_error(application)
        check()
        now = time.monotonic()
        if now > deadline:
            lacking = unmet()
            raise GymRayError(
                f"application {name} is not up after {timeout_seconds:g} s: "
                f"{_reason(application)}" + (f"; the cluster lacks {lacking}" if lacking else "")
            )
        if now - reported > _REPORT_SECONDS:
            reported = now
            lacking = unmet()
            waiting = [
                deployment
                for deployment, status in application.deployments.items()
                if status.status != "HEALTHY"
            ]
            report(
                f"waiting for {', '.join(waiting) or name} ({now - started:.0f} s)"
                + (f"; the cluster lacks {lacking}" if lacking else "")
            )
        time.sleep(_POLL_SECONDS)


def _start_error(application: Any) -> GymRayError:
    """Why an application cannot start: the replica's own last words, not Serve's traceback."""
    reason = _reason(application)
    return _own_error(reason) or GymRayError(f"application cannot start: {reason}")


def _own_error(reason: str) -> GymRayError | None:
    """The error of ours that Serve quotes, if it does."""
    found = re.search(r"gym_ray\.errors\.(ConfigError|GymRayError): (.+)", reason)
    if found is None:
        return None
    kind = ConfigError if found[1] == "ConfigError" else GymRayError
    return kind(found[2].strip())


def _reason(application: Any) -> str:
    messages = [application.message] + [
        f"{name}: {_last_words(status.message)}"
        for name, status in application.deployments.items()
        if status.message and status.status != "HEALTHY"
    ]
    return "; ".join(message.strip() for message in messages if message) or "no reason given"


def _last_words(message: str) -> str:
    """The exception at the end of a quoted traceback; other messages as they are."""
    if "Traceback" not in message:
        return message
    errors = re.findall(r"^([\w.]*\w+(?:Error|Exception|Failure)\b.*)", message, re.MULTILINE)
    return errors[-1] if errors else message


def ask(
    deployment: str,
    application: str,
    method: str,
    timeout_seconds: float,
    check: Callable[[], None],
    *arguments: Any,
) -> Any:
    """What a method of a deployment returns.

    Args:
        deployment, application, method, arguments: which one, and what it is called with.
        timeout_seconds: how long it may take; scaled to zero, a replica has to start first.
        check: called while waiting; raises to give up.

    Raises:
        GymRayError: no answer in time.
    """
    from ray.serve.handle import DeploymentHandle

    handle: Any = DeploymentHandle(deployment, application)
    # This process has no event loop that outlives the call, so the router gets one of its own.
    handle._init(_run_router_in_separate_loop=True)
    answer = getattr(handle, method).remote(*arguments)
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return answer.result(timeout_s=_DESCRIBE_SECONDS)
        except TimeoutError:
            check()
            if time.monotonic() > deadline:
                raise GymRayError(
                    f"application {application}: {deployment} did not answer within "
                    f"{timeout_seconds:g} s"
                ) from None


def delete(name: str) -> None:
    """Take an application down."""
    from ray import serve

    # Not its own waiting, which looks once a second.
    serve.delete(name, _blocking=False)
    # Waits at most a minute. Longer only where a replica has calls of a killed command in work:
    # Serve then stops it when they end, or after the time it has to drain.
    deadline = time.monotonic() + _DELETE_SECONDS
    while name in serve.status().applications and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    WeightsStore.forget(name)
