"""What exports decide by numbers alone: advantages, pairs, packing; worked by hand."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_ray.export.packing import packing_of, sequences_needed
from gym_ray.export.pairs import Candidate, pairs_of
from gym_ray.verifiers.advantages import leave_one_out, standardized


def group(*rewards: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(rewards, dtype=np.float64)


def candidates(*rewards: float, lengths: tuple[int, ...] = ()) -> list[Candidate]:
    sizes = lengths or (1,) * len(rewards)
    return [Candidate(reward, size) for reward, size in zip(rewards, sizes, strict=True)]


def test_standardized_advantages_are_deviations_in_sample_standard_deviations() -> None:
    # mean 0.25; squares 0.5625 + 3 * 0.0625 = 0.75, over 3 = 0.25, std 0.5.
    assert standardized(group(1, 0, 0, 0)).tolist() == [1.5, -0.5, -0.5, -0.5]
    # mean 2, squares 1 + 0 + 1, over 2 = 1.
    assert standardized(group(1, 2, 3)).tolist() == [-1.0, 0.0, 1.0]
    assert standardized(group(0, 1)) == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)])


def test_leave_one_out_advantages_compare_with_the_mean_of_the_others() -> None:
    # 1 - 0; 0 - 1/3 three times.
    assert leave_one_out(group(1, 0, 0, 0)) == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    # 1 - 2.5, 2 - 2, 3 - 1.5.
    assert leave_one_out(group(1, 2, 3)) == pytest.approx([-1.5, 0, 1.5])


@pytest.mark.parametrize("rewards", [(), (0.7,), (0.1, 0.1, 0.1)])
def test_a_group_without_differences_has_no_advantages(rewards: tuple[float, ...]) -> None:
    assert not standardized(group(*rewards)).any()
    assert not leave_one_out(group(*rewards)).any()


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_leave_one_out_is_what_its_definition_says(rewards: list[float]) -> None:
    found = leave_one_out(group(*rewards))

    for place, reward in enumerate(rewards):
        others = rewards[:place] + rewards[place + 1 :]
        assert found[place] == pytest.approx(reward - sum(others) / len(others), abs=1e-9)


def test_best_against_worst_takes_the_earlier_among_equals() -> None:
    assert pairs_of(candidates(0, 1, 1, 0), "best-worst", 0.1) == [(1, 0)]
    assert pairs_of(candidates(0.5, 0.45), "best-worst", 0.1) == []
    assert pairs_of(candidates(1, 1), "best-worst", 0.0) == []


def test_a_difference_of_exactly_the_margin_is_enough() -> None:
    assert pairs_of(candidates(0.9, 0.8), "best-worst", 0.1) == [(0, 1)]


def test_all_pairs_above_the_margin_come_largest_difference_first() -> None:
    assert pairs_of(candidates(0, 1, 0.5), "all-above-margin", 0.5) == [(1, 0), (1, 2), (2, 0)]
    assert pairs_of(candidates(0, 1, 0.5), "all-above-margin", 0.6) == [(1, 0)]


def test_length_matched_takes_the_pair_of_closest_lengths() -> None:
    # Differences: (0, 1) |100 - 10| / 100 = 0.9, (0, 2) |100 - 90| / 100 = 0.1.
    found = pairs_of(candidates(1, 0, 0.5, lengths=(100, 10, 90)), "length-matched", 0.1)
    assert found == [(0, 2)]
    # Of equal lengths, the larger difference.
    found = pairs_of(candidates(1, 0.5, 0, lengths=(5, 5, 5)), "length-matched", 0.1)
    assert found == [(0, 2)]


def test_what_may_not_be_chosen_may_be_rejected() -> None:
    cut = [Candidate(1.0, 1, may_be_chosen=False), Candidate(0.5, 1), Candidate(0.0, 1)]

    assert pairs_of(cut, "all-above-margin", 0.1) == [(1, 2)]
    assert pairs_of([Candidate(1.0, 1), Candidate(0.0, 1, False)], "best-worst", 0.1) == [(0, 1)]


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(1, 50)), max_size=8),
    st.sampled_from(["best-worst", "all-above-margin", "length-matched"]),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_every_pair_keeps_the_margin(
    members: list[tuple[float, int]], pairing: str, margin: float
) -> None:
    group = [Candidate(reward, length) for reward, length in members]
    pairs = pairs_of(group, pairing, margin)  # type: ignore[arg-type]

    assert len(set(pairs)) == len(pairs)
    for chosen, rejected in pairs:
        gap = group[chosen].reward - group[rejected].reward
        assert gap > 0
        assert gap >= margin - 1e-9
    best = max((r for r, _ in members), default=0) - min((r for r, _ in members), default=0)
    assert bool(pairs) == (best > 0 and best >= margin)


def test_packing_counts_sequences_and_how_full_they_are() -> None:
    # 7 + 3, 6 + 4, 5 + 5: three sequences of 10.
    packing = packing_of({7: 1, 3: 1, 6: 1, 4: 1, 5: 2}, sampled_tokens=12, length=10)

    assert packing is not None
    assert (packing.sequences, packing.packed_fill) == (3, 1.0)
    assert (packing.rows, packing.tokens, packing.longest) == (6, 30, 7)
    assert packing.padded_fill == pytest.approx(30 / 42)
    assert (packing.mean, packing.p50, packing.p90, packing.p99) == (5.0, 5, 7, 7)


def test_rows_longer_than_a_packed_sequence_are_counted_apart() -> None:
    packing = packing_of({4: 2, 9: 1}, sampled_tokens=1, length=8)

    assert packing is not None
    assert (packing.too_long, packing.sequences, packing.packed_fill) == (1, 1, 1.0)
    assert packing_of({}, sampled_tokens=0, length=None) is None


@given(st.lists(st.integers(1, 64), min_size=1, max_size=60))
def test_packed_sequences_hold_all_rows_and_are_near_the_fewest(lengths: list[int]) -> None:
    needed = sequences_needed(collections.Counter(lengths), 64)

    fewest = math.ceil(sum(lengths) / 64)
    assert fewest <= needed <= len(lengths)
    # No two sequences are half empty under any fit that reuses room.
    assert needed <= 2 * fewest
