"""`reverify`: the verdicts of stored rollouts computed anew, without sampling anything.

The source is only read. The output is a dataset like a collection's, with every rollout of the
source exactly once and in the same order, and is continued by giving the same command again.

Owned here: the command in order, and that output and source stay a pair. Not owned here: what a
verifier is given (replay), judging (reverify_stage), what changed (reward_changes).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.collection.group_compaction import compact_run, has_groups, judges_of_groups
from gym_ray.collection.groups import count_failures
from gym_ray.collection.pipeline import STAGE_STARTS, Pass, over_ranges
from gym_ray.collection.stop import StopSignal
from gym_ray.collection.summary import summarize
from gym_ray.config.load import RunConfig, load_config
from gym_ray.config.policy import PolicyConfig
from gym_ray.environment import judges_asked
from gym_ray.errors import RETRYABLE, ConfigError, GymRayError
from gym_ray.registry import load_environment, with_agents
from gym_ray.reverification.report import render_changes
from gym_ray.reverification.reverify_stage import ReverifySettings, ReverifyStage
from gym_ray.reverification.reward_changes import ReverifyReport, compare
from gym_ray.serving.job import folder_on_every_node, require_kept_output
from gym_ray.store.index import Index, contains
from gym_ray.store.log_file import LogFile
from gym_ray.store.places import open_path, write_text_whole
from gym_ray.store.row_fetcher import whole_groups
from gym_ray.store.run_directory import RunDirectory, kept_from_writers
from gym_ray.store.stored_run import StoredRun
from gym_ray.telemetry.progress import Counts, Progress

_POLL_SECONDS = 0.5

#: How long stages may take to obey an order to stop; then they are left to Ray.
_STOP_SECONDS = 30.0

#: Rollouts of a range: small enough to keep every stage busy to the end, large enough that a row
#: group of the source, of about a thousand, is read once or twice.
_RANGE_ROWS = (16, 1024)
_RANGES_PER_STAGE = 4

#: Ranges a stage works on at once, so that slow rows of one do not keep it idle.
_OPEN_RANGES = 2


def reverify(
    rollouts: str | Path,
    output: str | Path,
    *,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    trust_run: bool = False,
    quiet: bool = False,
) -> ReverifyReport:
    """Judge stored rollouts anew, into a new dataset; continue what an earlier call left there.

    Args:
        rollouts: a run directory, or a folder of Parquet shards.
        output: folder of the new dataset.
        config: YAML file whose `environments` and `verification` count; by default what the
            rollouts were collected with.
        overrides: dotted assignments over it.
        trust_run: run the code that the rollouts' own config names, though it came from elsewhere.
        quiet: no progress on standard error.

    Returns:
        What changed; also written to `OUTPUT/reverify.json`. Check `interrupted`.

    Raises:
        ConfigError: the rollouts, the config or the output are wrong; nothing was started.
        GymRayError: it broke; verdicts that are durable are kept.
    """
    source, target = StoredRun.open(rollouts), open_path(output)
    source.files()
    if target.resolve() in (source.path.resolve(), source.home.resolve()):
        raise ConfigError(f"--output {str(output)!r} is what is reverified; name a new folder")
    require_kept_output("--output", str(output))
    with kept_from_writers(source.home):
        checked = _config_of(source, target, config, overrides, trust=trust_run)
        index = source.index()
        _check_source(source.path, index, checked)
        directory = RunDirectory.open(checked, kind="reverify")
        with LogFile(directory.log) as log, contextlib.closing(directory):
            with Progress(quiet=quiet, log=log) as progress:
                report = _Reverification(source.path, index, checked, directory, progress).run()
            log.write(render_changes(report))
            return report


def _config_of(
    source: StoredRun,
    output: Path,
    config: str | Path | None,
    overrides: Sequence[str],
    *,
    trust: bool,
) -> RunConfig:
    if config is not None:
        checked = load_config(config, overrides)
    else:
        stored = source.config_if_there()
        if stored is None:
            raise ConfigError(
                f"{source.path} has no run.yaml to take the environments from; name a config with "
                "--config"
            )
        checked = stored.checked(overrides, trust=trust)
    collect = checked.collect.model_copy(update={"output": str(output)})
    return with_agents(checked.model_copy(update={"collect": collect}))


def _check_source(source: Path, index: Index, config: RunConfig) -> None:
    if not len(index.table):
        raise ConfigError(f"{source}: holds no rollouts yet")
    judgeable = index.table.filter(pc.not_equal(index.table["environment"], ""))
    for name in pc.unique(judgeable["environment"]).to_pylist():
        if name not in config.environments:
            raise ConfigError(
                f"{source} has rollouts of environment {name!r}, which the config has not; it "
                f"has {', '.join(config.environments)}"
            )
    asked = set(judges_of_groups(config))
    for name, section in config.environments.items():
        asked |= judges_asked(load_environment(name, section, config.base_directory))
    if asked:
        raise ConfigError(
            f"the verdict asks judges ({', '.join(sorted(asked))}), and reverify starts no model; "
            "leave what asks them out, e.g. environments.math.params.judge=null"
        )


class _Reverification:
    """One `reverify` command on one output directory."""

    def __init__(
        self,
        source: Path,
        index: Index,
        config: RunConfig,
        directory: RunDirectory,
        progress: Progress,
    ) -> None:
        self._source = source
        self._index = index
        self._config = config
        self._directory = directory
        self._progress = progress
        self._started = time.monotonic()
        self._judging_seconds = 0.0
        self._stop = StopSignal(
            deadline=None
            if config.collect.run_timeout_seconds is None
            else self._started + config.collect.run_timeout_seconds,
            say=progress.say,
        )

    def run(self) -> ReverifyReport:
        self._pair()
        todo = self._todo()
        total = len(self._index.table)
        if self._directory.resumed:
            done = total - len(todo)
            self._progress.say(
                f"continuing {self._directory.path}: {done} of {total} rollouts done"
            )
        if len(todo):
            with self._stop.installed():
                self._judge(todo)
        return self._finish()

    def _pair(self) -> None:
        """Note which rollouts these are, or see that they still are the same."""
        before = self._directory.run.get("source")
        now = {
            "path": str(self._source.resolve()),
            "rollouts": len(self._index.table),
            "sha256": _digest(self._index.table),
        }
        if before is not None and before["sha256"] != now["sha256"]:
            raise ConfigError(
                f"{self._directory.path} is of other rollouts than {self._source} holds now "
                f"({before['rollouts']} of {before['path']}); name another --output"
            )
        self._directory.run["source"] = before or now
        self._directory.save_config(self._config)

    def _todo(self) -> pa.Table:
        """Rows of the source's index that have no verdict yet, or a failure that may pass."""
        for aside in self._directory.segments.set_aside_torn():
            self._progress.say(f"{aside}: cannot be read, was moved there, and is judged again")
        now = self._directory.stored.index().table
        retryable = pa.array([str(kind) for kind in RETRYABLE])
        again = pc.fill_null(pc.is_in(now["error_kind"], value_set=retryable), False)
        source = self._index.table
        failed_before = source.filter(pc.equal(source["status"], "failed"))["rollout_id"]
        again = pc.and_not(again, pc.is_in(now["rollout_id"], value_set=_values(failed_before)))
        done = np.sort(now.filter(pc.invert(again))["rollout_id"].to_numpy().astype("S32"))
        return source.filter(pa.array(~contains(done, source["rollout_id"])))

    def _judge(self, todo: pa.Table) -> None:
        import ray

        from gym_ray.serving.cluster import connect, disconnect

        # Nothing is sampled: what the policy needs is not asked of the cluster.
        cluster = connect(
            self._config.model_copy(update={"policy": PolicyConfig()}), self._progress.say
        )
        try:
            self._stop.take_over()
            cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
            processes = min(self._config.verification.processes, cpus)
            stages = max(1, cpus // processes)
            rows = max(_RANGE_ROWS[0], math.ceil(len(todo) / (stages * _RANGES_PER_STAGE)))
            ranges = _ranges(todo, min(rows, _RANGE_ROWS[1]))
            stages = min(stages, len(ranges))
            self._progress.say(f"judging {len(todo)} rollouts")
            began = time.monotonic()
            with self._stop.told_by_others():
                self._watch(
                    Pass(
                        lambda monitor: over_ranges(
                            ranges,
                            ReverifyStage,
                            (self._settings(), monitor, stages * STAGE_STARTS),
                            stages=stages,
                            open_ranges=_OPEN_RANGES,
                            num_cpus=processes,
                        )
                    ),
                    before=len(self._index.table) - len(todo),
                )
            self._judging_seconds = time.monotonic() - began
        finally:
            disconnect(cluster)

    def _settings(self) -> ReverifySettings:
        config = self._config
        return ReverifySettings(
            run_id=self._directory.id,
            sections=dict(config.environments),
            base_directory=folder_on_every_node(str(Path(config.base_directory).resolve())),
            verification=config.verification,
            timeout_seconds=config.collect.rollout_timeout_seconds,
            max_attempts=config.collect.max_attempts,
            files=tuple(path.resolve() for path in self._index.files),
            pass_id=uuid.uuid4().hex[:8],
            store=self._directory.segments,
        )

    def _watch(self, running: Pass, *, before: int) -> None:
        """Show progress and carry out a wish to stop, until the pass has ended.

        Raises:
            GymRayError: it broke.
        """
        counts = Counts()
        while running.running():
            running.wait(_POLL_SECONDS)
            self._directory.check()
            counts = running.counts()
            self._progress.show(counts, before=before, expected=len(self._index.table))
            if self._stop.requested():
                self._progress.say(f"stopping ({self._stop.reason})")
                running.order("stop")
                running.wait(_STOP_SECONDS)
                break
        try:
            running.raise_error()
        except (GymRayError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise GymRayError(
                f"reverifying broke: {error}. Verdicts that are durable are kept; re-issue the "
                "command to continue"
            ) from error

    def _finish(self) -> ReverifyReport:
        now = self._directory.stored.index()
        shards = 0
        interrupted = None
        if len(now.table) == len(self._index.table):
            self._directory.check()
            shards = compact_run(self._config, now, self._directory, self._progress.say)
            now = self._directory.stored.index()
        else:
            interrupted = self._stop.reason
        expected = pc.value_counts(self._index.table["environment"]).to_pylist()
        summary = summarize(
            now,
            {entry["values"]: entry["counts"] for entry in expected},
            directory=self._directory,
            shards=shards,
            seconds=time.monotonic() - self._started,
            collecting_seconds=self._judging_seconds,
            interrupted=interrupted,
            group_failures=count_failures(now.files) if has_groups(self._config) else {},
        )
        write_text_whole(self._directory.summary, summary.to_json())
        report = compare(
            self._index,
            now,
            source_path=self._source,
            output=self._directory.path,
            max_failed_share=self._config.collect.max_failed_share,
            interrupted=interrupted,
        )
        write_text_whole(self._directory.path / "reverify.json", report.to_json())
        return report


def _ranges(todo: pa.Table, rows: int) -> list[pa.Table]:
    """The work list in pieces of about so many rows, whole groups in each."""
    places = todo.select(["file", "row"]).combine_chunks()
    groups = whole_groups(todo["task_index"].to_numpy(), rows)
    return [places.slice(start, end - start) for start, end in groups]


def _digest(table: pa.Table) -> str:
    """Digest of which rollouts there are, and which attempt at each."""
    digest = hashlib.sha256()
    for batch in table.select(["rollout_id", "status", "started_at"]).to_batches(65_536):
        rows: list[Any] = [batch.column(0).to_pylist(), batch.column(1).to_pylist()]
        rows.append(batch.column(2).cast(pa.int64()).to_pylist())
        for row in zip(*rows, strict=True):
            digest.update(repr(row).encode())
    return digest.hexdigest()


def _values(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)
