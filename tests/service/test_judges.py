"""Judges and group verifiers through `collect`: deployments, accounts, outages, groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gym_ray
from gym_ray.store.rows import broken_invariants
from tests.applications import Playground
from tests.cluster import logged_requests, scripted_config, write_rows

pytestmark = pytest.mark.long(
    "a judge and group verifiers through whole collections (50 s of CPU time); their parts are in "
    "tests/unit/test_judging.py, tests/unit/test_groups.py and tests/environments/test_judge.py"
)


def judged_rows(folder: Path, **fields: Any) -> list[dict[str, Any]]:
    """Eight tasks without an answer to compare with."""
    return [
        {
            "folder": str(folder),
            "responses_create_params": {"input": [{"role": "user", "content": f"{n} + {n} = ?"}]},
            **fields,
        }
        for n in range(8)
    ]


def test_a_judge_is_deployed_beside_the_policy_and_groups_are_ranked_by_it(
    tmp_path: Path, playground: Playground
) -> None:
    rows = judged_rows(tmp_path, agent_ref="open")
    config = playground.config(tmp_path, rows, collect__num_repeats=3)
    before = len(logged_requests(playground.requests))

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
    # The judge's calls went to the judge.
    logged = logged_requests(playground.requests)[before:]
    assert sorted(logged) == sorted(rollout.spec.rollout_id for rollout in rollouts)

    again = gym_ray.collect(config, quiet=True)

    assert (again.completed, again.reward.mean) == (24, 1.0)


def test_a_judge_that_is_out_is_a_verifier_error_and_never_a_reward(
    tmp_path: Path, cluster: str
) -> None:
    config = scripted_config(
        tmp_path,
        write_rows(tmp_path / "tasks.jsonl", judged_rows(tmp_path)),
        tmp_path / "requests",
        collect__num_repeats=3,
        collect__max_failed_share=1.0,
    )
    config["judges"] = {
        "grader": {
            "engine": "scripted",
            "engine_args": {"reply": "[[3]]", "failure_rate": 1.0},
            "max_retries": 1,
            "resources": {"num_cpus": 0.1},
        }
    }
    config["environments"] = {
        "open": {
            "entrypoint": "gym_ray.environments.judge:JudgeEnvironment",
            "params": {"judge": "grader", "template": "{response}", "score": {"high": 4}},
            "resources": {"num_cpus": 0.1},
        }
    }

    summary = gym_ray.collect(config, quiet=True)

    assert summary.failure_kinds == {"verifier_error": 24}
    assert summary.reward.mean is None
    rollout = next(iter(gym_ray.read_rollouts(summary.output)))
    assert rollout.error == "judge 'grader': policy_error: scripted failure (after 2 tries)"
