"""OpenAI's API, mountable wherever there is a policy."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from gym_ray.gateway.answers import check_model, now
from gym_ray.gateway.backend import GetPolicy, PolicyBackend
from gym_ray.gateway.chat import add_chat_route
from gym_ray.gateway.completions import add_completion_route
from gym_ray.gateway.responses import add_response_route
from gym_ray.gateway.strict_route import StrictRoute


def openai_routes(
    get_policy: GetPolicy,
    *,
    timeout_seconds: float = 300.0,
    any_model: bool = False,
    item_references: bool = False,
    route_class: type[StrictRoute] = StrictRoute,
) -> APIRouter:
    """Models, chat completions, responses and completions. Mount it at a prefix ending in `/v1`.

    Args:
        get_policy: the dependency that finds the policy of a request.
        timeout_seconds: a policy call that takes longer is aborted.
        any_model: take any model name for the one model there is.
        item_references: whether the policy remembers the items of its responses.
        route_class: of every route, for what has to happen before a body is read.
    """
    router = APIRouter(route_class=route_class, tags=["openai"])
    given = Depends(get_policy)

    @router.get("/models", summary="The one model there is")
    async def models(policy: PolicyBackend = given) -> dict[str, Any]:
        return {"object": "list", "data": [_model_card(policy)]}

    @router.get("/models/{model:path}", summary="A model by its name")
    async def model_by_name(model: str, policy: PolicyBackend = given) -> dict[str, Any]:
        if not any_model:
            check_model(policy, model)
        return _model_card(policy)

    add_chat_route(router, get_policy, timeout_seconds=timeout_seconds, any_model=any_model)
    add_response_route(
        router,
        get_policy,
        timeout_seconds=timeout_seconds,
        any_model=any_model,
        item_references=item_references,
    )
    add_completion_route(router, get_policy, timeout_seconds=timeout_seconds, any_model=any_model)
    return router


#: Clients sort models by their age; the policy's is not known, and the same for all.
_CREATED = now()


def _model_card(policy: PolicyBackend) -> dict[str, Any]:
    info = policy.info
    return {
        "id": info.model,
        "object": "model",
        "created": _CREATED,
        "owned_by": "gym-ray",
        "max_model_len": info.context_length or None,
    }
