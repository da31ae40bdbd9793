"""Deployments without Ray: one replica each, in this process, reached by handles like Serve's.

An embedded collection has these in the place of Ray Serve's. Calls pass no process and copy
nothing. What a replica is told, and what becomes of it when it breaks, is the same: calls it had
break with it, and another one is started in its place.

Use everything here on one event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from gym_ray.errors import GymRayError, one_line
from gym_ray.serving.host import Host

logger = logging.getLogger(__name__)

#: A replica that breaks more often than this is not started once more.
_STARTS = 4

_HEALTH_CHECK_SECONDS = 10.0
_STOP_SECONDS = 30.0

_END = object()


class Replica(Protocol):
    """What a deployment runs."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def check_health(self) -> None: ...


class ReplicaGone(Exception):
    """A call was in work at a replica that ended."""


class LocalDeployment:
    """One replica, replaced when it breaks.

    Args:
        name: of the deployment, for messages.
        make: makes a replica that lives at a host.
    """

    def __init__(self, name: str, make: Callable[[Host], Replica]) -> None:
        self.name = name
        self._make = make
        self._tags = itertools.count(1)
        self._replica: asyncio.Future[Any] | None = None
        self._streams: set[_Stream] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the first replica.

        Raises:
            ConfigError, GymRayError: what it raises when it cannot start.
        """
        self._replica = asyncio.get_running_loop().create_future()
        self._replica.set_result(await self._started())
        self._spawn(self._watch())

    async def replica(self) -> Any:
        """The replica, once there is one.

        Raises:
            GymRayError: it broke, and no other one could be started.
        """
        assert self._replica is not None
        return await asyncio.shield(self._replica)

    def options(self, *, stream: bool, method_name: str) -> _Method:
        """A method of the replica whose results are streamed, as Serve's handles have it."""
        assert stream
        return _Method(self, method_name)

    async def stop(self) -> None:
        """End the replica, and all calls it has."""
        for task in self._tasks:
            task.cancel()
        self._break_streams("the deployment was stopped")
        replica, self._replica = self._replica, None
        if replica is not None and replica.done() and not replica.exception():
            await _stopped(replica.result())

    async def _started(self) -> Replica:
        tag = f"{self.name}-{next(self._tags)}"
        replica = self._make(Host(tag, lambda code: self._broke(tag)))
        try:
            await replica.start()
        except BaseException:
            await _stopped(replica)
            raise
        return replica

    def _broke(self, tag: str) -> None:
        """The replica of this name is to be replaced."""
        replica = self._replica
        if replica is None or not replica.done() or replica.exception():
            return  # It is being replaced already.
        logger.error("%s broke and is replaced", tag)
        self._replica = asyncio.get_running_loop().create_future()
        self._break_streams(f"{tag} ended")
        self._spawn(self._replace(replica.result(), self._replica))

    async def _replace(self, broken: Replica, place: asyncio.Future[Any]) -> None:
        await _stopped(broken)
        error = GymRayError(f"{self.name} broke {_STARTS} times")
        for _ in range(_STARTS):
            try:
                place.set_result(await self._started())
                return
            except Exception as failed:
                logger.exception("%s does not start again", self.name)
                error = GymRayError(
                    f"{self.name} broke, and does not start again: {one_line(failed)}"
                )
        place.set_exception(error)
        place.exception()  # Told by every call; not also as one that nobody asked for.

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_CHECK_SECONDS)
            replica = self._replica
            if replica is None or not replica.done() or replica.exception():
                continue
            try:
                await replica.result().check_health()
            except Exception:
                logger.exception("%s is not well", self.name)
                if replica is self._replica:
                    self._broke(self.name)

    def _break_streams(self, reason: str) -> None:
        for stream in tuple(self._streams):
            stream.end(ReplicaGone(reason))

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Method:
    """One method of a deployment's replica."""

    def __init__(self, deployment: LocalDeployment, name: str) -> None:
        self._deployment = deployment
        self._name = name

    def remote(self, *arguments: Any) -> _Stream:
        return _Stream(self._deployment, self._name, arguments)


class _Stream:
    """The results of one call, as they come; like Serve's streaming response."""

    def __init__(
        self, deployment: LocalDeployment, method: str, arguments: tuple[Any, ...]
    ) -> None:
        self._deployment = deployment
        self._method = method
        self._arguments = arguments
        self._results: AsyncGenerator[Any] | None = None
        self._step: asyncio.Task[Any] | None = None
        self._ended_by: BaseException | None = None
        deployment._streams.add(self)

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Any:
        if self._ended_by is not None:
            raise self._ended_by
        # A task of its own, which `end` can cancel without the caller's.
        self._step = asyncio.ensure_future(self._next())
        try:
            result = await self._step
        except asyncio.CancelledError:
            if self._ended_by is not None:
                raise self._ended_by from None
            self.end(asyncio.CancelledError())
            raise
        except BaseException:
            self._deployment._streams.discard(self)
            raise
        finally:
            self._step = None
        if result is _END:
            self._deployment._streams.discard(self)
            raise StopAsyncIteration
        return result

    def cancel(self) -> None:
        """Give the call up; what the replica does for it is cancelled."""
        self.end(asyncio.CancelledError())

    def end(self, error: BaseException) -> None:
        """Have the caller see `error`, and cancel what the replica does."""
        if self._ended_by is not None:
            return
        self._ended_by = error
        self._deployment._streams.discard(self)
        self._deployment._spawn(self._wind_up(self._step))

    async def _next(self) -> Any:
        if self._results is None:
            replica = await self._deployment.replica()
            self._results = getattr(replica, self._method)(*self._arguments)
        return await anext(self._results, _END)

    async def _wind_up(self, step: asyncio.Task[Any] | None) -> None:
        if step is not None:
            step.cancel()
            await asyncio.wait({step})
        if self._results is not None:
            await self._results.aclose()


async def _stopped(replica: Replica) -> None:
    """Stop a replica, in whatever state it is."""
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await replica.stop()
    except Exception:
        logger.exception("a replica does not stop as it should")
