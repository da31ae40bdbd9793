"""Outcomes rebuilt from rows: what a live rollout's verifier saw, the replayed one sees too."""

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from gym_ray.agents import AGENTS
from gym_ray.config.environment import AgentOptions, EnvironmentConfig
from gym_ray.environment import Environment, GymnasiumEnvironment, Outcome, Step
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.renderers import load_renderer
from gym_ray.reverification.replay import NotReplayable, Replayer
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.sampling import Sampling
from gym_ray.task import Task
from gym_ray.tools import tool
from tests.verification import on_loop

Collect = Callable[..., Rollout]


class Till(Environment):
    """A basket with a price; keeps every outcome it verified."""

    def __init__(self, price: int = 2) -> None:
        self.price = price
        self.outcomes: list[Outcome] = []
        self.ended: list[Any] = []

    async def reset(self, task: Task) -> dict[str, int] | None:
        return None if task.row.get("stateless") else {"spent": 0}

    @tool
    async def buy(self, state: dict[str, int], count: int) -> str:
        """Buy something.

        Args:
            count: how many.
        """
        if state is not None:
            state["spent"] += count * self.price
        return f"{count} for {count * self.price}"

    async def end(self, state: Any) -> None:
        self.ended.append(state)

    async def verify(self, outcome: Outcome) -> float:
        self.outcomes.append(outcome)
        return 1.0


class Countdown(GymnasiumEnvironment):
    """Name numbers downwards; over at `stop`."""

    def __init__(self, stop: int = 0) -> None:
        self.stop = stop
        self.outcomes: list[Outcome] = []

    async def reset(self, task: Task) -> dict[str, int]:
        return {"left": task.row["start"]}

    async def observe(self, task: Task, state: dict[str, int]) -> str | None:
        return None if task.row.get("silent") else f"from {state['left']}"

    async def step(self, state: dict[str, int], action: str) -> Step:
        state["left"] -= 1
        done = state["left"] <= self.stop
        return Step(f"{action}: {state['left']} left", reward=0.5, done=done)

    async def verify(self, outcome: Outcome) -> Any:
        self.outcomes.append(outcome)
        return await super().verify(outcome)


def calls(*counts: Any) -> str:
    return "".join(
        f'<tool_call>\n{{"name": "buy", "arguments": {{"count": {json.dumps(one)}}}}}\n</tool_call>'
        for one in counts
    )


@pytest.fixture
def collect(make_row: Any, make_spec: Any) -> Collect:
    """Run one rollout in process, on a policy that says `replies` in turn."""

    def run(
        environment: Environment,
        agent: str,
        *replies: str,
        max_turns: int = 8,
        max_output_tokens: int = 400,
        **fields: Any,
    ) -> Rollout:
        spec: RolloutSpec = dataclasses.replace(
            make_spec(), task=json.dumps({**make_row("go"), **fields})
        )
        queue = list(replies)

        async def generate(request: Any) -> Any:
            own = ScriptedEngine(model="m", engine_args={"reply": queue.pop(0)})
            return await own.generate(request)

        runner = Runner(
            environment=environment,
            agent_name=agent,
            agent=AGENTS[agent],
            renderer=load_renderer(None),
            model="m",
            generate=generate,
            verification=on_loop(environment),
            agent_options=AgentOptions(max_turns=max_turns),
        )
        settings = RunSettings("run", Sampling(max_output_tokens=max_output_tokens), 60.0)
        rollout = asyncio.run(runner.run(spec, settings, attempt=1))
        assert rollout.status != "failed", rollout.error
        return rollout

    return run


def replayed(rollout: Rollout, environment: Environment, agent: Any, **fields: Any) -> Any:
    replayer = Replayer(environment, EnvironmentConfig(agent=agent, **fields))
    return asyncio.run(replayer.replay(rollout))


def test_tool_calls_are_carried_out_again(collect: Collect) -> None:
    environment = Till()
    rollout = collect(environment, "tool_calling", calls(1, 2), calls(4), "done")

    found = replayed(rollout, again := Till(), "tool_calling")

    assert found.diverged == 0
    assert found.outcome == environment.outcomes[0]
    assert found.outcome.state == {"spent": 14}
    assert again.ended == [{"spent": 14}]


def test_tools_that_do_not_do_the_same_again_are_counted(collect: Collect) -> None:
    rollout = collect(Till(price=2), "tool_calling", calls(1, 2), calls(0), "done")

    found = replayed(rollout, Till(price=3), "tool_calling")

    assert found.diverged == 2  # 1 for 2 and 2 for 4 are another price now; 0 for 0 is not
    assert found.outcome.state == {"spent": 9}
    assert "1 for 2" in json.dumps(found.outcome.items)  # what the policy was told then


def test_calls_that_were_not_carried_out_are_not_carried_out_now(
    collect: Collect, make_row: Any
) -> None:
    params = {**make_row("go")["responses_create_params"], "max_tool_calls": 2}
    rollout = collect(
        Till(),
        "tool_calling",
        "<tool_call>\n{broken\n</tool_call>" + calls("three"),
        calls(5),
        "done",
        responses_create_params=params,
    )

    found = replayed(rollout, Till(), "tool_calling")

    assert (found.outcome.state, found.diverged) == ({"spent": 0}, 0)


def test_a_turn_cut_by_its_limit_has_made_no_calls(collect: Collect) -> None:
    whole = calls(3)
    rollout = collect(
        Till(), "tool_calling", calls(1), whole + "x" * 400, max_output_tokens=len(whole) + 20
    )
    assert rollout.truncation_reason == "length"

    found = replayed(rollout, Till(), "tool_calling")

    assert (found.outcome.state, found.diverged) == ({"spent": 2}, 0)
    assert found.outcome.truncation_reason == "length"


def test_the_last_calls_of_max_turns_are_carried_out(collect: Collect) -> None:
    rollout = collect(Till(), "tool_calling", calls(1), calls(1), max_turns=2)
    assert rollout.truncation_reason == "max_turns"

    assert replayed(rollout, Till(), "tool_calling").outcome.state == {"spent": 4}


def test_a_tool_that_may_be_of_an_mcp_server_is_not_replayed(collect: Collect) -> None:
    rollout = collect(Till(), "tool_calling", calls(1), "done")
    items = json.loads(rollout.response)
    items[0]["name"] = "search"
    tools = [*json.loads(rollout.tools), {"type": "function", "name": "search"}]
    rollout = dataclasses.replace(rollout, response=json.dumps(items), tools=json.dumps(tools))
    servers = {"web": {"url": "http://localhost:1/mcp"}}

    environment = Till()
    with pytest.raises(NotReplayable) as caught:
        replayed(rollout, environment, "tool_calling", mcp_servers=servers)

    assert caught.value.obstacle == "mcp_tool"
    assert len(environment.ended) == 1


def test_without_state_there_is_nothing_to_carry_out(collect: Collect) -> None:
    rollout = collect(Till(), "tool_calling", calls(1), "done", stateless=True)
    servers = {"web": {"url": "http://localhost:1/mcp"}}

    found = replayed(rollout, Till(price=3), "tool_calling", mcp_servers=servers)

    assert (found.outcome.state, found.diverged) == (None, 0)


@pytest.mark.parametrize("silent", [False, True])
def test_actions_are_played_again(collect: Collect, silent: bool) -> None:
    environment = Countdown()
    rollout = collect(environment, "gymnasium", "a", "b", start=2, silent=silent)

    found = replayed(rollout, Countdown(), "gymnasium")

    assert found.diverged == 0
    assert found.outcome == environment.outcomes[0]
    assert [step.observation for step in found.outcome.steps] == ["a: 1 left", "b: 0 left"]


def test_observations_that_changed_are_counted(collect: Collect) -> None:
    rollout = collect(Countdown(), "gymnasium", "a", "b", start=2)
    spec = dataclasses.replace(
        rollout.spec, task=rollout.spec.task.replace('"start": 2', '"start": 3')
    )

    found = replayed(dataclasses.replace(rollout, spec=spec), Countdown(), "gymnasium")

    assert found.diverged == 3  # the first observation too
    assert len(found.outcome.steps) == 2


def test_an_episode_that_now_ends_earlier_is_not_replayed(collect: Collect) -> None:
    rollout = collect(Countdown(), "gymnasium", "a", "b", start=2)

    with pytest.raises(NotReplayable) as caught:
        replayed(rollout, Countdown(stop=1), "gymnasium")

    assert caught.value.obstacle == "episode"


@pytest.mark.parametrize(
    ("agent", "replies", "fields"),
    [("tool_calling", (calls(1), "done"), {}), ("gymnasium", ("a", "b"), {"start": 2})],
)
def test_what_the_deadline_cut_in_the_middle_is_not_replayed(
    collect: Collect, agent: str, replies: tuple[str, ...], fields: dict[str, Any]
) -> None:
    make = {"tool_calling": Till, "gymnasium": Countdown}[agent]
    rollout = collect(make(), agent, *replies, **fields)
    items = json.loads(rollout.response)
    last = {"tool_calling": 1, "gymnasium": 4}[agent]
    cut = dataclasses.replace(
        rollout,
        status="truncated",
        truncation_reason="deadline",
        response=json.dumps(items[:last]),
    )

    with pytest.raises(NotReplayable) as caught:
        replayed(cut, make(), agent)

    assert caught.value.obstacle == "deadline"


def test_a_reward_from_outside_is_not_replaced(make_rollout: Any) -> None:
    rollout = make_rollout(agent="external")
    external = {"url": "http://localhost:1", "reward_from_reply": True}

    with pytest.raises(NotReplayable) as caught:
        replayed(rollout, Till(), "external", external=external)

    assert caught.value.obstacle == "outside_reward"


def test_a_row_that_lacks_a_field_of_today_is_an_invalid_task(collect: Collect) -> None:
    from gym_ray.environment import TaskFields

    class Stricter(Till):
        class Fields(TaskFields):
            budget: int

    rollout = collect(Till(), "single_turn", "done")

    with pytest.raises(RolloutFailure) as caught:
        replayed(rollout, Stricter(), "single_turn")

    assert caught.value.kind == FailureKind.TASK_INVALID
    assert "budget" in caught.value.message
