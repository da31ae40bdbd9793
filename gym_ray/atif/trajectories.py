"""Rollouts as trajectories: what `export atif` writes, one document a rollout.

Failed rollouts are there, too: the format keeps what happened, and `extra.gym_ray` how it ended.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from gym_ray.atif.columns import TurnFacts, columns_of
from gym_ray.atif.format import SCHEMA_VERSION
from gym_ray.atif.steps import steps_of
from gym_ray.export.counts import ExportCounts
from gym_ray.export.recipe import Converted, groups_of
from gym_ray.renderers.items import tools_for_chat
from gym_ray.rollout import Rollout
from gym_ray.store.rows import from_table
from gym_ray.store.schema import SCHEMA
from gym_ray.turn import Turn

TRAJECTORIES = "trajectories"

#: Rollouts held as values at a time.
_SLICE_ROWS = 32


@dataclasses.dataclass(frozen=True, slots=True)
class AtifRecipe:
    """Trajectories of all rollouts.

    Attributes:
        one_file_each: a JSON file a trajectory, which is what Harbor's validator and viewer open,
            instead of a line each of one file.
    """

    one_file_each: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(SCHEMA.names)

    @property
    def schema(self) -> pa.Schema | None:
        return None

    @property
    def files(self) -> tuple[str, ...]:
        return () if self.one_file_each else (TRAJECTORIES,)

    def convert(self, table: pa.Table) -> Converted:
        tally = ExportCounts.of_read(table, groups_of(table))
        found = _trajectories(table, tally)
        if not self.one_file_each:
            return Converted(tally, None, {TRAJECTORIES: (made for _, made in found)})
        named = ((f"{TRAJECTORIES}/{name}.json", made) for name, made in found)
        return Converted(tally, None, {}, documents=named)


def trajectory_of(rollout: Rollout) -> dict[str, Any]:
    """A rollout as a document of the format.

    Raises:
        ValueError: its items do not fall into as many turns as were sampled, or its tokens are
            not those of its turns.
    """
    steps = steps_of(json.loads(rollout.prompt), json.loads(rollout.response))
    _add_metrics(steps, rollout)
    if not steps:  # The format wants one; nothing was played.
        steps = [{"source": "system", "message": f"{rollout.error_kind}: {rollout.error}"}]
    steps[0]["timestamp"] = rollout.started_at.isoformat()
    name = f"{rollout.run_id}-{rollout.spec.rollout_id}"
    agent: dict[str, Any] = {"name": rollout.agent, "version": _version()}
    if rollout.model:
        agent["model_name"] = rollout.model
    tools = tools_for_chat(json.loads(rollout.tools))
    if tools:
        agent["tool_definitions"] = tools
    return {
        "schema_version": SCHEMA_VERSION,
        "session_id": name,
        "trajectory_id": name,
        "agent": agent,
        "steps": [{"step_id": number, **step} for number, step in enumerate(steps, start=1)],
        "final_metrics": {
            "total_prompt_tokens": sum(turn.prompt_length for turn in rollout.turns),
            "total_completion_tokens": rollout.sampled_tokens,
            "total_steps": len(steps),
            "extra": {
                "reward": rollout.reward,
                "reward_components": dict(rollout.reward_components),
            },
        },
        "extra": {"gym_ray": columns_of(rollout).model_dump(mode="json")},
    }


@functools.cache
def _version() -> str:
    """Ours: an agent comes with gym-ray, or is driven by it."""
    return importlib.metadata.version("gym-ray")


def _trajectories(table: pa.Table, tally: ExportCounts) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """One at a time: a trajectory repeats its tokens for every turn."""
    for start in range(0, len(table), _SLICE_ROWS):
        for rollout in from_table(table.slice(start, _SLICE_ROWS)):
            try:
                made = trajectory_of(rollout)
            except ValueError:
                tally.dropped["items or tokens do not fit the turns"] += 1
                continue
            tally.rows[TRAJECTORIES] += 1
            yield rollout.spec.rollout_id, made


def _add_metrics(steps: list[dict[str, Any]], rollout: Rollout) -> None:
    sampled = [step for step in steps if "llm_call_count" in step]
    if len(sampled) != len(rollout.turns):
        raise ValueError(
            f"rollout {rollout.spec.rollout_id}: its items are those of {len(sampled)} turns and "
            f"{len(rollout.turns)} were sampled"
        )
    end = 0
    mask = np.zeros_like(rollout.loss_mask)
    for step, turn in zip(sampled, rollout.turns, strict=True):
        step["metrics"] = _metrics(rollout, turn)
        end = turn.prompt_length + turn.generation_length
        mask[turn.prompt_length : end] = 1
    # The format has no mask: what is sampled is what the steps say.
    if rollout.has_tokens and (end != len(mask) or not np.array_equal(mask, rollout.loss_mask)):
        raise ValueError(
            f"rollout {rollout.spec.rollout_id}: its loss mask is not 1 exactly on its turns, up "
            "to the last token"
        )


def _metrics(rollout: Rollout, turn: Turn) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "prompt_tokens": turn.prompt_length,
        "completion_tokens": turn.generation_length,
    }
    if rollout.has_tokens:
        start, end = turn.prompt_length, turn.prompt_length + turn.generation_length
        metrics["prompt_token_ids"] = rollout.token_ids[:start].tolist()
        metrics["completion_token_ids"] = rollout.token_ids[start:end].tolist()
        metrics["logprobs"] = rollout.logprobs[start:end].tolist()
    return {**metrics, "extra": TurnFacts.of(turn).model_dump()}
