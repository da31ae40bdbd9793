"""The policy plays an environment step by step: observation, action, observation, …"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gym_ray.agents.agent import AgentContext, Episode
from gym_ray.agents.author_code import call_author_code
from gym_ray.agents.turn_taking import TurnTaking
from gym_ray.environment import GymnasiumEnvironment, Step
from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.renderers.items import messages_from_items
from gym_ray.task import Task


async def gymnasium(attempt: AgentContext) -> Episode:
    """Sample an action, play it, tell the observation, until the environment says it is done.

    The action of the last turn `max_turns` allows is played too, and its reward counts; a turn
    cut by its token limit is no action. No tools are offered.
    """
    environment, task, state = attempt.environment, attempt.task, attempt.state
    if not isinstance(environment, GymnasiumEnvironment):
        raise TypeError(f"{type(environment).__name__} is no GymnasiumEnvironment")
    turns = TurnTaking(attempt, tools=[])

    async def loop() -> None:
        messages = messages_from_items(task.input_items)
        started = time.perf_counter()
        first = await first_observation(environment, task, state)
        if first is not None:
            messages += _tell(turns, first)
        while True:
            seconds = time.perf_counter() - started
            answer = await turns.turn(messages, tool_seconds=seconds)
            started = time.perf_counter()
            step = await play_action(environment, state, answer.content)
            turns.steps.append(step)
            messages = _tell(turns, step.observation)
            if step.done:
                return

    return await turns.play(loop())


async def first_observation(
    environment: GymnasiumEnvironment, task: Task, state: Any
) -> str | None:
    """What `observe` says.

    Raises:
        RolloutFailure: `environment_error`, or what it raised.
    """
    said: str | None = await _play("observe", environment.observe, task, state)
    return said


async def play_action(environment: GymnasiumEnvironment, state: Any, action: str) -> Step:
    """What `step` makes of an action.

    Raises:
        RolloutFailure: `environment_error`, or what it raised.
    """
    step = await _play("step", environment.step, state, action)
    if not isinstance(step, Step) or not isinstance(step.observation, str):
        raise RolloutFailure(
            FailureKind.ENVIRONMENT_ERROR,
            f"step() must return a Step with a text as observation, got {step!r:.200}",
        )
    return step


def _tell(turns: TurnTaking, observation: str) -> list[dict[str, Any]]:
    """The messages of an observation, which becomes an item as well."""
    (message,) = messages_from_items([{"role": "user", "content": observation}])
    part = {"type": "input_text", "text": message["content"]}
    turns.add({"type": "message", "role": "user", "content": [part]})
    return [message]


async def _play(name: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return await call_author_code(function, *args)
    except RolloutFailure:
        raise
    except Exception as error:
        raise RolloutFailure(FailureKind.ENVIRONMENT_ERROR, f"{name}: {one_line(error)}") from error
