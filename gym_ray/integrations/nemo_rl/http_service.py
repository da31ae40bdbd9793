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
from gym_ray.errors import one_line
from gym_ray.integrations.nemo_rl.failures import GymTransportError, failure_of_call
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
        self._client = AsyncRolloutClient(
            self._url,
            # Never None: another service's key, in the client's own variable, is not to be sent.
            api_key=os.environ.get(settings.api_key_env, ""),
            max_in_flight=settings.max_in_flight,
        )

    async def start(self) -> None:
        """Wait until it answers."""
        deadline = asyncio.get_running_loop().time() + self._start_seconds
        while True:
            try:
                return await self.check()
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
        timeout = aiohttp.ClientTimeout(total=_HEALTH_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"{self._url}/health") as answer,
            ):
                if answer.status == 200:
                    return
                reason = f"HTTP {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = one_line(error)
        raise GymTransportError(f"the gym-ray service at {self._url} does not answer: {reason}")

    async def close(self) -> None:
        await self._client.close()
