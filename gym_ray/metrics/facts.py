"""Facts: the few numbers of a rollout that metrics are made of, task by task, streamed.

A dataset whose shards are in order (every complete run) is read as it stands. Any other one (an
unfinished run, shards of several) goes through a temporary SQLite file, which puts the rollouts of
a task side by side and keeps the copy that counts where there are two, by the rule of
`store.index`. Either way one batch and one task are in memory, not the dataset.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.environment import Environment
from gym_ray.renderers.items import text_of_items
from gym_ray.store.places import parquet_file
from gym_ray.task import Task

_BATCH_ROWS = 1024
_COLUMNS = (
    "rollout_id", "environment", "task_id", "task_index", "rollout_index", "status",
    "truncation_reason", "reward", "attempts", "error_kind", "started_at",
)  # fmt: skip
_LENGTHS = ("turns.list.element.prompt_length", "turns.list.element.generation_length")
_ORDER = ("task_index", "rollout_index")

Report = Callable[[int], None]


class Fact(NamedTuple):
    """One rollout, in numbers; `turns`, `sampled_tokens` and `tokens` are of its final branch."""

    environment: str
    task_id: str
    task_index: int
    rollout_index: int
    status: str
    truncation_reason: str | None
    reward: float | None
    attempts: int
    error_kind: str | None
    turns: int
    sampled_tokens: int
    tokens: int
    answer: str | None


def groups(
    files: Sequence[Path],
    environments: Mapping[str, Environment],
    report: Report = lambda rollouts: None,
) -> Iterator[list[Fact]]:
    """The rollouts of each task, by `rollout_index`.

    Args:
        files: of a dataset, segments before shards (`StoredRun.files`).
        environments: those that can tell the answer a reply settles on, by name.
        report: called now and then with the number of rollouts read.
    """
    if _is_in_order(files):
        yield from _grouped(_facts(files, environments, report))
        return
    with contextlib.closing(_Spool()) as spool:
        for _, batch, answers in _batches(files, environments, report):
            spool.add(batch, answers)
        yield from _grouped(spool.facts())


def _grouped(facts: Iterable[Fact]) -> Iterator[list[Fact]]:
    for _, group in itertools.groupby(facts, key=lambda fact: (fact.environment, fact.task_id)):
        yield list(group)


def _is_in_order(files: Sequence[Path]) -> bool:
    """Whether (task_index, rollout_index) rises all through the files: then each rollout is there
    once, and those of a task stand together.
    """
    last = -1
    for path in files:
        for batch in parquet_file(path).iter_batches(batch_size=65_536, columns=list(_ORDER)):
            task, repeat = (batch.column(name).to_numpy().astype(np.int64) for name in _ORDER)
            place = (task << 32) | repeat
            if not len(place):
                continue
            if place[0] <= last or np.any(np.diff(place) <= 0):
                return False
            last = int(place[-1])
    return True


def _facts(
    files: Sequence[Path], environments: Mapping[str, Environment], report: Report
) -> Iterator[Fact]:
    for columns, _, answers in _batches(files, environments, report):
        yield from map(Fact._make, zip(*columns.values(), answers, strict=True))


def _batches(
    files: Sequence[Path], environments: Mapping[str, Environment], report: Report
) -> Iterator[tuple[dict[str, list[Any]], pa.RecordBatch, list[str | None]]]:
    """Per batch: columns of `Fact` but the answer, the batch with its lengths, the answers."""
    columns = [*_COLUMNS, *_LENGTHS]
    if environments:
        columns += ["task", "response"]
    read = 0
    for path in files:
        for batch in parquet_file(path).iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            counted = _with_lengths(batch)
            plain = {name: counted.column(name).to_pylist() for name in Fact._fields[:-1]}
            yield plain, counted, _answers(batch, environments)
            read += len(batch)
            report(read)


def _with_lengths(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with numbers in place of its turns."""
    turns = batch.column("turns")
    offsets = turns.offsets.to_numpy().astype(np.int64)
    offsets = offsets - offsets[0]
    flat = turns.flatten()
    prompts = pc.struct_field(flat, "prompt_length").to_numpy(zero_copy_only=False)
    generated = pc.struct_field(flat, "generation_length").to_numpy(zero_copy_only=False)
    running = np.concatenate([[0], np.cumsum(generated, dtype=np.int64)])
    counts = np.diff(offsets)
    tokens = np.zeros(len(counts), dtype=np.int64)
    has_turns = counts > 0
    last = offsets[1:][has_turns] - 1
    tokens[has_turns] = prompts[last] + generated[last]
    arrays = [batch.column(name) for name in _COLUMNS]
    added = {
        "turns": pa.array(counts),
        "sampled_tokens": pa.array(running[offsets[1:]] - running[offsets[:-1]]),
        "tokens": pa.array(tokens),
    }
    return pa.RecordBatch.from_arrays([*arrays, *added.values()], names=[*_COLUMNS, *added])


def _answers(batch: pa.RecordBatch, environments: Mapping[str, Environment]) -> list[str | None]:
    if not environments:
        return [None] * len(batch)
    answers: list[str | None] = []
    task: Task | None = None
    names = ("environment", "task_id", "task_index", "reward", "task", "response")
    columns = [batch.column(name) for name in names]
    for name, task_id, task_index, reward, row, response in zip(*columns, strict=True):
        environment = environments.get(name.as_py())
        if environment is None or not reward.is_valid:
            answers.append(None)
            continue
        if task is None or task.task_id != task_id.as_py():
            task = Task(task_id.as_py(), json.loads(row.as_py()), task_index.as_py())
        answers.append(environment.answer(task, text_of_items(json.loads(response.as_py()))))
    return answers


class _Spool:
    """Rollouts on disk, each once, to be read in order."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gym-ray-metrics-")
        self._database = sqlite3.connect(f"{self._folder.name}/facts", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute("PRAGMA synchronous=OFF")
        names = ", ".join((*Fact._fields, "failed", "started_at"))
        self._database.execute(f"CREATE TABLE facts (rollout_id TEXT PRIMARY KEY, {names})")
        self._database.execute("BEGIN")
        places = ", ".join("?" * (len(Fact._fields) + 3))
        taken = ", ".join(f"{name} = excluded.{name}" for name in names.split(", "))
        # A row that is not failed beats one that is, then the later start wins.
        self._insert = (
            f"INSERT INTO facts VALUES ({places}) ON CONFLICT (rollout_id) DO UPDATE SET {taken} "
            "WHERE (excluded.failed, -excluded.started_at) < (facts.failed, -facts.started_at)"
        )

    def add(self, batch: pa.RecordBatch, answers: list[str | None]) -> None:
        columns = [batch.column(name).to_pylist() for name in ("rollout_id", *Fact._fields[:-1])]
        failed = pc.equal(batch.column("status"), "failed").cast(pa.int8()).to_pylist()
        started_at = batch.column("started_at").cast(pa.int64()).to_pylist()
        rows = zip(*columns, answers, failed, started_at, strict=True)
        self._database.executemany(self._insert, rows)

    def facts(self) -> Iterator[Fact]:
        names = ", ".join(Fact._fields)
        order = "task_index, environment, task_id, rollout_index"
        for row in self._database.execute(f"SELECT {names} FROM facts ORDER BY {order}"):
            yield Fact._make(row)

    def close(self) -> None:
        self._database.close()
        self._folder.cleanup()
