"""A job on a cluster of two nodes: it scales, loses its driver and a node, and no rollout."""

from __future__ import annotations

import json
import os
import shutil
import signal
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import gym_ray
from gym_ray.store.places import open_path
from gym_ray.store.rows import broken_invariants
from tests.cluster import HERE, until, write_rows
from tests.games import game, waiting_config
from tests.jobs import JobServer, job_server

ROLLOUTS = 1_000
IN_FLIGHT = 48

#: Of a test that waits for processes to start on a busy machine.
PATIENCE = 300

#: Three replicas at `IN_FLIGHT`, within seconds instead of minutes.
SCALING = {
    "max_replicas": 3, "target_ongoing_requests": IN_FLIGHT / 3,
    "look_back_seconds": 1, "upscale_delay_seconds": 0.5, "downscale_delay_seconds": 2,
}  # fmt: skip


class Metrics:
    """What Prometheus would read from the head.

    Attributes:
        replicas: running replicas of policy and environment, every change of them.
    """

    def __init__(self, server: JobServer) -> None:
        self._server = server
        self.replicas: list[tuple[int, int]] = []

    def retries(self) -> int:
        """Attempts that failed and were tried again."""
        return int(sum(value for _, value in self._values("ray_gym_ray_retries_total")))

    def running(self) -> tuple[int, int]:
        """Running replicas of policy and environment."""
        running: Counter[str] = Counter()
        for labels, value in self._values("ray_serve_deployment_replica_healthy"):
            running[labels["deployment"]] += int(value)
        now = (running["policy"], running["environment-waiting"])
        if self.replicas[-1:] != [now]:
            self.replicas.append(now)
        return now

    def _values(self, name: str) -> list[tuple[dict[str, str], float]]:
        with urllib.request.urlopen(self._server.metrics, timeout=30) as answer:
            text = answer.read().decode()
        return [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        ]


@pytest.fixture
def server() -> Iterator[JobServer]:
    # Beside a stage (0.5) the head has room for some replicas of each kind, and not for all.
    with job_server(head_cpus=1, node_cpus=2) as running:
        yield running


class Games:
    """A thousand games in a project to submit.

    All that run go on for as long as the file `held` is there; eight sleep while `tail` is.
    """

    def __init__(self, folder: Path, output: str) -> None:
        self.held, self.tail = folder / "held", folder / "tail"
        self._starts = folder / "starts"
        self.project = folder / "project"
        self.project.mkdir()
        shutil.copy(HERE / "waiting.py", self.project)
        self.tail.touch()
        rows = write_rows(self.project / "tasks.jsonl", map(self._row, range(ROLLOUTS)))
        scaled: dict[str, Any] = {"resources": {"num_cpus": 0.1}, "autoscaling": SCALING}
        config = waiting_config(
            folder,
            rows,
            {"waiting": {**scaled, "entrypoint": "waiting.py:Waiting"}},
            policy__autoscaling=SCALING,
            collect__input="tasks.jsonl",
            collect__output=output,
            collect__max_in_flight=IN_FLIGHT,
        )
        config["policy"]["engine_args"]["latency_seconds"] = 0.3
        (self.project / "games.yaml").write_text(yaml.safe_dump(config))

    def started(self) -> int:
        """Games that have started so far, each as often as it has."""
        return len(self._starts.read_text()) if self._starts.exists() else 0

    def _row(self, number: int) -> dict[str, Any]:
        asleep = {"asleep_while": str(self.tail)} if number >= ROLLOUTS - 8 else {}
        return game(number, self._starts, playing_while=str(self.held), **asleep)


@pytest.mark.long(
    "a cluster of two nodes that scales and loses one (4 min); a killed driver and a lost replica "
    "are in test_kills.py"
)
@pytest.mark.timeout(1500)
def test_a_job_scales_and_loses_its_driver_and_a_node_and_no_rollout(
    server: JobServer, bucket: str, tmp_path: Path
) -> None:
    output = f"{bucket}/{tmp_path.name}/games"
    games, metrics = Games(tmp_path, output), Metrics(server)

    def submit(submission_id: str) -> None:
        done = server.submit(
            games.project, "--no-wait", "--submission-id", submission_id, "games.yaml"
        )
        assert done.returncode == 0, done.stdout

    def wait_for(what: str, condition: Callable[[], bool], *, job: str) -> None:
        def true_or_over() -> bool:
            metrics.running()
            return condition() or server.job(job)["status"] not in ("PENDING", "RUNNING")

        until(true_or_over, PATIENCE, f"{what}; replicas: {metrics.replicas}")
        assert condition(), f"{what}; {metrics.replicas}; {server.ray('job', 'logs', job)}"

    submit("games-1")
    wait_for("a third has started", lambda: games.started() > ROLLOUTS / 3, job="games-1")
    games.held.touch()
    wait_for("three replicas of each", lambda: metrics.running() == (3, 3), job="games-1")
    os.kill(int(server.job("games-1")["driver_info"]["pid"]), signal.SIGKILL)
    until(lambda: server.job("games-1")["status"] == "FAILED", PATIENCE, "the first job is over")
    games.held.unlink()

    submit("games-2")
    wait_for("more have started", lambda: games.started() > ROLLOUTS / 2, job="games-2")
    games.held.touch()
    wait_for(
        "three replicas of each again, some on the node",
        lambda: (
            metrics.running() == (3, 3)
            and any(name.endswith(":policy") for name in server.replicas_of_node())
        ),
        job="games-2",
    )
    lost = server.replicas_of_node()
    server.lose_node()
    wait_for("lost attempts are made again", lambda: metrics.retries() > 0, job="games-2")
    games.held.unlink()
    wait_for("one replica of each is left", lambda: metrics.running() == (1, 1), job="games-2")
    games.tail.unlink()
    until(lambda: server.job("games-2")["status"] != "RUNNING", PATIENCE, "the second job ends")

    logs = server.ray("job", "logs", "--log-color", "false", "games-2")
    print(f"replicas: {metrics.replicas}; lost with the node: {lost}; it said:\n{logs}")
    assert server.job("games-2")["status"] == "SUCCEEDED", logs
    summary = json.loads(open_path(f"{output}/summary.json").read_text())
    counts = {name: summary[name] for name in ("completed", "truncated", "failed", "pending")}
    assert counts == {"completed": ROLLOUTS, "truncated": 0, "failed": 0, "pending": 0}
    assert summary["expected"] == sum(counts.values())
    rollouts = list(gym_ray.read_rollouts(output))
    assert len({rollout.spec.rollout_id for rollout in rollouts}) == len(rollouts) == ROLLOUTS
    assert broken_invariants(rollouts) == []
    assert any(rollout.attempts > 1 for rollout in rollouts)
    assert f"of {ROLLOUTS} rollouts done" in logs
