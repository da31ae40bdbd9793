"""The multi-turn agents through `collect`: replicas, MCP servers, the dataset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import gym_ray
from gym_ray.store.rows import broken_invariants
from tests.applications import Playground
from tests.replies import row_of, tool_calls

pytestmark = pytest.mark.long(
    "an application of eight environments (50 s of CPU time); multi-turn agents are collected "
    "by the real engine in tests/engine/test_grpo.py, and played in tests/unit/test_agents.py"
)


def test_tool_calls_and_episodes_are_collected_with_their_tokens(
    tmp_path: Path, playground: Playground
) -> None:
    calls = tool_calls(("add", {"a": 1, "b": 2}), ("shout", {"text": "hey"}), ("count", {}))
    rows = [
        row_of([calls, tool_calls(("nothing", {})), "It is 3."], agent_ref="workshop", n=n)
        for n in range(20)
    ]
    rows += [row_of(["1", str(n)], agent_ref="guessing", secret=n) for n in range(2, 12)]

    summary = gym_ray.collect(playground.config(tmp_path, rows), quiet=True)

    assert (summary.expected, summary.completed) == (30, 30)
    rollouts = list(gym_ray.read_rollouts(summary.output))
    assert broken_invariants(rollouts) == []
    workshop = [rollout for rollout in rollouts if rollout.spec.environment == "workshop"]
    guessing = [rollout for rollout in rollouts if rollout.spec.environment == "guessing"]
    assert (len(workshop), len(guessing)) == (20, 10)
    for rollout in workshop:
        assert (rollout.agent, rollout.reward, len(rollout.turns)) == ("tool_calling", 1.0, 3)
        outputs = [item.get("output") for item in json.loads(rollout.response)]
        assert outputs[3:5] == ["3", "HEY"]
        assert "there is no tool 'nothing'" in outputs[-2]
    for rollout in guessing:
        assert (rollout.agent, rollout.reward, len(rollout.turns)) == ("gymnasium", 0.5, 2)
        assert rollout.metrics["steps"] == 2
