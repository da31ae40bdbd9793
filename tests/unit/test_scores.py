"""Scores of a task: hand-computed values, NeMo Gym's, and every way to draw k gone through."""

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_ray.metrics.scores import (
    Vote,
    average_of_k,
    best_at_k,
    default_ks,
    majority_at_k,
    pass_at_k,
    pass_hat_k,
)

Groups = list[list[float]]


def percent(scores: list[float | None]) -> float:
    """Mean over the tasks that have the score, in percent."""
    return 100 * statistics.fmean(score for score in scores if score is not None)


def passes(groups: Groups, k: int) -> float:
    return percent([pass_at_k(len(g), sum(r >= 1 for r in g), k) for g in groups])


def averages(groups: Groups, k: int) -> float:
    return percent([average_of_k(g, k) for g in groups])


def test_binary_values_agree_with_nemo_gym() -> None:
    groups = [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]

    assert passes(groups, 1) == pytest.approx(50.0)
    assert passes(groups, 2) == pytest.approx(61.1111, abs=1e-4)
    assert passes(groups, 4) == pytest.approx(66.6667, abs=1e-4)
    assert averages(groups, 2) == pytest.approx(50.0)


def test_tasks_with_fewer_than_k_are_left_out_as_in_nemo_gym() -> None:
    groups = [[1.0, 0.0, 0.0], [0.0]]

    assert passes(groups, 1) == pytest.approx(16.6667, abs=1e-4)
    assert passes(groups, 3) == pytest.approx(100.0)
    # NeMo Gym's 16.6667 is avg-of-up-to-3, which test_metrics.py has.
    assert averages(groups, 3) == pytest.approx(33.3333, abs=1e-4)


def test_the_best_of_all_rewards_agrees_with_nemo_gyms_pass_at_k() -> None:
    groups = [[0.2, 0.8], [0.1, 0.5]]

    assert percent([best_at_k(group, 2) for group in groups]) == pytest.approx(65.0)
    assert averages(groups, 2) == pytest.approx(40.0)


def test_majorities_agree_with_nemo_gym() -> None:
    assert majority_at_k([("A", 1.0), ("B", 0.0)], 2) == 0.5
    same_answer = [("A", 1.0), ("A", 0.0), ("A", 0.0), ("A", 1.0)]
    assert majority_at_k(same_answer[:3], 3) == 0.0
    assert majority_at_k([("A", 1.0), ("A", 0.0), ("B", 0.0)], 3) == pytest.approx(1 / 3)


def test_a_majority_is_of_those_that_answered_among_the_first_k() -> None:
    votes: list[Vote] = [(None, 0.0), ("A", 1.0), (None, 0.0), ("B", 0.0), ("B", 0.0)]

    assert majority_at_k(votes, 1) == 0.0
    assert majority_at_k(votes, 3) == 1.0
    assert majority_at_k(votes, 5) == 0.0
    assert majority_at_k(votes, 6) is None


def test_values_by_hand() -> None:
    # n = 5, c = 2, k = 3: 1 - C(3,3)/C(5,3) = 0.9; C(2,2)/C(5,2) = 0.1.
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9)
    assert pass_hat_k(5, 2, 2) == pytest.approx(0.1)
    # Of (0, .5, 1) two are drawn: the best are .5, 1, 1.
    assert best_at_k([1.0, 0.0, 0.5], 2) == pytest.approx(2.5 / 3)


def test_scores_need_k_rollouts() -> None:
    assert pass_at_k(3, 3, 4) is None
    assert pass_hat_k(3, 3, 4) is None
    assert best_at_k([1.0] * 3, 4) is None
    assert average_of_k([1.0] * 3, 4) is None
    assert pass_at_k(0, 0, 1) is None


def test_the_usual_k_are_powers_of_two() -> None:
    assert [default_ks(most) for most in (0, 1, 4, 7)] == [[], [1], [1, 2, 4], [1, 2, 4]]


@given(
    rewards=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.0]), min_size=1, max_size=7),
    k=st.integers(1, 7),
)
def test_estimates_are_means_over_every_way_to_draw_k(rewards: list[float], k: int) -> None:
    draws = list(itertools.combinations(rewards, k))
    total, passed = len(rewards), sum(reward >= 1 for reward in rewards)
    if not draws:
        assert best_at_k(rewards, k) is None
        return
    some = statistics.fmean(any(r >= 1 for r in draw) for draw in draws)
    every = statistics.fmean(all(r >= 1 for r in draw) for draw in draws)

    assert pass_at_k(total, passed, k) == pytest.approx(some)
    assert pass_hat_k(total, passed, k) == pytest.approx(every)
    assert best_at_k(rewards, k) == pytest.approx(statistics.fmean(map(max, draws)))


@given(
    votes=st.lists(
        st.tuples(st.sampled_from(["A", "B", None]), st.sampled_from([0.0, 1.0])), max_size=6
    ),
    k=st.integers(1, 6),
)
def test_a_majority_is_the_mean_reward_of_the_most_frequent_votes(
    votes: list[Vote], k: int
) -> None:
    first = [vote for vote in votes[:k] if vote[0] is not None]
    if len(votes) < k:
        assert majority_at_k(votes, k) is None
        return
    modes = statistics.multimode(first)
    expected = statistics.fmean(reward for _, reward in modes) if modes else 0.0

    assert majority_at_k(votes, k) == pytest.approx(expected)
