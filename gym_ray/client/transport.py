"""HTTP to the service: one session, bounded retries, and which status is which error.

Every request of the client can be repeated without harm, so whatever breaks on the way is tried
again, after a pause that grows and is jittered so that many clients do not return at once.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from gym_ray.client.errors import (
    BatchConflict,
    ClientError,
    RequestRefused,
    ServiceUnavailable,
    Unauthorized,
    UpdateRefused,
)
from gym_ray.errors import pauses

T = TypeVar("T")

#: See `pauses`: before the second try, and at most.
_PAUSE_SECONDS = 0.1
_PAUSE_MAXIMUM_SECONDS = 10.0

#: Longest pause of who waits for a service that starts.
_READY_PAUSE_SECONDS = 2.0

#: Statuses another try may cure: overload, a restarting service, a proxy without a backend.
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

#: Code of 503 while the service starts (serving/starting.py). That is no failure, so it uses up no
#: retries, for so long at most: what says it for longer has ended.
_STARTING = "starting"
_START_SECONDS = 600.0

#: Longest wait a `Retry-After` may ask for; a longer one counts as this.
_RETRY_AFTER_MAXIMUM_SECONDS = 30.0

#: Codes of the service after which the batch has to be opened again, and then is as it was.
_REOPEN = frozenset({"batch_unknown", "batch_released"})

#: Codes of updates that cannot be.
_REFUSED_UPDATE = frozenset({"version_conflict", "busy", "wrong_source", "not_updatable"})


class MustReopen(Exception):
    """The service does not hold the batch for this client (any more)."""


class TooLarge(RequestRefused):
    """A request has more bytes than the service takes."""


class _NotNow(Exception):
    """There is no answer, or one that another try may cure; the message says which.

    Args:
        message: for the user, when no other try is left.
        after_seconds: how long the service asks to wait.
        is_starting: whether it says that it starts.
    """

    def __init__(
        self, message: str, *, after_seconds: float = 0.0, is_starting: bool = False
    ) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds
        self.is_starting = is_starting


class ServiceTransport:
    """Sends requests.

    Args:
        base_url: of the service.
        api_key: bearer key; None sends none.
        max_retries: tries after the first.
        timeout_seconds: of one try, beside what a request waits on purpose.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None, max_retries: int, timeout_seconds: float
    ) -> None:
        if urlsplit(base_url).scheme not in ("http", "https"):
            raise ValueError(f"base_url must be like http://127.0.0.1:8000, not {base_url!r}")
        self._base_url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._max_retries = max_retries
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self.problem: str | None = None
        """Why the last request was not answered, while it is tried again; None once one was."""

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        retries: int | None = None,
        waits_seconds: float = 0.0,
        key: str | None = None,
    ) -> dict[str, Any]:
        """The JSON object a request is answered with; {} where there is no body.

        Args:
            method, path, retries, waits_seconds, key: as `content`.
            body: what is sent as JSON, or its bytes.
        """
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        return await self._until_answered(
            lambda: self._once(method, path, data, "application/json", waits_seconds, key),
            self._json,
            retries,
        )

    async def content(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        *,
        accept: str = "application/json",
        waits_seconds: float = 0.0,
        retries: int | None = None,
        key: str | None = None,
    ) -> bytes:
        """The body a request is answered with.

        Args:
            method, path: what is asked; the path with its query.
            data: a JSON body.
            accept: media type wanted.
            waits_seconds: how long the service may wait on purpose.
            retries: other than the client's.
            key: bearer key other than the client's.

        Raises:
            MustReopen: see there.
            ClientError: all else that is no success.
        """
        return await self._until_answered(
            lambda: self._once(method, path, data, accept, waits_seconds, key), bytes, retries
        )

    async def wait_ready(self, timeout_seconds: float) -> None:
        """Ask until the service is up.

        Raises:
            ServiceUnavailable: it is not, in time.
            ClientError: what answers is another service.
        """
        backoff = pauses(_PAUSE_SECONDS, _READY_PAUSE_SECONDS)
        began, tries = time.monotonic(), 0
        self.problem = None
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    tries += 1
                    try:
                        health = self._json(
                            await self._once("GET", "/health", None, "application/json", 0.0, None)
                        )
                        break
                    except _NotNow as error:
                        self.problem = str(error)
                        pause = max(next(backoff), error.after_seconds)
                    await asyncio.sleep(pause)
        except TimeoutError:
            told = _told_tries(tries, time.monotonic() - began)
            raise ServiceUnavailable(
                f"not ready within {timeout_seconds:g} s: "
                f"{self.problem or f'{self._base_url} has not answered'} ({told})"
            ) from None
        self.problem = None
        if health.get("status") != "ok":
            raise RequestRefused(f"{self._base_url} answers, but is no gym-ray service")

    async def _until_answered(
        self,
        once: Callable[[], Awaitable[bytes]],
        read: Callable[[bytes], T],
        retries: int | None,
    ) -> T:
        left = self._max_retries if retries is None else retries
        backoff = pauses(_PAUSE_SECONDS, _PAUSE_MAXIMUM_SECONDS)
        began, tries = time.monotonic(), 0
        while True:
            tries += 1
            try:
                answer = read(await once())
                self.problem = None
                return answer
            except _NotNow as error:
                not_now = error
            self.problem = str(not_now)
            seconds = time.monotonic() - began
            if not (not_now.is_starting and retries is None and seconds < _START_SECONDS):
                if left == 0:
                    told = _told_tries(tries, seconds)
                    raise ServiceUnavailable(f"{not_now} ({told})") from not_now
                left -= 1
            await asyncio.sleep(max(next(backoff), not_now.after_seconds))

    async def close(self) -> None:
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _once(
        self,
        method: str,
        path: str,
        data: bytes | None,
        accept: str,
        waits_seconds: float,
        key: str | None,
    ) -> bytes:
        if self._closed:
            raise ClientError("the client is closed; make another one")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Every batch has a poll open all the time; requests must not wait for polls.
                connector=aiohttp.TCPConnector(limit=0),
                headers=self._headers,
            )
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds + waits_seconds)
        headers = {"Accept": accept}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                method, self._base_url + path, data=data, headers=headers, timeout=timeout
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _NotNow(
                f"{self._base_url} cannot be reached: {_reason(error, timeout.total)}; is "
                "`gym-ray serve` running there?"
            ) from error
        if answer.status < 300:
            return content
        raise self._error(answer.status, content, answer.headers.get("Retry-After"))

    def _json(self, content: bytes) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(content) if content else {}
        except ValueError:
            # A proxy's page, which is no answer of the service.
            text = content[:200].decode("utf-8", "replace")
            raise _NotNow(
                f"{self._base_url} answered no JSON: {text}; is a proxy between?"
            ) from None
        return answer

    def _error(self, status: int, content: bytes, retry_after: str | None) -> Exception:
        message, code = _told(content)
        if code in _REOPEN:
            return MustReopen(message)
        where = f"{self._base_url} answered {status}: {message}"
        if code in _REFUSED_UPDATE:
            return UpdateRefused(message)
        if status in (401, 403):
            return Unauthorized(
                f"{where}; give api_key or set GYM_RAY_API_KEY; for update_weights, admin_key or "
                "GYM_RAY_ADMIN_KEY"
            )
        if status == 409:
            return BatchConflict(message)
        if status in _TRANSIENT:
            is_starting = code == _STARTING
            return _NotNow(
                where if is_starting else f"{where}; see the service's log",
                after_seconds=_seconds_of(retry_after),
                is_starting=is_starting,
            )
        if status == 404:
            if code is None:  # Serve has answered, which has no routes while a service starts.
                return _NotNow(f"{where}; is this a gym-ray service that has started?")
            return RequestRefused(f"{where}; is this a gym-ray service of this version?")
        if status == 413:
            return TooLarge(f"{where} (one task row is too large)")
        return RequestRefused(where)


def _reason(error: BaseException, timeout_seconds: float | None) -> str:
    """Why there was no answer, in a few words."""
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_seconds:g} s"
    number = error.os_error.errno if isinstance(error, aiohttp.ClientConnectorError) else None
    if number is not None and number in errno.errorcode:  # not what the resolver's numbers mean
        return os.strerror(number)
    return str(error) or type(error).__name__


def _told_tries(tries: int, seconds: float) -> str:
    return "1 try" if tries == 1 else f"{tries} tries in {seconds:.0f} s"


def _seconds_of(retry_after: str | None) -> float:
    """How long a service asks to wait; 0 where it does not say, or gives a date."""
    try:
        seconds = float(retry_after or 0.0)
    except ValueError:
        return 0.0
    return min(seconds, _RETRY_AFTER_MAXIMUM_SECONDS) if seconds > 0 else 0.0


def _told(content: bytes) -> tuple[str, str | None]:
    """Message and code of an error's body."""
    try:
        error: Mapping[str, Any] = json.loads(content)["error"]
        return str(error["message"]), error.get("code")
    except (ValueError, KeyError, TypeError):
        return content[:200].decode("utf-8", "replace") or "no reason given", None
