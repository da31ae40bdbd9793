"""The manifest: every rollout of a run, one row each, written before anything runs.

It is streamed from the input in row groups of at most 256, so its size is not bounded by
memory. Malformed rows are in it too, with the reason, and become failed rollouts. Counting how
often a task's content has been seen is kept in a temporary SQLite file, for the same reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gym_ray.collection.input import InputLine, SourceFingerprint, TaskInput
from gym_ray.config.changes import is_more
from gym_ray.config.commands import CollectConfig
from gym_ray.errors import ConfigError, RolloutFailure
from gym_ray.rollout import RolloutSpec
from gym_ray.routing import Router
from gym_ray.store.parquet import OPTIONS, whole
from gym_ray.store.places import parquet_file, written_whole
from gym_ray.store.rows import specs_from_table, specs_to_table
from gym_ray.store.schema import MANIFEST_SCHEMA
from gym_ray.task import Task, parse_task, read_row, rollout_id_of, task_id_of, unparsable_task_id

ROW_GROUP_ROWS = 256
_METADATA_KEY = b"gym_ray.manifest"


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """A written manifest.

    Attributes:
        path: its Parquet file.
        rollouts: rows in it.
        sources: fingerprints of the input it was made from.
        num_repeats: rollouts per row of the input; None where an earlier version wrote it.
        limit: only the first so many rows were taken.
        unfit: input rows that are no tasks for an environment; counted while it is written.
        first_unfit: why the first of them is not, with its place.
    """

    path: Path
    rollouts: int
    sources: list[SourceFingerprint]
    num_repeats: int | None = None
    limit: int | None = None
    unfit: int = 0
    first_unfit: str = ""

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read what its file says of it; raises `FileTorn`."""
        file = parquet_file(path)
        with whole(path, KeyError, TypeError, ValueError):
            saved = json.loads(file.schema_arrow.metadata[_METADATA_KEY])
            sources = [SourceFingerprint(**source) for source in saved["sources"]]
            num_repeats, limit = saved.get("num_repeats"), saved.get("limit")
        return cls(path, file.metadata.num_rows, sources, num_repeats, limit)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows, a row group at a time; all columns when `columns` is None."""
        wanted = None if columns is None else list(columns)
        yield from parquet_file(self.path).iter_batches(batch_size=ROW_GROUP_ROWS, columns=wanted)


class ManifestRows:
    """Reads rows of a manifest by position. Use it from one thread at a time.

    Args:
        path: the manifest's Parquet file, opened when it is first read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: pq.ParquetFile | None = None
        self._ends = np.zeros(0, dtype=np.int64)

    def read(self, positions: npt.NDArray[np.int64]) -> list[RolloutSpec]:
        """The rollouts of these rows.

        Args:
            positions: int64 [N], ascending.
        """
        if self._file is None:
            self._file = parquet_file(self._path)
            metadata = self._file.metadata
            rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
            self._ends = np.cumsum(rows, dtype=np.int64)
        groups = np.searchsorted(self._ends, positions, side="right")
        specs: list[RolloutSpec] = []
        for group in np.unique(groups):
            table = self._file.read_row_group(int(group))
            first = self._ends[group] - len(table)
            specs += specs_from_table(table.take(pa.array(positions[groups == group] - first)))
        return specs


def write_manifest(
    path: Path,
    task_input: TaskInput,
    router: Router,
    *,
    num_repeats: int,
    limit: int | None,
    extends: Manifest | None = None,
) -> Manifest:
    """Write the manifest of an input.

    Args:
        path: where; written whole or not at all.
        task_input: the rows.
        router: finds each row's environment and checks the row's fields.
        num_repeats: rollouts per row. Rows of the same content share a task and count on.
        limit: only the first so many rows.
        extends: an earlier manifest whose rows are kept as they are; only what is asked for
            beyond them is added: rows that the input now holds, and repeats of any of its rows.

    Raises:
        ConfigError: the input holds no rows.
    """
    sources = task_input.fingerprints()
    asked = {
        "sources": [dataclasses.asdict(source) for source in sources],
        "num_repeats": num_repeats,
        "limit": limit,
    }
    metadata = {**(MANIFEST_SCHEMA.metadata or {}), _METADATA_KEY: json.dumps(asked)}
    schema = MANIFEST_SCHEMA.with_metadata(metadata)
    rows = 0
    with (
        contextlib.closing(_SeenTasks()) as seen,
        written_whole(path) as file,
        pq.ParquetWriter(file, schema, **OPTIONS) as writer,
    ):
        if extends is not None:
            for batch in extends.batches():
                table = pa.Table.from_batches([batch]).cast(schema)
                seen.remember(table)
                writer.write_table(table)
                rows += len(table)
        lines = _limited(task_input.lines(), limit)
        count = _Count()
        for specs in _grouped(_specs(lines, router, num_repeats, seen, count), ROW_GROUP_ROWS):
            writer.write_table(specs_to_table(specs).cast(schema))
            rows += len(specs)
        if rows == 0:
            raise _no_rows(task_input)
    return Manifest(path, rows, sources, num_repeats, limit, count.unfit, count.first_unfit)


def require_task(task_input: TaskInput, router: Router, *, limit: int | None) -> None:
    """Refuse an input of which every rollout would be a failure, before anything is started.

    It reads up to the first row that is a task.

    Args:
        task_input, router, limit: as for `write_manifest`.

    Raises:
        ConfigError: the input holds no rows, or none that is a task for its environment.
    """
    count = _Count()
    for line in _limited(task_input.lines(), limit):
        count.rows += 1
        try:
            router.route(_task(line, position=0).row)
            return
        except RolloutFailure as failure:
            count.first_unfit = count.first_unfit or _reason(line, failure)
    if count.rows == 0:
        raise _no_rows(task_input)
    raise ConfigError(
        f"collect.input: not one of {count.rows} rows is a task for this config; "
        f"{count.first_unfit}. Name another file or mend its rows; "
        "collect.max_failed_share=1 stores all of them as failures"
    )


def _no_rows(task_input: TaskInput) -> ConfigError:
    return ConfigError(f"collect.input: {task_input.names} holds no task rows")


@dataclasses.dataclass(slots=True)
class _Count:
    """Rows of an input, and those of them that are no tasks; see `Manifest`."""

    rows: int = 0
    unfit: int = 0
    first_unfit: str = ""


def is_asked_for_more(
    manifest: Manifest, collect: CollectConfig, sources: list[SourceFingerprint]
) -> bool:
    """Whether a run's manifest lacks rollouts that its config now asks for.

    Args:
        manifest: what the run has.
        collect: what is asked for.
        sources: fingerprints of the input as it is now.

    Raises:
        ConfigError: more is asked for and nobody said that the run may be extended, or less.
    """
    if manifest.sources != sources and not collect.extend:
        changed = {source.source_file for source in manifest.sources} ^ {
            source.source_file for source in sources
        } or {collect.input}
        raise ConfigError(
            f"the input changed since this run began ({', '.join(sorted(changed))}); "
            "add collect.extend=true to collect its new rows too, restore the input to "
            "continue without them, or name a new collect.output"
        )
    if manifest.num_repeats is None:
        return collect.extend
    has, asked = (manifest.num_repeats, manifest.limit), (collect.num_repeats, collect.limit)
    if has != asked and (not collect.extend or any(map(is_more, asked, has))):
        # The command that extended it was killed before it wrote run.yaml, which is compared first.
        limit = "null" if manifest.limit is None else manifest.limit
        raise ConfigError(
            f"{manifest.path} was extended: to continue the run write collect.extend=true "
            f"collect.num_repeats={manifest.num_repeats} collect.limit={limit}, or more"
        )
    return manifest.sources != sources or has != asked


def _specs(
    lines: Iterable[InputLine],
    router: Router,
    num_repeats: int,
    seen: _SeenTasks,
    count: _Count,
) -> Iterator[RolloutSpec]:
    for position, line in enumerate(lines):
        count.rows += 1
        text = line.raw.decode("utf-8", "replace")
        error: str | None = None
        environment = ""
        try:
            task = _task(line, position)
            task_id, given = task.task_id, _given_index(task.row)
            environment = router.route(task.row)
        except RolloutFailure as failure:
            error = _reason(line, failure)
            count.unfit += 1
            count.first_unfit = count.first_unfit or error
            task_id = _identity_of_invalid(line)
            given = None
        index = position if given is None else given
        task_index, rollout_indices = seen.claim(task_id, index, num_repeats)
        for rollout_index in rollout_indices:
            yield RolloutSpec(
                rollout_id=rollout_id_of(task_id, environment, rollout_index),
                task_id=task_id,
                task_index=task_index,
                rollout_index=rollout_index,
                environment=environment,
                source_file=line.source_file,
                source_line=line.source_line,
                task=text,
                error=error,
            )


def _task(line: InputLine, position: int) -> Task:
    return parse_task(
        line.raw,
        task_index=position,
        source_file=line.source_file,
        source_line=line.source_line,
    )


def _reason(line: InputLine, failure: RolloutFailure) -> str:
    """Why a row is no task, with its place."""
    return f"{line.source_file}:{line.source_line}: row {failure.message}"


def _given_index(row: Mapping[str, Any]) -> int | None:
    """The index NeMo Gym gave a row, unless it is none that the column can hold."""
    given = row.get("_ng_task_index")
    is_index = isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 2**31
    return given if is_index else None


def _identity_of_invalid(line: InputLine) -> str:
    """A row that parses keeps the identity of its content; a line that does not, of its place."""
    try:
        row = read_row(line.raw)
        if isinstance(row, dict):
            return task_id_of(row)
    except (RecursionError, RolloutFailure):
        pass
    return unparsable_task_id(line.source_file, line.source_line, line.raw)


class _SeenTasks:
    """How many rollouts of each task are in the manifest, kept on disk."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gym-ray-tasks-")
        self._database = sqlite3.connect(f"{self._folder.name}/tasks", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute("PRAGMA synchronous=OFF")
        # `kept`: rollouts taken over from an extended manifest; `claimed`: rollouts the input
        # has asked for so far.
        self._database.execute(
            "CREATE TABLE tasks (id TEXT PRIMARY KEY, task_index INTEGER, kept INTEGER, "
            "claimed INTEGER) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")
        self._first_free_index = 0

    def remember(self, kept: pa.Table) -> None:
        """Rows taken over from an earlier manifest."""
        columns = kept.select(["task_id", "task_index", "rollout_index"]).to_pylist()
        for row in columns:
            self._database.execute(
                "INSERT INTO tasks VALUES (?, ?, ?, 0) "
                "ON CONFLICT (id) DO UPDATE SET kept = max(kept, excluded.kept)",
                (row["task_id"], row["task_index"], row["rollout_index"] + 1),
            )
            self._first_free_index = max(self._first_free_index, row["task_index"] + 1)

    def claim(self, task_id: str, position: int, count: int) -> tuple[int, range]:
        """The input asks for `count` more rollouts of a task.

        Returns:
            The task's index, and the rollout indices that are not in the manifest yet.
        """
        found = self._database.execute(
            "SELECT task_index, kept, claimed FROM tasks WHERE id = ?", (task_id,)
        ).fetchone()
        if found is None:
            # Rows added to an extended run come after those it has, wherever they stand.
            task_index = max(position, self._first_free_index)
            if self._first_free_index:
                self._first_free_index = task_index + 1
            self._database.execute(
                "INSERT INTO tasks VALUES (?, ?, 0, ?)", (task_id, task_index, count)
            )
            return task_index, range(count)
        task_index, kept, claimed = found
        self._database.execute(
            "UPDATE tasks SET claimed = ? WHERE id = ?", (claimed + count, task_id)
        )
        return task_index, range(max(kept, claimed), claimed + count)

    def close(self) -> None:
        self._database.close()
        self._folder.cleanup()


def _limited(lines: Iterable[InputLine], limit: int | None) -> Iterator[InputLine]:
    for count, line in enumerate(lines):
        if limit is not None and count >= limit:
            return
        yield line


def _grouped(specs: Iterable[RolloutSpec], size: int) -> Iterator[list[RolloutSpec]]:
    group: list[RolloutSpec] = []
    for spec in specs:
        group.append(spec)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
