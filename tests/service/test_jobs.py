"""Collections as jobs of a cluster with a job server: `scripts/submit.sh` and `ray job`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

import gym_ray
from tests.cluster import free_port, until
from tests.jobs import ROOT, JobServer, job_server, write_project

pytestmark = [
    pytest.mark.long(
        "a cluster of two nodes with a job server, and jobs of a minute each; what a job is given "
        "and what it refuses is in tests/unit/test_job.py, to stop and to continue in "
        "tests/chaos/test_kills.py"
    ),
    pytest.mark.timeout(600),
]

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@pytest.fixture(scope="module")
def server() -> Iterator[JobServer]:
    with job_server() as running:
        yield running


def test_a_submitted_job_collects_with_what_the_folder_holds_and_says_how_far_it_is(
    server: JobServer, tmp_path: Path
) -> None:
    output = tmp_path / "shared" / "sums"
    project = write_project(tmp_path / "project", output, tasks=40, latency_seconds=0.01)

    done = server.submit(project, "--submission-id", "sums", "sums.yaml", "collect.num_repeats=2")

    assert done.returncode == 0, done.stdout
    rollouts = list(gym_ray.read_rollouts(output))
    assert len({rollout.spec.rollout_id for rollout in rollouts}) == len(rollouts) == 80
    assert {(rollout.status, rollout.reward) for rollout in rollouts} == {("completed", 1.0)}

    logs = server.ray("job", "logs", "--log-color", "false", "sums")
    assert "80 rollouts to collect" in logs
    assert "taking down application" in logs
    assert "\x1b" not in logs
    assert "token-of-the-hub" not in logs + done.stdout

    job = server.job("sums")
    assert job["status"] == "SUCCEEDED"
    assert job["metadata"]["gym_ray_output"] == str(output)
    assert Path(job["metadata"]["gym_ray_summary"]).exists()


def test_a_stopped_job_drains_and_submitting_it_again_continues_it(
    server: JobServer, tmp_path: Path
) -> None:
    output = tmp_path / "shared" / "slow"
    project = write_project(tmp_path / "project", output, tasks=400, latency_seconds=1.0)

    started = server.submit(
        project, "--no-wait", "--submission-id", "slow-1", "sums.yaml",
        "collect.max_in_flight=2",
    )  # fmt: skip
    assert started.returncode == 0, started.stdout
    until(
        lambda: (
            len(list(output.glob("segments/**/*.parquet"))) >= 2
            or server.job("slow-1")["status"] in ENDED
        ),
        180,
        "rollouts are durable",
    )
    server.ray("job", "stop", "slow-1")

    logs = server.ray("job", "logs", "slow-1")
    assert server.job("slow-1")["status"] == "STOPPED", logs
    assert "stopping (signal)" in logs
    assert "taking down application" in logs
    summary = json.loads((output / "summary.json").read_text())
    assert summary["interrupted"] == "signal"
    assert 0 < summary["completed"] < 400
    assert summary["completed"] + summary["pending"] == 400

    again = server.submit(
        project, "--submission-id", "slow-2", "sums.yaml", "collect.max_in_flight=64"
    )

    assert again.returncode == 0, again.stdout
    assert f"{summary['completed']} of 400 rollouts done" in again.stdout
    rollouts = list(gym_ray.read_rollouts(output))
    assert len({rollout.spec.rollout_id for rollout in rollouts}) == len(rollouts) == 400
    assert {rollout.reward for rollout in rollouts} == {1.0}


def test_a_serve_file_of_ours_is_deployed_and_answers_whole_rollouts(
    server: JobServer, tmp_path: Path
) -> None:
    port = free_port()
    file = yaml.safe_load((ROOT / "deployments" / "serve.yaml").read_text())
    file["http_options"] |= {"host": "127.0.0.1", "port": port}
    file["applications"][0]["args"] = {
        "config": {
            "policy": {"engine": "scripted", "resources": {"num_cpus": 0.2}},
            "environments": {"math": {"resources": {"num_cpus": 0.2}}},
        },
        "overrides": ["serve.api_key_env=null", "verification.processes=1"],
    }
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(file))
    row = {"responses_create_params": {"input": "What is 2 + 2?"}, "expected_answer": "4"}
    # Whoever started Serve decided whether it listens.
    server.serve("shutdown", "-y")

    server.serve("deploy", str(tmp_path / "serve.yaml"))
    until(lambda: server.application("gym-ray")["status"] == "RUNNING", 180, "it runs")

    try:
        answer = requests.post(f"http://127.0.0.1:{port}/run", json=row, timeout=120)
        models = requests.get(f"http://127.0.0.1:{port}/v1/models", timeout=60)
    finally:
        server.serve("shutdown", "-y")
    assert (answer.status_code, answer.json()["reward"]) == (200, 1.0), answer.text
    assert len(models.json()["data"]) == 1


def test_a_job_whose_output_would_go_with_its_folder_is_refused(
    server: JobServer, tmp_path: Path
) -> None:
    project = write_project(tmp_path / "project", tmp_path, tasks=1, latency_seconds=0)

    here = server.submit(project, "sums.yaml", "collect.output=runs/lost")
    by_hand = server.ray(
        "job", "submit", "--working-dir", str(project), "--",
        "python", "-m", "gym_ray", "collect", "sums.yaml", "collect.output=runs/lost",
        check=False,
    )  # fmt: skip

    assert here.returncode == 2
    for said in (here.stdout, by_hand):
        assert "collect.output 'runs/lost' is relative" in said


def test_a_cluster_with_a_token_refuses_a_submitter_without_it(
    server: JobServer, tmp_path: Path
) -> None:
    project = write_project(tmp_path / "project", tmp_path / "out", tasks=1, latency_seconds=0)
    stranger = dataclasses.replace(
        server, variables={**server.variables, "RAY_AUTH_TOKEN": "0" * 64}
    )

    refused = stranger.submit(project, "--submission-id", "stranger", "sums.yaml")

    assert refused.returncode != 0
    assert "stranger" not in server.ray("job", "list")
