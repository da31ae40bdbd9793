"""The scores of one task, and how they are computed: the values a tally is made of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from gym_ray.metrics.facts import Fact
from gym_ray.metrics.scores import (
    average_of_k,
    best_at_k,
    default_ks,
    majority_at_k,
    pass_at_k,
    pass_hat_k,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How metrics are computed.

    Attributes:
        ks: the k of every score at k; None for 1, 2, 4, ... up to the most rollouts of a task.
        success: rewards from here on count as passed.
        confidence: of the intervals.
        resamples: bootstrap resamples and random sign changes.
        seed: of both.
        trust_run: load environments that a run names which came from elsewhere.
    """

    ks: tuple[int, ...] | None = None
    success: float = 1.0
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0
    trust_run: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class TaskScores:
    """One task.

    Attributes:
        environment, task_id, task_index: which.
        rollouts: stored.
        rewarded: of them, with a reward: n of the scores.
        passed: of those, with a reward of at least `Options.success`.
        mean_reward, std_reward: over the rewarded; sample deviation, 0 for one; None for none.
        scores: measure to fraction, those defined for the task.
    """

    environment: str
    task_id: str
    task_index: int
    rollouts: int
    rewarded: int
    passed: int
    mean_reward: float | None
    std_reward: float | None
    scores: dict[str, float]


def score_task(group: Sequence[Fact], options: Options, *, votes: bool) -> TaskScores:
    """Scores of the rollouts of one task; `votes`: its environment tells answers."""
    rewarded = [fact for fact in group if fact.reward is not None]
    rewards = [fact.reward for fact in rewarded if fact.reward is not None]
    total = len(rewards)
    passed = sum(reward >= options.success for reward in rewards)
    scores: dict[str, float] = {}
    for k in options.ks if options.ks is not None else default_ks(total):
        found = {
            f"pass@{k}": pass_at_k(total, passed, k),
            f"pass^{k}": pass_hat_k(total, passed, k),
            f"best@{k}": best_at_k(rewards, k),
            f"avg-of-{k}": average_of_k(rewards, k),
        }
        if votes:
            ballots = [
                (fact.answer, reward) for fact, reward in zip(rewarded, rewards, strict=True)
            ]
            found[f"majority@{k}"] = majority_at_k(ballots, k)
        scores |= {name: value for name, value in found.items() if value is not None}
    if votes and rewarded:
        scores["no_answer"] = sum(fact.answer is None for fact in rewarded) / total
    mean = math.fsum(rewards) / total if total else None
    return TaskScores(
        environment=group[0].environment,
        task_id=group[0].task_id,
        task_index=group[0].task_index,
        rollouts=len(group),
        rewarded=total,
        passed=passed,
        mean_reward=mean,
        std_reward=None if mean is None else sample_std(rewards, mean),
        scores=scores,
    )


def sample_std(values: Sequence[float], mean: float) -> float:
    """Sample deviation; 0 for a single value, as NeMo Gym has it."""
    if len(values) < 2:
        return 0.0
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
