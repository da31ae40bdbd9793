"""Advantages of the rollouts of a group, relative to one another. Pure numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rewards = npt.NDArray[np.float64]


def standardized(rewards: Rewards) -> Rewards:
    """Each reward in standard deviations from the group's mean.

    A_i = (r_i - mean(r)) / std(r), the outcome-supervised advantage of GRPO (Shao et al. 2024,
    DeepSeekMath, arXiv:2402.03300, section 4.1.2). std is the sample standard deviation (ddof 1);
    the paper leaves it open. No epsilon is added: where all rewards are equal, or there is one
    only, every advantage is 0.

    Args:
        rewards: float64 [G], of one group.
    """
    if has_no_signal(rewards):
        return np.zeros(len(rewards))
    found: Rewards = (rewards - rewards.mean()) / rewards.std(ddof=1)
    return found


def leave_one_out(rewards: Rewards) -> Rewards:
    """Each reward less the mean of the others.

    A_i = r_i - 1/(G-1) * sum over j != i of r_j = G/(G-1) * (r_i - mean(r)), the baseline of RLOO
    (Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740, equation 8). Not divided by a
    standard deviation. A group of one has no others: its advantage is 0.

    Args:
        rewards: float64 [G], of one group.
    """
    if has_no_signal(rewards):
        return np.zeros(len(rewards))
    found: Rewards = (rewards - rewards.mean()) * (len(rewards) / (len(rewards) - 1))
    return found


def has_no_signal(rewards: Rewards) -> bool:
    """Whether all rewards are equal, so that no rollout is better than another."""
    return len(rewards) == 0 or bool(np.all(rewards == rewards[0]))
