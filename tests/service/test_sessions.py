"""Sessions on a real cluster: an agent in another process, the dataset it leaves, lost replicas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import gym_ray
from gym_ray.config.load import load_config
from gym_ray.rollout import Rollout
from gym_ray.store.rows import broken_invariants
from gym_ray.store.run_directory import RunDirectory
from tests.cluster import HERE, scripted_config, serve_port, until, write_rows
from tests.replies import tool_calls
from tests.service.test_serve import post
from tests.sessions import sum_row

#: What `agent: external` starts.
PROGRAM = [sys.executable, "-m", "tests.outside_agent"]

ROWS = [
    sum_row(
        tool_calls(("add", {"a": n, "b": 1}), ("add", {"a": n, "b": 2})),
        tool_calls(("add", {"a": n, "b": n})),
        "3",
        n=n,
    )
    for n in range(4)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sessions")


@pytest.fixture(scope="module")
def config(cluster: str, folder: Path) -> dict[str, Any]:
    """Two environments of the same class: with the built-in agent, and with one outside."""
    config = scripted_config(folder, write_rows(folder / "tasks.jsonl", ROWS), folder / "requests")
    config["policy"]["engine_args"]["reply"] = "tests.replies:turns_in_the_prompt"
    entry = {"entrypoint": "tests.workshop:RowTools", "resources": {"num_cpus": 0.2}}
    config["environments"] = {
        "inside": {**entry, "agent": "tool_calling"},
        "outside": {**entry, "agent": "external", "external": {"command": PROGRAM}},
    }
    config["serve"] = {
        "port": serve_port(), "output": str(folder / "served"), "api_key_env": None,
    }  # fmt: skip
    return config


@pytest.fixture(scope="module")
def url(config: dict[str, Any]) -> Iterator[str]:
    """Base URL of a gateway that records to `serve.output`."""
    from gym_ray.serving.application import Application
    from gym_ray.serving.gateway_application import GatewayApplication
    from gym_ray.serving.recorder import RecordTarget

    checked = load_config(config)
    directory = RunDirectory.open(checked, kind="serve")
    directory.save_config(checked)
    core = Application.deploy(checked, print)
    gateway = GatewayApplication.deploy(checked, core, print, target=RecordTarget.of(directory))
    yield gateway.base_url
    gateway.close()
    core.close()
    directory.close()


def same_tokens(one: Rollout, other: Rollout) -> bool:
    return (
        one.token_ids.tolist() == other.token_ids.tolist()
        and one.loss_mask.tolist() == other.loss_mask.tolist()
        and one.logprobs.tolist() == other.logprobs.tolist()
    )


@pytest.fixture(scope="module")
def built_in(url: str, config: dict[str, Any], folder: Path) -> dict[int, Rollout]:
    """What `tool_calling` makes of the tasks, by their `n`."""
    rows = [{**row, "agent_ref": "inside"} for row in ROWS]
    collect = {
        "input": str(write_rows(folder / "inside.jsonl", rows)),
        "output": str(folder / "inside"),
    }
    summary = gym_ray.collect({**config, "collect": collect}, quiet=True)
    return {
        json.loads(rollout.spec.task)["n"]: rollout
        for rollout in gym_ray.read_rollouts(summary.output)
    }


def test_a_session_of_another_process_leaves_the_tokens_of_the_built_in_agent(
    url: str, config: dict[str, Any], built_in: dict[int, Rollout], folder: Path
) -> None:
    status, session = post(
        f"{url}/sessions",
        json.dumps({"task": ROWS[0], "environment": "outside"}).encode(),
        key=None,
    )
    assert status == 201, session
    task = folder / "task.json"
    task.write_text(json.dumps(ROWS[0]))
    environment = {
        "OPENAI_BASE_URL": session["base_url"],
        "OPENAI_API_KEY": session["key"],
        "GYM_RAY_TASK": str(task),
        "PYTHONPATH": str(HERE.parent),
    }
    subprocess.run(PROGRAM, env={**os.environ, **environment}, check=True, timeout=120)

    status, result = post(f"{url}/sessions/{session['id']}/verify", b"", key=session["key"])

    assert (status, result["status"], result["reward"]) == (200, "completed", 1.0)
    recorded = {
        rollout.spec.rollout_id: rollout
        for rollout in gym_ray.read_rollouts(config["serve"]["output"])
    }
    assert same_tokens(recorded[result["rollout_id"]], built_in[0])


def test_collect_drives_outside_agents_to_the_same_tokens(
    url: str, config: dict[str, Any], built_in: dict[int, Rollout], folder: Path
) -> None:
    rows = [{**row, "agent_ref": "outside"} for row in ROWS]
    collect = {
        "input": str(write_rows(folder / "outside.jsonl", rows)),
        "output": str(folder / "outside"),
    }

    summary = gym_ray.collect({**config, "collect": collect}, quiet=True)

    assert (summary.completed, summary.failed, summary.reward.mean) == (4, 0, 1.0)
    rollouts = list(gym_ray.read_rollouts(summary.output))
    assert broken_invariants(rollouts) == []
    for rollout in rollouts:
        assert rollout.agent == "external"
        assert same_tokens(rollout, built_in[json.loads(rollout.spec.task)["n"]])


def test_a_session_whose_replica_was_killed_is_gone(url: str) -> None:
    body = json.dumps({"task": ROWS[0], "environment": "outside"}).encode()
    _, session = post(f"{url}/sessions", body, key=None)
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
    _, another = post(f"{url}/sessions", body, key=None)
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
