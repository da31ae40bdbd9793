"""The client and a real service with two gateways: kills, and generations that nobody wants."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import gym_ray
from gym_ray.client import CallTimeout
from tests.applications import KEY, Service
from tests.cluster import HERE, logged_requests, sums, until, write_rows
from tests.service.test_sessions import kill_replica


def program(url: str, tasks: Path, kept: Path, lease_seconds: int) -> subprocess.Popen[bytes]:
    arguments = [url, str(tasks), str(kept), str(lease_seconds)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.client_program", *arguments],
        cwd=HERE.parent,
        env={**os.environ, "GYM_RAY_API_KEY": KEY},
    )


def lines(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def tasks_of(count: int, folder: Path) -> list[dict[str, Any]]:
    return sums(count, folder, agent_ref="arithmetic")


def test_a_killed_client_that_starts_again_has_every_result_exactly_once(
    url: str, service: Service, tmp_path: Path
) -> None:
    tasks = write_rows(tmp_path / "killed.jsonl", tasks_of(300, tmp_path))
    kept, before = tmp_path / "kept", len(logged_requests(service.requests))
    first = program(url, tasks, kept, 30)
    until(lambda: len(lines(kept)) >= 90, 60, "the first client has 90 results")
    first.kill()
    first.wait(30)
    had = len(lines(kept))
    assert had < 300

    second = program(url, tasks, kept, 30)

    assert second.wait(60) == 0
    assert sorted(lines(kept)) == list(range(300))
    asked = len(logged_requests(service.requests)) - before
    assert 300 <= asked <= 300 + 100


def test_a_client_that_leaves_stops_its_generations_and_no_others(
    url: str, service: Service, tmp_path: Path
) -> None:
    before, gone = service.started(), service.aborted()
    others: list[float | None] = []

    def stay() -> None:
        with gym_ray.RolloutClient(url, api_key=KEY) as client:
            others.extend(result.reward for result in client.run(tasks_of(3, tmp_path)))

    staying = threading.Thread(target=stay)
    with gym_ray.RolloutClient(url, api_key=KEY) as client:
        staying.start()
        with pytest.raises(CallTimeout, match="0 of 20 rollouts were there"):
            list(client.run(tasks_of(20, tmp_path), timeout_seconds=2.0))
    until(lambda: len(service.aborted() - gone) == 20, 20, "what ran for it was aborted")
    staying.join(60)
    assert others == [1.0] * 3
    assert len(service.started() - before) == 23
    assert len(service.aborted() - gone) == 20


def test_generations_of_a_killed_client_are_given_up(
    url: str, service: Service, tmp_path: Path
) -> None:
    before, gone = service.started(), service.aborted()
    tasks = write_rows(tmp_path / "silent.jsonl", tasks_of(40, tmp_path))
    client = program(url, tasks, tmp_path / "silent", 1)

    def started() -> set[str]:
        return service.started() - before

    until(lambda: len(started()) == 40, 60, "its generations run")
    client.kill()
    client.wait(30)

    until(lambda: service.aborted() - gone == started(), 20, "they are aborted")
    assert lines(tmp_path / "silent") == []


def test_a_lost_batch_replica_costs_its_rollouts_and_no_result(url: str, tmp_path: Path) -> None:
    with gym_ray.RolloutClient(url, api_key=KEY, max_in_flight=10, max_retries=12) as client:
        results = client.run(tasks_of(30, tmp_path), name="lost-replica")
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


def test_recorded_groups_carry_their_positions(url: str, tmp_path: Path) -> None:
    with gym_ray.RolloutClient(url, api_key=KEY) as client:
        groups: list[Any] = list(client.groups(tasks_of(3, tmp_path), 4, max_output_tokens=7))

    for group in groups:
        assert group.rewards == [1.0] * 4
        for result in group.results:
            spec = result.rollout.spec
            assert (spec.task_index, spec.rollout_index) == (group.index, result.rollout_index)
            assert json.loads(result.rollout.sampling)["max_output_tokens"] == 7
            assert result.token_ids[result.loss_mask == 1].size == result.turns[0].generation_length


def test_a_client_waits_for_a_service_that_is_started_anew(
    url: str, service: Service, tmp_path: Path
) -> None:
    """Serve's proxies go on without a gateway, as they begin without one."""
    service.stop()
    with pytest.raises(urllib.error.HTTPError) as found:
        urllib.request.urlopen(f"{url}/batches/any", timeout=30)
    assert (found.value.code, found.value.headers["Retry-After"]) == (503, "2")
    assert json.load(found.value)["error"]["code"] == "starting"

    starting = threading.Thread(target=service.start)
    starting.start()
    try:
        with gym_ray.RolloutClient(url, api_key=KEY, max_retries=0) as client:
            client.wait_ready(300)
            results = list(client.run(tasks_of(1, tmp_path)))
    finally:
        starting.join(300)
    assert [result.reward for result in results] == [1.0]
