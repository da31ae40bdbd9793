"""The summary: counts that reconcile, means that say what they are means of."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gym_ray.collection import summary as summaries
from gym_ray.collection.report import demand_complete, render
from gym_ray.collection.summary import Reward, RunSummary
from gym_ray.errors import FailureKind, Interrupted
from gym_ray.rollout import Rollout
from gym_ray.store.index import Index, count_by_status
from gym_ray.store.run_directory import RunDirectory
from gym_ray.store.segments import SegmentStore

Make = Callable[..., Rollout]
INVALID = {"status": "failed", "error_kind": FailureKind.TASK_INVALID}
SUMMARY = RunSummary(
    run_id="r",
    output="runs/demo",
    expected=10,
    completed=5,
    truncated=1,
    failed=2,
    pending=2,
    reward=Reward(0.5, 0.25, 0.6),
    environments={"math": {"completed": 5, "reward": {"mean": 0.5, "std": None, "coverage": 0.6}}},
    failure_kinds={"task_invalid": 2},
    invalid_rows=["tasks.jsonl:3: row is a JSON array"],
    retried=1,
    retried_reward_difference=-0.25,
    sampled_tokens=12345,
    shards=0,
    seconds=100.0,
    collecting_seconds=75.0,
    interrupted="signal",
    run={"ray": "2.60"},
)


@pytest.fixture
def index_of(tmp_path: Path) -> Callable[[Sequence[Rollout]], pa.Table]:
    def stored(rollouts: Sequence[Rollout]) -> pa.Table:
        store = SegmentStore(tmp_path / "segments")
        store.write("block", rollouts)
        return Index.read(list(store.files())).table

    return stored


def test_rows_are_counted_by_status(make_rollout: Make, index_of: Any) -> None:
    table = index_of(
        [
            make_rollout(0),
            make_rollout(1, status="truncated", truncation_reason="length"),
            *(make_rollout(task, **INVALID) for task in (2, 3)),
        ]
    )

    assert count_by_status(table) == {"completed": 1, "truncated": 1, "failed": 2}


def test_the_mean_is_over_rows_with_a_reward_and_says_their_share() -> None:
    rewards = pa.chunked_array([pa.array([1.0, None, 0.0]), pa.array([None, 2.0])])

    assert summaries.reward_of(rewards, 6) == Reward(mean=1.0, std=1.0, coverage=0.5)
    assert summaries.reward_of(rewards.slice(0, 2), 2) == Reward(1.0, None, 0.5)
    assert summaries.reward_of(rewards.slice(1, 1), 4) == Reward(None, None, 0.0)
    assert summaries.reward_of(rewards.slice(0, 0), 0) == Reward(None, None, 0.0)


def test_each_environment_has_its_own_counts_and_reward(make_rollout: Make, index_of: Any) -> None:
    table = index_of(
        [
            make_rollout(0, 0, "math", reward=0.5),
            make_rollout(1, 0, "math", status="failed", error_kind=FailureKind.POLICY_ERROR),
            make_rollout(2, 0, "", **INVALID),
        ]
    )

    found = summaries.by_environment(table, {"math": 4, "": 1})

    assert list(found) == ["(none)", "math"]
    assert found["math"]["reward"] == {"mean": 0.5, "std": None, "coverage": 0.25}
    assert (found["math"]["completed"], found["math"]["failed"]) == (1, 1)
    assert found["(none)"]["reward"]["mean"] is None


def test_failures_are_counted_by_kind_and_invalid_rows_quoted_once(
    make_rollout: Make, index_of: Any
) -> None:
    table = index_of(
        [
            make_rollout(0, 0, **INVALID, error="f:1: row is odd"),
            make_rollout(0, 1, **INVALID, error="f:1: row is odd"),
            make_rollout(1, 0, **INVALID, error="f:2: row is odder"),
            make_rollout(2, status="failed", error_kind=FailureKind.CANCELLED, error="gone"),
            make_rollout(3),
        ]
    )

    assert list(summaries.failure_kinds(table).items()) == [("task_invalid", 3), ("cancelled", 1)]
    assert summaries.first_invalid(table) == ["f:1: row is odd", "f:2: row is odder"]
    assert summaries.first_invalid(table, limit=1) == ["f:1: row is odd"]


def test_retried_rollouts_are_held_against_first_tries(make_rollout: Make, index_of: Any) -> None:
    table = index_of(
        [
            make_rollout(0, reward=1.0),
            make_rollout(1, reward=0.5),
            make_rollout(2, reward=0.25, attempts=2),
            make_rollout(3, attempts=3, status="failed", error_kind=FailureKind.POLICY_ERROR),
        ]
    )

    assert summaries.retried_difference(table) == (2, -0.5)
    assert summaries.retried_difference(table.slice(0, 2)) == (0, None)


def test_an_empty_index_sums_up_to_nothing() -> None:
    table = Index.read([]).table

    assert count_by_status(table) == {"completed": 0, "truncated": 0, "failed": 0}
    assert summaries.by_environment(table, {}) == summaries.failure_kinds(table) == {}
    assert summaries.first_invalid(table) == []
    assert summaries.retried_difference(table) == (0, None)


def test_a_saved_summary_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(SUMMARY.to_json())

    assert RunSummary.read(path) == SUMMARY
    assert SUMMARY.failed_share == 0.2
    assert dataclasses.replace(SUMMARY, expected=0).failed_share == 0.0


def test_the_report_reconciles_and_shows_coverage_beside_every_mean() -> None:
    assert render(SUMMARY).splitlines() == [
        "10 rollouts expected = 5 completed + 1 truncated + 2 failed + 2 pending",
        "reward 0.5000 ± 0.2500 (coverage 60.0%)",
        "  math: reward 0.5000 (coverage 60.0%)",
        "failures: 2 task_invalid",
        "  tasks.jsonl:3: row is a JSON array",
        "1 rollouts took more than one attempt, mean reward -0.250 against first tries",
        "12,345 tokens sampled; 1 min 15 s collecting, 1 min 40 s in all",
        "dataset: runs/demo/segments/ (run not complete)",
    ]


def test_the_report_of_a_run_without_rewards_has_no_mean() -> None:
    bare = dataclasses.replace(
        SUMMARY, reward=Reward(None, None, 0.0), environments={}, shards=1, retried=0
    )

    text = render(bare)

    assert "reward none (coverage 0.0%)" in text
    assert text.endswith("dataset: runs/demo/rollouts/*.parquet")
    assert "more than one attempt" not in text


def test_the_report_says_which_rollouts_serve_no_rl() -> None:
    assert "no tokens" not in render(SUMMARY)
    text = render(dataclasses.replace(SUMMARY, without_token_ids=3))
    assert "3 rollouts have no tokens" in text
    assert "SFT and DPO, not RL" in text


def test_groups_that_could_not_be_judged_are_told() -> None:
    text = render(dataclasses.replace(SUMMARY, group_failures={"rank": 3}))

    assert "3 groups could not be judged by group verifier rank" in text


def test_an_index_tells_its_part_of_a_summary(tmp_path: Path, make_rollout: Make) -> None:
    SegmentStore(tmp_path).write("b", [make_rollout(n, reward=n / 2) for n in range(3)])
    index = Index.read(list(SegmentStore(tmp_path).files()))
    directory = RunDirectory(tmp_path, 0, {"id": "r"}, resumed=False)

    def summarize(index: Index) -> RunSummary:
        return summaries.summarize(
            index,
            {"sums": 5},
            directory=directory,
            shards=0,
            seconds=1.0,
            collecting_seconds=1.0,
            interrupted=None,
        )

    told = summarize(index)

    assert (told.expected, told.completed, told.pending) == (5, 3, 2)
    assert (told.reward.mean, told.reward.coverage) == (0.5, 0.6)
    assert (told.sampled_tokens, told.without_token_ids) == (6, 0)
    assert summarize(dataclasses.replace(index, table=index.table[:0])).sampled_tokens == 0


def test_a_run_that_was_stopped_before_its_groups_were_judged_is_not_complete() -> None:
    whole = dataclasses.replace(SUMMARY, pending=0, completed=7)

    with pytest.raises(Interrupted, match="groups are not judged yet: re-issue the same command"):
        demand_complete(whole, max_failed_share=1.0)
    demand_complete(dataclasses.replace(whole, shards=1), max_failed_share=1.0)
    with pytest.raises(Interrupted, match="2 rollouts are left"):
        demand_complete(SUMMARY, max_failed_share=1.0)
