"""The rollout stage: makes rows of the manifest durable rollouts.

On Ray it is an actor of Ray Data, one of several; an embedded collection has one.

It reads the rows a range names, a block at a time, has them run in the environments
(`EnvironmentClient`), and makes them durable (`SegmentWriter`). Stragglers hold back nothing but
themselves: the next block's rollouts start while they run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gym_ray.collection.manifest import ManifestRows
from gym_ray.collection.monitor import MonitorLink, Order
from gym_ray.collection.stage_link import StageLink
from gym_ray.config.commands import LogFormat
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.serving.admission import Admission
from gym_ray.serving.environment_client import ClientSettings, EnvironmentClient
from gym_ray.store.places import open_path
from gym_ray.store.segments import SegmentStore
from gym_ray.store.writer import FlushRules, SegmentWriter
from gym_ray.telemetry import metrics
from gym_ray.telemetry.traces import flush_traces

#: Rollouts of a block: read together, and never in one segment with those of another.
BLOCK_ROLLOUTS = 256

#: Rollouts that may wait for their first start, beyond those that fill the stage, before another
#: block is read, so that there is always a next one. Bounds, with admission, what is in memory.
_SPARE_ROLLOUTS = 2 * BLOCK_ROLLOUTS

#: Finished rollouts are written after this long even when a segment is not full.
_FLUSH_SECONDS = 2.0


def _nowhere(environment: str) -> Any:
    raise LookupError(f"nothing says where environment {environment} runs")


@dataclasses.dataclass(frozen=True, slots=True)
class StageSettings:
    """What a stage needs to know.

    Attributes:
        client: what the rollouts share.
        max_in_flight: rollouts this stage runs at once.
        quotas: of those, rollouts of an environment, where it has a limit of its own.
        pass_id: names this pass over the manifest. Segments are looked for under it, so that a
            block run again finds what it made durable, and no failure an earlier command left.
        store: where segments go.
        log_format: of the log lines of a stage in a process of its own.
        handle_of: handle of an environment.
    """

    client: ClientSettings
    max_in_flight: int
    quotas: dict[str, int]
    pass_id: str
    store: SegmentStore
    log_format: LogFormat = "text"
    handle_of: Callable[[str], Any] = _nowhere


class RolloutStage:
    """Callable class for `Dataset.map_batches`; one instance per actor.

    Args:
        settings: see `StageSettings`.
        manifest: of the run.
        monitor: the way to it.
        max_starts: starts of all stages of this pass, restarts included.

    Raises:
        GymRayError: stages keep dying.
    """

    def __init__(
        self, settings: StageSettings, manifest: str, monitor: MonitorLink, max_starts: int
    ) -> None:
        self._admission = Admission(settings.max_in_flight, settings.quotas)
        rules = FlushRules(self._admission.segment_rows, _FLUSH_SECONDS)
        self._writer = SegmentWriter(settings.store, rules)
        self._link = StageLink(
            monitor, max_starts, self._writer, measure=self._measure, obey=self._obey
        )
        self._settings = settings
        self._rows = ManifestRows(open_path(manifest))
        self._reading = asyncio.Lock()
        self._client = EnvironmentClient(
            settings.handle_of, settings.client, admission=self._admission
        )

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Run a range of the manifest.

        Args:
            batch: `position`, of each row to run.

        Yields:
            One row, `durable`: how many rollouts were made durable.
        """
        durable = await self._link.run(self._range(batch["position"].to_numpy()))
        if self._settings.client.trace_share:
            await asyncio.to_thread(flush_traces)
        yield pa.table({"durable": pa.array([durable], type=pa.int64())})

    async def _range(self, positions: npt.NDArray[np.int64]) -> int:
        async with asyncio.TaskGroup() as tasks:
            blocks = [
                tasks.create_task(self._block(positions[start : start + BLOCK_ROLLOUTS]))
                for start in range(0, len(positions), BLOCK_ROLLOUTS)
            ]
        return sum(block.result() for block in blocks)

    async def _block(self, positions: npt.NDArray[np.int64]) -> int:
        # The lock is held until its rollouts wait to start, not until they have ended: a straggler
        # must not keep the next block out.
        async with asyncio.TaskGroup() as tasks, self._reading:
            await self._client.room(self._settings.max_in_flight + _SPARE_ROLLOUTS)
            specs = await asyncio.to_thread(self._rows.read, positions)
            block = f"{self._settings.pass_id}-{specs[0].rollout_id}"
            durable = await self._writer.open(block, [spec.rollout_id for spec in specs])
            todo = [spec for spec in specs if spec.rollout_id not in durable]
            for spec in todo:
                tasks.create_task(self._rollout(spec, block))
        return len(todo)

    async def _rollout(self, spec: RolloutSpec, block: str) -> None:
        await self._client.run(spec, functools.partial(self._record, block))

    async def _record(self, block: str, rollout: Rollout) -> None:
        self._link.counts.ended(rollout)
        await self._writer.add_or_failure(block, rollout)

    # Every heartbeat.

    def _measure(self) -> None:
        counts, admission = self._link.counts, self._admission
        counts.running, counts.unwritten = admission.running, admission.unwritten
        counts.retried = self._client.retried
        # Ray forgets gauges that are not set again.
        metrics.put(metrics.IN_FLIGHT, admission.running)
        metrics.put(metrics.UNWRITTEN, admission.unwritten)
        for environment, count in self._client.waiting():
            metrics.put(metrics.QUEUED, count, environment=environment)
        self._client.report_rewards()

    def _obey(self, order: Order) -> None:
        self._admission.closed = order != "run"
