"""`collect` on a real local Ray with the scripted policy, through its public interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gym_ray
from gym_ray.store.rows import broken_invariants
from gym_ray.store.schema import SCHEMA
from tests.cluster import HERE, free_port, logged_requests, scripted_config, sums, write_rows


def collect(config: dict[str, Any], *overrides: str) -> gym_ray.RunSummary:
    return gym_ray.collect(config, overrides, quiet=True)


def ids_of(summary: gym_ray.RunSummary) -> set[str]:
    return {rollout.spec.rollout_id for rollout in gym_ray.read_rollouts(summary.output)}


def test_every_rollout_is_collected_once_and_keeps_the_token_contract(
    tmp_path: Path, requests: Path
) -> None:
    rows = write_rows(tmp_path / "tasks.jsonl", sums(100, tmp_path))
    config = scripted_config(tmp_path, rows, requests, collect__num_repeats=3)

    summary = collect(config)

    assert (summary.expected, summary.completed) == (300, 300)
    assert summary.reward.mean == 1.0
    assert summary.reward.coverage == 1.0
    rollouts = list(gym_ray.read_rollouts(summary.output))
    assert len({rollout.spec.rollout_id for rollout in rollouts}) == 300
    order = [(rollout.spec.task_index, rollout.spec.rollout_index) for rollout in rollouts]
    assert order == [(task, repeat) for task in range(100) for repeat in range(3)]
    assert broken_invariants(rollouts) == []
    for rollout in rollouts:
        task = json.loads(rollout.spec.task)
        prompt_length = rollout.turns[0].prompt_length
        decoded = bytes(token for token in rollout.token_ids.tolist() if token < 256).decode()
        assert task["responses_create_params"]["input"][0]["content"] in decoded
        assert rollout.loss_mask[prompt_length:].all()
        assert json.loads(rollout.response)[0]["content"][0]["text"] == task["expected_answer"]
    arrow = gym_ray.read_rollouts(summary.output).to_arrow()
    assert arrow.schema.names == SCHEMA.names


def test_a_thousand_rows_with_ten_malformed_ones(tmp_path: Path, requests: Path) -> None:
    lines = [json.dumps(row) for row in sums(1000, tmp_path)]
    user = {"role": "user", "content": "1 + 1 = ?"}
    broken = {
        3: "{not json",
        101: "[1, 2]",
        202: json.dumps({"expected_answer": "2"}),
        303: json.dumps({"responses_create_params": "1 + 1 = ?", "expected_answer": "2"}),
        404: json.dumps({"responses_create_params": {"input": []}, "expected_answer": "2"}),
        505: json.dumps(
            {
                "responses_create_params": {"input": [{**user, "role": "robot"}]},
                "expected_answer": "2",
            }
        ),
        606: json.dumps(
            {"responses_create_params": {"input": [user], "temprature": 1}, "expected_answer": "2"}
        ),
        707: json.dumps({"responses_create_params": {"input": [user]}}),
        808: json.dumps(
            {"responses_create_params": {"input": [user]}, "agent_ref": 7, "expected_answer": "2"}
        ),
        909: json.dumps(
            {
                "responses_create_params": {"input": [user], "temperature": "hot"},
                "expected_answer": "2",
            }
        ),
    }
    for number, line in broken.items():
        lines[number - 1] = line
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(lines))

    summary = collect(scripted_config(tmp_path, path, requests, collect__max_in_flight=256))

    assert (summary.completed, summary.failed, summary.pending) == (990, 10, 0)
    assert summary.failure_kinds == {"task_invalid": 10}
    assert summary.reward.coverage == 0.99
    failed = [r for r in gym_ray.read_rollouts(summary.output) if r.status == "failed"]
    assert [rollout.spec.source_line for rollout in failed] == sorted(broken)
    for rollout in failed:
        assert rollout.reward is None
        assert rollout.error is not None
        assert rollout.error.startswith(f"{path}:{rollout.spec.source_line}: row ")


def test_misbehaving_environments_cost_their_own_rollouts_only(
    tmp_path: Path, requests: Path
) -> None:
    rows = sums(20, tmp_path)
    rows[2]["verify"], rows[5]["verify"], rows[8]["verify"] = "hang", "crash", "raise"
    rows[11]["reset_error"] = "no such level"
    rows[14]["reset_seconds"] = 3600.0
    path = write_rows(tmp_path / "tasks.jsonl", rows)
    config = scripted_config(tmp_path, path, requests, collect__rollout_timeout_seconds=8)

    summary = collect(config)

    kinds = {
        rollout.spec.task_index: str(rollout.error_kind)
        for rollout in gym_ray.read_rollouts(summary.output)
        if rollout.status == "failed"
    }
    assert kinds == {
        2: "verifier_timeout",
        5: "verifier_error",
        8: "verifier_error",
        11: "environment_error",
        14: "rollout_timeout",
    }
    assert (summary.completed, summary.failed, summary.reward.mean) == (15, 5, 1.0)


def test_policy_failures_are_retried_and_counted(tmp_path: Path, requests: Path) -> None:
    flaky = sums(60, tmp_path)
    for row in flaky:
        row["responses_create_params"]["instructions"] = "flaky"
    rows = write_rows(tmp_path / "tasks.jsonl", flaky)
    config = scripted_config(
        tmp_path,
        rows,
        requests,
        collect__max_attempts=8,
    )

    summary = collect(config)

    assert summary.completed == 60
    attempts = {r.spec.rollout_id: r.attempts for r in gym_ray.read_rollouts(summary.output)}
    assert summary.retried == sum(count > 1 for count in attempts.values()) > 0
    assert len(logged_requests(requests, attempts)) == sum(attempts.values())


def test_a_prompt_longer_than_the_context_is_rejected_as_data(
    tmp_path: Path, requests: Path
) -> None:
    rows = sums(5, tmp_path)
    rows[3]["responses_create_params"]["input"][0]["content"] = "1 + 1 = ?" + "x" * 5000
    path = write_rows(tmp_path / "tasks.jsonl", rows)
    config = scripted_config(tmp_path, path, requests)

    summary = collect(config)

    assert (summary.completed, summary.failure_kinds) == (4, {"policy_rejected": 1})


def test_a_finished_run_is_not_run_again_and_an_extended_one_only_where_it_grew(
    tmp_path: Path,
    requests: Path,
) -> None:
    path = write_rows(tmp_path / "tasks.jsonl", sums(20, tmp_path))
    config = scripted_config(tmp_path, path, requests)
    first = collect(config)

    again = collect(config)

    assert (again.completed, again.run_id) == (20, first.run_id)
    assert len(logged_requests(requests, ids_of(again))) == 20

    write_rows(path, sums(30, tmp_path))
    with pytest.raises(gym_ray.ConfigError, match=r"input changed.*collect\.extend=true"):
        collect(config)
    extended = collect(config, "collect.extend=true")

    assert (extended.expected, extended.completed) == (30, 30)
    asked = logged_requests(requests, ids_of(extended))
    assert len(asked) == len(set(asked)) == 30


def test_a_changed_config_is_refused_with_the_differing_keys(
    tmp_path: Path, requests: Path
) -> None:
    path = write_rows(tmp_path / "tasks.jsonl", sums(4, tmp_path))
    config = scripted_config(tmp_path, path, requests)
    collect(config)

    with pytest.raises(gym_ray.ConfigError, match=r"sampling\.temperature: 1\.0 -> 0\.5"):
        collect(config, "sampling.temperature=0.5")
    assert collect(config, "collect.max_in_flight=2").completed == 4


def test_stragglers_hold_back_nothing_and_the_run_deadline_leaves_them_to_a_second_command(
    tmp_path: Path, requests: Path
) -> None:
    rows = sums(1100, tmp_path)
    straggles = tmp_path / "straggles"
    straggles.touch()
    # One in every row group of the manifest, and more row groups than are in work at once.
    for index in (7, 300, 600, 900, 1050):
        rows[index]["reset_waits_while"] = str(straggles)
    path = write_rows(tmp_path / "tasks.jsonl", rows)
    config = scripted_config(
        tmp_path, path, requests, collect__run_timeout_seconds=30, collect__drain_timeout_seconds=1
    )

    summary = collect(config)

    assert summary.interrupted == "run_timeout"
    assert (summary.completed, summary.pending) == (1095, 5)
    assert summary.seconds < 90
    assert len(list(gym_ray.read_rollouts(summary.output))) == 1095

    straggles.unlink()
    finished = collect(config, "collect.run_timeout_seconds=300")

    assert (finished.interrupted, finished.completed, finished.pending) == (None, 1100, 0)
    asked = logged_requests(requests, ids_of(finished))
    assert len(asked) == len(set(asked)) == 1100


def test_retryable_failures_run_again_when_the_command_is_issued_again(
    tmp_path: Path, requests: Path
) -> None:
    broken = tmp_path / "sandbox-is-broken"
    broken.touch()
    rows = sums(10, tmp_path)
    rows[4]["reset_sandbox_error_while"] = str(broken)
    rows[6]["verify"] = "raise"
    path = write_rows(tmp_path / "tasks.jsonl", rows)
    config = scripted_config(tmp_path, path, requests, collect__max_attempts=2)

    first = collect(config)
    broken.unlink()
    second = collect(config)

    assert first.failure_kinds == {"sandbox_error": 1, "verifier_error": 1}
    assert second.failure_kinds == {"verifier_error": 1}
    assert (second.expected, second.completed, second.failed) == (10, 9, 1)
    ids = [rollout.spec.rollout_id for rollout in gym_ray.read_rollouts(second.output)]
    assert len(ids) == len(set(ids)) == 10


def test_a_policy_that_cannot_start_is_one_clear_error(tmp_path: Path, requests: Path) -> None:
    path = write_rows(tmp_path / "tasks.jsonl", sums(2, tmp_path))
    config = scripted_config(tmp_path, path, requests)
    config["policy"]["engine_args"]["reply"] = "tests.replies:no_such_function"

    with pytest.raises(gym_ray.ConfigError, match="no_such_function") as caught:
        collect(config)

    assert "Traceback" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_process_may_have_one_ray_after_another(tmp_path: Path, requests: Path) -> None:
    """As two collections with outside agents have, without `RAY_ADDRESS`."""
    path = write_rows(tmp_path / "tasks.jsonl", sums(1, tmp_path))
    config = scripted_config(tmp_path, path, requests, serve__port=free_port())
    (tmp_path / "config.json").write_text(json.dumps(config))
    program = """
from gym_ray.config.load import load_config
from gym_ray.serving.cluster import connect, disconnect
from gym_ray.serving.http import start_http

config = load_config("config.json")
for _ in range(2):
    cluster = connect(config)
    print(start_http(config.serve, print))
    disconnect(cluster)
"""
    surroundings = {name: v for name, v in os.environ.items() if name != "RAY_ADDRESS"}

    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=surroundings | {"PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    address = f"http://127.0.0.1:{config['serve']['port']}\n"
    assert (ended.stdout, ended.returncode) == (address * 2, 0), ended.stderr
