"""A rollout as trainers of one prompt and one completion want it: TRL's and verl's common form.

Owned here: where the prompt ends, and which rollouts have no such form. Not owned here: any
trainer's names for it (`trl.py`, `verl.py`).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from gym_ray.rollout import Rollout


class NotTrainable(Exception):
    """A rollout that is no prompt and completion; the message says why. Picklable."""


@dataclasses.dataclass(frozen=True, slots=True)
class Completion:
    """One sequence, cut before the first token that the policy sampled.

    Attributes:
        prompt_ids: [P], up to the first sampled token.
        completion_ids: [C], all that follows: generations, and between them what the environment
            and its tools said.
        mask: [C], 1 where sampled.
        logprobs: [C], sampling logprob where sampled, 0 elsewhere.
        reward: of the whole rollout.
        versions: oldest and newest weights that sampled any of it.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    mask: list[int]
    logprobs: list[float]
    reward: float
    versions: tuple[int, int]


def completion_of(rollout: Rollout) -> Completion:
    """The completion of a verified rollout; nothing is tokenized again.

    Args:
        rollout: of a client's result, or as `read_rollouts` yields it.

    Raises:
        NotTrainable: it failed, has no tokens (a policy that returns none), or several branches,
            which are several sequences with one reward.
    """
    task = rollout.spec.task_index
    if rollout.status == "failed" or rollout.reward is None:
        raise NotTrainable(f"task {task} failed with {rollout.error_kind}: {rollout.error}")
    if rollout.side_branches:
        raise NotTrainable(
            f"task {task} has {len(rollout.side_branches)} side branches, since its "
            "agent edited the history; train on `gym-ray export rl`, which has a row for each"
        )
    sampled = np.flatnonzero(rollout.loss_mask)
    if not len(sampled):
        raise NotTrainable(
            f"task {task} has no sampled tokens; serve a policy with "
            "`engine: vllm`, which returns them"
        )
    start = int(sampled[0])
    versions = [span.version for turn in rollout.turns for span in turn.version_spans]
    return Completion(
        prompt_ids=rollout.token_ids[:start].tolist(),
        completion_ids=rollout.token_ids[start:].tolist(),
        mask=rollout.loss_mask[start:].tolist(),
        logprobs=rollout.logprobs[start:].tolist(),
        reward=rollout.reward,
        versions=(min(versions), max(versions)),
    )
