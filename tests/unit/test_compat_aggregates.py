"""Aggregate metrics of a rollouts file, as NeMo Gym defines them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from gym_ray.compat import aggregate_metrics
from gym_ray.compat.aggregate_metrics import write_aggregate_metrics

Row = dict[str, Any]


def rollout(task: int, repeat: int, reward: float, agent: str = "a", **fields: Any) -> Row:
    usage = {"input_tokens": 10 * (task + 1), "input_tokens_details": {"cached_tokens": 0}}
    return {
        "responses_create_params": {"input": "?"},
        "response": {"output": [], "usage": usage},
        "reward": reward,
        "agent_ref": {"name": agent},
        "_ng_task_index": task,
        "_ng_rollout_index": repeat,
        **fields,
    }


def aggregated(folder: Path, rows: list[Row], expected: dict[str, int], tasks: Row) -> list[Row]:
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = folder / "metrics.json"
    write_aggregate_metrics(folder / "rollouts.jsonl", output, expected, Counter(tasks))
    found: list[Row] = json.loads(output.read_text())
    return found


def test_numbers_of_a_run_are_those_nemo_gym_gives(tmp_path: Path) -> None:
    rows = [
        rollout(0, 0, 1.0, correct=True, answer="x", _ng_attempt_index=1),
        rollout(0, 1, 0.0, correct=False),
        rollout(3, 0, 0.5, correct=True),
    ]

    (entry,) = aggregated(tmp_path, rows, {"a": 4}, {0: 2, 3: 2})

    assert list(entry) == ["agent_ref", "agent_metrics", "key_metrics", "group_level_metrics"]
    assert entry["agent_ref"] == {"name": "a"}
    metrics = entry["agent_metrics"]
    assert {key: value for key, value in metrics.items() if key.endswith("/reward")} == {
        "mean/reward": 0.5, "max/reward": 1.0, "min/reward": 0.0, "median/reward": 0.5,
        "std/reward": 0.5,
    }  # fmt: skip
    assert metrics["mean/correct"] == 2 / 3
    assert metrics["median/input_tokens"] == 10.0
    assert not any("answer" in key or "attempt" in key for key in metrics)
    assert metrics["num_repeats"] == 2
    assert entry["key_metrics"] == {
        "mean/reward": 0.5, "mean/correct": 2 / 3, "mean/input_tokens": 20.0,
        "coverage/expected": 4, "coverage/scored": 3, "coverage/missing": 1,
    }  # fmt: skip
    first, last = entry["group_level_metrics"]
    assert (first["_ng_task_index"], first["num_rollouts"]) == (0, 2)
    assert first["reward_profile_completion_pct"] == 100.0
    assert first["rollout_infos"][1] == {
        "rollout_id": "0:1", "_ng_task_index": 0, "_ng_rollout_index": 1, "reward": 0.0,
        "correct": 0.0, "input_tokens": 10.0,
    }  # fmt: skip
    assert (last["std/reward"], last["mean/reward"], last["missing_num_rollouts"]) == (0.0, 0.5, 1)
    assert last["expected_num_rollouts"] == 2


def test_agents_are_apart_and_many_values_are_all_counted(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(aggregate_metrics, "_SPILL_VALUES", 4)
    rows = [rollout(n, 0, float(n), "ab"[n % 2]) for n in range(21)]

    first, second = aggregated(tmp_path, rows, {"a": 11, "b": 10}, dict.fromkeys(range(21), 1))

    assert (first["agent_ref"]["name"], second["agent_ref"]["name"]) == ("a", "b")
    assert (first["agent_metrics"]["median/reward"], first["agent_metrics"]["max/reward"]) == (
        10.0, 20.0,
    )  # fmt: skip
    assert second["agent_metrics"]["mean/reward"] == 10.0
    assert [len(entry["group_level_metrics"]) for entry in (first, second)] == [11, 10]


def test_a_run_without_a_verified_rollout_has_no_entries(tmp_path: Path) -> None:
    assert aggregated(tmp_path, [], {"a": 1}, {0: 1}) == []
