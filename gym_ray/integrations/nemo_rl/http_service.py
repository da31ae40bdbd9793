"""A service that runs elsewhere, over HTTP.

What the actor's process needs for it is light and free of Ray Serve, so that it works beside
whatever Ray and Python NeMo RL has.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import aiohttp

from gym_ray.client import AsyncRolloutClient, ClientError
from gym_ray.errors import ConfigError, one_line
from gym_ray.integrations.nemo_rl.failures import GymTransportError, failure_of_call
from gym_ray.integrations.nemo_rl.hosted import Hosted, hosted_by
from gym_ray.integrations.nemo_rl.settings import NemoRlSettings
from gym_ray.rollout import Rollout

_HEALTH_SECONDS = 30.0
_POLL_SECONDS = 1.0


class HttpService:
    """Rollouts of a running `gym-ray serve`.

    Args:
        url: its base URL.
        settings: limits and the key's variable.
    """

    def __init__(self, url: str, settings: NemoRlSettings) -> None:
        self._url = url.rstrip("/")
        self._start_seconds = settings.startup_timeout_seconds
        self._key_variable = settings.api_key_env
        # Never None: another service's key, in the client's own variable, is not to be sent.
        self._key = os.environ.get(self._key_variable, "")
        self._client = AsyncRolloutClient(
            self._url,
            api_key=self._key,
            max_in_flight=settings.max_in_flight,
        )

    async def start(self) -> Hosted:
        """Wait until it answers, and ask what it hosts."""
        deadline = asyncio.get_running_loop().time() + self._start_seconds
        while True:
            try:
                return await self._hosted()
            except GymTransportError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_POLL_SECONDS)

    async def run(
        self, rows: Sequence[Mapping[str, Any]]
    ) -> AsyncGenerator[tuple[int, Rollout], None]:
        try:
            async with contextlib.aclosing(self._client.run(rows)) as results:
                async for result in results:
                    yield result.index, result.rollout
        except ClientError as error:
            # No cause: what it was caused by may not survive pickling.
            raise failure_of_call(error) from None

    async def check(self) -> None:
        status, _ = await self._get("/health")
        if status != 200:
            raise self._silent(f"HTTP {status}")

    async def _hosted(self) -> Hosted:
        status, answer = await self._get("/environments")
        if status in (401, 403):
            raise ConfigError(
                f"the gym-ray service at {self._url} asks for another key (HTTP {status}): put its "
                f"key into the variable {self._key_variable} of the actor's environment"
            )
        if status == 404:
            raise ConfigError(
                f"{self._url} has no /environments: it is no gym-ray service, or an older one than "
                "this; serve with the gym-ray that NeMo RL's environment has"
            )
        if status != 200:
            raise self._silent(f"HTTP {status}")
        return hosted_by(answer)

    async def _get(self, path: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = aiohttp.ClientTimeout(total=_HEALTH_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"{self._url}{path}", headers=headers) as answer,
            ):
                return answer.status, await answer.json() if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._silent(one_line(error)) from None

    def _silent(self, reason: str) -> GymTransportError:
        return GymTransportError(f"the gym-ray service at {self._url} does not answer: {reason}")

    async def close(self) -> None:
        await self._client.close()
