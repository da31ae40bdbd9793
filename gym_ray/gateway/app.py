"""The gateway as one FastAPI application.

Owned here: which routes there are, who may call them, and that every error has one shape. Not
owned here: what answers; the policy comes as a `PolicyBackend`, everything else as routers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPBearer

from gym_ray.gateway.backend import PolicyBackend
from gym_ray.gateway.body_limit import BodyLimit
from gym_ray.gateway.errors import install_error_handlers
from gym_ray.gateway.openai_routes import openai_routes
from gym_ray.gateway.security import KeyGuard, LoopbackGuard
from gym_ray.gateway.tokenization import tokenize_routes


@dataclasses.dataclass(frozen=True, slots=True)
class GatewaySettings:
    """How the gateway answers.

    Attributes:
        api_key: bearer key of every route but the sessions' own; None asks for none.
        admin_key: bearer key of `/weights`; None closes it.
        loopback_only: refuse what a web page can send; for gateways without a key that listen on
            this machine only.
        max_body_bytes: larger requests are answered with 413.
        policy_timeout_seconds: a policy call that takes longer is aborted.
    """

    api_key: str | None = None
    admin_key: str | None = None
    loopback_only: bool = False
    max_body_bytes: int = 64 * 1024 * 1024
    policy_timeout_seconds: float = 300.0


def create_app(
    *, policy: PolicyBackend, settings: GatewaySettings, routers: Sequence[APIRouter] = ()
) -> FastAPI:
    """The gateway's application.

    Args:
        policy: answers `/v1/...`, `/tokenize` and `/detokenize`.
        settings: see `GatewaySettings`.
        routers: further routes. They are closed to callers without the key, except below
            `/sessions/{id}`, where they have to check the session's key themselves.

    Example:
        >>> app = create_app(policy=policy, settings=GatewaySettings())  # doctest: +SKIP
        >>> uvicorn.run(app)                                             # doctest: +SKIP
    """

    async def deployed_policy() -> PolicyBackend:
        return policy

    app = FastAPI(
        title="gym-ray gateway",
        description="OpenAI's API over a policy that keeps every token.",
        version="1",
        docs_url=None,
        redoc_url=None,
        # For the OpenAPI document only: KeyGuard is what asks.
        dependencies=[Depends(HTTPBearer(auto_error=False))],
    )
    install_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(KeyGuard, api_key=settings.api_key, admin_key=settings.admin_key)

    if settings.loopback_only:
        app.add_middleware(LoopbackGuard)

    @app.get("/health", tags=["gateway"])
    async def health() -> dict[str, str]:
        """Answers while the gateway runs."""
        return {"status": "ok"}

    timeout_seconds = settings.policy_timeout_seconds
    app.include_router(
        openai_routes(deployed_policy, timeout_seconds=timeout_seconds), prefix="/v1"
    )
    app.include_router(tokenize_routes(deployed_policy))
    for router in routers:
        app.include_router(router)
    return app
