"""The reverify stage: one Ray Data actor that judges stored rollouts anew.

Every rollout given becomes one durable rollout: judged, failed with a kind, kept as it was where
its state cannot be rebuilt, or passed on where it had failed before anything could be judged.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pyarrow as pa

from gym_ray.collection.monitor import MonitorLink
from gym_ray.collection.stage_link import StageLink
from gym_ray.config.environment import EnvironmentConfig, VerificationConfig
from gym_ray.environment import Environment
from gym_ray.errors import RETRYABLE, FailureKind, RolloutFailure, one_line, pauses
from gym_ray.registry import environment_factory, load_environment
from gym_ray.reverification.replay import NotReplayable, Replayer
from gym_ray.rollout import Rollout
from gym_ray.runner import judged, not_judged
from gym_ray.store.index import Index
from gym_ray.store.row_fetcher import RowFetcher
from gym_ray.store.rows import from_table
from gym_ray.store.segments import SegmentStore
from gym_ray.store.writer import FlushRules, SegmentWriter
from gym_ray.verifiers.verification import Verification

#: Metrics that say how a verdict came about; they never are part of what an environment says.
KEPT = "reverify/kept_"
DIVERGED = "reverify/diverged"

#: Rows waiting for verifiers, at most, and the longest the last of them may wait, in seconds;
#: the verifier pool gives up after twice that.
_MOST_WAITING = 64
_LONGEST_WAIT_SECONDS = 300.0

_FLUSH_RULES = FlushRules(rollouts=64, seconds=5.0)

#: See `pauses`: before the second verification, and at most.
_BACKOFF_SECONDS = 0.5
_BACKOFF_MAXIMUM_SECONDS = 8.0


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
        monitor: the way to it.
        max_starts: starts of all stages of this pass, restarts included.

    Raises:
        GymRayError: stages keep dying.
    """

    def __init__(self, settings: ReverifySettings, monitor: MonitorLink, max_starts: int) -> None:
        self._writer = SegmentWriter(settings.store, _FLUSH_RULES)
        self._link = StageLink(monitor, max_starts, self._writer, measure=self._measure)
        self._settings = settings
        self._running = 0
        self._starting = asyncio.Lock()
        self._reverifiers: dict[str, Reverifier] = {}

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Judge a range of the rollouts.

        Args:
            batch: their positions; see `rollouts_of`.

        Yields:
            One row, `durable`: how many rollouts were made durable.
        """
        durable = await self._link.run(self._range(batch))
        yield pa.table({"durable": pa.array([durable], type=pa.int64())})

    async def _range(self, positions: pa.Table) -> int:
        rollouts = await asyncio.to_thread(rollouts_of, self._settings.files, positions)
        block = f"{self._settings.pass_id}-{rollouts[0].spec.rollout_id}"
        already = await self._writer.open(block, [r.spec.rollout_id for r in rollouts])
        todo = [rollout for rollout in rollouts if rollout.spec.rollout_id not in already]
        async with asyncio.TaskGroup() as tasks:
            for rollout in todo:
                tasks.create_task(self._settle(rollout, block))
        return len(todo)

    async def _settle(self, rollout: Rollout, block: str) -> None:
        if is_judgeable(rollout):
            reverifier = await self._reverifier(rollout.spec.environment)
            async with reverifier.room:
                self._running += 1
                try:
                    rollout = await reverifier.reverify(rollout)
                finally:
                    self._running -= 1
        self._link.counts.ended(rollout)
        rollout = dataclasses.replace(rollout, run_id=self._settings.run_id)
        await self._writer.add_or_failure(block, rollout)

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

    def _measure(self) -> None:
        self._link.counts.running = self._running
        self._link.counts.unwritten = self._writer.unwritten
