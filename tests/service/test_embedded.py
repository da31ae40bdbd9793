"""What an embedded collection does beside the plain case, which test_collect.py has in both places:
agents of several turns, tools of an MCP server, groups, quotas, reports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import gym_ray
from gym_ray.store.rows import broken_invariants
from tests.applications import Playground
from tests.cluster import HERE, scripted_config, sums, write_rows
from tests.replies import row_of, tool_calls


class Collected(NamedTuple):
    """One embedded collection of everything."""

    summary: gym_ray.RunSummary
    rollouts: list[gym_ray.Rollout]
    starts: Path

    def of(self, environment: str) -> list[gym_ray.Rollout]:
        return [r for r in self.rollouts if r.spec.environment == environment]


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Collected:
    folder = tmp_path_factory.mktemp("embedded")
    calls = tool_calls(("add", {"a": 1, "b": 2}), ("shout", {"text": "hey"}), ("count", {}))
    rows = [row_of([calls, "It is 3."], agent_ref="workshop", n=n) for n in range(20)]
    rows += [row_of(["1", str(n)], agent_ref="guessing", secret=n) for n in range(2, 12)]
    rows += sums(10, folder, agent_ref="observed")
    starts = folder / "starts"
    rows += [
        {**row, "starts": str(starts), "reset_seconds": 0.05}
        for row in sums(20, folder, agent_ref="scarce")
    ]
    config = Playground(folder).config(
        folder,
        rows,
        cluster="local",
        collect__num_repeats=2,
        collect__report=["tensorboard"],
        environments__scarce__max_in_flight=1,
    )
    del config["judges"], config["environments"]["open"]
    config["environments"]["observed"] = {
        **config["environments"]["observed"],
        "group_verifiers": {"various": {"use": "gym_ray.verifiers.groups:diversity"}},
    }
    summary = gym_ray.collect(config, quiet=True)
    return Collected(summary, list(gym_ray.read_rollouts(summary.output)), starts)


def test_everything_is_collected_and_keeps_the_token_contract(collected: Collected) -> None:
    assert (collected.summary.expected, collected.summary.completed) == (120, 120)
    assert broken_invariants(collected.rollouts) == []


def test_tools_of_the_environment_and_of_a_server_are_called(collected: Collected) -> None:
    rollouts = collected.of("workshop")

    assert {(r.agent, r.reward, len(r.turns)) for r in rollouts} == {("tool_calling", 1.0, 2)}
    for rollout in rollouts:
        outputs = [item.get("output") for item in json.loads(rollout.response)]
        assert outputs[3:5] == ["3", "HEY"]


def test_episodes_are_played(collected: Collected) -> None:
    rollouts = collected.of("guessing")

    assert {(r.agent, r.reward, len(r.turns)) for r in rollouts} == {("gymnasium", 0.5, 2)}


def test_groups_are_judged(collected: Collected) -> None:
    scores = [rollout.reward_components["various"] for rollout in collected.of("observed")]

    # The scripted policy says the same twice.
    assert scores == [0.0] * 20


def test_a_quota_holds(collected: Collected) -> None:
    rollouts = sorted(collected.of("scarce"), key=lambda rollout: rollout.started_at)

    assert len(collected.starts.read_text()) == len(rollouts) == 40
    ends = [r.started_at.timestamp() + r.seconds for r in rollouts]
    begins = [r.started_at.timestamp() for r in rollouts]
    assert all(begin > end - 0.02 for begin, end in zip(begins[1:], ends, strict=False))


def test_progress_is_reported(collected: Collected) -> None:
    assert list(Path(collected.summary.output, "tensorboard").glob("events.*"))


PRINTS = """
import os, sys
from gym_ray import Environment, Outcome


class Prints(Environment):
    async def verify(self, outcome: Outcome) -> float:
        print("said by verify")
        os.system("echo said by a program")
        sys.stderr.write("said as an error\\n")
        return 1.0
"""


def test_what_an_environment_prints_is_in_the_log_and_not_in_the_output(tmp_path: Path) -> None:
    (tmp_path / "prints.py").write_text(PRINTS)
    rows = write_rows(tmp_path / "tasks.jsonl", sums(1, tmp_path))
    config = scripted_config(tmp_path, rows, tmp_path / "requests", cluster="local")
    config["environments"] = {"prints": {"entrypoint": f"{tmp_path}/prints.py:Prints"}}
    (tmp_path / "config.json").write_text(json.dumps(config))

    done = subprocess.run(
        [sys.executable, "-m", "gym_ray", "collect", str(tmp_path / "config.json"), "--json"],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )

    assert json.loads(done.stdout)["completed"] == 1
    said = {"said by verify", "said by a program", "said as an error"}
    assert said <= set((tmp_path / "run" / "log.txt").read_text().splitlines())
    assert "said" not in done.stderr
