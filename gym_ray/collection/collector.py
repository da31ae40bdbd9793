"""`collect`: from task rows to a dataset of verified rollouts, exactly once each, resumable.

A command always does the same: see what is durable, run what is not, compact when all is. So
there is one path for a first start, a resume, a retry of failed rollouts, and a finished run
(which needs no Ray at all).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gym_ray.collection import preconditions
from gym_ray.collection import summary as summaries
from gym_ray.collection.cluster_choice import hosting_for, introduction
from gym_ray.collection.compaction import is_compact
from gym_ray.collection.deaths import Deaths, ProcessEnded
from gym_ray.collection.group_compaction import compact_run, has_groups, judges_of_groups
from gym_ray.collection.groups import count_failures
from gym_ray.collection.hosting import RunningPass
from gym_ray.collection.input import TaskInput
from gym_ray.collection.manifest import (
    Manifest,
    is_asked_for_more,
    require_task,
    write_manifest,
)
from gym_ray.collection.remaining import Positions, remaining
from gym_ray.collection.report import render
from gym_ray.collection.stage import StageSettings
from gym_ray.collection.stop import StopSignal
from gym_ray.collection.summary import RunSummary
from gym_ray.collection.trackers import Trackers
from gym_ray.config.load import RunConfig, load_config
from gym_ray.config.objectives import describe
from gym_ray.errors import GymRayError, Interrupted
from gym_ray.registry import idle_tools, load_environments, with_agents
from gym_ray.routing import Router
from gym_ray.runner import RunSettings
from gym_ray.sampling import Sampling
from gym_ray.serving.environment_client import client_settings, producer_of
from gym_ray.store.log_file import LogFile
from gym_ray.store.places import write_text_whole
from gym_ray.store.run_directory import RunDirectory
from gym_ray.telemetry.progress import Progress, duration

_POLL_SECONDS = 0.5

#: How long stages may take to obey an order to stop; then they are left to Ray.
_STOP_SECONDS = 30.0

#: Passes over what remains, should stages or processes be lost.
_MAX_PASSES = 64

#: Processes that may end one after the other without a rollout that is done.
_FRUITLESS_DEATHS = 4


def collect(
    config: RunConfig | Mapping[str, Any] | str | Path,
    overrides: Sequence[str] = (),
    *,
    quiet: bool = False,
) -> RunSummary:
    """Collect rollouts into `collect.output`; continue what an earlier call left there.

    Args:
        config: YAML file, mapping, or `RunConfig`.
        overrides: dotted assignments, e.g. `["collect.num_repeats=16"]`.
        quiet: no progress on standard error.

    Returns:
        The summary, also written to `OUTPUT/summary.json`. Check `interrupted` and
        `failed_share`: neither a drained run nor a run with failures raises.

    Raises:
        ConfigError: config, input or output are wrong; nothing was started.
        GymRayError: the application could not start, or collection broke; what was collected
            is kept.
    """
    started = time.monotonic()
    checked = with_agents(load_config(config, overrides))
    preconditions.check(checked)
    environments = load_environments(checked)
    task_input = TaskInput(checked, environments)
    directory = RunDirectory.open(checked)
    with LogFile(directory.log) as log, contextlib.closing(directory):
        with Progress(quiet=quiet, log=log) as progress:
            for name, idle in idle_tools(checked).items():
                progress.say(f"environments.{name} has tools {idle}")
            router = Router(checked.environments, environments)
            collector = _Collector(checked, task_input, router, directory, progress, started)
            summary = collector.run()
        log.write(render(summary))
        return summary


class _Collector:
    """One `collect` command on one run directory."""

    def __init__(
        self,
        config: RunConfig,
        task_input: TaskInput,
        router: Router,
        directory: RunDirectory,
        progress: Progress,
        started: float,
    ) -> None:
        self._config = config
        self._input = task_input
        self._router = router
        self._directory = directory
        self._progress = progress
        self._started = started
        self._is_checked = False
        self._collecting_seconds = 0.0
        self._group_judges = judges_of_groups(config)
        self._stop = StopSignal(
            deadline=None
            if config.collect.run_timeout_seconds is None
            else started + config.collect.run_timeout_seconds,
            say=progress.say,
        )

    def run(self) -> RunSummary:
        directory, say = self._directory, self._progress.say
        self._hosting = hosting_for(self._config, directory.log, say, self._stop)
        try:
            manifest = self._manifest()
            with contextlib.closing(self._open_trackers()) as self._trackers:
                return self._run(manifest)
        finally:
            self._hosting.close()

    def _open_trackers(self) -> Trackers:
        path = self._directory.path
        return Trackers(self._config, self._directory.id, path, self._progress.say)

    def _run(self, manifest: Manifest) -> RunSummary:
        left = self._remaining(manifest)
        before = manifest.rollouts - len(left)
        if self._directory.resumed:
            self._progress.say(
                f"continuing {self._directory.path}: {before} of {manifest.rollouts} rollouts done"
            )
            if len(left):
                self._progress.say(introduction(self._config))
        if len(left) or self._awaits_group_judges():
            with self._stop.installed(), contextlib.suppress(Interrupted):
                self._collect(manifest, left)
        return self._finish(manifest)

    # Before anything runs.

    def _manifest(self) -> Manifest:
        collect = self._config.collect
        extends: Manifest | None = None
        if self._directory.manifest.exists():
            extends = Manifest.read(self._directory.manifest)
            if not is_asked_for_more(extends, collect, self._input.fingerprints()):
                if collect.extend:  # By a command that may have been killed before it said so.
                    self._directory.save_config(self._config)
                return extends
        if extends is None and collect.max_failed_share < 1:
            require_task(self._input, self._router, limit=collect.limit)
        self._check_application()
        self._progress.say(introduction(self._config))
        if collect.objective is not None:
            self._progress.say(describe(collect.objective, self._config.from_objective))
        self._progress.say(f"reading tasks from {collect.input}")
        self._hosting.begin()
        manifest = write_manifest(
            self._directory.manifest,
            self._input,
            self._router,
            num_repeats=collect.num_repeats,
            limit=collect.limit,
            extends=extends,
        )
        self._directory.save_config(self._config)
        new = manifest.rollouts - (extends.rollouts if extends else 0)
        more = f"{new} more rollouts" if extends else f"{new} rollouts"
        self._progress.say(f"{more} to collect into {self._directory.path}")
        if manifest.unfit:
            self._progress.say(
                f"{manifest.unfit} rows are no tasks and will be failures: {manifest.first_unfit}"
            )
        return manifest

    def _check_application(self) -> None:
        """Refuse what could only fail; a finished run needs none of it, and is not asked."""
        if not self._is_checked:
            preconditions.check_application(self._config)
            self._is_checked = True

    # Running.

    def _remaining(self, manifest: Manifest) -> Positions:
        producer = producer_of(self._config, self._directory.id)
        return remaining(self._directory, manifest, producer, self._progress.say)

    def _collect(self, manifest: Manifest, left: Positions) -> None:
        self._check_application()
        hosting = self._hosting
        try:
            hosting.start()
            self._directory.record(self._config, **hosting.facts())
            if len(left):
                with hosting.gateway() as gateway_url:
                    self._run_passes(manifest, left, gateway_url)
            if self._awaits_group_judges():
                self._compact(manifest, hosting.application)
        finally:
            hosting.close()

    def _run_passes(self, manifest: Manifest, left: Positions, gateway_url: str | None) -> None:
        """Run what remains; again should a lost stage or process have left something."""
        began = time.monotonic()
        whole = self._stage_settings(gateway_url)
        deaths = Deaths(self._directory, manifest, whole.client.producer)
        fruitless = 0
        for _ in range(_MAX_PASSES):
            now, at_once = deaths.next(left, whole.max_in_flight)
            settings = dataclasses.replace(
                whole, max_in_flight=at_once, pass_id=uuid.uuid4().hex[:8]
            )
            error = self._run_pass(manifest, now, settings, before=manifest.rollouts - len(left))
            if isinstance(error, ProcessEnded):
                deaths.add(error)
            undone = deaths.without_failed(self._remaining(manifest))
            # Of those that ran to the end, what is undone has failed, and is the next command's.
            before, left = len(left), undone if error else np.setdiff1d(left, now)
            if len(left) == 0 or self._stop.reason is not None:
                break
            if error is None:
                continue
            fruitless = fruitless + 1 if len(left) == before else 0
            # What ends its process is found by letting it do so a few times.
            if fruitless > (_FRUITLESS_DEATHS if isinstance(error, ProcessEnded) else 0):
                raise GymRayError(
                    f"{self._directory.path}: collection broke without progress: {error}. What was "
                    "collected is kept; mend it (a full disk needs room) and re-issue the command "
                    "to continue"
                ) from error
            self._progress.say(f"collection broke ({error}); continuing with {len(left)} rollouts")
        self._collecting_seconds = time.monotonic() - began

    def _run_pass(
        self, manifest: Manifest, left: Positions, settings: StageSettings, *, before: int
    ) -> Exception | None:
        self._progress.say(f"starting {len(left)} rollouts")
        running = self._hosting.start_pass(manifest, left, settings)
        try:
            with self._stop.told_by_others():
                self._watch(running, before, manifest.rollouts)
            running.raise_error()
        except (GymRayError, KeyboardInterrupt):
            raise
        except Exception as error:
            # The next pass must not begin while stages of this one are at work.
            if running.running():
                with contextlib.suppress(Exception):
                    running.order("stop")
            running.wait(_STOP_SECONDS)
            if running.running():
                raise GymRayError(
                    f"collection broke ({error}), and stages are still at work; what was collected "
                    "is kept, re-issue the command to continue"
                ) from error
            return error
        return None

    def _watch(self, running: RunningPass, before: int, expected: int) -> None:
        """Show progress and carry out wishes to stop, until the pass has ended.

        Raises:
            GymRayError: no stage starts.
        """
        collect = self._config.collect
        started = time.monotonic()
        stop_at = give_up_at = math.inf
        while running.running() and time.monotonic() < give_up_at:
            running.wait(_POLL_SECONDS)
            self._directory.check()
            counts = running.counts()
            self._progress.show(counts, before=before, expected=expected)
            self._trackers.progress(counts, before=before)
            if self._stop.requested() and stop_at == math.inf:
                stop_at = time.monotonic() + collect.drain_timeout_seconds
                running.order("drain")
                self._progress.say(
                    f"stopping ({self._stop.reason}): {counts.running} rollouts in flight have "
                    f"{duration(collect.drain_timeout_seconds)} to finish; "
                    "Ctrl-C again to stop at once"
                )
            elif stop_at < math.inf and (
                running.drained() or time.monotonic() > stop_at or self._stop.urgent()
            ):
                running.order("stop")
                give_up_at = min(give_up_at, time.monotonic() + _STOP_SECONDS)
            waited = time.monotonic() - started
            if waited > self._config.policy.startup_timeout_seconds and not running.stages():
                raise GymRayError(
                    f"no rollout stage has started within {waited:.0f} s: the cluster has no free "
                    "CPU for it. Add CPUs, or lower resources.num_cpus of policy or environments"
                )

    def _stage_settings(self, gateway_url: str | None) -> StageSettings:
        config = self._config
        return StageSettings(
            client=client_settings(
                config,
                RunSettings(
                    run_id=self._directory.id,
                    sampling=Sampling(**config.sampling.model_dump()),
                    timeout_seconds=config.collect.rollout_timeout_seconds,
                    gateway_url=gateway_url,
                    max_staleness=config.collect.max_staleness,
                    when_stale=config.collect.when_stale,
                ),
            ),
            max_in_flight=config.collect.max_in_flight,
            quotas=config.quotas,
            pass_id="",
            store=self._directory.segments,
            log_format=config.observability.log_format,
        )

    # Afterwards.

    def _awaits_group_judges(self) -> bool:
        """Whether groups are still to be judged by judges, which takes the application."""
        if not self._group_judges:
            return False
        index = self._directory.stored.index()
        return not is_compact(index, self._directory.rollouts)

    def _compact(self, manifest: Manifest, application: str | None = None) -> int:
        """Make shards of a complete run; how many it has, 0 while it is not complete."""
        index = self._directory.stored.index()
        if len(index.table) < manifest.rollouts:
            return 0
        self._directory.check()
        say = self._progress.say
        check = self._stop.raise_if_requested if application is not None else lambda: None
        shards = compact_run(self._config, index, self._directory, say, application, check)
        self._directory.check()
        return shards

    def _finish(self, manifest: Manifest) -> RunSummary:
        shards = 0 if self._awaits_group_judges() else self._compact(manifest)
        index = self._directory.stored.index()
        summary = summaries.summarize(
            index,
            self._directory.stored.expected,
            directory=self._directory,
            shards=shards,
            seconds=time.monotonic() - self._started,
            collecting_seconds=self._collecting_seconds,
            interrupted=self._stop.reason,
            group_failures=count_failures(index.files) if has_groups(self._config) else {},
        )
        write_text_whole(self._directory.summary, summary.to_json())
        self._trackers.finish(summary)
        return summary
