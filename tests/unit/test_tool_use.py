"""What a task row says about tool calls: choices, limits, one call at a time."""

import json

import pytest

from gym_ray.errors import FailureKind
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.sampling import Sampling, turn_samplings
from gym_ray.turn import Generation
from tests.play import OF_THE_ROW, RENDERER, Play, call_tool, ended, results
from tests.replies import tool_calls


class Asked:
    """The scripted policy, remembering what was asked of it."""

    def __init__(self) -> None:
        self._engine = ScriptedEngine(
            model="m", engine_args={"reply": "tests.replies:turns_in_the_prompt"}
        )
        self.samplings: list[Sampling] = []

    async def __call__(self, request: GenerationRequest) -> Generation:
        self.samplings.append(request.call.sampling)
        return await self._engine.generate(request)

    @property
    def guided(self) -> list[bool]:
        return [sampling.structural_tag is not None for sampling in self.samplings]


def test_a_required_call_guides_every_turn_and_the_row_says_by_what(play: Play) -> None:
    asked = Asked()

    rollout = play(
        call_tool("count"),
        options={"max_turns": 3},
        params={"tool_choice": "required"},
        generate=asked,
    )

    assert asked.guided == [True] * 3
    assert turn_samplings(rollout.sampling, 3) == asked.samplings
    assert '"name\\": \\"count\\"' in str(asked.samplings[0].structural_tag)


def test_once_all_calls_allowed_are_made_turns_are_free_and_more_calls_are_told_so(
    play: Play,
) -> None:
    asked = Asked()
    params = {"tool_choice": "required", "max_tool_calls": 3}
    two = tool_calls(("count", {}), ("count", {}))

    rollout = play(two, two, two, "ok", params=params, generate=asked)

    told = results(rollout)
    refused = "Error: no more tool calls: all 3 that max_tool_calls allows are made"
    assert [result == refused for result in told] == [False] * 3 + [True] * 3
    assert (ended(rollout), rollout.reward) == (("completed", None), 3.0)
    assert asked.guided == [True, True, False, False]
    assert turn_samplings(rollout.sampling, 4) == asked.samplings


def test_without_parallel_calls_only_the_first_of_a_turn_is_carried_out(play: Play) -> None:
    two = tool_calls(("count", {}), ("count", {}))

    rollout = play(two, "ok", params={"parallel_tool_calls": False})

    first, second = results(rollout)
    assert first.startswith('{"count":1')
    assert second.startswith("Error: one call at a time: this one was not carried out")
    assert rollout.reward == 1.0


def test_a_call_that_cannot_be_read_counts_and_is_told_what_is_wrong_with_it(play: Play) -> None:
    broken = "<tool_call>\n{oops\n</tool_call>"

    rollout = play(broken, call_tool("count"), "ok", params={"max_tool_calls": 1})

    first, second = results(rollout)
    assert first.startswith("Error: invalid_json")
    assert second.startswith("Error: no more tool calls")


@pytest.mark.parametrize("agent", ["tool_calling", "single_turn"])
def test_a_tool_by_name_is_the_only_one_a_guided_turn_can_call(play: Play, agent: str) -> None:
    asked = Asked()
    params = {
        "tools": [OF_THE_ROW, {**OF_THE_ROW, "name": "other"}],
        "tool_choice": {"type": "function", "name": "of_the_row"},
        "max_tool_calls": 1,
    }

    rollout = play(call_tool("of_the_row", n=1), "ok", agent=agent, params=params, generate=asked)

    assert rollout.status == "completed"
    assert asked.guided == ([True, False] if agent == "tool_calling" else [True])
    tag = str(asked.samplings[0].structural_tag)
    assert "of_the_row" in tag
    assert "other" not in tag
    assert [tool["name"] for tool in json.loads(rollout.tools)][:2] == ["of_the_row", "other"]


@pytest.mark.parametrize("agent", ["tool_calling", "single_turn"])
def test_no_tool_is_offered_where_none_is_to_be_called(play: Play, agent: str) -> None:
    rollout = play("ok", agent=agent, params={"tools": [OF_THE_ROW], "tool_choice": "none"})

    assert json.loads(rollout.tools) == []
    assert "of_the_row" not in RENDERER.decode(rollout.token_ids)


@pytest.mark.parametrize("agent", ["tool_calling", "single_turn"])
def test_a_choice_that_cannot_be_kept_fails_the_rollout_before_a_token_is_sampled(
    play: Play, agent: str
) -> None:
    asked = Asked()
    choice = {"type": "function", "name": "absent"}

    rollout = play("ok", agent=agent, params={"tool_choice": choice}, generate=asked)

    assert rollout.error_kind == FailureKind.POLICY_REJECTED
    assert "tool_choice names 'absent', and no such tool is offered" in str(rollout.error)
    assert asked.samplings == []


# Renderers that cannot continue a conversation.
