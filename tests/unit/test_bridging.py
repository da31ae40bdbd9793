"""Histories that cannot be continued: refused before anything starts, or ended and verified."""

from typing import Any

import numpy as np
import pytest

from gym_ray.agents.bridging import require_bridge
from gym_ray.errors import ConfigError
from gym_ray.renderers import BridgeImpossible, load_renderer
from tests.play import RENDERER, Play, call_tool, ended


class CannotBridge:
    """The byte renderer, as far as its first turn."""

    family = "stubborn"

    def __init__(self, *, can_bridge: bool) -> None:
        self.can_bridge = can_bridge

    def __getattr__(self, name: str) -> Any:
        return getattr(RENDERER, name)

    def bridge(self, *_: Any) -> Any:
        raise BridgeImpossible("renderer stubborn renders the history anew")


def test_a_history_that_cannot_be_continued_ends_the_rollout_and_is_verified(play: Play) -> None:
    rollout = play(call_tool("count"), "ok", renderer=CannotBridge(can_bridge=True))

    assert ended(rollout) == ("truncated", "context")
    assert (len(rollout.turns), rollout.reward) == (1, 1.0)


@pytest.mark.parametrize("agent", ["tool_calling", "gymnasium"])
@pytest.mark.parametrize("can_bridge", [True, False])
def test_a_multi_turn_run_whose_renderer_cannot_bridge_is_refused(
    agent: str, can_bridge: bool
) -> None:
    renderer: Any = CannotBridge(can_bridge=can_bridge)

    with pytest.raises(ConfigError, match=rf"environments\.shop\.agent {agent} takes several"):
        require_bridge("shop", agent, renderer)
    require_bridge("shop", "single_turn", renderer)
    require_bridge("shop", agent, RENDERER)


class OpensThinking(CannotBridge):
    """A family whose prompt opens the thinking; a turn that never closes it cannot be continued."""

    def render(self, *arguments: Any) -> Any:
        opening = np.frombuffer(b"<think>\n", dtype=np.uint8).astype(np.int32)
        return np.concatenate([RENDERER.render(*arguments), opening])

    def bridge(self, prompt: Any, generation: Any, *new: Any) -> Any:
        if "</think>" not in RENDERER.decode(generation):
            raise BridgeImpossible("still thinking")
        return RENDERER.bridge(prompt, generation, *new)


@pytest.mark.parametrize("agent", ["tool_calling", "gymnasium"])
def test_a_family_that_thinks_from_the_prompt_on_is_tried_with_a_finished_thought(
    agent: str,
) -> None:
    require_bridge("shop", agent, OpensThinking(can_bridge=True))  # type: ignore[arg-type]


def test_dropped_thinking_is_refused_where_a_user_speaks_between_turns() -> None:
    renderer = load_renderer(None, thinking_retention="tool_cycle")

    require_bridge("shop", "tool_calling", renderer)
    with pytest.raises(ConfigError, match=r"keep policy\.thinking_retention=all"):
        require_bridge("shop", "gymnasium", renderer)


def test_collect_refuses_it_before_anything_starts(tmp_path: Any) -> None:
    import gym_ray

    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"responses_create_params": {"input": "go"}, "secret": 3}\n')
    config = {
        "policy": {"engine": "scripted", "thinking_retention": "tool_cycle"},
        "environments": {"g": {"entrypoint": "tests.workshop:Guessing", "agent": "gymnasium"}},
        "collect": {"input": str(tasks), "output": str(tmp_path / "run")},
    }
    with pytest.raises(ConfigError, match=r"environments\.g\.agent gymnasium takes several turns"):
        gym_ray.collect(config, quiet=True)
    assert list(tmp_path.iterdir()) == [tasks]


# Gymnasium.
