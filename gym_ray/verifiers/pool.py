"""Plain verifiers under a hard deadline, in processes that can be killed one at a time.

Invariant: every call ends in exactly one answer or one `RolloutFailure`, and a verifier
that hangs, crashes, exits or raises costs its own rollout (or group) only.

How: a worker is a process, a socket, and at most one call, so a dead worker names its culprit
and nothing else dies with it. What waits, waits in the parent. Everything runs on one event
loop, one task per worker; a thread is borrowed only to reap a dead process.

Why not PyPI `pebble`, which isolates as well: its spawned workers run the parent's `__main__`
again, what a killed verifier had started lives on, a worker that hangs outlives a killed parent,
and a verification costs it 0.44 ms of CPU, this 0.33 ms, or 0.25 ms on uvloop (parent and worker,
two cores, 64 callers).

What this does not do: limit memory, or contain hostile code (that is a sandbox's work). When the
parent is killed, workers die at once (Linux), but not processes that a verifier itself started.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import pickle
from collections.abc import Callable
from types import TracebackType
from typing import Any

from gym_ray.environment import Outcome, score_in_process
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure, one_line
from gym_ray.verdict import Verdict
from gym_ray.verifiers.process import Answer, VerifierProcess

logger = logging.getLogger(__name__)

#: Pause before a worker that failed to start is tried again: no busy loop of imports.
RESTART_DELAY_SECONDS = 1.0


class VerifierPool:
    """Runs plain verifiers in worker processes: those of one environment, or of groups.

    Start, use and stop it on one event loop; `async with` does both ends.

    Args:
        factory: builds in each worker what holds the verifiers. Picklable, e.g.
            `functools.partial(load_environment, "math", {})`.
        function: called there with what was built, a name and an argument; returns anything but
            None. Picklable. An environment's verifiers by default.
        processes: number of workers: how many verifications run at once.
        timeout_seconds: longest one verification may run, counted from its start.
        queue_timeout_seconds: longest an outcome may wait for a free worker.
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        function: Callable[[Any, str, Any], Any] = score_in_process,
        *,
        processes: int,
        timeout_seconds: float,
        queue_timeout_seconds: float = 600.0,
    ) -> None:
        if processes < 1:
            raise ConfigError(f"verification.processes must be at least 1, got {processes}")
        if timeout_seconds <= 0:
            raise ConfigError(
                f"verification.timeout_seconds must be positive, got {timeout_seconds:g}"
            )
        self._factory = pickle.dumps((factory, function))
        self._processes = processes
        self._timeout = timeout_seconds
        self._queue_timeout = queue_timeout_seconds
        self._waiting: collections.deque[_Item] = collections.deque()
        self._resting: set[asyncio.Future[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._warm_workers = 0

    async def start(self) -> None:
        """Start the workers and wait until each has built and warmed its environment.

        Raises:
            ConfigError: the environment could not be built in a worker.
        """
        loop = asyncio.get_running_loop()
        warm: list[asyncio.Future[None]] = [loop.create_future() for _ in range(self._processes)]
        self._tasks = [loop.create_task(self._run_worker(started)) for started in warm]
        try:
            await asyncio.gather(*warm)
        except RolloutFailure as failure:
            await self.stop()
            raise ConfigError(f"a verifier process did not start: {failure.message}") from None
        except BaseException:
            await self.stop()
            raise

    async def verify(self, outcome: Outcome, verifier: str = "") -> Verdict:
        """Judge one rollout; see `call`.

        Args:
            outcome: what is judged.
            verifier: which part of the verdict; see `environment.verifiers_of`.
        """
        verdict: Verdict = await self.call(verifier, outcome)
        return verdict

    async def call(self, name: str, payload: Any) -> Any:
        """What the pool's function returns. Call it from as many coroutines at once as you like.

        Args:
            name: of a verifier.
            payload: what is judged: an outcome, or a group.

        Cancelling the caller drops a call that still waits. One that already runs is left to end
        by itself or by its deadline, which is cheaper than a new process.

        Raises:
            RolloutFailure: `verifier_timeout` when it ran or waited too long; `verifier_error`
                when the verifier raised, killed its process or returned no verdict, or `payload`
                does not pickle; `environment_unavailable` when no worker can be started;
                `cancelled` when the pool is stopped; or whichever failure the verifier raised.
        """
        if not self._tasks:
            raise RolloutFailure(FailureKind.CANCELLED, "the verifier pool is not running")
        try:
            pickled = pickle.dumps((name, payload))
        except Exception as error:
            message = (
                f"the outcome does not pickle: {one_line(error)}; keep in the state what can be "
                "sent to another process (a path, rows), or write `async def verify`, which runs "
                "in this one"
            )
            raise RolloutFailure(FailureKind.VERIFIER_ERROR, message) from None
        loop = asyncio.get_running_loop()
        item = _Item(pickled, loop.create_future())
        self._waiting.append(item)
        self._wake_one()
        timer = loop.call_later(self._queue_timeout, self._waited_out, item)
        try:
            return await item.answer
        finally:
            timer.cancel()

    def check_health(self) -> None:
        """Raise when a worker is gone for good, which no verifier can cause."""
        for task in self._tasks:
            if task.done():
                raise RuntimeError("a verifier worker has ended")

    async def stop(self) -> None:
        """End the workers; what still waits or runs fails as `cancelled`."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail_waiting(FailureKind.CANCELLED, "the verifier pool was stopped")

    async def __aenter__(self) -> VerifierPool:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _run_worker(self, started: asyncio.Future[None]) -> None:
        """One worker, replaced as often as it dies, until cancelled."""
        while True:
            process = VerifierProcess()
            failure: RolloutFailure | None
            try:
                try:
                    failure = await process.start(self._factory)
                except OSError as error:  # out of file descriptors, memory or processes
                    failure = RolloutFailure(FailureKind.ENVIRONMENT_UNAVAILABLE, one_line(error))
                if failure is None:
                    self._warm_workers += 1
                    try:
                        _settle(started, None)
                        await self._serve(process)
                    finally:
                        self._warm_workers -= 1
            finally:
                await process.end()
            if failure is None:
                continue
            if not started.done():
                started.set_exception(failure)
                return
            logger.warning("a verifier process did not start again: %s", failure.message)
            if not self._warm_workers:
                message = f"no verifier process starts: {failure.message}"
                self._fail_waiting(FailureKind.ENVIRONMENT_UNAVAILABLE, message)
            await asyncio.sleep(RESTART_DELAY_SECONDS)

    async def _serve(self, process: VerifierProcess) -> None:
        """Feed one process, one outcome at a time, until it has gone."""
        while not process.has_gone:
            item = self._next_item()
            if item is None:
                await self._rest(process)
                continue
            answer: Answer = RolloutFailure(FailureKind.CANCELLED, "the verifier pool was stopped")
            try:
                answer = await process.call(item.payload, self._timeout)
                if answer is None:
                    answer = self._return(item)
            finally:
                if answer is not None:
                    _settle(item.answer, answer)
        self._wake_one()  # this worker may have been woken for an outcome it cannot take

    async def _rest(self, process: VerifierProcess) -> None:
        """Until there may be something to do, or the process has gone."""
        awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._resting.add(awake)
        process.when_gone = lambda: _settle(awake, None)
        try:
            await awake
        finally:
            process.when_gone = None
            self._resting.discard(awake)

    def _wake_one(self) -> None:
        if self._waiting and self._resting:
            _settle(self._resting.pop(), None)

    def _next_item(self) -> _Item | None:
        while self._waiting:
            item = self._waiting.popleft()
            if not item.answer.done():  # else its caller was cancelled, or it waited too long
                item.is_running = True
                return item
        return None

    def _return(self, item: _Item) -> RolloutFailure | None:
        """Once more from the head of the queue: its process had died before it came."""
        if item.was_returned:  # perhaps it is too large to be received
            message = "two verifier processes died while they received the outcome"
            return RolloutFailure(FailureKind.VERIFIER_ERROR, message)
        item.was_returned, item.is_running = True, False
        self._waiting.appendleft(item)
        return None

    def _waited_out(self, item: _Item) -> None:
        if item.is_running:
            return
        message = (
            f"waited {self._queue_timeout:g} s for a free verifier process; "
            "raise verification.processes"
        )
        _settle(item.answer, RolloutFailure(FailureKind.VERIFIER_TIMEOUT, message))

    def _fail_waiting(self, kind: FailureKind, message: str) -> None:
        while item := self._next_item():
            _settle(item.answer, RolloutFailure(kind, message))


@dataclasses.dataclass(slots=True)
class _Item:
    """One call on its way to a worker."""

    payload: bytes
    answer: asyncio.Future[Any]
    is_running: bool = False
    was_returned: bool = False


def _settle(future: asyncio.Future[Any], answer: Answer) -> None:
    """Resolve `future`, unless its owner has given up on it."""
    if future.done():
        return
    if isinstance(answer, RolloutFailure):
        future.set_exception(answer)
    else:
        future.set_result(answer)
