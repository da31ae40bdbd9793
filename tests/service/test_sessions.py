"""Sessions on a real cluster: an agent in another process, the dataset it leaves, lost replicas."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest

import gym_ray
from gym_ray.rollout import Rollout
from gym_ray.store.rows import broken_invariants
from tests.applications import OUTSIDE_AGENT, Service
from tests.cluster import HERE, until
from tests.replies import tool_calls
from tests.service.test_serve import post
from tests.sessions import sum_row

ROWS = [
    sum_row(
        tool_calls(("add", {"a": n, "b": 1}), ("add", {"a": n, "b": 2})),
        tool_calls(("add", {"a": n, "b": n})),
        "3",
        n=n,
    )
    for n in range(4)
]


def same_tokens(one: Rollout, other: Rollout) -> bool:
    return (
        one.token_ids.tolist() == other.token_ids.tolist()
        and one.loss_mask.tolist() == other.loss_mask.tolist()
        and one.logprobs.tolist() == other.logprobs.tolist()
    )


@pytest.fixture(scope="module")
def built_in(service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Rollout]:
    """What `tool_calling` makes of the tasks, by their `n`."""
    service.start()
    rows = [{**row, "agent_ref": "inside"} for row in ROWS]
    config = service.config(tmp_path_factory.mktemp("inside"), rows)
    summary = gym_ray.collect(config, quiet=True)
    return {
        json.loads(rollout.spec.task)["n"]: rollout
        for rollout in gym_ray.read_rollouts(summary.output)
    }


def test_a_session_of_another_process_leaves_the_tokens_of_the_built_in_agent(
    url: str, service: Service, built_in: dict[int, Rollout], tmp_path: Path
) -> None:
    status, session = post(
        f"{url}/sessions",
        json.dumps({"task": ROWS[0], "environment": "outside"}).encode(),
    )
    assert status == 201, session
    task = tmp_path / "task.json"
    task.write_text(json.dumps(ROWS[0]))
    environment = {
        "OPENAI_BASE_URL": session["base_url"],
        "OPENAI_API_KEY": session["key"],
        "GYM_RAY_TASK": str(task),
        "PYTHONPATH": str(HERE.parent),
    }
    subprocess.run(OUTSIDE_AGENT, env={**os.environ, **environment}, check=True, timeout=120)

    status, result = post(f"{url}/sessions/{session['id']}/verify", b"", key=session["key"])

    assert (status, result["status"], result["reward"]) == (200, "completed", 1.0)
    recorded = {
        rollout.spec.rollout_id: rollout for rollout in gym_ray.read_rollouts(service.output)
    }
    assert same_tokens(recorded[result["rollout_id"]], built_in[0])


def test_collect_drives_outside_agents_to_the_same_tokens(
    url: str, service: Service, built_in: dict[int, Rollout], tmp_path: Path
) -> None:
    rows = [{**row, "agent_ref": "outside"} for row in ROWS]

    summary = gym_ray.collect(service.config(tmp_path, rows), quiet=True)

    assert (summary.completed, summary.failed, summary.reward.mean) == (4, 0, 1.0)
    rollouts = list(gym_ray.read_rollouts(summary.output))
    assert broken_invariants(rollouts) == []
    for rollout in rollouts:
        assert rollout.agent == "external"
        assert same_tokens(rollout, built_in[json.loads(rollout.spec.task)["n"]])


def test_a_session_whose_replica_was_killed_is_gone(url: str) -> None:
    body = json.dumps({"task": ROWS[0], "environment": "outside"}).encode()
    _, session = post(f"{url}/sessions", body)
    client = openai.OpenAI(
        base_url=session["base_url"], api_key=session["key"], max_retries=0, timeout=120
    )
    messages: Any = [{"role": "user", "content": ROWS[0]["responses_create_params"]["input"]}]
    client.chat.completions.create(model="scripted", messages=messages)

    kill_replica(session["id"].split(".")[1])

    def gone() -> bool:
        # A call the replica died under may still fail as unavailable.
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(model="scripted", messages=messages)
        assert refused.value.status_code in (410, 503)
        return refused.value.status_code == 410

    until(gone, 120, "calls are answered with 410")
    status, answer = post(f"{url}/sessions/{session['id']}/verify", b"", key=session["key"])
    assert (status, answer["error"]["code"]) == (410, "session_gone")
    _, another = post(f"{url}/sessions", body)
    assert another["id"].split(".")[1] != session["id"].split(".")[1]


def kill_replica(tag: str) -> None:
    import ray
    from ray.util import list_named_actors

    (name,) = (
        actor["name"]
        for actor in list_named_actors(all_namespaces=True)
        if actor["namespace"] == "serve" and actor["name"].endswith(f"#{tag}")
    )
    ray.kill(ray.get_actor(name, namespace="serve"))
