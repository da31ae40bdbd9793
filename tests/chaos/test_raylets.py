"""Ray itself is killed, on the command's own machine and on a node of a cluster."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

import gym_ray
from gym_ray.store.rows import broken_invariants
from tests.chaos.commands import (
    LOST_PER_KILL,
    ROLLOUTS,
    children_of,
    is_gone,
    raylet_of,
    start_collect,
)
from tests.cluster import logged_requests, until
from tests.jobs import job_server, write_project


@pytest.mark.long("a cluster of its own, twice (70 s of CPU time)")
@pytest.mark.timeout(400)
def test_a_command_whose_raylet_is_killed_says_to_issue_it_again_and_goes_on(
    config_file: Path, tmp_path: Path
) -> None:
    requests, output = tmp_path / "requests", tmp_path / "output"
    driver = start_collect(config_file, output, None, "cluster=ray")
    until(lambda: len(logged_requests(requests)) >= 60, 150, "60 requests")
    processes = children_of(driver)

    raylet_of(psutil.Process(driver.pid)).kill()

    assert driver.wait(timeout=120) != 0
    until(lambda: "re-issue the same command" in output.read_text(), 10, "what to do is said")
    until(lambda: all(map(is_gone, processes)), 60, "every process of the run ends")

    again = start_collect(config_file, output, None, "cluster=ray")

    assert again.wait(timeout=240) == 0, output.read_text()
    rollouts = list(gym_ray.read_rollouts(tmp_path / "run"))
    assert len({rollout.spec.rollout_id for rollout in rollouts}) == len(rollouts) == ROLLOUTS
    assert {rollout.status for rollout in rollouts} == {"completed"}
    assert len(logged_requests(requests)) - ROLLOUTS <= LOST_PER_KILL


@pytest.mark.long("a cluster of two nodes with a job server (90 s of CPU time)")
@pytest.mark.timeout(600)
def test_a_killed_raylet_of_another_node_costs_a_job_no_rollout(tmp_path: Path) -> None:
    output = tmp_path / "run"
    project = write_project(tmp_path / "project", output, tasks=240, latency_seconds=1.0)
    # Beside the stage (0.5) and the policy (0.2) the head has room for two of three replicas.
    placed = (
        "environments.sums.resources.num_cpus=0.6",
        "environments.sums.autoscaling={min_replicas: 3, max_replicas: 3}",
    )
    with job_server(head_cpus=2, node_cpus=2) as server:
        done = server.submit(project, "--no-wait", "--submission-id", "sums", "sums.yaml", *placed)
        assert done.returncode == 0, done.stdout
        until(
            lambda: any(output.glob("segments/**/*.parquet")) and bool(server.replicas_of_node()),
            240,
            "rollouts are durable, and a replica is on the node",
        )
        processes = [process for process in children_of(server.node) if not is_gone(process)]

        raylet_of(server.node).kill()

        until(lambda: all(map(is_gone, processes)), 60, "every process of the node ends")
        until(
            lambda: server.job("sums")["status"] not in ("PENDING", "RUNNING"),
            300,
            "the job ends",
        )
        logs = server.ray("job", "logs", "--log-color", "false", "sums")
        assert server.job("sums")["status"] == "SUCCEEDED", logs
    rollouts = list(gym_ray.read_rollouts(output))
    assert len({rollout.spec.rollout_id for rollout in rollouts}) == len(rollouts) == 240
    assert {rollout.status for rollout in rollouts} == {"completed"}
    assert broken_invariants(rollouts) == []
