"""Rollouts as NeMo Gym's files: rollouts, failures beside them, and the tasks to train on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.errors import FailureKind
from gym_ray.export.counts import ExportCounts
from gym_ray.export.recipe import Converted, groups_of
from gym_ray.nemo_gym import output_row
from gym_ray.rollout import Rollout
from gym_ray.store.rows import from_table
from gym_ray.store.schema import SCHEMA

#: NeMo Gym finds failures by this ending of the rollouts' name.
ROLLOUTS, FAILURES, TASKS = "rollouts", "rollouts_failures", "tasks"

#: Rollouts held as values at a time.
_SLICE_ROWS = 32


@dataclasses.dataclass(frozen=True, slots=True)
class NemoGymRecipe:
    """JSONL in NeMo Gym's shapes.

    `rollouts.jsonl` has what was verified, `rollouts_failures.jsonl` what failed, `tasks.jsonl`
    each legal task once, with `agent_ref` as an object, as NeMo RL's dataset reads it.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(SCHEMA.names)

    @property
    def schema(self) -> pa.Schema | None:
        return None

    @property
    def files(self) -> tuple[str, ...]:
        return (ROLLOUTS, FAILURES, TASKS)

    def convert(self, table: pa.Table) -> Converted:
        groups = groups_of(table)
        tally = ExportCounts.of_read(table, groups)
        failed = pc.equal(table["status"], "failed")
        firsts = table.take(pa.array([group[0] for group in groups], type=pa.int64()))
        lines = {
            ROLLOUTS: _rows(ROLLOUTS, table.filter(pc.invert(failed)), tally),
            FAILURES: _rows(FAILURES, table.filter(failed), tally),
            TASKS: _tasks(firsts, tally),
        }
        return Converted(tally, None, lines)


def _rows(file: str, table: pa.Table, tally: ExportCounts) -> Iterator[dict[str, Any]]:
    """One at a time: a row repeats its tokens for every turn."""
    for rollout in _rollouts(table):
        try:
            row = output_row(rollout)
        except ValueError:
            tally.dropped["items do not fit the turns"] += 1
            continue
        # A task row that was a rollout's before has the number of that one.
        row["_ng_rollout_index"] = rollout.spec.rollout_index
        tally.rows[file] += 1
        if rollout.side_branches:
            tally.noted["rollouts have side branches: sequences beside the response's"] += 1
        yield row


def _tasks(table: pa.Table, tally: ExportCounts) -> Iterator[dict[str, Any]]:
    for rollout in _rollouts(table):
        if rollout.error_kind != FailureKind.TASK_INVALID:
            tally.rows[TASKS] += 1
            yield _task(rollout)


def _rollouts(table: pa.Table) -> Iterator[Rollout]:
    for start in range(0, len(table), _SLICE_ROWS):
        yield from from_table(table.slice(start, _SLICE_ROWS))


def _task(rollout: Rollout) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(rollout.spec.task)
    ref = row.get("agent_ref")
    if not isinstance(ref, dict):
        name = ref if isinstance(ref, str) else rollout.spec.environment
        row["agent_ref"] = {"type": "responses_api_agents", "name": name}
    return row
