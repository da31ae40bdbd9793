"""Options of the Serve deployments: where replicas run, how many, and how they end.

Serve's own defaults are for short requests: 5 calls at once, 20 s to finish what a replica has.
"""

from __future__ import annotations

from typing import Any

from gym_ray.config.deployment import AutoscalingConfig, PolicyAutoscalingConfig, ResourcesConfig
from gym_ray.serving.autoscaling import EnvironmentAutoscaling, PolicyAutoscaling

#: Serve's name of the policy in every application.
POLICY_DEPLOYMENT = "policy"

#: Calls a replica accepts at once. The bound that matters is `collect.max_in_flight`; this one
#: only has to be out of its way.
_MAX_ONGOING_REQUESTS = 4096

_HEALTH_CHECK_PERIOD_SECONDS = 10

#: A replica that is let go or replaced finishes the rollouts it has. It has at least so long, as a
#: command with longer rollouts may adopt the application.
DRAIN_SECONDS = 600

#: Beyond the deadline of what it has: verification, and the last rows on their way.
_DRAIN_GRACE_SECONDS = 120

#: Share of the time looked back over after which a load is told again. Serve's default of 10 s
#: would be most of the delay before anything happens.
_REPORTS = 0.2

#: Options of every deployment of ours.
DEPLOYMENT_OPTIONS: dict[str, Any] = {
    "health_check_period_s": _HEALTH_CHECK_PERIOD_SECONDS,
    "logging_config": {"enable_access_log": False},
}

#: Those of the core application.
COMMON: dict[str, Any] = {"max_ongoing_requests": _MAX_ONGOING_REQUESTS, **DEPLOYMENT_OPTIONS}

#: Ray puts actors that ask for nothing on any node, which could then not be released.
ON_HEAD_NODE: dict[str, Any] = {
    "ray_actor_options": {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
}


def placement(resources: ResourcesConfig) -> dict[str, Any]:
    """What a replica claims, and of how many nodes."""
    if resources.bundles is not None:
        # The replica itself takes the first bundle's CPU; the engine's workers take the rest.
        return {
            "placement_group_bundles": resources.bundles,
            "placement_group_strategy": resources.strategy,
            "ray_actor_options": {"num_cpus": resources.bundles[0].get("CPU", 0)},
        }
    return {"ray_actor_options": {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus}}


def draining(seconds: float) -> dict[str, Any]:
    """How long a replica that is let go may finish what it has.

    Args:
        seconds: deadline of each thing it has.
    """
    return {"graceful_shutdown_timeout_s": max(DRAIN_SECONDS, seconds + _DRAIN_GRACE_SECONDS)}


def policy_scaling(section: PolicyAutoscalingConfig) -> dict[str, Any]:
    """Replicas of a policy or a judge, by the load of their engines."""
    return scaling(
        section,
        PolicyAutoscaling,
        target_turns=section.target_ongoing_requests,
        target_kv_cache=section.target_kv_cache_usage,
    )


def environment_scaling(section: AutoscalingConfig) -> dict[str, Any]:
    """Replicas of an environment, by its rollouts in work."""
    return scaling(section, EnvironmentAutoscaling, target=section.target_ongoing_requests)


def scaling(
    section: AutoscalingConfig, policy: type | None = None, **arguments: float
) -> dict[str, Any]:
    """Replicas of a deployment, a fixed number or as Serve's autoscaler decides.

    Args:
        section: the config's.
        policy: what decides, of `autoscaling.py`; None for Serve's own, which counts calls.
        arguments: of the policy.
    """
    if section.min_replicas == section.max_replicas:
        return {"num_replicas": section.max_replicas}
    options: dict[str, Any] = {
        "min_replicas": section.min_replicas,
        "max_replicas": section.max_replicas,
        "target_ongoing_requests": section.target_ongoing_requests,
        "look_back_period_s": section.look_back_seconds,
        "metrics_interval_s": section.look_back_seconds * _REPORTS,
        "upscale_delay_s": section.upscale_delay_seconds,
        "downscale_delay_s": section.downscale_delay_seconds,
    }
    if policy is not None:
        function = f"{policy.__module__}:{policy.__name__}"
        options["policy"] = {"policy_function": function, "policy_kwargs": arguments}
    return {"autoscaling_config": options}
