"""Which engine a config names, and what of the config it is made of."""

from __future__ import annotations

import math

from gym_ray.config.load import RunConfig
from gym_ray.policies.engine import Engine
from gym_ray.sampling import Sampling


def build_engine(config: RunConfig) -> Engine:
    """The engine `policy.engine` names, not started yet."""
    policy = config.policy
    if policy.engine == "scripted":
        from gym_ray.policies.scripted import ScriptedEngine

        return ScriptedEngine(model=policy.model, engine_args=dict(policy.engine_args))
    if policy.engine == "openai":
        from gym_ray.policies.openai import OpenAIEngine

        return OpenAIEngine(
            model=policy.model,
            engine_args=policy.engine_args,
            sampling=Sampling(**config.sampling.model_dump()),
        )
    from gym_ray.policies.vllm import VllmEngine

    arguments = dict(policy.engine_args)
    gpus = policy.resources.num_gpus
    if policy.resources.bundles is not None:
        gpus = sum(bundle.get("GPU", 0) for bundle in policy.resources.bundles)
        arguments.setdefault("distributed_executor_backend", "ray")
    if config.has_priorities:
        arguments.setdefault("scheduling_policy", "priority")
    return VllmEngine(model=policy.model, engine_args=arguments, num_gpus=math.ceil(gpus))
