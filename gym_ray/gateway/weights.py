"""`/weights`: new weights for the running policy, and which replica has which.

Owned here: the route, its answers and statuses. Not owned here: the admin key (security), and
carrying an update out (`WeightsBackend`).
"""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import APIRouter

from gym_ray.errors import GymRayError
from gym_ray.gateway.errors import ApiError
from gym_ray.policies.weights import RefusedUpdate, WeightsReport, WeightsUpdate

_STATUS = {"wrong_source": 400, "version_conflict": 409, "busy": 409, "not_updatable": 409}


class WeightsBackend(Protocol):
    """The policy's weights."""

    async def weights(self) -> WeightsReport:
        """What every replica has.

        Raises:
            GymRayError: one does not say.
        """
        ...

    async def update_weights(self, update: WeightsUpdate) -> WeightsReport | RefusedUpdate:
        """Carry an update out.

        Raises:
            GymRayError: it is not complete, and repeating it may complete it.
        """
        ...


def weights_router(backend: WeightsBackend) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["weights"])

    @router.get("/weights", summary="Versions of the policy's weights, replica by replica")
    async def weights() -> dict[str, Any]:
        """What the policy has to have, and what every replica has."""
        try:
            return (await backend.weights()).to_json()
        except GymRayError as error:
            raise ApiError(503, str(error), type="server_error", code="incomplete") from error

    @router.post("/weights", summary="Update the policy's weights", responses=_RESPONSES)
    async def update_weights(update: WeightsUpdate) -> dict[str, Any]:
        """Replace the weights on every replica; answers when all have them."""
        try:
            outcome = await backend.update_weights(update)
        except GymRayError as error:
            raise ApiError(503, str(error), type="server_error", code="incomplete") from error
        if isinstance(outcome, RefusedUpdate):
            raise ApiError(_STATUS[outcome.code], outcome.message, code=outcome.code)
        if outcome.failed:
            raise _failed(outcome)
        return outcome.to_json()

    return router


def _failed(report: WeightsReport) -> ApiError:
    error = ApiError(
        503,
        f"{len(report.failed)} of {len(report.replicas)} replicas could not take the weights: "
        + "; ".join(f"{failed.replica}: {failed.error}" for failed in report.failed),
        type="server_error",
        code="replicas_failed",
    )
    error.body["report"] = report.to_json()
    return error


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Every replica has the weights."},
    400: {"description": "The weights are not the policy's, or not to be read."},
    401: {"description": "Not the admin key."},
    403: {"description": "There is no admin key, so the route is closed."},
    409: {"description": "An older version, a version with other weights, or one under way."},
    503: {"description": "Not complete: replicas failed or did not answer in time."},
}
