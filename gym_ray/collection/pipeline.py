"""The Ray Data pipeline: manifest rows fan out to rollout stages, durable counts come back.

    read_parquet(remaining) -> blocks of at most 256 rows -> RolloutStage (actors) -> counts

Ray Data streams the manifest, keeps as many blocks with the stages as they can have in work,
spreads them over actors, and gives a lost actor's blocks to another. What it does not do here
is write: a stage makes its own rollouts durable (see `segments.py`), so that a straggler holds
back neither its block nor its neighbours, at most a known number of rollouts is unwritten at
any moment, and tokens do not cross another process on their way to disk.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from pathlib import Path
from typing import Any

from gym_ray.collection.manifest import ROW_GROUP_ROWS
from gym_ray.collection.monitor import Counts, Monitor, Order
from gym_ray.collection.stage import CollectionStopped, RolloutStage, StageSettings

#: Rollouts one stage actor drives; its event loop is far from full at that.
ROLLOUTS_PER_STAGE = 1024

#: Blocks a stage may have beyond those that fill it, so that it never waits for the next.
_SPARE_BLOCKS = 2

#: Starts of a stage, the first included; then the pass fails and is resumable. Ray Data restarts
#: a lost actor without limit, so a stage counts itself in at the monitor.
_STAGE_STARTS = 4

#: Logical CPUs of a stage and of a read task: they wait more than they work.
_STAGE_CPUS = 0.5
_READ_CPUS = 0.25


class Pass:
    """One pass over rollouts that are to run, in a thread of its own.

    Args:
        remaining: Parquet file of manifest rows.
        rows: how many.
        settings: what the stages need to know; `max_in_flight` is that of the whole run.
    """

    def __init__(self, remaining: Path, rows: int, settings: StageSettings) -> None:
        import ray

        self._remaining = remaining
        self._rows = rows
        self._settings = settings
        self._monitor: Any = ray.remote(Monitor).options(num_cpus=0).remote()
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
            dataset = self._dataset()
            for _ in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                pass
        except BaseException as error:
            self._error = error

    def _dataset(self) -> Any:
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1
        stages = max(1, math.ceil(self._settings.max_in_flight / ROLLOUTS_PER_STAGE))
        stages = min(stages, max(1, math.ceil(self._rows / ROW_GROUP_ROWS)))
        share = math.ceil(self._settings.max_in_flight / stages)
        blocks = math.ceil(share / ROW_GROUP_ROWS) + _SPARE_BLOCKS
        return (
            ray.data.read_parquet(str(self._remaining), num_cpus=_READ_CPUS)
            .repartition(target_num_rows_per_block=ROW_GROUP_ROWS)
            .map_batches(
                RolloutStage,
                fn_constructor_args=(
                    dataclasses.replace(self._settings, max_in_flight=share),
                    self._monitor,
                    stages * _STAGE_STARTS,
                ),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    size=stages,
                    max_tasks_in_flight_per_actor=blocks,
                    max_concurrent_calls_per_actor=blocks,
                ),
                num_cpus=_STAGE_CPUS,
            )
        )
