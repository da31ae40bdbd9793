"""The root of the application: says what is served, and leads updates of the policy's weights.

One replica, so there is one leader. It keeps nothing that its successor would need.
"""

from __future__ import annotations

from typing import Any

from gym_ray.errors import GymRayError
from gym_ray.policies.engine import PolicyInfo
from gym_ray.policies.weights import RefusedUpdate, WeightsReport, WeightsUpdate
from gym_ray.serving.options import POLICY_DEPLOYMENT
from gym_ray.serving.weights import PolicyWeights


class Controller:
    """Root of the application graph: keeps it one application, and says what is served."""

    def __init__(self, policy: Any, environments: dict[str, Any], model: str) -> None:
        from ray import serve

        self._policy = policy
        self._environments = environments
        application = serve.get_replica_context().app_name
        self._weights = PolicyWeights(policy, application, POLICY_DEPLOYMENT, model)

    async def describe(self) -> PolicyInfo:
        info: PolicyInfo = await self._policy.info.remote()
        return info

    async def weights(self) -> WeightsReport | GymRayError:
        try:
            return await self._weights.report()
        except GymRayError as error:  # As below.
            return error

    async def update_weights(
        self, update: WeightsUpdate
    ) -> WeightsReport | RefusedUpdate | GymRayError:
        try:
            return await self._weights.update(update)
        except GymRayError as error:  # As a value: an exception would count as a fault here.
            return error
