"""The Ray Data pipeline: the manifest fans out to rollout stages, durable counts come back.

For collections of more than one stage; the stage of a smaller one is in the command itself
(`driver_pass.py`).

    ranges of positions in the manifest -> RolloutStage (actors) -> durable counts

Ray Data spreads the ranges over stage actors as they can take them, and gives a lost actor's
ranges to another. The rows themselves do not pass through it: a stage reads them from the
manifest when it has room, and makes finished rollouts durable itself (`store/writer.py`).
So a straggler holds back neither its block nor its neighbors, the number of unwritten rollouts
is known at any moment, tokens cross no further process on their way to disk, and an execution
starts without Ray Data's reading, repartitioning and writing workers (24 s against 12 s on two
busy cores).
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from gym_ray.collection.manifest import Manifest
from gym_ray.collection.monitor import ActorLink, Monitor, MonitorLink, Order
from gym_ray.collection.remaining import Positions, as_range
from gym_ray.collection.stage import BLOCK_ROLLOUTS, RolloutStage, StageSettings
from gym_ray.collection.stage_link import CollectionStopped
from gym_ray.serving.cluster import (
    ROLLOUTS_PER_STAGE,
    STAGE_CPUS,
    on_driver_node,
    preferring_driver_node,
)
from gym_ray.telemetry.logs import set_up_logs
from gym_ray.telemetry.progress import Counts

#: Ranges the manifest is split into, per stage. A stage works on all of its ranges at once, and
#: on each as far as it has room, so a straggler keeps nothing waiting but its own range's end.
_RANGES_PER_STAGE = 16

#: Starts of a stage, the first included; then the pass fails and is resumable. Ray Data restarts
#: a lost actor without limit, so a stage counts itself in at the monitor.
STAGE_STARTS = 4


class Pass:
    """One execution of a Ray Data pipeline whose stages report to a monitor, in a thread.

    Args:
        dataset: builds the pipeline, given the way to the monitor. What its rows are does not
            matter: stages make what they do durable themselves.
    """

    def __init__(self, dataset: Callable[[MonitorLink], Any]) -> None:
        import ray

        self._dataset = dataset
        self._monitor: Any = ray.remote(Monitor).options(**on_driver_node()).remote()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ray-data", daemon=True)
        self._thread.start()

    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Return when the pass has ended, or after so many seconds."""
        self._thread.join(seconds)

    def counts(self) -> Counts:
        """What the stages have reported so far."""
        import ray

        counts: Counts = ray.get(self._monitor.total.remote(), timeout=60)
        return counts

    def stages(self) -> int:
        """How many stages have started so far."""
        import ray

        return int(ray.get(self._monitor.starts.remote(), timeout=60))

    def drained(self) -> bool:
        """Whether an order to drain has been carried out."""
        import ray

        return bool(ray.get(self._monitor.drained.remote(), timeout=60))

    def order(self, order: Order) -> None:
        """Tell the stages to drain or to stop."""
        import ray

        ray.get(self._monitor.set_order.remote(order), timeout=60)

    def raise_error(self) -> None:
        """Raise what ended the pass early, unless that was our own order to stop."""
        if self._error is not None and CollectionStopped.__name__ not in str(self._error):
            raise self._error

    def _run(self) -> None:
        try:
            dataset = self._dataset(ActorLink(self._monitor))
            for _ in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                pass
        except BaseException as error:
            self._error = error


class StageActor(RolloutStage):
    """A stage in a worker of Ray's."""

    def __init__(
        self, settings: StageSettings, manifest: str, monitor: MonitorLink, max_starts: int
    ) -> None:
        set_up_logs(settings.log_format)
        super().__init__(settings, manifest, monitor, max_starts)


def rollout_stages(
    manifest: Manifest, positions: Positions, settings: StageSettings
) -> Callable[[MonitorLink], Any]:
    """The pipeline that runs rollouts.

    Args:
        manifest: of the run.
        positions: of its rows that are to run, one at least.
        settings: what the stages need to know; `max_in_flight` and quotas are those of
            the whole run.
    """
    blocks = math.ceil(len(positions) / BLOCK_ROLLOUTS)
    # As many as share the smallest quota out with at least one rollout each.
    wanted = math.ceil(settings.max_in_flight / ROLLOUTS_PER_STAGE)
    stages = min(wanted, blocks, *settings.quotas.values())
    share = math.ceil(settings.max_in_flight / stages)
    size = math.ceil(blocks / (stages * _RANGES_PER_STAGE)) * BLOCK_ROLLOUTS
    of_one_stage = dataclasses.replace(
        settings,
        max_in_flight=share,
        quotas={name: quota // stages for name, quota in settings.quotas.items()},
    )

    def dataset(monitor: MonitorLink) -> Any:
        return over_ranges(
            [as_range(positions[start : start + size]) for start in range(0, len(positions), size)],
            StageActor,
            (of_one_stage, str(manifest.path.resolve()), monitor, stages * STAGE_STARTS),
            stages=stages,
            open_ranges=_RANGES_PER_STAGE,
            num_cpus=STAGE_CPUS,
            # Spread, as Ray Data would have them, each would keep its node to the end of the run.
            placement=preferring_driver_node(),
        )

    return dataset


def over_ranges(
    ranges: Sequence[pa.Table],
    stage: type,
    args: tuple[Any, ...],
    *,
    stages: int,
    open_ranges: int,
    num_cpus: float,
    placement: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """A Ray Data pipeline in which actors of one class work through ranges.

    Args:
        ranges: what an actor is called with, each.
        stage, args: the callable class and its arguments.
        stages: actors.
        open_ranges: ranges an actor works on at once.
        num_cpus: logical CPUs of one.
        placement: which nodes, in Ray Data's options; spread over all when empty.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1
    # Not `from_arrow`, which looks at every table in a task of its own: where policy, environments
    # and stages have all CPUs of the cluster, that task would wait for one forever.
    return ray.data.from_blocks(list(ranges)).map_batches(
        stage,
        fn_constructor_args=args,
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=stages,
            max_tasks_in_flight_per_actor=open_ranges,
            max_concurrent_calls_per_actor=open_ranges,
        ),
        num_cpus=num_cpus,
        **placement,
    )
