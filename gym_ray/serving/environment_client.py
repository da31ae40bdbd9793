"""How whole rollouts reach the environments: rollouts in, finished rollouts out.

The one way there is, for collection as for what is served. Rollouts wait in a queue, go to
environment replicas in calls of up to 16, come back as they finish, and are tried again at
transport and provider failures. A call that breaks with many rollouts costs none of them an
attempt, since one may be to blame: see `suspects.py`.

Owned here: which rollouts share a call, how long a call may take, what is tried again and when,
giving up, the root of a rollout's trace, and the row of a rollout that reached no replica. Not
owned here: how many may run at once (`admission.py`), and where finished rollouts go.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from gym_ray.config.load import RunConfig
from gym_ray.errors import RETRYABLE, FailureKind, one_line, pauses
from gym_ray.rollout import Producer, Rollout, RolloutSpec, with_spec
from gym_ray.runner import RunSettings
from gym_ray.serving.admission import UNLIMITED, Admission
from gym_ray.serving.coalescing import parcels
from gym_ray.serving.queues import Queues
from gym_ray.serving.suspects import Suspects, is_suspect, is_to_blame
from gym_ray.telemetry.observer import RolloutObserver
from gym_ray.telemetry.traces import Span, is_traced, root_span

logger = logging.getLogger(__name__)

#: Beyond a rollout's own deadline, for a replica to start or a queue to move.
_GRACE_SECONDS = 60.0

#: See `pauses`: before the second attempt, and at most.
_BACKOFF_SECONDS = 0.5
_BACKOFF_MAXIMUM_SECONDS = 30.0

#: Memory of the tasks that wait for their first start, beyond which `room` lets no more in.
_WAITING_BYTES = 64 * 1024**2

#: Makes a finished rollout durable.
Record = Callable[[Rollout], Awaitable[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class ClientSettings:
    """What the rollouts of a client share.

    Attributes:
        run: what the environments are told.
        producer: fills the columns of rollouts that reached no replica.
        max_attempts: attempts per rollout.
        start_seconds: how long a replica may take to start.
        trace_share: share of the rollouts that are traced.
    """

    run: RunSettings
    producer: Producer
    max_attempts: int
    start_seconds: float
    trace_share: float = 0.0


class EnvironmentClient:
    """Runs rollouts in environment deployments. Use it on one event loop.

    Args:
        handle_of: Serve handle of an environment.
        settings: see `ClientSettings`.
        admission: how many run at once; by default, as many as are asked for.
        record: makes every rollout durable before it is told; None to keep none.
    """

    def __init__(
        self,
        handle_of: Callable[[str], Any],
        settings: ClientSettings,
        *,
        admission: Admission | None = None,
        record: Record | None = None,
    ) -> None:
        self._handle_of = handle_of
        self._settings = settings
        self._admission = admission or Admission(UNLIMITED)
        self._record = record
        self._call_seconds = settings.run.timeout_seconds + settings.start_seconds + _GRACE_SECONDS
        self._observer = RolloutObserver()
        self._queues: Queues[_Job] = Queues()
        self._suspects: Suspects[_Job] = Suspects()
        self._calls: set[_Call] = set()
        self._streams: dict[str, Any] = {}
        self._is_pump_due = False
        self._unstarted = 0
        self._unstarted_bytes = 0
        self._started = asyncio.Event()
        self.retried = 0

    async def run(self, spec: RolloutSpec, record: Record | None = None) -> Rollout:
        """Run one rollout to its end, all attempts; a failure is a `failed` rollout. Cancelling
        gives it up.

        Args:
            spec: the rollout.
            record: in place of the client's own.

        Raises:
            Exception: what `record` raises.
        """
        job = _Job(spec, asyncio.get_running_loop().create_future())
        self._unstarted += 1
        self._unstarted_bytes += len(spec.task)
        self._enqueue(job)
        try:
            rollout = await job.end
            record = record or self._record
            if record is not None:
                await record(rollout)
            return rollout
        finally:
            self._leave(job)

    async def room(self, rollouts: int) -> None:
        """Return once fewer than so many rollouts, and not too large ones, wait for their start."""
        while self._unstarted >= rollouts or self._unstarted_bytes >= _WAITING_BYTES:
            self._started.clear()
            await self._started.wait()

    def waiting(self) -> list[tuple[str, int]]:
        """How many rollouts of each environment wait for a call."""
        return self._queues.lengths()

    def report_rewards(self) -> None:
        """See `RolloutObserver`."""
        self._observer.report_rewards()

    # Starting.

    def _enqueue(self, job: _Job) -> None:
        job.timer = None
        environment = job.spec.environment
        job.is_suspect = is_suspect(job.breaks)
        job.is_held = job.is_suspect and not self._suspects.admit(environment, job.breaks, job)
        if not job.is_held:
            self._wait(job)

    def _wait(self, job: _Job) -> None:
        job.is_held = False
        job.is_waiting = True
        self._queues.add(job.spec.environment, job)
        self._pump_soon()

    def _give_place(self, job: _Job) -> None:
        """A suspect is done with its place, which is the next one's."""
        if job.is_suspect:
            job.is_suspect = False
            if (following := self._suspects.left(job.spec.environment, job.breaks)) is not None:
                self._wait(following)

    def _pump_soon(self) -> None:
        """Start what may start once this pass of the event loop is over: what begins together
        travels together.
        """
        if not self._is_pump_due:
            self._is_pump_due = True
            # In a context of its own: Serve would otherwise take the call for a child of the
            # request that happened to start it, and cancel everybody's rollouts with that one.
            loop = asyncio.get_running_loop()
            loop.call_soon(self._pump, context=contextvars.Context())

    def _pump(self) -> None:
        self._is_pump_due = False
        while starting := self._admission.next_call(self._queues.lengths()):
            environment, count = starting
            jobs = self._queues.take(environment, count)
            self._admission.started(environment, count)
            for job in jobs:
                if job.is_suspect:
                    self._start(environment, [job])
            others = [job for job in jobs if not job.is_suspect]
            for parcel in parcels(others, lambda job: len(job.spec.task)):
                self._start(environment, parcel)

    def _start(self, environment: str, jobs: Sequence[_Job]) -> None:
        call = _Call(environment, {job.spec.rollout_id: job for job in jobs})
        call.is_alone = len(jobs) == 1 and not self._others(call)
        self._calls.add(call)
        for job in jobs:
            job.is_waiting = False
            job.call = call
            if not job.has_begun:
                self._begin(job)
        call.task = asyncio.ensure_future(self._make(call))

    def _others(self, call: _Call) -> bool:
        """Whether other rollouts of its environment are in work."""
        return any(
            other.jobs and other is not call and other.environment == call.environment
            for other in self._calls
        )

    def _begin(self, job: _Job) -> None:
        job.has_begun = True
        self._no_longer_unstarted(job)
        if is_traced(job.spec.rollout_id, self._settings.trace_share):
            job.span = root_span(job.spec, self._settings.run.run_id)

    def _no_longer_unstarted(self, job: _Job) -> None:
        self._unstarted -= 1
        self._unstarted_bytes -= len(job.spec.task)
        self._started.set()

    async def _make(self, call: _Call) -> None:
        """One call to an environment replica; every rollout of it is settled when this returns."""
        reason, is_overdue = "the environment replica returned without a result", False
        jobs = list(call.jobs.values())
        stream: Any = None
        try:
            stream = self._stream(call.environment).remote(
                [job.spec for job in jobs],
                [job.attempt for job in jobs],
                self._settings.run,
                {job.spec.rollout_id: job.span.traceparent for job in jobs if job.span},
            )
            async with asyncio.timeout(self._call_seconds):
                async for rollouts in stream:
                    self._settle(call, rollouts)
        except asyncio.CancelledError:
            # Given up: the replica must not go on with it, nor wait for it when it is stopped.
            if stream is not None:
                stream.cancel()
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            reason = "the call was cancelled"
        except TimeoutError:
            if stream is not None:
                stream.cancel()
            reason = f"the environment replica gave no result within {self._call_seconds:g} s"
            is_overdue = True
        except Exception as error:
            reason = one_line(error)
        finally:
            self._calls.discard(call)
        if call.jobs:
            logger.warning("call to environment %s broke: %s", call.environment, reason)
            self._broke(call, reason, is_overdue=is_overdue)

    def _stream(self, environment: str) -> Any:
        if environment not in self._streams:
            handle = self._handle_of(environment)
            self._streams[environment] = handle.options(stream=True, method_name="run")
        return self._streams[environment]

    def _unreached(self, job: _Job, reason: str) -> Rollout:
        kind = FailureKind.ENVIRONMENT_UNAVAILABLE
        return self._settings.producer.failed(job.spec, kind, reason, attempts=job.attempt)

    # Ending.

    def _broke(self, call: _Call, reason: str, *, is_overdue: bool) -> None:
        """Every rollout that is left of a call is tried again, or has failed."""
        jobs = list(call.jobs.values())
        rollouts = [self._unreached(job, reason) for job in jobs]
        is_blamed = len(jobs) == 1 and (
            is_to_blame(jobs[0].breaks) or (call.is_alone and not self._others(call))
        )
        if is_blamed or is_overdue:
            self._settle(call, rollouts)
            return
        for job, rollout in zip(jobs, rollouts, strict=True):
            self._give_place(job)
            job.breaks += 1
            self._try_again(call, job, rollout)
        self._pump_soon()

    def _try_again(self, call: _Call, job: _Job, rollout: Rollout) -> None:
        self._observer.retried(rollout)
        self.retried += 1
        job.backoff = job.backoff or pauses(_BACKOFF_SECONDS, _BACKOFF_MAXIMUM_SECONDS)
        job.timer = asyncio.get_running_loop().call_later(next(job.backoff), self._enqueue, job)
        self._admission.finished(call.environment, 1, to_write=0)
        job.call = None
        del call.jobs[job.spec.rollout_id]

    def _settle(self, call: _Call, rollouts: Iterable[Rollout]) -> None:
        """Sort results into rollouts that have ended and attempts to make again."""
        ended = []
        for rollout in rollouts:
            job = call.jobs.get(rollout.spec.rollout_id)
            if job is None or job.end.cancelled():  # Given up, just now where it is still there.
                continue
            # Replicas send no task back.
            rollout = with_spec(rollout, job.spec)
            again = rollout.error_kind in RETRYABLE and job.attempt < self._settings.max_attempts
            self._give_place(job)
            if again:
                job.attempt += 1
                self._try_again(call, job, rollout)
                continue
            if job.span is not None:
                job.span.end_rollout(rollout)
            job.size = rollout.memory_bytes
            job.has_ended = True
            job.end.set_result(rollout)
            self._admission.finished(call.environment, 1, to_write=1, size=job.size)
            ended.append(rollout)
            job.call = None
            del call.jobs[rollout.spec.rollout_id]
        self._observer.finished(ended)
        self._pump_soon()

    def _leave(self, job: _Job) -> None:
        """Nobody waits for a rollout any more, wherever it is."""
        if job.has_ended:
            self._admission.written(1, size=job.size)
        elif job.timer is not None:
            job.timer.cancel()
        elif job.is_held:
            self._suspects.withdraw(job.spec.environment, job.breaks, job)
        elif job.is_waiting:
            self._queues.remove(job.spec.environment, job)
            self._give_place(job)
            if not job.has_begun:
                self._no_longer_unstarted(job)
        elif (call := job.call) is not None:
            self._give_place(job)
            del call.jobs[job.spec.rollout_id]
            self._admission.finished(call.environment, 1, to_write=0)
            if not call.jobs and call.task is not None:
                call.task.cancel()
        if not job.has_ended and job.span is not None:
            job.span.end({}, error="cancelled")
        self._pump_soon()


@dataclasses.dataclass(eq=False, slots=True)
class _Job:
    """A rollout that somebody waits for: in a queue, in a call, between attempts, or ended.

    Attributes:
        end: becomes its last attempt's rollout.
        attempt: the one it waits for or is in, from 1.
        breaks: calls that broke with it and others, which cost no attempt.
        is_suspect: it has, or waits for, a place among the suspects.
        is_held: it waits for one.
        backoff: seconds before each further attempt, once there was a first.
        size: bytes of memory, once it has ended.
        span: root of its trace, when it is traced.
    """

    spec: RolloutSpec
    end: asyncio.Future[Rollout]
    attempt: int = 1
    breaks: int = 0
    is_suspect: bool = False
    is_held: bool = False
    backoff: Iterator[float] | None = None
    has_begun: bool = False
    is_waiting: bool = False
    call: _Call | None = None
    timer: asyncio.TimerHandle | None = None
    has_ended: bool = False
    size: int = 0
    span: Span | None = None


@dataclasses.dataclass(eq=False, slots=True)
class _Call:
    """A call to a replica, and its rollouts that are neither settled nor given up, by ID.

    Attributes:
        is_alone: nothing else of its environment was in work when it began.
    """

    environment: str
    jobs: dict[str, _Job]
    is_alone: bool = False
    task: asyncio.Task[None] | None = None


def producer_of(config: RunConfig, run_id: str) -> Producer:
    """What produces the rollouts of a run with this config."""
    agents = {name: section.agent for name, section in config.environments.items()}
    return Producer(run_id, config.policy.model, agents)


def client_settings(config: RunConfig, run: RunSettings) -> ClientSettings:
    """Settings of the clients of a run with this config."""
    return ClientSettings(
        run=run,
        producer=producer_of(config, run.run_id),
        max_attempts=config.collect.max_attempts,
        start_seconds=config.policy.startup_timeout_seconds,
        trace_share=config.observability.trace_share,
    )
