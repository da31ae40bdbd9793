"""The reverify stage: one Ray Data actor that judges row groups of stored rollouts anew.

Every rollout given becomes one durable rollout: judged, failed with a kind, kept as it was where
its state cannot be rebuilt, or passed on where it had failed before anything could be judged.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gym_ray.collection.monitor import Order
from gym_ray.collection.stage import CollectionStopped
from gym_ray.config.environment import EnvironmentConfig, VerificationConfig
from gym_ray.environment import Environment
from gym_ray.errors import (
    RETRYABLE,
    FailureKind,
    GymRayError,
    RolloutFailure,
    one_line,
    pauses,
)
from gym_ray.progress import Counts
from gym_ray.registry import environment_factory, load_environment
from gym_ray.reverification.replay import NotReplayable, Replayer
from gym_ray.rollout import Rollout
from gym_ray.runner import judged, not_judged
from gym_ray.store.index import Index
from gym_ray.store.places import parquet_file
from gym_ray.store.row_fetcher import RowFetcher
from gym_ray.store.rows import from_table
from gym_ray.store.segments import SegmentStore
from gym_ray.verifiers.verification import Verification

#: Metrics that say how a verdict came about; they never are part of what an environment says.
KEPT = "reverify/kept_"
DIVERGED = "reverify/diverged"

#: Rows waiting for verifiers, at most, and the longest the last of them may wait, in seconds;
#: the verifier pool gives up after twice that.
_MOST_WAITING = 64
_LONGEST_WAIT_SECONDS = 300.0

#: A segment is written when it has so many rollouts, or after so many seconds.
_SEGMENT_ROWS = 64
_FLUSH_SECONDS = 5.0

#: See `pauses`: before the second verification, and at most.
_BACKOFF_SECONDS = 0.5
_BACKOFF_MAXIMUM_SECONDS = 8.0
_HEARTBEAT_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class ReverifySettings:
    """What a stage needs to know.

    Attributes:
        run_id: of the new dataset.
        sections: config of each environment.
        base_directory: against which their entry points resolve.
        verification: of the config; every stage has its own processes.
        timeout_seconds: longest the replay of one rollout may take.
        max_attempts: verifications of a rollout at failures that may pass.
        files: where the rollouts are.
        remaining: Parquet file of those to judge, as positions in `files`; see `rollouts_of`.
        pass_id: names this pass; see `StageSettings`.
        store: where segments go.
    """

    run_id: str
    sections: dict[str, EnvironmentConfig]
    base_directory: str
    verification: VerificationConfig
    timeout_seconds: float
    max_attempts: int
    files: tuple[Path, ...]
    remaining: Path
    pass_id: str
    store: SegmentStore


class Reverifier:
    """Judges stored rollouts of one environment. Use it on one event loop.

    Args:
        environment: the environment.
        section: its config.
        verification: judges its outcomes; started.
        settings: of the run.
    """

    def __init__(
        self,
        environment: Environment,
        section: EnvironmentConfig,
        verification: Verification,
        settings: ReverifySettings,
    ) -> None:
        self._replayer = Replayer(environment, section)
        self._verification = verification
        self._settings = settings
        own = settings.verification
        fitting = int(own.processes * _LONGEST_WAIT_SECONDS / own.timeout_seconds)
        #: Rollouts that are judged or wait for it; the others are not even replayed.
        self.room = asyncio.Semaphore(min(max(own.processes, fitting), _MOST_WAITING))

    async def reverify(self, rollout: Rollout) -> Rollout:
        """The rollout with the verdict of now. Whatever goes wrong is a failed rollout."""
        backoff = pauses(_BACKOFF_SECONDS, _BACKOFF_MAXIMUM_SECONDS)
        for _ in range(1, self._settings.max_attempts):
            judged_anew = await self._once(rollout)
            if judged_anew.error_kind not in RETRYABLE:
                return judged_anew
            await asyncio.sleep(next(backoff))
        return await self._once(rollout)

    async def _once(self, rollout: Rollout) -> Rollout:
        try:
            async with asyncio.timeout(self._settings.timeout_seconds) as clock:
                replayed = await self._replayer.replay(rollout)
            found = judged(rollout, await self._verification.verify(replayed.outcome))
        except NotReplayable as why:
            return _kept(rollout, f"{KEPT}{why.obstacle}")
        except RolloutFailure as failure:
            return not_judged(rollout, failure)
        except Exception as error:
            if isinstance(error, TimeoutError) and clock.expired():
                message = f"not replayed within {self._settings.timeout_seconds:g} s"
                return not_judged(rollout, RolloutFailure(FailureKind.ROLLOUT_TIMEOUT, message))
            message = one_line(error)
            return not_judged(rollout, RolloutFailure(FailureKind.ENVIRONMENT_ERROR, message))
        if not replayed.diverged:
            return found
        return dataclasses.replace(
            found, metrics={**found.metrics, DIVERGED: float(replayed.diverged)}
        )


def is_judgeable(rollout: Rollout) -> bool:
    """Whether there is anything a verifier could judge: a rollout that failed has a response only
    when it was its verification that failed."""
    return rollout.status != "failed" or bool(json.loads(rollout.response))


def rollouts_of(files: Sequence[Path], positions: pa.Table) -> list[Rollout]:
    """Stored rollouts, in the order of their positions.

    Args:
        files: dataset files.
        positions: columns `file`, an index of `files`, and `row`.
    """
    index = Index(table=positions, files=list(files), duplicates=0).only(slice(None))
    return list(from_table(RowFetcher(index).rows(0, len(positions))))


def _kept(rollout: Rollout, mark: str) -> Rollout:
    metrics = {k: v for k, v in rollout.metrics.items() if not k.startswith((KEPT, DIVERGED))}
    return dataclasses.replace(rollout, metrics={**metrics, mark: 1.0})


class ReverifyStage:
    """Callable class for `Dataset.map_batches`; one instance per actor.

    Args:
        settings: see `ReverifySettings`.
        monitor: handle of the `Monitor`.
        max_starts: starts of all stages of this pass, restarts included.

    Raises:
        GymRayError: stages keep dying.
    """

    def __init__(self, settings: ReverifySettings, monitor: Any, max_starts: int) -> None:
        import ray

        starts = ray.get(monitor.started.remote(), timeout=60)
        if starts > max_starts:
            raise GymRayError(f"reverify stages keep dying ({starts - 1} starts); see Ray's logs")
        self._settings = settings
        self._monitor = monitor
        self._name = uuid.uuid4().hex
        self._counts = Counts()
        self._order: Order = "run"
        self._starting = asyncio.Lock()
        self._reverifiers: dict[str, Reverifier] = {}
        self._heart: asyncio.Task[None] | None = None

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Judge row groups of `remaining`.

        Args:
            batch: one row, `first` and `end`: row groups `[first, end)`.

        Yields:
            One row, `durable`: how many rollouts were made durable.
        """
        if self._heart is None:
            self._heart = asyncio.ensure_future(self._heartbeat())
        durable = 0
        for row in batch.to_pylist():
            for number in range(row["first"], row["end"]):
                durable += await self._row_group(number)
        await self._report()
        yield pa.table({"durable": pa.array([durable], type=pa.int64())})

    async def _row_group(self, number: int) -> int:
        rollouts = await asyncio.to_thread(self._read, number)
        block = f"{self._settings.pass_id}-{rollouts[0].spec.rollout_id}"
        already = await asyncio.to_thread(self._settings.store.durable, block)
        todo = [rollout for rollout in rollouts if rollout.spec.rollout_id not in already]
        segments = _Segments(self._settings.store, block)
        try:
            async with asyncio.TaskGroup() as tasks:
                for rollout in todo:
                    tasks.create_task(self._settle(rollout, segments))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await segments.flush()
        if self._order != "run":
            raise CollectionStopped()
        return len(todo)

    def _read(self, number: int) -> list[Rollout]:
        positions = parquet_file(self._settings.remaining).read_row_group(number)
        return rollouts_of(self._settings.files, positions)

    async def _settle(self, rollout: Rollout, segments: _Segments) -> None:
        if is_judgeable(rollout):
            reverifier = await self._reverifier(rollout.spec.environment)
            async with reverifier.room:
                if self._order != "run":
                    return
                self._counts.running += 1
                rollout = await reverifier.reverify(rollout)
                self._counts.running -= 1
        self._count(rollout)
        await segments.add(dataclasses.replace(rollout, run_id=self._settings.run_id))

    async def _reverifier(self, name: str) -> Reverifier:
        async with self._starting:
            if name not in self._reverifiers:
                settings, section = self._settings, self._settings.sections[name]
                environment = load_environment(name, section, settings.base_directory)
                verification = Verification(
                    environment,
                    environment_factory(name, section, settings.base_directory),
                    processes=settings.verification.processes,
                    timeout_seconds=settings.verification.timeout_seconds,
                )
                await verification.start()
                self._reverifiers[name] = Reverifier(environment, section, verification, settings)
        return self._reverifiers[name]

    def _count(self, rollout: Rollout) -> None:
        if rollout.status == "failed":
            self._counts.failed += 1
        else:
            self._counts.finished += 1
        if rollout.reward is not None:
            self._counts.rewarded += 1
            self._counts.reward_sum += rollout.reward

    async def _heartbeat(self) -> None:
        while True:
            await self._report()
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    async def _report(self) -> None:
        self._order = await self._monitor.report.remote(
            self._name, self._counts, obeyed=self._order
        )


class _Segments:
    """Rollouts of one block on their way to disk, a segment at a time."""

    def __init__(self, store: SegmentStore, block: str) -> None:
        self._store = store
        self._block = block
        self._waiting: list[Rollout] = []
        self._written_at = time.monotonic()

    async def add(self, rollout: Rollout) -> None:
        self._waiting.append(rollout)
        is_late = time.monotonic() - self._written_at > _FLUSH_SECONDS
        if len(self._waiting) >= _SEGMENT_ROWS or is_late:
            await self.flush()

    async def flush(self) -> None:
        """Make what waits durable."""
        self._written_at = time.monotonic()
        if self._waiting:
            rollouts, self._waiting = self._waiting, []
            await asyncio.to_thread(self._store.write, self._block, rollouts)
