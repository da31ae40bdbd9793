"""Trajectories as rollouts: our own become what they were, another tool's what can be known.

Owned here: that nothing is guessed. Our own trajectory has its row in `extra.gym_ray`, and is
refused where its steps say something else. Of another tool's, tokens are taken only where every
step of the model has all three token fields; a reward only where it is said.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pydantic

from gym_ray.atif.columns import Columns, rollout_of_columns
from gym_ray.atif.format import (
    FinalMetrics,
    Trajectory,
    TrajectoryRefused,
    TrajectoryStep,
    refused,
    time_of,
)
from gym_ray.atif.sequences import has_tokens, is_turn, sequence_of
from gym_ray.atif.steps import items_of, tools_of
from gym_ray.atif.trajectories import trajectory_of
from gym_ray.errors import RolloutFailure
from gym_ray.renderers.items import Item
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.task import check_row, rollout_id_of, task_id_of
from gym_ray.transcript import Transcript


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where another tool's trajectories come from, and what they are to belong to.

    Attributes:
        file, line: of this one.
        run_id: of the import.
        environment: of the rollouts.
    """

    file: str
    line: int
    run_id: str
    environment: str


class Numbers:
    """Numbers tasks, and the rollouts of each, in the order in which they come.

    Holds 16 bytes of each task ID: the chance that two of ten million agree is 10^-25.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[int, int]] = {}

    def next(self, task_id: str) -> tuple[int, int]:
        """`task_index` and `rollout_index` of the next rollout of a task."""
        key = bytes.fromhex(task_id[:32])
        task, rollouts = self._seen.get(key, (len(self._seen), 0))
        self._seen[key] = (task, rollouts + 1)
        return task, rollouts


def is_ours(trajectory: Trajectory) -> bool:
    """Whether `export atif` wrote it."""
    return "gym_ray" in (trajectory.extra or {})


def restored(trajectory: Trajectory, tree: Any) -> Rollout:
    """The rollout a trajectory of ours was.

    Args:
        trajectory: checked.
        tree: the same as it was parsed.

    Raises:
        Refused: something was changed since it was exported.
    """
    try:
        columns = Columns.model_validate((trajectory.extra or {})["gym_ray"])
    except pydantic.ValidationError as error:
        raise refused(error, "extra.gym_ray.") from None
    sequence = sequence_of(trajectory)
    if sequence.side_branches:
        raise TrajectoryRefused(
            "steps",
            "have a prompt_token_ids that does not continue the turn before; undo the change",
        )
    try:
        rollout = rollout_of_columns(
            columns,
            {name: getattr(sequence, name) for name in ("token_ids", "loss_mask", "logprobs")}
            | {"turns": tuple(sequence.turns)},
        )
        made = trajectory_of(rollout)
    except (ValueError, KeyError, TypeError) as error:
        raise TrajectoryRefused("extra.gym_ray", f"is of no rollout: {error}") from None
    made["agent"].pop("version")  # Of the gym-ray that wrote it.
    changed = next(_changes(made, tree, ""), None)
    if changed is not None:
        raise TrajectoryRefused(
            changed,
            "is not what extra.gym_ray says; undo the change, or take extra.gym_ray away to import "
            "it as another tool's",
        )
    return rollout


def adopted(trajectory: Trajectory, origin: Origin, numbers: Numbers) -> Rollout:
    """A rollout of another tool's trajectory.

    Its task is what comes before the first turn, and the tools, so trajectories with the same
    beginning are rollouts of the same task. Where a turn's tokens do not continue the one before,
    the last branch is the rollout and what came before it its prompt. The reward is
    `final_metrics.extra.reward` or `extra.reward`, if there is one.

    Raises:
        Refused: no model was called in it, nothing was asked, or it holds what a row cannot.
    """
    steps = trajectory.steps
    sampled = [number for number, step in enumerate(steps) if is_turn(step)]
    if not sampled:
        raise TrajectoryRefused("steps", "has no step of the agent in which a model was called")
    sequence = sequence_of(trajectory)
    final = (
        [sampled[number] for number in sequence.turn_numbers]
        if isinstance(sequence, Transcript)
        else sampled
    )
    items = [items_of(step, number) for number, step in enumerate(steps)]
    asked = _joined(items[: sampled[0]])
    prompt = _joined(items[: final[0]])
    response = _joined(
        [
            items[number]
            for number in range(final[0], len(steps))
            if _belongs(steps[number], number, final)
        ]
    )
    if not asked:
        raise TrajectoryRefused(
            "steps", "begins with the agent's; put what it was asked before, in a step of the user"
        )
    tools = tools_of(trajectory.agent.tool_definitions or ())
    task = {"responses_create_params": {"input": asked, **({"tools": tools} if tools else {})}}
    try:
        check_row(task)
        task_id = task_id_of(task)
    except RolloutFailure as error:
        raise TrajectoryRefused("", f"makes a task that {error.message}") from None
    reward = _reward(trajectory)
    started_at, seconds = _times(steps)
    totals = trajectory.final_metrics or FinalMetrics()
    cost = totals.total_cost_usd
    when = {} if started_at is None else {"started_at": started_at}
    task_index, rollout_index = numbers.next(task_id)
    return Rollout(
        spec=RolloutSpec(
            rollout_id=rollout_id_of(task_id, origin.environment, rollout_index),
            task_id=task_id,
            task_index=task_index,
            rollout_index=rollout_index,
            environment=origin.environment,
            source_file=origin.file,
            source_line=origin.line,
            task=json.dumps(task),
        ),
        run_id=origin.run_id,
        agent=trajectory.agent.name,
        model=trajectory.agent.model_name or _model(steps),
        status="completed",
        reward=reward,
        metrics={} if cost is None else {"cost_usd": cost},
        token_ids=sequence.token_ids,
        loss_mask=sequence.loss_mask,
        logprobs=sequence.logprobs,
        turns=tuple(sequence.turns),
        side_branches=sequence.side_branches,
        prompt=json.dumps(prompt),
        response=json.dumps(response),
        tools=json.dumps(tools),
        seconds=seconds,
        **when,
    )


def remarks(trajectory: Trajectory, rollout: Rollout) -> Iterator[str]:
    """What is to be known of another tool's trajectory and its rollout, for the report."""
    told = [has_tokens(step.metrics) for step in trajectory.steps if is_turn(step)]
    if any(told) and not all(told):
        yield "have tokens on some steps only, and were read without"
    if rollout.side_branches:
        yield "have turns whose tokens do not continue the one before: side branches"
    if trajectory.subagent_trajectories:
        yield "have trajectories of subagents, which were left out"
    if trajectory.continued_trajectory_ref is not None:
        yield "are continued in another file"


def _belongs(step: TrajectoryStep, number: int, final: Sequence[int]) -> bool:
    """Whether a step after the first turn is of the rollout; turns of other branches are not."""
    if step.source != "agent" or number in final:
        return True
    if is_turn(step):
        return False
    raise TrajectoryRefused(
        f"steps[{number}]",
        "is the agent's without a call of the model, after its first turn: a rollout would take it "
        "for sampled; leave the step out",
    )


def _joined(parts: Sequence[list[Item]]) -> list[Item]:
    return [item for part in parts for item in part]


def _changes(made: Any, found: Any, where: str) -> Iterator[str]:
    """Places where `found` does not say what `made` does; it may say more."""
    if isinstance(made, dict) and isinstance(found, dict):
        for key, value in made.items():
            yield from _changes(value, found.get(key), f"{where}.{key}" if where else key)
    elif isinstance(made, list) and isinstance(found, list) and made != found:
        if len(made) != len(found):
            yield where
        for number, (one, other) in enumerate(zip(made, found, strict=False)):
            yield from _changes(one, other, f"{where}[{number}]")
    elif made != found:
        yield where


def _times(steps: Sequence[TrajectoryStep]) -> tuple[Any, float]:
    times = [time_of(step.timestamp) for step in steps if step.timestamp is not None]
    if not times:
        return None, 0.0
    return min(times), (max(times) - min(times)).total_seconds()


def _model(steps: Sequence[TrajectoryStep]) -> str:
    return next((step.model_name for step in steps if step.model_name), "")


def _reward(trajectory: Trajectory) -> float | None:
    totals = trajectory.final_metrics or FinalMetrics()
    for field, extra in (
        ("final_metrics.extra.reward", totals.extra),
        ("extra.reward", trajectory.extra),
    ):
        reward = (extra or {}).get("reward")
        if reward is None:
            continue
        if isinstance(reward, bool) or not isinstance(reward, int | float):
            raise TrajectoryRefused(field, f"must be a number, got {json.dumps(reward)[:60]}")
        if not math.isfinite(reward):
            raise TrajectoryRefused(field, "must be finite")
        return float(reward)
    return None
