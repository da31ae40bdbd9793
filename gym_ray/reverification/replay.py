"""What a verifier is given, rebuilt from a stored rollout: nothing is sampled.

Owned here: text, items, truncation and state of an `Outcome`, from the row alone. The state is
that of a fresh `reset` to which is done what the row says was done: the function calls of
`tool_calling`, the actions of `gymnasium`; agents outside change no state. Items and text are
always the stored ones, since they are what the policy went through.

Not owned here: verifying (verifiers) and what becomes of the row (collection).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from gym_ray.agents import Toolbox
from gym_ray.agents.gymnasium import first_observation, play_action
from gym_ray.agents.tool_use import ToolUse
from gym_ray.config.environment import EnvironmentConfig
from gym_ray.environment import (
    Environment,
    GymnasiumEnvironment,
    Outcome,
    Step,
    fresh_state,
    open_task,
)
from gym_ray.renderers.items import Item, text_of_items
from gym_ray.renderers.messages import ToolCall
from gym_ray.rollout import Rollout
from gym_ray.task import Task
from gym_ray.tools import method_tools

#: Why the state a rollout ended in cannot be had from its row.
Obstacle = Literal["mcp_tool", "deadline", "episode", "outside_reward"]


class NotReplayable(Exception):
    """The row does not say what a verifier would have to judge.

    Attributes:
        obstacle: `mcp_tool`, it called what may be a tool of an MCP server, whose effects are
            elsewhere; `deadline`, that came while tools ran or an action was played; `episode`,
            the environment no longer plays as many steps; `outside_reward`, the reward came from
            the agent's server.
    """

    def __init__(self, obstacle: Obstacle) -> None:
        super().__init__(obstacle)
        self.obstacle: Obstacle = obstacle


@dataclasses.dataclass(frozen=True, slots=True)
class Replay:
    """A rebuilt outcome.

    Attributes:
        outcome: for the verifier.
        diverged: tool results or observations that are not what the row says they were: the
            environment has changed, or does not do the same again.
    """

    outcome: Outcome
    diverged: int = 0


class Replayer:
    """Rebuilds outcomes in one environment. One instance serves many rollouts at once.

    Args:
        environment: built from `section`.
        section: its config; the agent is the one a row names.
    """

    def __init__(self, environment: Environment, section: EnvironmentConfig) -> None:
        self._environment = environment
        self._section = section
        self._toolbox = Toolbox(environment, section.agent_options)
        self._own_tools = frozenset(method_tools(environment))

    async def replay(self, rollout: Rollout) -> Replay:
        """Rebuild the outcome of a rollout that has a response.

        Raises:
            NotReplayable: see there.
            RolloutFailure: `task_invalid`, `environment_error`, or what the environment raised.
        """
        external = self._section.external
        if rollout.agent == "external" and external is not None and external.reward_from_reply:
            raise NotReplayable("outside_reward")
        environment = self._environment
        task = open_task(environment, rollout.spec)
        items: list[Item] = json.loads(rollout.response)
        state = await fresh_state(environment, task)
        steps: tuple[Step, ...] = ()
        diverged = 0
        try:
            if rollout.agent == "gymnasium":
                steps, diverged = await self._play(rollout, task, items, state)
            elif rollout.agent == "tool_calling" and state is not None:
                diverged = await self._call_tools(rollout, task, items, state)
        except BaseException:
            with contextlib.suppress(Exception):
                await environment.end(state)
            raise
        await environment.end(state)
        outcome = Outcome(
            task=task,
            text=text_of_items(items),
            items=items,
            state=state,
            truncation_reason=rollout.truncation_reason,
            steps=steps,
            left_out=tuple(filter(None, json.loads(rollout.left_out))),
        )
        return Replay(outcome, diverged)

    async def _call_tools(
        self, rollout: Rollout, task: Task, items: Sequence[Item], state: Any
    ) -> int:
        """Carry out the calls again, one after the other; how many results differ."""
        use = ToolUse(task, None, json.loads(rollout.tools))
        diverged = 0
        for calls, results in _tool_turns(items):
            if not results:
                if rollout.truncation_reason == "deadline":
                    raise NotReplayable("deadline")
                return diverged  # a turn cut by its limit: its calls were not carried out
            for call in use.admit(calls):
                if call.error is not None:
                    continue
                if self._is_elsewhere(call, use.tools):
                    raise NotReplayable("mcp_tool")
                (result,) = await self._toolbox.call_all([call], use.tools, state)
                diverged += result != results.get(call.id)
        return diverged

    def _is_elsewhere(self, call: ToolCall, offered: Sequence[dict[str, Any]]) -> bool:
        """Whether a call may have gone to an MCP server."""
        if not self._section.mcp_servers or call.name in self._own_tools:
            return False
        return any(tool["name"] == call.name for tool in offered)

    async def _play(
        self, rollout: Rollout, task: Task, items: Sequence[Item], state: Any
    ) -> tuple[tuple[Step, ...], int]:
        """Play the actions again; the steps, and how many observations differ."""
        environment = self._environment
        if not isinstance(environment, GymnasiumEnvironment):
            raise NotReplayable("episode")
        steps: list[Step] = []
        told: list[Item] = []
        diverged = 0
        first = await first_observation(environment, task, state)
        for position, item in enumerate(items):
            if item.get("role") != "user":
                told.append(item)
                continue
            if position == 0 and first is not None:
                diverged += first != _text(item)
                continue
            if steps and steps[-1].done:
                raise NotReplayable("episode")
            step = await play_action(environment, state, text_of_items(told))
            diverged += step.observation != _text(item)
            steps.append(step)
            told = []
        if told and rollout.truncation_reason == "deadline":
            raise NotReplayable("deadline")
        return tuple(steps), diverged


def _tool_turns(items: Sequence[Item]) -> Iterator[tuple[list[ToolCall], dict[str, str]]]:
    """The calls of each turn that made some, and their results by call."""
    runs = itertools.groupby(items, key=lambda item: item.get("type") == "function_call_output")
    calls: list[ToolCall] = []
    for are_results, run in runs:
        if are_results:
            yield calls, {item["call_id"]: item["output"] for item in run}
            calls = []
        else:
            calls = [_call_of(item) for item in run if item.get("type") == "function_call"]
    if calls:
        yield calls, {}


def _call_of(item: Item) -> ToolCall:
    is_malformed = item.get("status") == "incomplete"
    return ToolCall(
        id=item["call_id"],
        name=item["name"],
        arguments=item["arguments"],
        error="could not be read" if is_malformed else None,
    )


def _text(item: Item) -> str:
    return "".join(part["text"] for part in item["content"])
