"""Parts that neither answer nor end: they are killed, and what they held is run again."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import yaml

import gym_ray
from tests.chaos.commands import ROLLOUTS, children_of, is_gone, start_collect
from tests.cluster import logged_requests, replica_processes, until

#: Until a part that does nothing is given up: Serve asks a replica three times, 30 s each.
GIVEN_UP_SECONDS = 200


@pytest.mark.long("a replica is asked for its health three times before it is given up (3 min)")
@pytest.mark.timeout(600)
def test_a_frozen_replica_is_killed_and_its_rollouts_run_again(
    cluster: str, config_file: Path, tmp_path: Path
) -> None:
    config = yaml.safe_load(config_file.read_text())
    two = {"min_replicas": 2, "max_replicas": 2}
    config["environments"]["arithmetic"]["autoscaling"] = two
    config["collect"]["rollout_timeout_seconds"] = 10
    config_file.write_text(yaml.safe_dump(config))
    requests, output = tmp_path / "requests", tmp_path / "output"
    driver = start_collect(config_file, output, cluster)
    until(lambda: len(logged_requests(requests)) >= 60, 150, "60 requests")
    frozen, _ = replica_processes(config_file, "environment-arithmetic").values()

    frozen.suspend()

    until(lambda: is_gone(frozen), GIVEN_UP_SECONDS, "the frozen replica is killed")
    assert driver.wait(timeout=120) == 0, output.read_text()
    _all_once(tmp_path / "run")


@pytest.mark.long("a cluster of its own (35 s of CPU time)")
def test_a_frozen_replica_does_not_survive_its_cluster(config_file: Path, tmp_path: Path) -> None:
    requests, output = tmp_path / "requests", tmp_path / "output"
    driver = start_collect(config_file, output, None, "cluster=ray")
    until(lambda: len(logged_requests(requests)) >= 40, 150, "40 requests")
    processes = children_of(driver)
    frozen = [
        process
        for process in processes
        if any("environment-arithmetic" in word for word in process.cmdline()[:1])
    ]
    assert frozen

    for process in frozen:
        process.suspend()
    driver.kill()
    driver.wait()

    until(lambda: all(map(is_gone, processes)), 60, "every process of the killed run ends")


@pytest.mark.long("a process may do nothing for 100 s before it is given up")
@pytest.mark.timeout(400)
def test_a_frozen_process_of_an_embedded_collection_is_killed_and_its_rollouts_run_again(
    config_file: Path, tmp_path: Path
) -> None:
    requests, output = tmp_path / "requests", tmp_path / "output"
    driver = start_collect(config_file, output, None, "cluster=local")
    until(lambda: len(logged_requests(requests)) >= 60, 150, "60 requests")
    (frozen,) = (
        child
        for child in psutil.Process(driver.pid).children()
        if "embedded_process" in " ".join(child.cmdline())
    )

    frozen.suspend()

    until(lambda: is_gone(frozen), GIVEN_UP_SECONDS, "the frozen process is killed")
    assert driver.wait(timeout=120) == 0, output.read_text()
    assert "killed, since it did nothing for 100 s" in output.read_text()
    _all_once(tmp_path / "run")


def _all_once(run: Path) -> None:
    rollouts = list(gym_ray.read_rollouts(run))
    assert len({rollout.spec.rollout_id for rollout in rollouts}) == len(rollouts) == ROLLOUTS
    # What was lost is no attempt of its rollouts: they did not break it.
    assert {(rollout.status, rollout.attempts) for rollout in rollouts} == {("completed", 1)}
