"""The process of an embedded collection: policy, environments and stage on one event loop.

The command starts it (`embedded.py`) and talks to it over a socket. It is a process of its own so
that what the parts print does not end up in the command's output, that Ctrl-C in a terminal is the
command's to deal with, and that a part that crashes takes no more with it than a Ray actor would.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import select
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from gym_ray.collection.driver_pass import run_stage
from gym_ray.collection.embedded_messages import (
    Ended,
    Failed,
    GiveOrder,
    InFlight,
    RunPass,
    Start,
    Starting,
    Told,
    Up,
)
from gym_ray.collection.monitor import Monitor
from gym_ray.config.load import RunConfig
from gym_ray.errors import ConfigError, GymRayError, one_line
from gym_ray.policies.engine import STARTING
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.serving.engines import import_engine
from gym_ray.serving.environment_replica import EnvironmentReplica
from gym_ray.serving.host import Host
from gym_ray.serving.local import LocalDeployment
from gym_ray.serving.policy_renderer import load_policy_renderer
from gym_ray.serving.policy_replica import PolicyReplica
from gym_ray.telemetry import metrics
from gym_ray.telemetry.logs import set_up_logs

logger = logging.getLogger(__name__)

_TELL_SECONDS = 0.25


class _Process:
    """This process.

    Args:
        connection: to the command.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._closing = asyncio.Event()
        self._policy: LocalDeployment | None = None
        self._environments: dict[str, LocalDeployment] = {}
        self._replica: PolicyReplica | None = None
        self._monitor = Monitor()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Do what the command says, until it closes the connection."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._connection.fileno(), self._receive)
        await self._closing.wait()
        loop.remove_reader(self._connection.fileno())
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._stop()

    def _receive(self) -> None:
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            self._closing.set()
            return
        match message:
            case Start(config):
                self._spawn(self._start(config))
            case RunPass():
                self._spawn(self._pass(message))
            case GiveOrder(order):
                self._monitor.set_order(order)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Policy and environments.

    async def _start(self, config: RunConfig) -> None:
        set_up_logs(config.observability.log_format)
        STARTING.addHandler(_Tells(self._send))
        try:
            self._policy = policy = LocalDeployment(
                "policy", functools.partial(self._policy_replica, config)
            )
            self._environments = {
                name: LocalDeployment(
                    f"environment-{name}",
                    functools.partial(EnvironmentReplica, name, config, policy, {}),
                )
                for name in config.environments
            }
            # One after the other: an engine and a renderer import transformers piece by piece, in
            # threads, which breaks it when two do so at once.
            await import_engine(config.policy.engine)
            await asyncio.to_thread(load_policy_renderer, config)
            async with asyncio.TaskGroup() as tasks:
                for deployment in self._environments.values():
                    tasks.create_task(deployment.start())
            await policy.start()
            info = await (await policy.replica()).info()
        except ExceptionGroup as errors:
            self._send(Failed(_told_as(errors.exceptions[0])))
        except Exception as error:
            self._send(Failed(_told_as(error)))
        else:
            self._send(Up(info))

    def _policy_replica(self, config: RunConfig, host: Host) -> PolicyReplica:
        self._replica = replica = PolicyReplica(config, host)
        return replica

    async def _stop(self) -> None:
        deployments = [*self._environments.values(), *filter(None, [self._policy])]
        for deployment in deployments:
            await deployment.stop()

    # A pass.

    async def _pass(self, what: RunPass) -> None:
        self._monitor = monitor = Monitor()
        self._sampled_before = self._sampled()
        telling = asyncio.ensure_future(self._tell(monitor))
        error: Exception | None = None
        try:
            settings = dataclasses.replace(what.settings, handle_of=self._handle_of)
            await run_stage(settings, what.manifest, what.left, monitor)
        except Exception as failed:
            error = failed
        finally:
            telling.cancel()
        self._send(Ended(monitor.total(), None if error is None else _told_as(error)))

    def _handle_of(self, environment: str) -> _Announced:
        return _Announced(self._environments[environment], self._send, set())

    async def _tell(self, monitor: Monitor) -> None:
        while True:
            # The command reads them when it has time; what is old by then need not be sent.
            if select.select([], [self._connection], [], 0)[1]:
                counts = monitor.total()
                # A replica that was replaced counts anew.
                counts.tokens_so_far = max(0, self._sampled() - self._sampled_before)
                self._send(Told(counts, monitor.drained()))
            await asyncio.sleep(_TELL_SECONDS)

    def _sampled(self) -> int:
        return 0 if self._replica is None else self._replica.engine_load().sampled_tokens

    def _send(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # The command is gone, and this process ends.
            self._connection.send(message)


class _Tells(logging.Handler):
    """Passes on what an engine says while it starts."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(Starting(record.getMessage()))


class _Announced:
    """An environment's handle, and its calls, that say which rollouts are in it: should one of them
    end this process, nobody else could.
    """

    def __init__(self, inner: Any, send: Callable[[Any], None], ids: set[str]) -> None:
        self._inner = inner
        self._send = send
        self._ids = ids

    def options(self, **options: Any) -> _Announced:
        return _Announced(self._inner.options(**options), self._send, set())

    def remote(self, specs: Sequence[RolloutSpec], *rest: Any) -> _Announced:
        ids = {spec.rollout_id for spec in specs}
        self._send(InFlight(tuple(ids), has_begun=True))
        return _Announced(self._inner.remote(specs, *rest), self._send, ids)

    def __aiter__(self) -> _Announced:
        return self

    async def __anext__(self) -> list[Rollout]:
        try:
            rollouts: list[Rollout] = await anext(self._inner)
        except BaseException:
            self._are_back(self._ids)
            raise
        self._are_back({rollout.spec.rollout_id for rollout in rollouts})
        return rollouts

    def cancel(self) -> None:
        self._are_back(self._ids)
        self._inner.cancel()

    def _are_back(self, ids: set[str]) -> None:
        if ids:
            self._send(InFlight(tuple(ids), has_begun=False))
            self._ids = self._ids - ids


def _told_as(error: BaseException) -> GymRayError:
    """An error that can travel, and that says what a person can do."""
    if isinstance(error, ConfigError | GymRayError):
        return type(error)(str(error))
    logger.error("what follows is told as an error of the run", exc_info=error)
    return GymRayError(one_line(error))


def main(descriptor: int, parent: int) -> None:
    """Serve the command at the other end.

    Args:
        descriptor: of the socket.
        parent: process number of the command, with which this process ends.
    """
    from gym_ray.verifiers.worker import die_with

    die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        # The command says when to end. A handler and not SIG_IGN, which programs would inherit.
        signal.signal(number, lambda number, frame: None)
    metrics.collect_none()
    with Connection(descriptor) as connection:
        asyncio.run(_Process(connection).run())
    # What hangs in a thread, of a library say, must not keep the process.
    os._exit(0)
