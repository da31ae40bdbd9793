"""The rollout stage: one Ray Data actor that makes row groups of the manifest durable rollouts.

The rollouts of a row group (a block) wait in one queue with those of others, go to environment
replicas in calls of up to 16, come back as they finish, are retried at transport and provider
failures, and are written as segments. Stragglers hold back nothing but themselves: the next
block's rollouts start while they run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import pyarrow as pa

from gym_ray.collection.admission import Admission
from gym_ray.collection.monitor import Order
from gym_ray.collection.queues import Queues
from gym_ray.config.commands import LogFormat
from gym_ray.errors import RETRYABLE, FailureKind, GymRayError, one_line, pauses
from gym_ray.progress import Counts
from gym_ray.rollout import Rollout, RolloutSpec, failed_rollout
from gym_ray.runner import RunSettings
from gym_ray.store.places import open_path, parquet_file
from gym_ray.store.rows import specs_from_table
from gym_ray.store.segments import SegmentStore
from gym_ray.telemetry import metrics
from gym_ray.telemetry.logs import set_up_logs
from gym_ray.telemetry.observer import RolloutObserver
from gym_ray.telemetry.traces import Span, flush_traces, is_traced, root_span

logger = logging.getLogger(__name__)

#: See `pauses`: before the second attempt, and at most.
_BACKOFF_SECONDS = 0.5
_BACKOFF_MAXIMUM_SECONDS = 30.0

#: Finished rollouts are written after this long even when a segment is not full.
_FLUSH_SECONDS = 2.0

#: How often a stage reports and hears the order in force.
_HEARTBEAT_SECONDS = 0.5

#: Beyond a rollout's own deadline, for a replica to start or a queue to move.
_CALL_GRACE_SECONDS = 60.0


class CollectionStopped(Exception):
    """The driver gave the order to stop; what was not durable is left for the next command."""


@dataclasses.dataclass(frozen=True, slots=True)
class StageSettings:
    """What a stage needs to know.

    Attributes:
        application: Serve application to call.
        environments: deployment name of each environment.
        run: what the rollouts share.
        agents: agent of each environment, for rows of rollouts that never reached one.
        model: name for the `model` column of such rows.
        max_in_flight: rollouts this stage runs at once.
        quotas: of those, rollouts of an environment, where it has a limit of its own.
        max_attempts: attempts per rollout.
        start_seconds: how long a replica may take to start.
        pass_id: names this pass over the manifest. Segments are looked for under it, so that a
            block run again finds what it made durable, and no failure an earlier command left.
        store: where segments go.
        trace_share: share of the rollouts that are traced.
        log_format: of this process' log lines.
    """

    application: str
    environments: dict[str, str]
    run: RunSettings
    agents: dict[str, str]
    model: str
    max_in_flight: int
    quotas: dict[str, int]
    max_attempts: int
    start_seconds: float
    pass_id: str
    store: SegmentStore
    trace_share: float = 0.0
    log_format: LogFormat = "text"


@dataclasses.dataclass(eq=False, slots=True)
class _Block:
    """A block in work: how many rollouts have not started, how many are not durable yet, and
    those that have finished and are not being written yet.
    """

    key: str
    unstarted: int
    outstanding: int
    durable: asyncio.Future[None]
    finished: list[Rollout] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class _Waiting:
    spec: RolloutSpec
    attempt: int
    block: _Block
    span: Span | None = None


class RolloutStage:
    """Callable class for `Dataset.map_batches`; one instance per actor.

    Args:
        settings: see `StageSettings`.
        manifest: Parquet file of the rollouts that are to run, in row groups.
        open_groups: row groups with rollouts yet to start, at once; bounds what is in memory.
        monitor: handle of the `Monitor`.
        max_starts: starts of all stages of this pass, restarts included.

    Raises:
        GymRayError: stages keep dying.
    """

    def __init__(
        self,
        settings: StageSettings,
        manifest: str,
        open_groups: int,
        monitor: Any,
        max_starts: int,
    ) -> None:
        import ray

        starts = ray.get(monitor.started.remote(), timeout=60)
        if starts > max_starts:
            raise GymRayError(f"rollout stages keep dying ({starts - 1} starts); see Ray's logs")
        set_up_logs(settings.log_format)
        self._observer = RolloutObserver()
        self._settings = settings
        self._manifest = open_path(manifest)
        self._open_groups = asyncio.Semaphore(open_groups)
        self._monitor = monitor
        self._name = uuid.uuid4().hex
        self._admission = Admission(settings.max_in_flight, settings.quotas)
        self._counts = Counts()
        self._waiting: Queues[_Waiting] = Queues()
        self._blocks: set[_Block] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._handles: dict[str, Any] = {}
        self._beating = False

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Run the row groups of a range of the manifest.

        Args:
            batch: one row, `first` and `end`: row groups `[first, end)`.

        Yields:
            One row, `durable`: how many rollouts were made durable.
        """
        if not self._beating:
            self._beating = True
            self._spawn(self._heartbeat())
            self._spawn(self._flush_periodically())
        groups = [number for row in batch.to_pylist() for number in range(row["first"], row["end"])]
        durable = await asyncio.gather(*(self._row_group(number) for number in groups))
        if self._settings.trace_share:
            await asyncio.to_thread(flush_traces)
        yield pa.table({"durable": pa.array([sum(durable)], type=pa.int64())})

    async def _row_group(self, number: int) -> int:
        # Held until the last rollout has started, not until it has ended: a straggler must not
        # keep the next row group out. Memory stays bounded, as admission bounds what has started.
        await self._open_groups.acquire()
        specs = await asyncio.to_thread(self._read, number)
        key = f"{self._settings.pass_id}-{specs[0].rollout_id}"
        already = await asyncio.to_thread(self._settings.store.durable, key)
        todo = [spec for spec in specs if spec.rollout_id not in already]
        if not todo:
            self._open_groups.release()
            return 0
        durable = asyncio.get_running_loop().create_future()
        block = _Block(key=key, unstarted=len(todo), outstanding=len(todo), durable=durable)
        self._blocks.add(block)
        for spec in todo:
            self._waiting.add(spec.environment, _Waiting(spec, 1, block))
        self._pump()
        try:
            await durable
        finally:
            self._blocks.discard(block)
        return len(todo)

    def _read(self, number: int) -> list[RolloutSpec]:
        return specs_from_table(parquet_file(self._manifest).read_row_group(number))

    # Starting rollouts.

    def _pump(self) -> None:
        """Start every call that may start now."""
        while starting := self._admission.next_call(self._waiting.lengths()):
            environment, count = starting
            items = [self._start(item) for item in self._waiting.take(environment, count)]
            self._admission.started(environment, count)
            call = self._spawn(self._call(environment, items))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    def _start(self, item: _Waiting) -> _Waiting:
        """Count a first attempt in, and begin its trace when it has one."""
        if item.attempt > 1:
            return item
        item.block.unstarted -= 1
        if item.block.unstarted == 0:
            self._open_groups.release()
        if not is_traced(item.spec.rollout_id, self._settings.trace_share):
            return item
        return dataclasses.replace(item, span=root_span(item.spec, self._settings.run.run_id))

    async def _call(self, environment: str, items: list[_Waiting]) -> None:
        """One call to an environment replica; every item of it is settled when this returns."""
        pending = {item.spec.rollout_id: item for item in items}
        reason = "the environment replica returned without a result"
        timeout = (
            self._settings.run.timeout_seconds + self._settings.start_seconds + _CALL_GRACE_SECONDS
        )
        stream = self._handle(environment).remote(
            [item.spec for item in items],
            [item.attempt for item in items],
            self._settings.run,
            {item.spec.rollout_id: item.span.traceparent for item in items if item.span},
        )
        try:
            async with asyncio.timeout(timeout):
                async for rollouts in stream:
                    self._settle(
                        environment,
                        [(pending.pop(rollout.spec.rollout_id), rollout) for rollout in rollouts],
                    )
        except asyncio.CancelledError:
            # Given up: the replica must not go on with it, nor wait for it when it is stopped.
            stream.cancel()
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            reason = "the call was cancelled"
        except TimeoutError:
            stream.cancel()
            reason = f"the environment replica gave no result within {timeout:g} s"
        except Exception as error:
            reason = one_line(error)
        if pending:
            logger.warning("call to environment %s broke: %s", environment, reason)
            left = [(item, self._unavailable(item, reason)) for item in pending.values()]
            self._settle(environment, left)

    def _handle(self, environment: str) -> Any:
        if environment not in self._handles:
            from ray import serve

            deployment = self._settings.environments[environment]
            handle = serve.get_deployment_handle(deployment, self._settings.application)
            self._handles[environment] = handle.options(stream=True, method_name="run")
        return self._handles[environment]

    def _unavailable(self, item: _Waiting, reason: str) -> Rollout:
        return failed_rollout(
            item.spec,
            FailureKind.ENVIRONMENT_UNAVAILABLE,
            reason,
            run_id=self._settings.run.run_id,
            agent=self._settings.agents[item.spec.environment],
            model=self._settings.model,
            attempts=item.attempt,
        )

    # Finishing rollouts.

    def _settle(self, environment: str, results: Sequence[tuple[_Waiting, Rollout]]) -> None:
        """Sort results into rows to write and attempts to make again.

        An error here is of this stage, not of the call whose results these are: it ends the pass.
        """
        try:
            self._sort(environment, results)
        except Exception as error:
            self._fail(error)

    def _sort(self, environment: str, results: Sequence[tuple[_Waiting, Rollout]]) -> None:
        finished = []
        for item, rollout in results:
            if rollout.error_kind in RETRYABLE and item.attempt < self._settings.max_attempts:
                self._counts.retried += 1
                self._observer.retried(rollout)
                self._spawn(self._retry(item))
                continue
            finished.append(rollout)
            item.block.finished.append(rollout)
            self._count(rollout)
            if item.span is not None:
                item.span.end_rollout(rollout)
        self._observer.finished(finished)
        self._admission.finished(environment, len(results), to_write=len(finished))
        self._flush(full=False)
        self._pump()

    async def _retry(self, item: _Waiting) -> None:
        backoff = pauses(_BACKOFF_SECONDS, _BACKOFF_MAXIMUM_SECONDS)
        await asyncio.sleep(next(itertools.islice(backoff, item.attempt - 1, None)))
        again = dataclasses.replace(item, attempt=item.attempt + 1)
        self._waiting.add(item.spec.environment, again)
        self._pump()

    def _count(self, rollout: Rollout) -> None:
        if rollout.status == "failed":
            self._counts.failed += 1
        else:
            self._counts.finished += 1
        if rollout.reward is not None:
            self._counts.rewarded += 1
            self._counts.reward_sum += rollout.reward
        self._counts.sampled_tokens += rollout.sampled_tokens

    def _flush(self, *, full: bool) -> None:
        """Write finished rollouts: those of complete blocks, and all once there are enough."""
        enough = sum(len(block.finished) for block in self._blocks) >= self._admission.segment_rows
        for block in list(self._blocks):
            if block.finished and (full or enough or len(block.finished) == block.outstanding):
                rollouts, block.finished = block.finished, []
                self._spawn(self._write(block, rollouts))

    async def _write(self, block: _Block, rollouts: list[Rollout]) -> None:
        try:
            await asyncio.to_thread(self._settings.store.write, block.key, rollouts)
        except Exception as error:
            # Not durable, so not done: the block fails, and with it this pass of the run.
            if not block.durable.done():
                block.durable.set_exception(error)
            return
        self._admission.written(len(rollouts))
        block.outstanding -= len(rollouts)
        if block.outstanding == 0 and not block.durable.done():
            block.durable.set_result(None)
        self._flush(full=False)
        self._pump()

    # In the background.

    async def _flush_periodically(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            self._flush(full=True)

    async def _heartbeat(self) -> None:
        order: Order = "run"
        while True:
            self._counts.running = self._admission.running
            self._counts.unwritten = self._admission.unwritten
            self._measure()
            order = await self._monitor.report.remote(self._name, self._counts, obeyed=order)
            self._admission.closed = order != "run"
            if order == "drain":
                self._flush(full=True)
            if order == "stop":
                self._give_up()
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    def _measure(self) -> None:
        """Set the gauges, which Ray forgets otherwise."""
        metrics.put(metrics.IN_FLIGHT, self._admission.running)
        metrics.put(metrics.UNWRITTEN, self._admission.unwritten)
        for environment, count in self._waiting.lengths():
            metrics.put(metrics.QUEUED, count, environment=environment)
        self._observer.report_rewards()

    def _give_up(self) -> None:
        """Cancel calls in flight and fail every block that is not durable."""
        for call in self._calls:
            call.cancel()
        for block in self._blocks:
            if not block.durable.done():
                block.durable.set_exception(CollectionStopped())

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in the background; the event loop itself only keeps a weak reference."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End this pass: no block becomes durable any more."""
        logger.error("rollout stage: %s", one_line(error))
        for block in self._blocks:
            if not block.durable.done():
                block.durable.set_exception(error)
