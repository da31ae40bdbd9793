"""Experiment trackers: a run's progress and summary as scalars in TensorBoard, MLflow or W&B.

Each is spoken to through its own library and found through its own environment variables
(`MLFLOW_TRACKING_URI`, `WANDB_MODE`, …), in a thread of its own: a server that does not answer
holds up neither the collection nor the other trackers. A tracker that fails is said once, loudly,
and told nothing more; it never ends a run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from gym_ray.collection.summary import RunSummary
from gym_ray.config.load import RunConfig
from gym_ray.errors import ConfigError, one_line
from gym_ray.store.places import is_remote
from gym_ray.telemetry.progress import Counts

#: Library of each tracker; the extra of gym-ray has the tracker's name.
_LIBRARIES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}

#: Project or experiment, where the tracker's own variable names none.
_PROJECT = "gym-ray"

#: Reports that wait for a slow tracker, at most; then the oldest is dropped.
_WAITING_REPORTS = 16

#: How long a tracker may take, after the last report, to have sent everything.
_CLOSE_SECONDS = 60.0

Scalars = Mapping[str, float]

#: Values, and the step they belong to.
_Report = tuple[Scalars, int]


class Tracker(Protocol):
    """One experiment tracker, used from one thread."""

    def log(self, scalars: Scalars, step: int) -> None:
        """Record values at a step, the number of rollouts done."""
        ...

    def close(self, *, complete: bool) -> None:
        """Send everything and end; `complete` when the run has all of its rollouts."""
        ...


def require_trackers(config: RunConfig) -> None:
    """Refuse trackers whose library is not installed, or that cannot write where they should.

    Raises:
        ConfigError: says which extra to install, or which tracker to take instead.
    """
    if "tensorboard" in config.collect.report and "://" in config.collect.output:
        raise ConfigError(
            f"collect.report: tensorboard writes files into collect.output, and "
            f"{config.collect.output} is in an object store; report to mlflow or wandb instead"
        )
    for name in config.collect.report:
        if importlib.util.find_spec(_LIBRARIES[name]) is None:
            raise ConfigError(
                f"collect.report: {name} needs the library {_LIBRARIES[name]}: "
                f"pip install 'gym-ray[{name}]', or leave it out"
            )


class Trackers:
    """The trackers of one run.

    Args:
        config: names them, and is recorded with the run.
        run_id: a continued run goes on under the same one.
        output: directory of the run; files of TensorBoard and W&B go there.
        say: told, in one line, of a tracker that failed.
    """

    def __init__(
        self, config: RunConfig, run_id: str, output: Path, say: Callable[[str], None]
    ) -> None:
        self._seconds = config.collect.report_seconds
        self._next = 0.0
        self._threads = [
            _TrackerThread(name, functools.partial(_open, name, config, run_id, output), say)
            for name in config.collect.report
        ]

    def progress(self, counts: Counts, *, before: int) -> None:
        """How far the run is; recorded every `collect.report_seconds`.

        Args:
            counts: what this command's stages did.
            before: rollouts done by earlier commands.
        """
        now = time.monotonic()
        if not self._threads or now < self._next:
            return
        self._next = now + self._seconds
        self._log(progress_scalars(counts), before + counts.finished + counts.failed)

    def finish(self, summary: RunSummary) -> None:
        """Record the summary and end every tracker; returns after a minute at most."""
        self._log(summary_scalars(summary), summary.expected - summary.pending)
        self.close(complete=summary.pending == 0)

    def close(self, *, complete: bool = False) -> None:
        """End every tracker. A second call does nothing.

        Args:
            complete: the run has all of its rollouts; otherwise it can be continued.
        """
        threads, self._threads = self._threads, []
        for thread in threads:
            thread.end(complete=complete)
        deadline = time.monotonic() + _CLOSE_SECONDS
        for thread in threads:
            thread.wait(max(0.0, deadline - time.monotonic()))

    def _log(self, scalars: Scalars, step: int) -> None:
        for thread in self._threads:
            thread.log(scalars, step)


def progress_scalars(counts: Counts) -> dict[str, float]:
    """What a tracker is told while a run goes on, under `progress/`."""
    scalars: dict[str, float] = {
        "progress/finished": counts.finished,
        "progress/failed": counts.failed,
        "progress/retried": counts.retried,
        "progress/in_flight": counts.running,
        "progress/sampled_tokens": counts.sampled_tokens,
    }
    if counts.rewarded:
        scalars["progress/reward_mean"] = counts.reward_sum / counts.rewarded
    return scalars


def summary_scalars(summary: RunSummary) -> dict[str, float]:
    """What a tracker is told at the end, under `summary/`; unknown values are left out."""
    scalars: dict[str, float | None] = {
        f"summary/{name}": getattr(summary, name)
        for name in (
            "expected", "completed", "truncated", "failed", "pending", "retried",
            "retried_reward_difference", "sampled_tokens", "seconds", "collecting_seconds",
        )
    }  # fmt: skip
    scalars |= {
        "summary/reward_mean": summary.reward.mean,
        "summary/reward_std": summary.reward.std,
    }
    scalars["summary/reward_coverage"] = summary.reward.coverage
    for name, part in summary.environments.items():
        scalars[f"summary/{name}/reward_mean"] = part["reward"]["mean"]
    for kind, count in summary.failure_kinds.items():
        scalars[f"summary/failures/{kind}"] = count
    return {name: float(value) for name, value in scalars.items() if value is not None}


class _TrackerThread:
    """A tracker in a thread: it is opened, told things and closed there."""

    def __init__(
        self, name: str, open_tracker: Callable[[], Tracker], say: Callable[[str], None]
    ) -> None:
        self._name = name
        self._open = open_tracker
        self._say = say
        self._reports: queue.Queue[_Report | None] = queue.Queue(_WAITING_REPORTS)
        self._complete = False
        self._thread = threading.Thread(target=self._run, name=f"report-{name}", daemon=True)
        self._thread.start()

    def log(self, scalars: Scalars, step: int) -> None:
        self._put((scalars, step))

    def end(self, *, complete: bool) -> None:
        """No more reports will come."""
        self._complete = complete
        self._put(None)

    def wait(self, seconds: float) -> None:
        """Until everything is sent; says so when it takes longer."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._say(f"WARNING: {self._name} did not take the last reports in time")

    def _put(self, report: _Report | None) -> None:
        while True:
            try:
                return self._reports.put_nowait(report)
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._reports.get_nowait()

    def _run(self) -> None:
        try:
            tracker = self._open()
            while (report := self._reports.get()) is not None:
                tracker.log(*report)
            tracker.close(complete=self._complete)
        except Exception as error:
            self._say(
                f"WARNING: reporting to {self._name} failed and has ended: {one_line(error)}. "
                "The collection goes on"
            )


def _open(name: str, config: RunConfig, run_id: str, output: Path) -> Tracker:
    if name == "tensorboard":
        return _TensorBoard(output)
    if name == "mlflow":
        return _Mlflow(config, run_id, output)
    return _Wandb(config, run_id, output)


class _TensorBoard:
    """Event files in `OUTPUT/tensorboard`."""

    def __init__(self, output: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(output / "tensorboard"))

    def log(self, scalars: Scalars, step: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, complete: bool) -> None:
        self._writer.close()


class _Mlflow:
    """A run of the experiment `MLFLOW_EXPERIMENT_NAME`, found again by its tag.

    The client, not MLflow's module-level functions: those would write into, and end, a run the
    caller of `gym_ray.collect` has active.
    """

    def __init__(self, config: RunConfig, run_id: str, output: Path) -> None:
        from mlflow import MlflowClient

        uri = None
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            # MLflow's own default is a database, which its client alone cannot make.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (Path() if is_remote(output) else output).resolve().joinpath("mlflow").as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        tag = "gym_ray.run_id"
        runs = self._client.search_runs([experiment], f"tags.`{tag}` = '{run_id}'", max_results=1)
        if runs:
            self._run = runs[0].info.run_id
            self._client.update_run(self._run, "RUNNING")
        else:
            self._run = self._client.create_run(
                experiment, tags={tag: run_id}, run_name=f"gym-ray {run_id}"
            ).info.run_id
            self._client.log_param(self._run, "model", config.policy.model)
            self._client.log_param(self._run, "environments", ", ".join(config.environments))

    def log(self, scalars: Scalars, step: int) -> None:
        for name, value in scalars.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self, *, complete: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if complete else "KILLED")


class _Wandb:
    """A run of the project `WANDB_PROJECT`, found again by its id."""

    def __init__(self, config: RunConfig, run_id: str, output: Path) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=run_id,
            resume="allow",
            # Files on their way to the server, in the working directory where W&B has no other.
            dir=None if is_remote(output) else str(output),
            config={"model": config.policy.model, "environments": list(config.environments)},
            # Nothing of this process is to be captured or said but what is logged.
            settings=wandb.Settings(console="off", silent=True),
        )
        # Not W&B's own step, which must never go back: a continued run repeats failed rollouts.
        self._run.define_metric("*", step_metric="rollouts")

    def log(self, scalars: Scalars, step: int) -> None:
        self._run.log({**scalars, "rollouts": step})

    def close(self, *, complete: bool) -> None:
        self._run.finish(exit_code=0 if complete else 1)
