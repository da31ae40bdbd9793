"""Rewards of groups: what group verifiers say, added to the rows while shards are written.

Done here and not before, because only here all rollouts of a task stand together. A group that
cannot be judged keeps its rollouts' own rewards and says so in their metrics; no row is lost.

Judging again gives the same rows: what an earlier compaction added (component NAME, metrics
`group/NAME`, `group_failed/NAME`) is taken off first, so that groups may grow when a run is
extended.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import math
import threading
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa

from gym_ray.config.load import RunConfig
from gym_ray.environment import Outcome
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.judging import Judge, accounting
from gym_ray.registry import load_group_verifiers
from gym_ray.renderers.items import text_of_items
from gym_ray.store.places import parquet_file
from gym_ray.store.schema import SCHEMA
from gym_ray.task import Task
from gym_ray.verifiers.grouping import GroupVerification

T = TypeVar("T")

#: Component that a reward without components becomes beside those of its group.
OWN_COMPONENT = "verifier"

#: Groups judged at once; their outcomes are pickled for the processes while they wait.
_GROUPS_AT_ONCE = 64

#: How often whoever waits for groups looks whether to go on.
_CHECK_SECONDS = 0.5

_READ = [
    "task_id", "task_index", "rollout_index", "environment", "source_file", "source_line", "task",
    "response", "left_out", "truncation_reason", "reward", "reward_components", "metrics",
]  # fmt: skip
_WRITTEN = ("reward", "reward_components", "metrics")


@dataclasses.dataclass(slots=True)
class _Row:
    """What a group verifier needs of a row, and what it changes: reward and its parts, taken back
    to what the rollout's own verifier said.
    """

    outcome: Outcome
    reward: float
    components: dict[str, float]
    metrics: dict[str, float]


class GroupRewards:
    """Judges the groups of tables of rows, on an event loop and in processes of its own. Use it as
    a context.

    Args:
        config: names the group verifiers.
        connect_judges: the judges they ask, for the event loop it is awaited on; None for none.
        check: called while groups are judged; raises to give up.

    Attributes:
        failures: why groups could not be judged, as text.
    """

    def __init__(
        self,
        config: RunConfig,
        connect_judges: Callable[[], Awaitable[Mapping[str, Judge]]] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.failures: list[str] = []
        self._check = check
        self._connect_judges = connect_judges
        self._verifiers = load_group_verifiers(config)
        self._names = {
            environment: list(section.group_verifiers)
            for environment, section in config.environments.items()
            if section.group_verifiers
        }
        self._verification = GroupVerification(
            self._verifiers,
            functools.partial(load_group_verifiers, config),
            processes=config.verification.processes,
            timeout_seconds=config.verification.timeout_seconds,
        )
        self._loop = _LoopThread()
        self._room = asyncio.Semaphore(_GROUPS_AT_ONCE)

    def __enter__(self) -> GroupRewards:
        try:
            self._loop.run(self._start(), self._check)
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._loop.run(self._verification.stop())
        finally:
            self._loop.close()

    async def _start(self) -> None:
        if self._connect_judges is not None:
            self._verifiers.judges = await self._connect_judges()
        await self._verification.start()

    def add(self, table: pa.Table) -> pa.Table:
        """The table with the rewards of its groups, which are all whole."""
        return self._loop.run(self.added(table), self._check)

    async def added(self, table: pa.Table) -> pa.Table:
        """As `add`, on a running event loop."""
        rows = table.select(_READ).to_pylist()
        groups: dict[tuple[int, str], list[int]] = defaultdict(list)
        for position, row in enumerate(rows):
            if row["reward"] is not None and row["environment"] in self._names:
                groups[row["task_index"], row["environment"]].append(position)
        if not groups:
            return table
        await asyncio.gather(
            *(
                self._judge_group(environment, [rows[position] for position in positions])
                for (_, environment), positions in groups.items()
            )
        )
        for name in _WRITTEN:
            field = SCHEMA.field(name)
            values = [_as_pairs(row[name]) for row in rows]
            table = table.set_column(
                table.schema.get_field_index(name), field, pa.array(values, type=field.type)
            )
        return table

    async def _judge_group(self, environment: str, rows: list[dict[str, Any]]) -> None:
        """Change the rows of one group, each a dict of `_READ`."""
        names = self._names[environment]
        async with self._room:
            group = [_own(row, names) for row in rows]
            found = await asyncio.gather(
                *(self._scores(f"{environment}/{name}", name, group) for name in names)
            )
        for name, scores in zip(names, found, strict=True):
            weight = self._verifiers.parts[f"{environment}/{name}"].weight
            for position, one in enumerate(group):
                if scores is None:
                    one.metrics[f"group_failed/{name}"] = 1.0
                    continue
                one.metrics[f"group/{name}"] = scores[position]
                if not one.components:
                    one.components[OWN_COMPONENT] = one.reward
                one.components[name] = weight * scores[position]
                one.reward = math.fsum(one.components.values())
        for row, one in zip(rows, group, strict=True):
            row.update(reward=one.reward, reward_components=one.components, metrics=one.metrics)

    async def _scores(
        self, part: str, name: str, group: Sequence[_Row]
    ) -> tuple[float, ...] | None:
        """A verifier's scores of a group; None, and a failure noted, when there are none."""
        try:
            with accounting() as spent:
                try:
                    if any(name in one.components for one in group):
                        raise RolloutFailure(
                            FailureKind.VERIFIER_ERROR,
                            f"the environment has a component {name!r} of its own; rename one",
                        )
                    scores = await self._verification.scores(
                        part, [one.outcome for one in group], [one.reward for one in group]
                    )
                    _check_finite(scores, self._verifiers.parts[part].weight)
                finally:
                    # Once for the group, so that the sum over rows is what was spent.
                    own = {f"group/{name}/{key}": value for key, value in spent.metrics().items()}
                    group[0].metrics.update(own)
        except RolloutFailure as failure:
            task = group[0].outcome.task
            self.failures.append(
                f"group of {task.source_file}:{task.source_line}, verifier {part}: {failure}"
            )
            return None
        return scores


class _LoopThread:
    """An event loop in a thread, so that it works beside any loop the caller has."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], check: Callable[[], None] = lambda: None) -> T:
        """The coroutine's result; it is cancelled when the wait for it is interrupted, or `check`
        raises.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while True:
                with contextlib.suppress(concurrent.futures.TimeoutError):
                    return future.result(_CHECK_SECONDS)
                if future.done():  # A timeout of its own.
                    return future.result()
                check()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def count_failures(files: Sequence[Path]) -> dict[str, int]:
    """Groups of a dataset that a group verifier could not judge, by the verifier's name."""
    found: set[tuple[str, int, str]] = set()
    for file in files:
        for batch in parquet_file(file).iter_batches(
            columns=["task_index", "environment", "metrics"]
        ):
            for row in batch.to_pylist():
                for key, _ in row["metrics"] or ():
                    if key.startswith("group_failed/"):
                        name = key.removeprefix("group_failed/")
                        found.add((name, row["task_index"], row["environment"]))
    return dict(Counter(name for name, _, _ in sorted(found)))


def _own(row: Mapping[str, Any], names: Sequence[str]) -> _Row:
    """A row as its own verifier left it."""
    components, metrics = dict(row["reward_components"]), dict(row["metrics"])
    reward = float(row["reward"])
    added = [name for name in names if f"group/{name}" in metrics]
    for name in added:
        components.pop(name, None)
    if added:
        reward = math.fsum(components.values())
    kept = {key: value for key, value in metrics.items() if not _is_added(key, names)}
    return _Row(_outcome(row), reward, components, kept)


def _is_added(metric: str, names: Sequence[str]) -> bool:
    return any(
        metric in (f"group/{name}", f"group_failed/{name}") or metric.startswith(f"group/{name}/")
        for name in names
    )


def _outcome(row: Mapping[str, Any]) -> Outcome:
    items = json.loads(row["response"])
    return Outcome(
        task=Task(
            task_id=row["task_id"],
            row=json.loads(row["task"]),
            task_index=row["task_index"],
            source_file=row["source_file"],
            source_line=row["source_line"],
        ),
        text=text_of_items(items),
        items=items,
        truncation_reason=row["truncation_reason"],
        left_out=tuple(filter(None, json.loads(row["left_out"]))),
    )


def _check_finite(scores: Sequence[float], weight: float) -> None:
    if not all(math.isfinite(weight * score) for score in scores):
        raise RolloutFailure(FailureKind.VERIFIER_ERROR, f"weight x score is not finite: {scores}")


def _as_pairs(value: Any) -> Any:
    """A map as Arrow takes it; anything else as it is."""
    return list(value.items()) if isinstance(value, dict) else value
