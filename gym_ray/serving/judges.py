"""The judges of an environment replica: one client for each judge deployment, and its limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from gym_ray.config.load import RunConfig
from gym_ray.judging import Judge
from gym_ray.policies.judging import JudgeLimits, PolicyJudge, chat_in_tokens
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.sampling import Sampling
from gym_ray.serving.policy_client import PolicyClient


def config_of_judge(config: RunConfig, name: str) -> RunConfig:
    """The config as if the judge were the policy, so that what deploys one deploys the other."""
    judge = config.judges[name]
    return config.model_copy(update={"policy": judge, "sampling": judge.sampling})


async def connect_judges(
    config: RunConfig,
    handles: Mapping[str, Any],
    load_renderer: Callable[[RunConfig], RolloutRenderer | None],
) -> dict[str, Judge]:
    """The judges of one replica, to be asked on the event loop this runs on.

    Args:
        config: the whole config.
        handles: Serve handle of each judge.
        load_renderer: the renderer of a config's policy; None for one that takes messages only.
    """

    async def connect(name: str, handle: Any) -> Judge:
        renderer = await asyncio.to_thread(load_renderer, config_of_judge(config, name))
        return _judge(config, name, handle, renderer)

    judges = await asyncio.gather(*(connect(name, handle) for name, handle in handles.items()))
    return dict(zip(handles, judges, strict=True))


def _judge(
    config: RunConfig, name: str, handle: Any, renderer: RolloutRenderer | None
) -> PolicyJudge:
    section = config.judges[name]
    client = PolicyClient(handle, start_seconds=section.startup_timeout_seconds)
    return PolicyJudge(
        name,
        client.chat if renderer is None else chat_in_tokens(renderer, client.generate),
        Sampling(**section.sampling.model_dump()),
        JudgeLimits(
            max_concurrency=section.max_concurrency,
            requests_per_minute=section.requests_per_minute,
            max_retries=section.max_retries,
            call_seconds=section.request_timeout_seconds,
        ),
    )
