"""One call to a remote policy: the choice of server, the HTTP request, bounded retries.

Owned here: what an HTTP status or a broken connection means. Not owned: the requests' content.

Cancelling a call closes its connection, at which a vLLM server aborts the generation.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import random
import resource
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import numpy as np

from gym_ray.errors import ConfigError, FailureKind, RolloutFailure, one_line, pauses
from gym_ray.policies.openai.arguments import OpenAIArgs
from gym_ray.policies.openai.endpoints import Endpoint, Endpoints

logger = logging.getLogger(__name__)

#: Statuses that another try may cure. 409 is how NeMo RL's router says that no server is up.
_AGAIN = frozenset({408, 409, 425, 429})

#: See `pauses`: before the second try, and at most.
_BACKOFF_SECONDS = 0.25
_BACKOFF_MAXIMUM_SECONDS = 8.0

#: Longest wait a `Retry-After` may ask for; a longer one counts as this.
_RETRY_AFTER_MAXIMUM_SECONDS = 60.0

#: How often a call looks again while every server rests or is on trial.
_LOOK_AGAIN_SECONDS = 0.5

_CONNECT_SECONDS = 10.0

#: Share of a call's time that is left for the answer to travel, so that the caller hears from us
#: which server gave none, rather than from its own clock.
_ANSWERING_SHARE = 0.01

#: Above so many bytes JSON is read and written in a thread, off the event loop.
_INLINE_BYTES = 262_144
_INLINE_TOKENS = 32_768

#: File descriptors a process needs beside its connections.
_OTHER_FILES = 1024


class EndpointRefused(Exception):
    """The server answers that the request is wrong (4xx), or has no such route.

    Attributes:
        status: HTTP status.
        message: what the server says.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class _TryFailed(Exception):
    """One try failed in a way another may not."""

    def __init__(
        self, reason: str, *, unreachable: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unreachable = unreachable
        self.retry_after = retry_after


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered.

    Attributes:
        body: the JSON object.
        seconds: duration of the try that succeeded.
        endpoint: who answered.
    """

    body: dict[str, Any]
    seconds: float
    endpoint: Endpoint


class EndpointTransport:
    """Calls to the servers of one policy, many at once, over one HTTP session.

    Args:
        args: addresses, retries and timeouts.
        examine: called once for every server before its first call; raises `ConfigError` when
            the server does not fit, and whatever a call raises when it is not up.
    """

    def __init__(self, args: OpenAIArgs, examine: Callable[[Endpoint], Awaitable[None]]) -> None:
        self.endpoints = Endpoints(args.base_urls, time.monotonic)
        self._args = args
        self._examine = examine
        self._examined: set[str] = set()
        key = args.api_key()
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the session and examine every server; those that are not up rest.

        Raises:
            ConfigError: a server that is up does not fit, or none is up.
        """
        _allow_connections(self._args.max_connections)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._args.max_connections, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            headers=self._headers,
        )
        await asyncio.gather(*(self._first_examination(e) for e in self.endpoints.all))
        if not self._examined:
            raise ConfigError(
                f"no server of policy.engine_args.base_urls is up: {self.endpoints.describe()}"
            )

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, path: str, body: dict[str, Any], *, timeout_seconds: float) -> Reply:
        """Post a JSON object to one of the servers, trying again where that may help.

        Args:
            path: below the base address, e.g. `/completions`.
            body: the request; numpy arrays in it become lists.
            timeout_seconds: for everything, all tries together.

        Raises:
            RolloutFailure: `policy_unavailable`, `policy_timeout`, and `policy_rejected` when the
                server says that the request is wrong.
        """
        deadline = time.monotonic() + timeout_seconds * (1 - _ANSWERING_SHARE)
        data = await _encode(body)
        failed_at: list[Endpoint] = []
        reason = ""
        backoff = pauses(_BACKOFF_SECONDS, _BACKOFF_MAXIMUM_SECONDS)
        for number in range(self._args.max_retries + 1):
            if number:
                await self._pause(next(backoff), deadline, reason)
            endpoint = await self._free_endpoint(failed_at, deadline)
            self.endpoints.started(endpoint)
            try:
                reply = await self._try(endpoint, path, data, deadline)
            except _TryFailed as failure:
                reason = f"{endpoint.url}: {failure.reason}"
                self.endpoints.failed(
                    endpoint,
                    failure.reason,
                    unreachable=failure.unreachable,
                    rest_seconds=failure.retry_after,
                )
                failed_at.append(endpoint)
            except EndpointRefused as refused:
                self.endpoints.succeeded(endpoint)
                raise _for_the_rollout(refused, endpoint, self._args) from None
            except BaseException:
                self.endpoints.released(endpoint)
                raise
            else:
                self.endpoints.succeeded(endpoint)
                return reply
        raise RolloutFailure(
            FailureKind.POLICY_UNAVAILABLE, f"{reason} (after {self._args.max_retries + 1} tries)"
        )

    async def ask(
        self, endpoint: Endpoint, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """One request to one server, without retries; for examining it.

        Args:
            endpoint: whom.
            path: below the base address; `/../x` for a route beside `/v1`.
            body: posted as JSON; None for a GET.

        Raises:
            Refused: it answers with another status than 200.
            OSError, aiohttp.ClientError, TimeoutError: it is not up.
        """
        url = _url(endpoint, path)
        method = "GET" if body is None else "POST"
        data = None if body is None else await _encode(body)
        async with (
            asyncio.timeout(60 + _CONNECT_SECONDS),
            self._open().request(method, url, data=data) as response,
        ):
            raw = await response.read()
            if response.status != 200:
                raise EndpointRefused(response.status, _message(raw))
            return await _decode(raw)

    # One try.

    async def _try(self, endpoint: Endpoint, path: str, data: bytes, deadline: float) -> Reply:
        left = deadline - time.monotonic()
        whole = self._args.try_timeout_seconds is None or left <= self._args.try_timeout_seconds
        limit = left if whole else self._args.try_timeout_seconds
        try:
            async with asyncio.timeout(limit):
                if endpoint.url not in self._examined:
                    await self._examine_late(endpoint)
                started = time.monotonic()
                async with self._open().post(_url(endpoint, path), data=data) as response:
                    raw = await response.read()
                    if response.status == 200:
                        body = await _decode(raw)
                        return Reply(body, time.monotonic() - started, endpoint)
                    raise _status_error(response.status, response.headers, raw)
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise _TryFailed(f"no answer within {limit:.1f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            unreachable = isinstance(error, aiohttp.ClientConnectorError)
            raise _TryFailed(one_line(error, 200), unreachable=unreachable) from error
        except ValueError as error:
            raise _TryFailed(f"the answer is not a JSON object: {one_line(error, 100)}") from error

    async def _first_examination(self, endpoint: Endpoint) -> None:
        self.endpoints.started(endpoint)
        try:
            await self._examine(endpoint)
        except ConfigError:
            raise
        except (EndpointRefused, RolloutFailure, aiohttp.ClientError, OSError, ValueError) as error:
            self.endpoints.failed(endpoint, one_line(error, 300), unreachable=True)
            logger.warning("policy server %s is not up: %s", endpoint.url, one_line(error, 300))
        else:
            self.endpoints.succeeded(endpoint)
            self._examined.add(endpoint.url)

    async def _examine_late(self, endpoint: Endpoint) -> None:
        """Examine a server that was not up at the start, before it gets its first call."""
        try:
            await self._examine(endpoint)
        except (ConfigError, EndpointRefused, RolloutFailure) as error:
            raise _TryFailed(one_line(error, 300), unreachable=True) from error
        self._examined.add(endpoint.url)

    # Waiting.

    async def _free_endpoint(self, avoid: list[Endpoint], deadline: float) -> Endpoint:
        give_up_at = min(deadline, time.monotonic() + self._args.outage_seconds)
        while (endpoint := self.endpoints.choose(avoid)) is None:
            now = time.monotonic()
            if now >= give_up_at:
                raise RolloutFailure(
                    FailureKind.POLICY_UNAVAILABLE,
                    f"no policy server takes calls: {self.endpoints.describe()}",
                )
            wait = max(self.endpoints.ready_in(), _LOOK_AGAIN_SECONDS * random.uniform(0.5, 1.0))
            await asyncio.sleep(min(wait, give_up_at - now))
        return endpoint

    async def _pause(self, seconds: float, deadline: float, reason: str) -> None:
        if time.monotonic() + seconds >= deadline:
            raise RolloutFailure(FailureKind.POLICY_TIMEOUT, f"no time left to try again: {reason}")
        await asyncio.sleep(seconds)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            raise RolloutFailure(FailureKind.POLICY_UNAVAILABLE, "the engine is not running")
        return self._session


def _status_error(status: int, headers: Mapping[str, str], raw: bytes) -> Exception:
    message = _message(raw)
    if status in _AGAIN or status >= 500:
        after = _retry_after(headers.get("Retry-After"))
        if after is None and status == 429:
            after = 0.0  # Busy, which is no reason to give the server a rest.
        return _TryFailed(f"HTTP {status}: {message}", retry_after=after)
    return EndpointRefused(status, message)


def _for_the_rollout(
    refused: EndpointRefused, endpoint: Endpoint, args: OpenAIArgs
) -> RolloutFailure:
    """What a refusal means for a rollout.

    Every server was examined, so a key or route that is refused now has changed since. That is
    no fault of the rollout, which must not end as one whose context is full; another attempt, or
    the same command after the repair, may succeed.
    """
    message = f"{endpoint.url}: HTTP {refused.status}: {refused.message}"
    if refused.status in (401, 403):
        return RolloutFailure(FailureKind.POLICY_UNAVAILABLE, f"{message}; {key_advice(args)}")
    if refused.status in (404, 405):
        return RolloutFailure(FailureKind.POLICY_UNAVAILABLE, message)
    return RolloutFailure(FailureKind.POLICY_REJECTED, message)


def key_advice(args: OpenAIArgs) -> str:
    """Where the key comes from, for a message about a refused one."""
    if args.api_key_env is None:
        return "set policy.engine_args.api_key_env to the environment variable that holds the key"
    return f"the key is taken from environment variable {args.api_key_env}"


def _retry_after(value: str | None) -> float | None:
    """Seconds; None for no header, and for a date, which needs both clocks to agree."""
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return min(max(float(value), 0.0), _RETRY_AFTER_MAXIMUM_SECONDS)
    return None


def _message(raw: bytes) -> str:
    """What an error body says, on one line."""
    text = raw[:2000].decode("utf-8", "replace")
    with contextlib.suppress(ValueError, AttributeError):
        parsed = json.loads(raw)
        error = parsed.get("error", parsed)
        found = error.get("message") if isinstance(error, dict) else error
        text = str(found or parsed.get("detail") or text)
    return " ".join(text.split())[:400] or "no message"


def _url(endpoint: Endpoint, path: str) -> str:
    if path.startswith("/../"):
        return endpoint.url.removesuffix("/v1") + path.removeprefix("/..")
    return endpoint.url + path


async def _encode(body: dict[str, Any]) -> bytes:
    if _tokens_in(body) < _INLINE_TOKENS:
        return _dumps(body)
    return await asyncio.to_thread(_dumps, body)


def _dumps(body: dict[str, Any]) -> bytes:
    # Escaped, so that half of a surrogate pair in a message still travels.
    return json.dumps(body, separators=(",", ":"), default=np.ndarray.tolist).encode()


def _tokens_in(body: Mapping[str, Any]) -> int:
    size = sum(len(value) for value in body.values() if isinstance(value, np.ndarray))
    for message in body.get("messages", ()):
        size += sum(
            len(value) if isinstance(value, np.ndarray | list) else len(str(value)) // 4
            for value in message.values()
        )
    return size


async def _decode(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body; raises `ValueError`."""
    parsed = (
        json.loads(raw) if len(raw) < _INLINE_BYTES else await asyncio.to_thread(json.loads, raw)
    )
    if not isinstance(parsed, dict):
        raise ValueError(f"a {type(parsed).__name__}")
    return parsed


def _allow_connections(connections: int) -> None:
    """Raise this process's limit of open files as far as it may go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    unlimited = hard == resource.RLIM_INFINITY
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if unlimited else min(wanted, hard), hard))
    if not unlimited and hard < wanted:
        logger.warning(
            "only %d files may be open here: more calls in flight than that fail; raise "
            "`ulimit -n` or lower policy.engine_args.max_connections", hard,
        )  # fmt: skip
