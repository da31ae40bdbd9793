"""Ready-made parts of a composed verdict, for `verifiers` in a config.

verifiers:
  correct: {use: environment}
  tagged: {use: "gym_ray.verifiers.builtin_parts:matches", params: {pattern: "<answer>"}, gate: 1}
  brevity: {use: "gym_ray.verifiers.builtin_parts:brevity", params: {characters: 2000}, weight: 0.1}
"""

from __future__ import annotations

import re

from gym_ray.environment import Outcome


def matches(outcome: Outcome, *, pattern: str) -> bool:
    """Whether the final answer has a match of a regular expression, over several lines too."""
    return re.search(pattern, outcome.text, re.DOTALL) is not None


def finished(outcome: Outcome) -> bool:
    """Whether the rollout ended by itself."""
    return outcome.truncation_reason is None


def brevity(outcome: Outcome, *, characters: int) -> float:
    """1 for an answer of at most so many characters, falling to 0 at twice as many."""
    return min(1.0, max(0.0, 2.0 - len(outcome.text) / characters))
