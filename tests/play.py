"""Whole rollouts of the multi-turn agents on the scripted policy, for unit tests."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

from gym_ray.agents import AGENTS, Toolbox
from gym_ray.config.environment import AgentOptions
from gym_ray.environment import Environment
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.renderers import load_renderer
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.sampling import Sampling
from gym_ray.store.rows import broken_invariants
from gym_ray.turn import Generation
from tests.replies import row_of, tool_calls
from tests.verification import on_loop
from tests.workshop import Workshop

RENDERER = load_renderer(None)

Play = Callable[..., Rollout]

#: A tool that only the task row knows.
OF_THE_ROW = {
    "type": "function",
    "name": "of_the_row",
    "description": "",
    "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
}


def player(make_spec: Callable[..., RolloutSpec]) -> Play:
    """Runs one rollout in which the policy says these replies, turn by turn."""

    def play_one(
        *replies: str,
        environment: Environment | None = None,
        agent: str = "tool_calling",
        options: dict[str, Any] | None = None,
        engine_args: dict[str, Any] | None = None,
        generate: Callable[[GenerationRequest], Awaitable[Generation]] | None = None,
        renderer: RolloutRenderer = RENDERER,
        timeout_seconds: float = 60.0,
        max_output_tokens: int = 2000,
        max_staleness: int | None = None,
        priority: int = 0,
        **fields: Any,
    ) -> Rollout:
        environment = environment or Workshop()
        row = row_of(list(replies))
        row["responses_create_params"] |= fields.pop("params", {})  # type: ignore[operator]
        spec = dataclasses.replace(make_spec(), task=json.dumps({**row, **fields}))
        engine = ScriptedEngine(
            model="m",
            engine_args={"reply": "tests.replies:turns_in_the_prompt", **(engine_args or {})},
        )
        agent_options = AgentOptions(**(options or {}))
        runner = Runner(
            environment=environment,
            agent_name=agent,
            agent=AGENTS[agent],
            renderer=renderer,
            model="m",
            generate=generate or engine.generate,
            verification=on_loop(environment),
            agent_options=agent_options,
            toolbox=Toolbox(environment, agent_options),
            priority=priority,
        )
        settings = RunSettings(
            "run",
            Sampling(max_output_tokens=max_output_tokens),
            timeout_seconds,
            max_staleness=max_staleness,
        )
        rollout = asyncio.run(runner.run(spec, settings, attempt=1))
        assert broken_invariants([rollout]) == []
        return rollout

    return play_one


def results(rollout: Rollout) -> list[str]:
    assert rollout.error is None
    items = json.loads(rollout.response)
    return [item["output"] for item in items if item["type"] == "function_call_output"]


def ended(rollout: Rollout) -> tuple[str, str | None]:
    return rollout.status, rollout.truncation_reason


def call_tool(name: str, **arguments: Any) -> str:
    return tool_calls((name, arguments))


# Tool calling: the loop.
