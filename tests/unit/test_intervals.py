"""Intervals cover what they say they do, and tests reject as often as they say."""

import itertools

import numpy as np
import pytest

from gym_ray.metrics.intervals import (
    Values,
    bootstrap_intervals,
    interval_at_bound,
    interval_of_equal_changes,
    sign_flip_p_values,
)


@pytest.mark.parametrize("tasks", [15, 60])
def test_intervals_cover_the_true_mean(tasks: int) -> None:
    """Difficulties differ by task, so a task's rollouts resemble each other."""
    rng = np.random.default_rng(7)
    runs, covered, narrow = 300, 0, 0
    for run in range(runs):
        chance = rng.beta(1, 1, size=tasks)
        passed = rng.binomial(8, chance).astype(float)
        sums, weights = passed[:, None], np.full((tasks, 1), 8.0)
        (interval,) = bootstrap_intervals(
            [Values.of(sums, weights)], confidence=0.95, resamples=400, seed=run
        )
        assert interval is not None
        covered += interval[0] <= 0.5 <= interval[1]
        mean = passed.sum() / (8 * tasks)
        half = 1.96 * np.sqrt(mean * (1 - mean) / (8 * tasks))
        narrow += abs(mean - 0.5) <= half

    # Standard error of a share of 0.95 among 300 is 0.0126.
    assert 0.91 <= covered / runs <= 0.99
    # The control: rollouts taken as independent of each other.
    assert narrow / runs < 0.85


def test_intervals_are_of_the_tasks_that_count_and_repeat_with_the_seed() -> None:
    sums = np.array([[1.0, 0.5, 1.0], [0.0, 0.0, 0.0], [1.0, 0.7, 0.0]])
    weights = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])

    def intervals(seed: int) -> list[tuple[float, float] | None]:
        return bootstrap_intervals(
            [Values.of(sums, weights)], confidence=0.9, resamples=200, seed=seed
        )

    whole, some, single = intervals(1)
    assert whole is not None
    assert some is not None
    assert 0.0 <= whole[0] <= 2 / 3 <= whole[1] <= 1.0
    assert 0.5 <= some[0] <= some[1] <= 0.7
    assert single is None
    assert intervals(1) == [whole, some, single]
    wide = bootstrap_intervals(
        [Values.of(sums[:1], weights[:1])], confidence=0.9, resamples=200, seed=1
    )
    assert wide == [None, None, None]


def test_tasks_in_blocks_are_drawn_as_often_as_together() -> None:
    rng = np.random.default_rng(5)
    sums, weights = rng.random((90, 2)), np.ones((90, 2))
    weights[::3, 1] = sums[::3, 1] = 0.0
    whole = Values(sums, weights, np.arange(90) % 4 + 1)
    blocks = [Values(*(values[start : start + 40] for values in whole)) for start in (0, 40, 80)]

    def intervals(of: list[Values]) -> np.ndarray:
        found = bootstrap_intervals(of, confidence=0.9, resamples=40_000, seed=1)
        return np.array(found)

    together = intervals([whole])
    width = together[:, 1] - together[:, 0]
    # A percentile of 40,000 has a standard error of 0.4 % of the width.
    assert np.all(np.abs(intervals(blocks) - together) < 0.02 * width[:, None])


def test_few_differences_are_tested_by_every_change_of_signs() -> None:
    differences = np.array([0.5, 0.25, 0.25, -0.125])
    seen = abs(differences.sum())
    signs = np.array(list(itertools.product((-1, 1), repeat=4)))
    share = np.mean(np.abs(signs @ differences) >= seen - 1e-9)
    # Tasks that do not differ, or do not have the measure, change nothing, however many.
    some, none = np.zeros(400), np.zeros(400)
    some[100:104] = differences

    found = sign_flip_p_values(np.stack([some, none], axis=1), resamples=100, seed=0)

    assert found == [pytest.approx(share), 1.0]
    assert sign_flip_p_values(np.zeros((0, 1)), resamples=100, seed=0) == [1.0]


def test_without_a_difference_one_in_twenty_is_significant_and_a_real_one_is_found() -> None:
    rng = np.random.default_rng(3)
    # Each test is of two measures: without and with a difference.
    pairs = [
        sign_flip_p_values(rng.normal([0.0, 1.0], size=(30, 2)), resamples=199, seed=run)
        for run in range(400)
    ]
    false, true = np.array(pairs).T

    # Standard error of a share of 0.05 among 400 is 0.011.
    assert 0.02 <= np.mean(false <= 0.05) <= 0.085
    assert np.mean(true <= 0.05) >= 0.9


@pytest.mark.parametrize("tasks", [2, 5, 64])
def test_a_share_at_its_bound_has_the_exact_interval(tasks: int) -> None:
    low, high = interval_at_bound(False, tasks, 0.95)
    assert low == 0.0
    # Of the shares outside, none passes seen in no task has a chance of 2.5 % or more.
    assert (1 - high) ** tasks == pytest.approx(0.025)
    assert interval_at_bound(True, tasks, 0.95) == pytest.approx((1 - high, 1.0))


@pytest.mark.parametrize("tasks", [2, 8, 64])
@pytest.mark.parametrize("change", [-1.0, 0.0, 1.0])
def test_changes_that_are_all_alike_have_an_interval_with_a_width(
    change: float, tasks: int
) -> None:
    low, high = interval_of_equal_changes(change, tasks, 0.95)

    # The largest share of other changes that would be missed so often in so many tasks.
    others = 1 - 0.025 ** (1 / tasks)
    assert -1 <= low <= change <= high <= 1
    if change == 0:
        assert (low, high) == pytest.approx((-others, others))
    else:
        assert change in (low, high)
        assert high - low == pytest.approx(min(2.0, 2 * others))
