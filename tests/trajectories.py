"""A whole rollout of one task row in this process, the policy's turns given one by one.

The real runner, agents, tools and renderer; no Ray, no processes.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
from typing import Any

from gym_ray.agents import AGENTS, Toolbox
from gym_ray.config.environment import AgentOptions
from gym_ray.environment import Environment
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.renderers import load_renderer
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.sampling import Sampling
from gym_ray.store.rows import broken_invariants
from gym_ray.task import parse_task
from tests.verification import on_loop

_RENDERER = load_renderer(None)
_NUMBERS = itertools.count()
_REPLIES: dict[str, tuple[str, ...]] = {}


def said(prompt: str, request: GenerationRequest) -> str:
    """What the scripted policy says in this turn; after the last reply, nothing."""
    rollout_id, _, turn = request.call.request_id.split("/")
    replies = _REPLIES[rollout_id]
    return replies[int(turn)] if int(turn) < len(replies) else ""


def play(
    environment: Environment,
    agent: str,
    line: str | dict[str, Any],
    *replies: str,
    max_turns: int = 16,
    max_output_tokens: int = 4000,
) -> Rollout:
    """One rollout of a row in which the policy says these replies, turn by turn."""
    environment.check_agent(agent)
    text = line if isinstance(line, str) else json.dumps(line)
    task = parse_task(text, task_index=0, source_file="rows.jsonl", source_line=1)
    rollout_id = f"r{next(_NUMBERS)}"
    _REPLIES[rollout_id] = replies
    engine = ScriptedEngine(
        model="m",
        engine_args={"reply": "tests.trajectories:said", "context_length": 2_000_000},
    )
    runner = Runner(
        environment=environment,
        agent_name=agent,
        agent=AGENTS[agent],
        renderer=_RENDERER,
        model="m",
        generate=engine.generate,
        verification=on_loop(environment),
        agent_options=AgentOptions(max_turns=max_turns),
        toolbox=_toolbox(environment),
    )
    spec = RolloutSpec(
        rollout_id=rollout_id,
        task_id=task.task_id,
        task_index=0,
        rollout_index=0,
        environment="here",
        source_file="rows.jsonl",
        source_line=1,
        task=text,
    )
    settings = RunSettings("run", Sampling(max_output_tokens=max_output_tokens), 120.0)
    rollout = asyncio.run(runner.run(spec, settings, attempt=1))
    assert broken_invariants([rollout]) == []
    return rollout


@functools.cache
def _toolbox(environment: Environment) -> Toolbox:
    """Made once for an environment, as in a replica: reading the signatures takes a while."""
    return Toolbox(environment, AgentOptions(max_tool_output_characters=200_000))


def reward_of(environment: Environment, agent: str, line: str, *replies: str) -> float | None:
    """Reward of that rollout, which must not fail."""
    rollout = play(environment, agent, line, *replies)
    assert rollout.error is None, rollout.error
    return rollout.reward


def told(rollout: Rollout) -> list[str]:
    """What the policy was told, tool results and observations, in order."""
    assert rollout.error is None, rollout.error
    found = []
    for item in json.loads(rollout.response):
        if item["type"] == "function_call_output":
            found.append(item["output"])
        elif item["type"] == "message" and item["role"] == "user":
            found += [part["text"] for part in item["content"]]
    return found
