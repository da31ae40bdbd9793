"""Which rollouts of a group are set against each other. Pure decisions over numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

Pairing = Literal["best-worst", "all-above-margin", "length-matched"]


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A rollout that may be one of a pair.

    Attributes:
        reward: its reward.
        length: tokens it sampled.
        may_be_chosen: False for one that may only be rejected.
    """

    reward: float
    length: int
    may_be_chosen: bool = True


def pairs_of(
    candidates: Sequence[Candidate], pairing: Pairing, margin: float
) -> list[tuple[int, int]]:
    """Pairs (chosen, rejected) of a group, by position.

    In every pair the chosen one's reward is at least `margin` higher, and higher. Among equals
    the earlier position is taken.

    * `best-worst`: the highest reward that may be chosen against the lowest.
    * `all-above-margin`: every such pair, the largest difference first.
    * `length-matched`: the one pair whose lengths are closest, |a - b| / max(a, b), so that
      the preference teaches no length; among equals the larger difference.
    """
    found = list(_above_margin(candidates, margin))
    if pairing == "length-matched":
        found.sort(key=lambda pair: (_mismatch(candidates, pair), -_gap(candidates, pair), pair))
        return found[:1]
    found.sort(key=lambda pair: (-_gap(candidates, pair), pair))
    # The largest difference is that of the best and the worst.
    return found[:1] if pairing == "best-worst" else found


def _above_margin(candidates: Sequence[Candidate], margin: float) -> Iterator[tuple[int, int]]:
    for i, chosen in enumerate(candidates):
        for j, rejected in enumerate(candidates):
            gap = chosen.reward - rejected.reward
            # 0.9 - 0.8 is a little less than 0.1 in binary; nobody means that by a margin.
            if chosen.may_be_chosen and gap > 0 and gap >= margin - 1e-9:
                yield i, j


def _gap(candidates: Sequence[Candidate], pair: tuple[int, int]) -> float:
    return candidates[pair[0]].reward - candidates[pair[1]].reward


def _mismatch(candidates: Sequence[Candidate], pair: tuple[int, int]) -> float:
    lengths = candidates[pair[0]].length, candidates[pair[1]].length
    return abs(lengths[0] - lengths[1]) / max(*lengths, 1)
