"""`/environments`: what tasks may ask for, and what they are sampled with unless they say so.

For trainers that have to know before the first rollout where a row goes and whether anything is
cut off the distribution it is sampled from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from gym_ray.config.environment import EnvironmentConfig
from gym_ray.config.policy import SamplingConfig


def environment_routes(
    sections: Mapping[str, EnvironmentConfig], sampling: SamplingConfig
) -> APIRouter:
    """The route.

    Args:
        sections: config of each environment.
        sampling: the service's own.
    """
    answer = {
        "environments": {
            name: {"agent": section.agent, "agent_refs": list(section.agent_refs)}
            for name, section in sections.items()
        },
        "sampling": sampling.model_dump(mode="json"),
    }
    router = APIRouter(tags=["gateway"])

    @router.get("/environments", summary="The environments, and the sampling")
    async def environments() -> dict[str, Any]:
        """Each environment's agent loop and other `agent_ref` names, and the config's sampling."""
        return answer

    return router
