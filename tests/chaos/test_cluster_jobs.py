"""A job on a cluster of two nodes: it scales, loses its driver and a node, and no rollout."""

from __future__ import annotations

import json
import os
import shutil
import signal
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import gym_ray
from gym_ray.rows import broken_invariants
from gym_ray.storage import place
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

POLICY, ENVIRONMENT = "policy", "environment-waiting"


class Trace:
    """Running replicas of policy and environment, as the metrics tell them, and every change."""

    def __init__(self, server: JobServer) -> None:
        self._server = server
        self.seen: list[tuple[int, int]] = []

    def running(self) -> tuple[int, int]:
        with urllib.request.urlopen(self._server.metrics, timeout=30) as answer:
            text = answer.read().decode()
        running: Counter[str] = Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "ray_serve_deployment_replica_healthy":
                    running[sample.labels["deployment"]] += int(sample.value)
        now = (running[POLICY], running[ENVIRONMENT])
        if self.seen[-1:] != [now]:
            self.seen.append(now)
        return now


@pytest.fixture
def server() -> Iterator[JobServer]:
    # Beside a stage (0.5) the head has room for some replicas of each kind, and not for all.
    with job_server(head_cpus=1, node_cpus=2) as running:
        yield running


class Games:
    """A thousand games in a project to submit, of which three lots go on until let go.

    As many as are in flight play while the file `first` is there, as many again while `second`
    is; the last eight sleep while `tail` is.
    """

    def __init__(self, folder: Path, output: str) -> None:
        self._folder = folder
        self.project = folder / "project"
        self.project.mkdir()
        shutil.copy(HERE / "waiting.py", self.project)
        for lot in ("first", "second", "tail"):
            self._file(lot).touch()
        rows = write_rows(self.project / "tasks.jsonl", map(self._row, range(ROLLOUTS)))
        scaled: dict[str, Any] = {"resources": {"num_cpus": 0.1}, "autoscaling": SCALING}
        config = waiting_config(
            folder,
            rows,
            {"waiting": {**scaled, "entrypoint": "waiting.py:Waiting"}},
            policy__autoscaling=SCALING,
            policy__engine_args__latency_seconds=0.3,
            collect__input="tasks.jsonl",
            collect__output=output,
            collect__max_in_flight=IN_FLIGHT,
        )
        (self.project / "games.yaml").write_text(yaml.safe_dump(config))

    def started(self, lot: str) -> int:
        """Games of a lot that have started so far, each as often as it has."""
        starts = self._starts(lot)
        return len(starts.read_text()) if starts.exists() else 0

    def let_go(self, lot: str) -> None:
        self._file(lot).unlink()

    def _row(self, number: int) -> dict[str, Any]:
        if 300 <= number < 300 + IN_FLIGHT:
            return game(number, self._starts("first"), playing_while=str(self._file("first")))
        if 600 <= number < 600 + IN_FLIGHT:
            return game(number, self._starts("second"), playing_while=str(self._file("second")))
        if number >= ROLLOUTS - 8:
            return game(number, self._starts("tail"), asleep_while=str(self._file("tail")))
        return game(number, self._starts("short"))

    def _file(self, lot: str) -> Path:
        return self._folder / lot

    def _starts(self, lot: str) -> Path:
        return self._folder / f"{lot}-starts"


@pytest.mark.timeout(1500)
def test_a_job_scales_and_loses_its_driver_and_a_node_and_no_rollout(
    server: JobServer, bucket: str, tmp_path: Path
) -> None:
    output = f"{bucket}/{tmp_path.name}/games"
    games, trace = Games(tmp_path, output), Trace(server)

    def submit(submission_id: str) -> None:
        done = server.submit(
            games.project, "--no-wait", "--submission-id", submission_id, "games.yaml"
        )
        assert done.returncode == 0, done.stdout

    def wait_for(condition: Any, job: str, what: str) -> None:
        def true_or_over() -> bool:
            trace.running()
            return condition() or server.job(job)["status"] not in ("PENDING", "RUNNING")

        until(true_or_over, PATIENCE, f"{what}; {trace.seen}")
        assert condition(), f"{what}; {trace.seen}; {server.ray('job', 'logs', job)}"

    submit("games-1")
    wait_for(lambda: trace.running() == (3, 3), "games-1", "three replicas of each under load")
    wait_for(lambda: games.started("first") >= IN_FLIGHT, "games-1", "the first lot plays")
    os.kill(int(server.job("games-1")["driver_info"]["pid"]), signal.SIGKILL)
    until(lambda: server.job("games-1")["status"] == "FAILED", 60, "the job is over")
    games.let_go("first")

    submit("games-2")
    wait_for(
        lambda: (
            games.started("second") == IN_FLIGHT
            and any(POLICY in name for name in server.replicas_of_node())
        ),
        "games-2",
        "the second lot plays, with replicas on the node",
    )
    lost = server.replicas_of_node()
    server.lose_node()
    wait_for(lambda: games.started("second") > IN_FLIGHT, "games-2", "lost games start again")
    games.let_go("second")
    wait_for(lambda: games.started("tail") >= 8, "games-2", "the last games have started")
    wait_for(lambda: trace.running() == (1, 1), "games-2", "one replica of each for the last games")
    games.let_go("tail")
    until(lambda: server.job("games-2")["status"] != "RUNNING", PATIENCE, "the job ends")

    logs = server.ray("job", "logs", "--log-color", "false", "games-2")
    print(f"replicas of policy and environment: {trace.seen}; lost with the node: {lost}\n{logs}")
    assert server.job("games-2")["status"] == "SUCCEEDED", logs
    summary = json.loads(place(f"{output}/summary.json").read_text())
    counts = {name: summary[name] for name in ("completed", "truncated", "failed", "pending")}
    assert counts == {"completed": ROLLOUTS, "truncated": 0, "failed": 0, "pending": 0}
    assert summary["expected"] == sum(counts.values())
    rollouts = list(gym_ray.read_rollouts(output))
    assert len({rollout.spec.rollout_id for rollout in rollouts}) == len(rollouts) == ROLLOUTS
    assert broken_invariants(rollouts) == []
    assert any(rollout.attempts > 1 for rollout in rollouts)
    assert f"of {ROLLOUTS} rollouts done" in logs
