"""Judges and group verifiers through `collect`: deployments, accounts, outages, groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gym_ray
from gym_ray.store.rows import broken_invariants
from tests.cluster import scripted_config, write_rows

TEMPLATE = "{prompt} The reply: {response} Rate it."


def judged_config(folder: Path, judge: dict[str, Any], **section: Any) -> dict[str, Any]:
    """Eight tasks with three rollouts each, rated by a scripted judge."""
    rows = [
        {
            "folder": str(folder),
            "responses_create_params": {"input": [{"role": "user", "content": f"{n} + {n} = ?"}]},
        }
        for n in range(8)
    ]
    config = scripted_config(
        folder,
        write_rows(folder / "tasks.jsonl", rows),
        folder / "requests",
        collect__num_repeats=3,
    )
    config["judges"] = {
        "grader": {"engine": "scripted", "resources": {"num_cpus": 0.1}, "engine_args": judge}
    }
    config["verification"] = {"timeout_seconds": 30, "processes": 1}
    config["environments"] = {
        "open": {
            "entrypoint": "gym_ray.environments.judge:JudgeEnvironment",
            "params": {"judge": "grader", "template": TEMPLATE, "score": {"high": 4}},
            "resources": {"num_cpus": 0.1},
            **section,
        }
    }
    return config


def test_a_judge_is_deployed_beside_the_policy_and_groups_are_ranked_by_it(
    tmp_path: Path, cluster: str
) -> None:
    groups = {
        "rank": {
            "use": "gym_ray.verifiers.groups:ranking",
            "params": {"judge": "grader"},
            "weight": 0.5,
        }
    }
    # Taken for a rating by the environment, and for a tie by the ranking.
    config = judged_config(tmp_path, {"reply": "[[C]], or [[3]]"}, group_verifiers=groups)

    summary = gym_ray.collect(config, quiet=True)

    assert (summary.expected, summary.completed, summary.group_failures) == (24, 24, {})
    assert summary.shards == 1
    rollouts = list(gym_ray.read_rollouts(summary.output))
    assert broken_invariants(rollouts) == []
    for rollout in rollouts:
        assert rollout.reward_components == {"verifier": 0.75, "rank": 0.25}
        assert (rollout.reward, rollout.metrics["judge_calls"]) == (1.0, 1.0)
        assert rollout.metrics["judge_output_tokens"] == len("[[C]], or [[3]]") + 1
        assert rollout.metrics["group/rank"] == 0.5
    calls = [rollout.metrics.get("group/rank/judge_calls", 0) for rollout in rollouts]
    assert calls == [6, 0, 0] * 8
    assert summary.reward.mean == 1.0
    logged = [json.loads(line) for line in (tmp_path / "requests").read_text().splitlines()]
    assert len(logged) == 24  # the judge's calls went to the judge

    again = gym_ray.collect(config, quiet=True)

    assert (again.completed, again.reward.mean) == (24, 1.0)


def test_a_judge_that_is_out_is_a_verifier_error_and_never_a_reward(
    tmp_path: Path, cluster: str
) -> None:
    config = judged_config(tmp_path, {"reply": "[[3]]", "failure_rate": 1.0})
    config["judges"]["grader"]["max_retries"] = 1
    config["collect"]["max_failed_share"] = 1.0

    summary = gym_ray.collect(config, quiet=True)

    assert summary.failure_kinds == {"verifier_error": 24}
    assert summary.reward.mean is None
    rollout = next(iter(gym_ray.read_rollouts(summary.output)))
    assert rollout.error == "judge 'grader': policy_error: scripted failure (after 2 tries)"
