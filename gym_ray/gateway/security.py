"""Who may call the gateway: one bearer key for everything, another for what changes the policy,
and sessions with keys of their own.

Covered here: a route is closed unless this file says otherwise, so one that is added later
cannot be forgotten. What is asked for is decided on the route that will answer, never on the
spelling of the path: a path may be spelled in more ways than any list foresees. Below
`/sessions/{id}` the gateway's key is not asked for: those routes must check the session's own
key themselves (`sessions.py` does it in its route class).

Not covered: TLS, rate limits, and who is whom. Put a proxy in front where these matter.
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from gym_ray.gateway.errors import ApiError

#: Routes that tell nothing worth a key.
OPEN_ROUTES = frozenset({"/health", "/openapi.json"})

#: Routes that tell or change what is being served. The gateway's key does not open them, and
#: without a key of their own they are closed to everyone.
ADMIN_ROUTES = frozenset({"/weights"})

#: How routes of one session begin. `POST /sessions`, which makes one, needs the gateway's key.
SESSION_ROUTE = "/sessions/{session_id}"


class KeyGuard:
    """ASGI middleware that asks for the gateway's key.

    Args:
        app: what is guarded.
        api_key: None asks for none.
        admin_key: of `ADMIN_ROUTES`; None closes them.
    """

    def __init__(self, app: ASGIApp, *, api_key: str | None, admin_key: str | None = None) -> None:
        self._app = app
        self._api_key = api_key
        self._admin_key = admin_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(scope) if scope["type"] == "http" else None
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await refused.response()(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        route = _route_of(scope)
        if route not in ADMIN_ROUTES:
            return None if self._admits(route, scope) else unauthorized("the gateway's key")
        if self._admin_key is None:
            return ApiError(
                403,
                "this route is closed: start the gateway with an admin key "
                "(serve.admin_key_env names its environment variable)",
                code="closed",
            )
        if same_key(bearer_key(Headers(scope=scope)), self._admin_key):
            return None
        return unauthorized("the gateway's admin key")

    def _admits(self, route: str, scope: Scope) -> bool:
        if self._api_key is None or route in OPEN_ROUTES:
            return True
        if route == SESSION_ROUTE or route.startswith(f"{SESSION_ROUTE}/"):
            return True
        return same_key(bearer_key(Headers(scope=scope)), self._api_key)


class LoopbackGuard:
    """ASGI middleware of a gateway without a key, which only this machine reaches: refuses what a
    web page in a browser on this machine can send.

    A page may send requests here from any site, or, by a name of its own that leads here, read the
    answers. It cannot name this host as the one it asks, nor send JSON without asking first.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (reason := _foreign(Headers(scope=scope))):
            refused = ApiError(403, f"{reason}; set a key (serve.api_key_env) to allow it")
            await refused.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _foreign(headers: Headers) -> str | None:
    """What tells that a request is not of a program on this machine."""
    host = headers.get("host", "localhost")
    if not _is_here(f"//{host}"):
        return f"this gateway has no key and answers on this machine only, not as {host!r}"
    origin = headers.get("origin")
    if origin is not None and not _is_here(origin):
        return f"this gateway has no key and takes nothing from pages of {origin!r}"
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        return (
            "this gateway has no key and takes JSON only (the header Content-Type: "
            f"application/json), not {kind!r}"
        )
    return None


def _is_here(address: str) -> bool:
    """Whether the host of an address is a name of this machine alone."""
    try:
        return is_loopback((urlsplit(address).hostname or "").removesuffix("."))
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, and from no other one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bearer_key(headers: Headers) -> str | None:
    """The key a request brings in `Authorization: Bearer KEY`; None without one."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def same_key(given: str | None, expected: str) -> bool:
    """Compared in a time that does not tell how much of it was right."""
    if given is None:
        return False
    return hmac.compare_digest(
        given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass")
    )


def unauthorized(wanted: str) -> ApiError:
    """Status 401.

    Args:
        wanted: whose key it takes.
    """
    return ApiError(
        401,
        f"this route needs {wanted}: send the header Authorization: Bearer KEY",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _route_of(scope: Scope) -> str:
    """Template of the route that will answer, as the application's own router finds it; "" for
    none. A path that is only redirected to a route counts as that route's.
    """
    routes: list[BaseRoute] = scope["app"].routes
    path: str = scope["path"]
    redirected = path.rstrip("/") if path.endswith("/") else f"{path}/"
    for spelling in (path, redirected):
        asked = {**scope, "path": spelling}
        # A route whose method fits goes before one whose path alone does.
        for wanted in (Match.FULL, Match.PARTIAL):
            for route in routes:
                if route.matches(asked)[0] is wanted:
                    return str(getattr(route, "path", ""))
    return ""
