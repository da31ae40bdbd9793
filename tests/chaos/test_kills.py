"""Kills at bad moments: nothing lost, nothing twice, nothing left running."""

from __future__ import annotations

import collections
import os
import signal
from pathlib import Path

import psutil
import pytest

import gym_ray
from gym_ray.store.rows import broken_invariants
from tests.chaos.commands import LOST_PER_KILL, ROLLOUTS, children_of, start_collect
from tests.cluster import (
    logged_requests,
    replica_processes,
    scripted_config,
    serve_port,
    sums,
    until,
    write_rows,
)


def serve_applications() -> list[str]:
    from ray import serve

    return [name for name in serve.status().applications if name.startswith("gym-ray-")]


@pytest.fixture(params=["ray", "local"])
def place(request: pytest.FixtureRequest) -> str:
    """Where a collection runs: on the session's cluster, or embedded."""
    return str(request.param)


def address_of(place: str, request: pytest.FixtureRequest) -> str | None:
    """Address of the cluster that a collection there joins."""
    return request.getfixturevalue("cluster") if place == "ray" else None


def test_killed_driver_resumes_without_loss_or_duplicates(
    place: str, request: pytest.FixtureRequest, config_file: Path, tmp_path: Path
) -> None:
    requests, output = tmp_path / "requests", tmp_path / "output"
    cluster = address_of(place, request)
    for reached in (60, 150):
        driver = start_collect(config_file, output, cluster)
        until(
            lambda reached=reached: len(logged_requests(requests)) >= reached,  # type: ignore[misc]
            150,
            f"{reached} requests; the driver said: {output.read_text()}",
        )
        driver.kill()
        driver.wait()

    driver = start_collect(config_file, output, cluster)

    assert driver.wait(timeout=240) == 0, output.read_text()
    rollouts = list(gym_ray.read_rollouts(tmp_path / "run"))
    ids = [rollout.spec.rollout_id for rollout in rollouts]
    assert len(ids) == len(set(ids)) == ROLLOUTS
    assert all(rollout.status == "completed" for rollout in rollouts)
    assert broken_invariants(rollouts) == []
    runs = collections.Counter(logged_requests(requests))
    assert set(runs) == set(ids)
    assert sum(runs.values()) - ROLLOUTS <= 2 * LOST_PER_KILL
    assert place == "local" or serve_applications() == []


def test_interrupted_collect_drains_and_leaves_nothing_running(
    place: str, config_file: Path, tmp_path: Path
) -> None:
    requests, output = tmp_path / "requests", tmp_path / "output"
    driver = start_collect(config_file, output, None, f"cluster={place}")
    until(lambda: len(logged_requests(requests)) >= 60, 150, "60 requests")
    processes = children_of(driver)

    # As a terminal's Ctrl-C does it: the whole process group gets the signal.
    os.killpg(driver.pid, signal.SIGINT)

    assert driver.wait(timeout=120) == 130, output.read_text()
    assert "re-issue the same command" in output.read_text()
    done = [r.spec.rollout_id for r in gym_ray.read_rollouts(tmp_path / "run")]
    asked = set(logged_requests(requests))
    assert len(done) == len(set(done))
    assert set(done) == asked, "a drained run finishes and keeps what it started"
    until(
        lambda: not any(process.is_running() for process in processes),
        30,
        "every process of the run ends",
    )


@pytest.mark.long(
    "a cluster of its own (35 s of CPU time), as the interrupted command has, which leaves nothing "
    "running either"
)
def test_killed_driver_of_its_own_cluster_takes_the_cluster_with_it(
    config_file: Path, tmp_path: Path
) -> None:
    _everything_ends_with_a_killed_driver("ray", config_file, tmp_path)


def test_killed_driver_of_an_embedded_collection_takes_its_processes_with_it(
    config_file: Path, tmp_path: Path
) -> None:
    _everything_ends_with_a_killed_driver("local", config_file, tmp_path)


def _everything_ends_with_a_killed_driver(place: str, config_file: Path, tmp_path: Path) -> None:
    requests, output = tmp_path / "requests", tmp_path / "output"
    driver = start_collect(config_file, output, None, f"cluster={place}")
    until(lambda: len(logged_requests(requests)) >= 40, 150, "40 requests")
    processes = children_of(driver)

    driver.kill()
    driver.wait()

    until(
        lambda: (
            not any(
                process.is_running() and process.status() != psutil.STATUS_ZOMBIE
                for process in processes
            )
        ),
        60,
        "every process of the killed run ends",
    )
    assert gym_ray.read_rollouts(tmp_path / "run").to_arrow().num_rows > 0


def test_a_lost_environment_replica_costs_calls_and_no_rollout(
    cluster: str, config_file: Path, tmp_path: Path
) -> None:
    requests, output = tmp_path / "requests", tmp_path / "output"
    driver = start_collect(config_file, output, cluster, "collect.max_in_flight=32")
    until(lambda: len(logged_requests(requests)) >= 100, 150, "100 requests")
    replicas = replica_processes(config_file, "environment-arithmetic").values()
    assert replicas

    for replica in replicas:
        replica.kill()

    assert driver.wait(timeout=240) == 0, output.read_text()
    rollouts = list(gym_ray.read_rollouts(tmp_path / "run"))
    assert len({rollout.spec.rollout_id for rollout in rollouts}) == len(rollouts) == ROLLOUTS
    assert all(rollout.status == "completed" for rollout in rollouts)
    # What was lost is run again, and is no attempt of the rollouts: they did not break it.
    assert len(logged_requests(requests)) > ROLLOUTS
    assert {rollout.attempts for rollout in rollouts} == {1}


def test_a_lost_process_of_an_embedded_collection_costs_no_rollout(
    config_file: Path, tmp_path: Path
) -> None:
    requests, output = tmp_path / "requests", tmp_path / "output"
    driver = start_collect(config_file, output, None, "collect.max_in_flight=32")
    until(lambda: len(logged_requests(requests)) >= 100, 150, "100 requests")
    (process,) = (
        child
        for child in psutil.Process(driver.pid).children()
        if "embedded_process" in " ".join(child.cmdline())
    )

    process.kill()

    assert driver.wait(timeout=240) == 0, output.read_text()
    assert "the process that runs the rollouts ended (SIGKILL)" in output.read_text()
    rollouts = list(gym_ray.read_rollouts(tmp_path / "run"))
    assert len({rollout.spec.rollout_id for rollout in rollouts}) == len(rollouts) == ROLLOUTS
    assert {(rollout.status, rollout.attempts) for rollout in rollouts} == {("completed", 1)}


@pytest.mark.long(
    "an application and a gateway of its own (45 s of CPU time); that collections use a served "
    "application is in tests/service/test_serve.py, that its end takes it down in the fixture there"
)
def test_collections_use_a_served_application_and_leave_it_up(
    cluster: str, config_file: Path, tmp_path: Path
) -> None:
    served, output = tmp_path / "served", tmp_path / "output"
    port = f"serve.port={serve_port()}"
    server = start_collect(config_file, served, cluster, port, command="serve")
    until(lambda: "serving scripted" in served.read_text(), 90, "the application is up")
    application, gateway = sorted(serve_applications())
    assert gateway == f"{application}-gateway"

    driver = start_collect(
        config_file, output, cluster, "collect.limit=20", "collect.max_in_flight=20"
    )

    assert driver.wait(timeout=120) == 0, output.read_text()
    assert f"using application {application}, which is running already" in output.read_text()
    assert sorted(serve_applications()) == [application, gateway]

    server.send_signal(signal.SIGTERM)

    assert server.wait(timeout=90) == 0, served.read_text()
    assert serve_applications() == []


def test_rows_that_end_the_process_of_an_embedded_collection_are_what_fails(tmp_path: Path) -> None:
    rows = sums(60, tmp_path)
    for index in (7, 40):
        rows[index]["reset_exits"] = True
    path = write_rows(tmp_path / "tasks.jsonl", rows)
    config = scripted_config(tmp_path, path, tmp_path / "requests", cluster="local")

    summary = gym_ray.collect(config, quiet=True)

    assert (summary.completed, summary.failed, summary.pending) == (58, 2, 0)
    assert summary.failure_kinds == {"environment_unavailable": 2}
    failed = [r for r in gym_ray.read_rollouts(summary.output) if r.status == "failed"]
    assert [rollout.spec.task_index for rollout in failed] == [7, 40]
    assert all("this rollout was alone in it" in (rollout.error or "") for rollout in failed)
