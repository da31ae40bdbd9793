"""Replicas go up and down with the rollouts, on a real local Ray with the scripted policy."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import gym_ray
from gym_ray.config.load import load_config
from gym_ray.serving.application import Application
from tests.cluster import until, write_rows
from tests.games import game, waiting_config

pytestmark = [
    pytest.mark.long(
        "each starts a fleet of its own, up to six replicas and down again (75 s of CPU time); how "
        "many there should be is decided as tests/unit/test_autoscaling.py has it"
    ),
    pytest.mark.timeout(600),
]

#: Of a test that waits for processes to start on a busy machine.
PATIENCE = 240

#: Reactions within a second or two instead of minutes.
QUICK = {"look_back_seconds": 1, "upscale_delay_seconds": 0.5, "downscale_delay_seconds": 1}


class Trace:
    """What `serve.status()` says of replicas: (deployment, state) to count, and every change."""

    def __init__(self, application: str) -> None:
        self._application = application
        self.seen: dict[str, list[int]] = {"policy": [], "environment-waiting": []}

    def count(self, deployment: str, state: str = "RUNNING") -> int:
        from ray import serve

        status = serve.status().applications[self._application].deployments[deployment]
        states = {str(name): number for name, number in status.replica_states.items()}
        running, seen = states.get("RUNNING", 0), self.seen[deployment]
        if seen[-1:] != [running]:
            seen.append(running)
        return states.get(state, 0)

    def wait_for(self, what: str, **running: int) -> None:
        """Wait until the policy and the environment have so many replicas."""
        wanted = {"policy": running["policy"], "environment-waiting": running["environment"]}
        until(
            lambda: {name: self.count(name) for name in wanted} == wanted,
            PATIENCE,
            f"{what}: {wanted}; seen: {self.seen}",
        )


@contextmanager
def collecting(config: dict[str, Any]) -> Iterator[list[gym_ray.RunSummary]]:
    """A collection that runs meanwhile; its summary is there when the block has been left."""
    summaries: list[gym_ray.RunSummary] = []
    thread = threading.Thread(
        target=lambda: summaries.append(gym_ray.collect(config, quiet=True)), daemon=True
    )
    thread.start()
    yield summaries
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.fixture
def files(tmp_path: Path) -> Sequence[Path]:
    """Three files that rollouts wait for the end of."""
    made = [tmp_path / name for name in ("first", "second", "tail")]
    for file in made:
        file.touch()
    return made


def test_a_fleet_grows_with_the_rollouts_and_is_released_while_the_last_ones_run(
    cluster: str, tmp_path: Path, files: Sequence[Path]
) -> None:
    first, second, tail = files
    rows = [game(number, tmp_path / "starts", playing_while=str(first)) for number in range(40)]
    rows += [
        game(number, tmp_path / "starts", asleep_while=str(tail))
        if number % 5 == 0
        else game(number, tmp_path / "starts", playing_while=str(second))
        for number in range(40, 80)
    ]
    config = waiting_config(
        tmp_path,
        write_rows(tmp_path / "tasks.jsonl", rows),
        collect__max_in_flight=40,
        collect__max_attempts=1,
        policy__autoscaling={"max_replicas": 3, "target_ongoing_requests": 8, **QUICK},
        environments={
            "waiting": {"autoscaling": {"max_replicas": 3, "target_ongoing_requests": 12, **QUICK}}
        },
    )
    application = Application.deploy(load_config(config), print)
    trace = Trace(application.name)
    try:
        trace.wait_for("at first", policy=1, environment=1)
        with collecting(config) as summaries:
            trace.wait_for("under load", policy=3, environment=3)
            first.unlink()
            until(lambda: len((tmp_path / "starts").read_text()) == 80, PATIENCE, "the second wave")
            second.unlink()
            trace.wait_for("while the tail runs", policy=1, environment=1)
            # Let go, and still at the rollouts they had.
            assert trace.count("environment-waiting", "STOPPING") > 0
            assert not summaries
            tail.unlink()
        (summary,) = summaries
        assert (summary.completed, summary.failed, summary.pending) == (80, 0, 0)
        rollouts = list(gym_ray.read_rollouts(summary.output))
        assert len({rollout.spec.rollout_id for rollout in rollouts}) == 80
        assert {rollout.attempts for rollout in rollouts} == {1}
        print(f"running replicas, as seen: {trace.seen}")
        for seen in trace.seen.values():
            assert (seen[0], max(seen), seen[-1]) == (1, 3, 1)
    finally:
        application.close()


def test_nothing_is_kept_when_idle_and_the_next_rollout_starts_it_again(
    cluster: str, tmp_path: Path
) -> None:
    rows = write_rows(
        tmp_path / "tasks.jsonl", [game(number, tmp_path / "starts") for number in range(4)]
    )
    config = waiting_config(
        tmp_path,
        rows,
        policy__autoscaling={"min_replicas": 0, **QUICK},
        environments={"waiting": {"autoscaling": {"min_replicas": 0, **QUICK}}},
    )
    application = Application.deploy(load_config(config), print)
    trace = Trace(application.name)
    try:
        trace.wait_for("before", policy=0, environment=0)
        summary = gym_ray.collect(config, quiet=True)
        assert (summary.completed, summary.failed) == (4, 0)
        assert {rollout.attempts for rollout in gym_ray.read_rollouts(summary.output)} == {1}
        trace.wait_for("afterwards", policy=0, environment=0)
    finally:
        application.close()
