"""The client and a real service with two gateways: kills, and generations that nobody wants."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gym_ray
from gym_ray.client import CallTimeout
from gym_ray.config.load import load_config
from tests.cluster import (
    HERE,
    logged_requests,
    scripted_config,
    serve_port,
    sums,
    until,
    write_rows,
)
from tests.service.test_sessions import kill_replica

#: Longer than a lease of the tests' clients, so that giving up shows.
GENERATION_SECONDS = 4.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("client")


@pytest.fixture(scope="module")
def requests(folder: Path) -> Path:
    """Log of the policy's requests."""
    return folder / "requests"


@pytest.fixture(scope="module")
def url(cluster: str, folder: Path, requests: Path) -> Iterator[str]:
    from gym_ray.serving.application import Application
    from gym_ray.serving.gateway_application import GatewayApplication

    config = scripted_config(
        folder,
        write_rows(folder / "tasks.jsonl", sums(1, folder)),
        requests,
        policy__engine_args__latency_seconds=GENERATION_SECONDS,
        collect__max_in_flight=128,
    )
    config["serve"] = {
        "port": serve_port(),
        "api_key_env": None,
        "autoscaling": {"min_replicas": 2, "max_replicas": 2},
    }
    checked = load_config(config)
    core = Application.deploy(checked, print)
    gateway = GatewayApplication.deploy(checked, core, print)
    yield gateway.base_url
    gateway.close()
    core.close()


def program(url: str, tasks: Path, kept: Path, lease_seconds: int) -> subprocess.Popen[bytes]:
    arguments = [url, str(tasks), str(kept), str(lease_seconds)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.client_program", *arguments], cwd=HERE.parent
    )


def lines(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def aborted(requests: Path) -> list[str]:
    if not requests.exists():
        return []
    entries = [json.loads(line) for line in requests.read_text().splitlines()]
    return [entry["request_id"].split("/")[0] for entry in entries if entry.get("aborted")]


def test_a_killed_client_that_starts_again_has_every_result_exactly_once(
    url: str, folder: Path, requests: Path
) -> None:
    tasks = write_rows(folder / "killed.jsonl", sums(500, folder))
    kept, before = folder / "kept", len(logged_requests(requests))
    first = program(url, tasks, kept, 30)
    until(lambda: len(lines(kept)) >= 150, 120, "the first client has 150 results")
    first.kill()
    first.wait(30)
    had = len(lines(kept))
    assert had < 500

    second = program(url, tasks, kept, 30)

    assert second.wait(180) == 0
    assert sorted(lines(kept)) == list(range(500))
    asked = len(logged_requests(requests)) - before
    assert 500 <= asked <= 500 + 100


def test_a_client_that_leaves_stops_its_generations_and_no_others(
    url: str, folder: Path, requests: Path
) -> None:
    before, gone = set(logged_requests(requests)), set(aborted(requests))
    others: list[float | None] = []

    def stay() -> None:
        with gym_ray.RolloutClient(url) as client:
            others.extend(result.reward for result in client.run(sums(3, folder)))

    staying = threading.Thread(target=stay)
    with gym_ray.RolloutClient(url) as client:
        staying.start()
        with pytest.raises(CallTimeout, match="20 rollouts are missing"):
            list(client.run(sums(20, folder), timeout_seconds=2.0))
    until(lambda: len(set(aborted(requests)) - gone) == 20, 20, "what ran for it was aborted")
    staying.join(60)
    assert others == [1.0] * 3
    assert len(set(logged_requests(requests)) - before) == 23
    assert len(set(aborted(requests)) - gone) == 20


def test_generations_of_a_killed_client_are_given_up(
    url: str, folder: Path, requests: Path
) -> None:
    before, gone = set(logged_requests(requests)), set(aborted(requests))
    tasks = write_rows(folder / "silent.jsonl", sums(40, folder))
    client = program(url, tasks, folder / "silent", 1)

    def started() -> set[str]:
        return set(logged_requests(requests)) - before

    until(lambda: len(started()) == 40, 60, "its generations run")
    client.kill()
    client.wait(30)

    until(lambda: set(aborted(requests)) - gone == started(), 20, "they are aborted")
    assert lines(folder / "silent") == []


def test_a_lost_batch_replica_costs_its_rollouts_and_no_result(
    url: str, folder: Path, requests: Path
) -> None:
    with gym_ray.RolloutClient(url, max_in_flight=10, max_retries=12) as client:
        results = client.run(sums(30, folder), name="lost-replica")
        found = [next(results).index for _ in range(5)]
        kill_replica(replica_of("batches"))
        found += [result.index for result in results]

    assert sorted(found) == list(range(30))


def replica_of(deployment: str) -> str:
    """Tag of the only replica of a deployment of the gateway's application."""
    from ray.util import list_named_actors

    (name,) = (
        actor["name"]
        for actor in list_named_actors(all_namespaces=True)
        if actor["namespace"] == "serve" and f"-gateway#{deployment}#" in actor["name"]
    )
    tag: str = name.rsplit("#", 1)[1]
    return tag


def test_recorded_groups_carry_their_positions(url: str, folder: Path) -> None:
    with gym_ray.RolloutClient(url) as client:
        groups: list[Any] = list(client.groups(sums(3, folder), 4, max_output_tokens=7))

    for group in groups:
        assert group.rewards == [1.0] * 4
        for result in group.results:
            spec = result.rollout.spec
            assert (spec.task_index, spec.rollout_index) == (group.index, result.rollout_index)
            assert json.loads(result.rollout.sampling)["max_output_tokens"] == 7
            assert result.token_ids[result.loss_mask == 1].size == result.turns[0].generation_length
