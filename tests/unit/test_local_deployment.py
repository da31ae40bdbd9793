"""Deployments without Ray: calls stream, end early, and survive a replica that breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gym_ray.errors import ConfigError, GymRayError
from gym_ray.serving import local
from gym_ray.serving.host import Host
from gym_ray.serving.local import LocalDeployment, ReplicaGone
from tests.calls import eventually


class Counter:
    """Counts; a replica that can be told to break.

    Attributes:
        ended: the calls that have ended, by what they were to count to.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.is_well = True
        self.is_stopped = False
        self.ended: list[int] = []

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.is_stopped = True

    async def check_health(self) -> None:
        if not self.is_well:
            raise RuntimeError("not well")

    async def count(self, to: int) -> AsyncIterator[int]:
        """Numbers, and then nothing for as long as `to` is negative."""
        try:
            for number in range(abs(to)):
                yield number
            if to < 0:
                await asyncio.Event().wait()
        finally:
            self.ended.append(to)


class Made:
    """Counters, each as it was made."""

    def __init__(self, *fail: Exception) -> None:
        self.replicas: list[Counter] = []
        self._fail = list(fail)

    def __call__(self, host: Host) -> Counter:
        replica = Counter(host)
        self.replicas.append(replica)
        if len(self.replicas) > 1 and self._fail:
            raise self._fail.pop(0)
        return replica


def with_counters(
    scenario: Callable[[LocalDeployment, Made], Awaitable[None]], *fail: Exception
) -> None:
    """Run a scenario; `fail` is what replicas after the first raise when they are made."""

    async def run() -> None:
        made = Made(*fail)
        deployment = LocalDeployment("counter", made)
        await deployment.start()
        try:
            await scenario(deployment, made)
        finally:
            await deployment.stop()
        assert made.replicas[-1].is_stopped or fail

    asyncio.run(asyncio.wait_for(run(), 30))


async def _all(stream: Any) -> list[int]:
    return [number async for number in stream]


def counting(deployment: LocalDeployment, to: int) -> Any:
    return deployment.options(stream=True, method_name="count").remote(to)


def test_a_call_streams_what_the_replica_yields() -> None:
    async def scenario(deployment: LocalDeployment, made: Made) -> None:
        assert [number async for number in counting(deployment, 3)] == [0, 1, 2]
        assert made.replicas[0].ended == [3]

    with_counters(scenario)


def test_a_call_that_is_given_up_is_cancelled_in_the_replica() -> None:
    async def scenario(deployment: LocalDeployment, made: Made) -> None:
        waits, idle = counting(deployment, -1), counting(deployment, -2)
        assert await anext(waits) == 0
        assert await anext(idle) == 0
        following = asyncio.ensure_future(anext(waits))
        await asyncio.sleep(0)

        waits.cancel()
        idle.cancel()

        with pytest.raises(asyncio.CancelledError):
            await following
        with pytest.raises(asyncio.CancelledError):
            await anext(idle)
        await eventually(lambda: sorted(made.replicas[0].ended) == [-2, -1])

    with_counters(scenario)


def test_a_caller_that_is_cancelled_ends_its_call() -> None:
    async def scenario(deployment: LocalDeployment, made: Made) -> None:
        caller = asyncio.ensure_future(_all(counting(deployment, -1)))
        await asyncio.wait({caller}, timeout=0.05)
        caller.cancel()
        await asyncio.wait({caller})
        await eventually(lambda: made.replicas[0].ended == [-1])

    with_counters(scenario)


def test_a_replica_that_breaks_is_replaced_and_its_calls_break_with_it() -> None:
    async def scenario(deployment: LocalDeployment, made: Made) -> None:
        waiting = counting(deployment, -1)
        assert await anext(waiting) == 0

        made.replicas[0].host.end(1)

        with pytest.raises(ReplicaGone, match="counter-1 ended"):
            await anext(waiting)
        assert [number async for number in counting(deployment, 2)] == [0, 1]
        assert [replica.host.tag for replica in made.replicas] == ["counter-1", "counter-2"]
        assert made.replicas[0].is_stopped

    with_counters(scenario)


def test_one_that_is_not_well_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_HEALTH_CHECK_SECONDS", 0.01)

    async def scenario(deployment: LocalDeployment, made: Made) -> None:
        made.replicas[0].is_well = False
        await eventually(lambda: len(made.replicas) == 2)
        assert [number async for number in counting(deployment, 1)] == [0]

    with_counters(scenario)


def test_starting_anew_has_a_limit() -> None:
    async def scenario(deployment: LocalDeployment, made: Made) -> None:
        made.replicas[0].host.end(1)
        with pytest.raises(GymRayError, match=r"does not start again: RuntimeError: no memory"):
            await anext(counting(deployment, 1))
        assert len(made.replicas) == 1 + local._STARTS

    with_counters(scenario, *[RuntimeError("no memory")] * 9)


def test_a_first_start_that_fails_is_told_as_it_is() -> None:
    class Broken(Counter):
        async def start(self) -> None:
            raise ConfigError("no such model")

    replicas: list[Broken] = []

    def make(host: Host) -> Broken:
        replicas.append(Broken(host))
        return replicas[-1]

    async def run() -> None:
        with pytest.raises(ConfigError, match="no such model"):
            await LocalDeployment("broken", make).start()

    asyncio.run(run())
    assert [replica.is_stopped for replica in replicas] == [True]
