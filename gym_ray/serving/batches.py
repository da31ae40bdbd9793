"""Batches as a Serve deployment of one replica, and how gateway replicas reach it.

One replica, whatever the number of gateway replicas: a batch is in one place, and what any
gateway is asked finds it there. It holds results and passes them on; rollouts run in the
environments' replicas and pages are encoded in the gateway's. Refusals cross Serve as values.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from gym_ray.batches.host import BatchHost
from gym_ray.batches.protocol import BatchError, BatchState, Opening, RunBackend
from gym_ray.batches.result_page import ResultPage
from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.rollout import Producer, RolloutSpec

T = TypeVar("T")

#: Beyond what a request waits on purpose.
_GRACE_SECONDS = 30.0


class BatchReplica:
    """The replica.

    Args:
        make_backend: what runs the rollouts of a batch; called in the replica.
        producer, max_running, retention_seconds: as `BatchHost`.
    """

    def __init__(
        self,
        make_backend: Callable[[Opening], RunBackend],
        producer: Producer,
        max_running: int,
        retention_seconds: float,
    ) -> None:
        self._host = BatchHost(
            make_backend,
            producer=producer,
            max_running=max_running,
            retention_seconds=retention_seconds,
        )

    async def open(self, name: str, opening: Opening) -> BatchState | BatchError:
        return await _as_value(self._host.open(name, opening))

    async def submit(
        self, name: str, holder: str, rows: Sequence[tuple[int, RolloutSpec]]
    ) -> list[int] | BatchError:
        return await _as_value(self._host.submit(name, holder, rows))

    async def results(
        self, name: str, holder: str, after: int, wait_seconds: float
    ) -> ResultPage | BatchError:
        return await _as_value(self._host.results(name, holder, after, wait_seconds))

    async def acknowledge(
        self, name: str, holder: str, indices: Sequence[int]
    ) -> BatchError | None:
        return await _as_value(self._host.acknowledge(name, holder, indices))

    async def release(self, name: str, holder: str) -> BatchError | None:
        return await _as_value(self._host.release(name, holder))

    async def delete(self, name: str, holder: str | None) -> BatchError | None:
        return await _as_value(self._host.delete(name, holder))

    async def state(self, name: str) -> BatchState | BatchError:
        return await _as_value(self._host.state(name))

    async def __del__(self) -> None:  # Serve awaits it when it stops a replica.
        await self._host.stop()


class BatchClient:
    """The `BatchBackend` over the deployment's handle."""

    def __init__(self, replica: Any) -> None:
        self._replica = replica

    async def open(self, name: str, opening: Opening) -> BatchState:
        state: BatchState = await self._ask("open", name, opening)
        return state

    async def submit(
        self, name: str, holder: str, rows: Sequence[tuple[int, RolloutSpec]]
    ) -> list[int]:
        acknowledged: list[int] = await self._ask("submit", name, holder, rows)
        return acknowledged

    async def results(self, name: str, holder: str, after: int, wait_seconds: float) -> ResultPage:
        page: ResultPage = await self._ask(
            "results", name, holder, after, wait_seconds, seconds=wait_seconds
        )
        return page

    async def acknowledge(self, name: str, holder: str, indices: Sequence[int]) -> None:
        await self._ask("acknowledge", name, holder, indices)

    async def release(self, name: str, holder: str) -> None:
        await self._ask("release", name, holder)

    async def delete(self, name: str, holder: str | None) -> None:
        await self._ask("delete", name, holder)

    async def state(self, name: str) -> BatchState:
        state: BatchState = await self._ask("state", name)
        return state

    async def _ask(self, method: str, *arguments: Any, seconds: float = 0.0) -> Any:
        """What the replica answers; raises what it refuses."""
        response = getattr(self._replica, method).remote(*arguments)
        try:
            async with asyncio.timeout(seconds + _GRACE_SECONDS):
                answer = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:
            response.cancel()
            reason = one_line(error)
            raise RolloutFailure(
                FailureKind.ENVIRONMENT_UNAVAILABLE, f"batches cannot be reached: {reason}"
            ) from error
        if isinstance(answer, BatchError):
            raise answer
        return answer


async def _as_value(answer: Awaitable[T]) -> T | BatchError:
    try:
        return await answer
    except BatchError as refused:
        return refused
