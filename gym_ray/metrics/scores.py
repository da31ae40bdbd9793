"""Scores of one task from the rewards of its rollouts: pure functions, fractions throughout.

Every score of "at k" is None when the task has fewer than k rewards, so that it can be left out
and counted, never guessed. Where a score is an estimate over all ways to draw k of the n rollouts,
no order matters; where it is of the first k, the order is that of `rollout_index`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

#: One vote: the answer a rollout settled on (None when on none) and the reward it got.
Vote = tuple[str | None, float]


def pass_at_k(total: int, passed: int, k: int) -> float | None:
    """Probability that at least one of k rollouts passes: 1 - C(n-c, k) / C(n, k).

    Unbiased for n >= k. Source: Chen et al. 2021, "Evaluating Large Language Models Trained on
    Code", arXiv:2107.03374, equation 1.

    Args:
        total: n, rollouts of the task that have a reward.
        passed: c, those of them that passed.
        k: how many are drawn, at least 1.
    """
    if total < k:
        return None
    return 1.0 - math.comb(total - passed, k) / math.comb(total, k)


def pass_hat_k(total: int, passed: int, k: int) -> float | None:
    """Probability that all of k rollouts pass, pass^k: C(c, k) / C(n, k).

    Unbiased for n >= k. Source: Yao et al. 2024, "tau-bench", arXiv:2406.12045, section 3.

    Args:
        total, passed, k: see `pass_at_k`.
    """
    if total < k:
        return None
    return math.comb(passed, k) / math.comb(total, k)


def best_at_k(rewards: Sequence[float], k: int) -> float | None:
    """Expected highest reward among k rollouts: sum over i of r_(i) C(i-1, k-1) / C(n, k).

    r_(1) <= ... <= r_(n) are the rewards in order: r_(i) is the highest of a draw when the other
    k-1 are among the i-1 below it. The mean over all draws of k, hence unbiased; with rewards of
    0 and 1 it is `pass_at_k`, and with k = n it is the highest reward.
    """
    total = len(rewards)
    if total < k:
        return None
    ordered = sorted(rewards)
    draws = math.comb(total, k)
    return math.fsum(
        reward * (math.comb(below, k - 1) / draws) for below, reward in enumerate(ordered)
    )


def average_of_k(rewards: Sequence[float], k: int) -> float | None:
    """Mean reward of the first k rollouts (NeMo Gym's `pass@1[avg-of-k]`)."""
    return math.fsum(rewards[:k]) / k if len(rewards) >= k else None


def majority_at_k(votes: Sequence[Vote], k: int) -> float | None:
    """Reward of the answer most of the first k rollouts settled on.

    Votes are counted by (answer, reward), rollouts without an answer have none, and the rewards of
    tied winners are averaged; 0 when no rollout has an answer. Source of the idea: Wang et al.
    2022, "Self-Consistency", arXiv:2203.11171; of these rules: NeMo Gym's `majority@k`.
    """
    if len(votes) < k:
        return None
    counted = Counter(vote for vote in votes[:k] if vote[0] is not None)
    if not counted:
        return 0.0
    most = max(counted.values())
    winners = [reward for (_, reward), count in counted.items() if count == most]
    return math.fsum(winners) / len(winners)


def default_ks(most: int) -> list[int]:
    """1, 2, 4, ... up to the most rollouts a task has."""
    return [2**power for power in range(most.bit_length())] if most else []
