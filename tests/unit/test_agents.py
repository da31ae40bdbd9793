"""The multi-turn agents on whole rollouts: the scripted policy, real tools and games."""

import asyncio
import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from gym_ray.errors import FailureKind
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.rollout import Rollout
from gym_ray.turn import Generation
from tests.play import OF_THE_ROW, RENDERER, Play, call_tool, ended, results
from tests.replies import tool_calls
from tests.workshop import Guessing


def test_a_rollout_is_turns_and_results_until_an_answer_without_a_call(play: Play) -> None:
    rollout = play(call_tool("add", a=1, b=2), call_tool("count"), "It is 3.")

    assert ended(rollout) == ("completed", None)
    assert rollout.reward == 1.0
    items = json.loads(rollout.response)
    assert [item["type"] for item in items] == [
        "function_call", "function_call_output", "function_call", "function_call_output", "message",
    ]  # fmt: skip
    assert items[0]["call_id"] == items[1]["call_id"] != items[2]["call_id"]
    assert [items[1]["output"], items[3]["output"]] == ["3", '{"count":1,"loop":false}']
    assert len({item["id"] for item in items}) == len(items)
    offered = [tool["name"] for tool in json.loads(rollout.tools)]
    assert offered[:3] == ["add", "count", "meet"]


def test_every_prompt_continues_the_tokens_before_it_and_only_sampled_tokens_train(
    play: Play,
) -> None:
    rollout = play(call_tool("add", a=1), call_tool("say", text="ü <|im_end|>"), "done")

    end = 0
    for turn in rollout.turns:
        assert turn.prompt_length > end
        assert not rollout.loss_mask[end : turn.prompt_length].any()
        end = turn.prompt_length + turn.generation_length
        assert rollout.loss_mask[turn.prompt_length : end].all()
    assert (len(rollout.turns), end) == (3, len(rollout.token_ids))
    assert np.array_equal(rollout.logprobs != 0, rollout.loss_mask == 1)
    told = RENDERER.decode(rollout.token_ids[rollout.loss_mask == 0])
    assert "<tool_response>\n2\n</tool_response>" in told
    assert "<tool_response>\nü <|im_end|>\n</tool_response>" in told


def test_calls_of_one_turn_run_at_the_same_time_and_answer_in_order(play: Play) -> None:
    calls = tool_calls(("meet", {"who": "b"}), ("add", {"a": 1}), ("meet", {"who": "a"}))

    rollout = play(calls, "ok")

    assert results(rollout) == ["b met the other", "2", "a met the other"]
    assert rollout.turns[0].tool_seconds == 0
    assert rollout.turns[1].tool_seconds > 0


def test_the_last_allowed_turn_still_has_its_calls_carried_out(play: Play) -> None:
    rollout = play(call_tool("count"), options={"max_turns": 3})

    assert ended(rollout) == ("truncated", "max_turns")
    assert (len(rollout.turns), len(results(rollout)), rollout.reward) == (3, 3, 3.0)


def test_a_turn_cut_by_its_token_limit_ends_the_rollout_before_its_calls(play: Play) -> None:
    rollout = play(call_tool("add", a=1), call_tool("say", text="x" * 300), max_output_tokens=100)

    assert ended(rollout) == ("truncated", "length")
    assert len(results(rollout)) == 1


def test_a_full_context_ends_the_rollout(play: Play) -> None:
    long = call_tool("say", text="abcdefghij", times=90)

    rejected = play(long, engine_args={"context_length": 5000})
    own_budget = play(long, options={"max_context_tokens": 5000})

    assert ended(rejected) == ended(own_budget) == ("truncated", "context")
    assert rejected.reward == 0.0
    assert 4000 < len(own_budget.token_ids) <= 5000


def test_a_turn_cut_by_the_end_of_the_context_is_told_from_one_cut_by_its_limit(
    play: Play,
) -> None:
    whole = play("x" * 50)
    prompt_length = whole.turns[0].prompt_length

    rollout = play("x" * 50, options={"max_context_tokens": prompt_length + 20})

    assert ended(rollout) == ("truncated", "context")
    assert len(rollout.token_ids) == prompt_length + 20


def test_a_single_turn_cut_by_the_end_of_the_context_says_so(play: Play) -> None:
    prompt_length = play("x" * 50, agent="single_turn").turns[0].prompt_length

    options = {"max_context_tokens": prompt_length + 20}
    rollout = play("x" * 50, agent="single_turn", options=options)

    assert ended(rollout) == ("truncated", "context")


def test_a_first_prompt_too_long_for_the_context_is_a_failure(play: Play) -> None:
    rollout = play("x", options={"max_context_tokens": 10})

    assert rollout.error_kind == FailureKind.POLICY_REJECTED
    assert "agent_options.max_context_tokens is 10" in (rollout.error or "")


def test_the_deadline_truncates_a_rollout_that_has_turns_and_it_is_verified(play: Play) -> None:
    rollout = play(call_tool("count"), call_tool("hang"), timeout_seconds=0.5)

    assert ended(rollout) == ("truncated", "deadline")
    assert (rollout.reward, len(rollout.turns)) == (1.0, 2)


def test_the_deadline_fails_a_rollout_without_a_turn(play: Play) -> None:
    async def never(request: GenerationRequest) -> Generation:
        await asyncio.Event().wait()
        raise AssertionError

    rollout = play("x", generate=never, timeout_seconds=0.05)

    assert rollout.error_kind == FailureKind.ROLLOUT_TIMEOUT


def test_a_turn_the_engine_gave_up_is_never_continued(play: Play) -> None:
    engine = ScriptedEngine(model="m", engine_args={"reply": call_tool("count")})

    async def aborts_the_second(request: GenerationRequest) -> Generation:
        generation = await engine.generate(request)
        first = request.call.request_id.endswith("/0")
        return generation if first else dataclasses.replace(generation, stop_reason="abort")

    rollout = play("x", generate=aborts_the_second)

    assert (rollout.error_kind, rollout.error) == (
        "policy_error", "the engine aborted the generation",
    )  # fmt: skip


# Tool calling: what goes wrong in a call is told to the policy.


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (call_tool("misbehave", how="raise"), "Error: ValueError: no such thing"),
        (call_tool("misbehave", how="cancel"), "Error: tool 'misbehave' gave up"),
        (call_tool("misbehave", how="exit"), "Error: SystemExit: 3"),
        (call_tool("misbehave", how="odd"), "Error: PydanticSerializationError: Unable to ser"),
        (call_tool("add", a="x"), "Error: the arguments do not fit tool 'add': $.a: 'x' is not of"),
        (call_tool("add"), "Error: the arguments do not fit tool 'add': $: 'a' is a required"),
        (call_tool("add", a=1, c=2), "Error: the arguments do not fit tool 'add': $: Additional"),
        (call_tool("misbehave", how="?"), "Error: the arguments do not fit tool 'misbehave': $.h"),
        (call_tool("ad"), "Error: there is no tool 'ad'; tools: add, count, meet"),
        (call_tool("verify"), "Error: there is no tool 'verify'; tools: add"),
        (call_tool("hang"), "Error: tool 'hang' took longer than 0.05 s"),
        (call_tool("block"), "Error: tool 'block' took longer than 0.05 s"),
        (call_tool("say", text="\ud800"), "?"),
        (
            call_tool("say", text="ab", times=100),
            "Error: the output has 200 characters, of which only the first 150 follow\nabab",
        ),
        ("<tool_call>\n{oops\n</tool_call>", "Error: invalid_json: the text between"),
        (tool_calls(("add", [1, 2])), "Error: malformed_structure: the tool call needs"),
    ],
)
def test_every_tool_error_is_a_result_the_policy_can_read(
    play: Play, call: str, result: str
) -> None:
    timeouts = {"hang": 0.05, "block": 0.05}
    options = {"tool_timeouts": timeouts, "max_tool_output_characters": 150}

    rollout = play(call, "I see.", options=options)

    assert ended(rollout) == ("completed", None)
    (told,) = results(rollout)
    assert told.startswith(result)
    assert len(told) < 300
    assert len(rollout.turns) == 2


def test_one_failing_call_leaves_its_neighbours_alone(play: Play) -> None:
    calls = tool_calls(("misbehave", {"how": "raise"}), ("add", {"a": 1}))

    assert results(play(calls, "ok")) == ["Error: ValueError: no such thing", "2"]


def test_a_tool_may_fail_the_rollout_on_purpose(play: Play) -> None:
    rollout = play(tool_calls(("misbehave", {"how": "fail"}), ("hang", {})), "ok")

    assert (rollout.error_kind, rollout.error) == ("sandbox_error", "the sandbox is gone")


# Tool calling: tools of the row.


def test_a_tool_of_the_row_is_carried_out_by_call_tool(play: Play) -> None:
    absent = {**OF_THE_ROW, "name": "absent"}
    calls = tool_calls(("of_the_row", {"n": 1}), ("of_the_row", {}), ("absent", {"n": 1}))

    rollout = play(calls, "ok", params={"tools": [OF_THE_ROW, absent]})

    first, second, third = results(rollout)
    assert first == '{"got":{"n":1}}'
    assert second.startswith("Error: the arguments do not fit tool 'of_the_row': $: 'n' is a req")
    assert third.startswith("Error: there is no tool 'absent'")
    assert json.loads(rollout.tools)[:2] == [OF_THE_ROW, absent]


def test_a_row_may_word_a_tool_of_the_environment_its_own_way(play: Play) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 5}}}
    own = {"type": "function", "name": "add", "parameters": parameters}
    calls = tool_calls(("add", {"a": 5}), ("add", {"a": 6}), ("add", {}))

    rollout = play(calls, "ok", params={"tools": [own]})

    assert [tool for tool in json.loads(rollout.tools) if tool["name"] == "add"] == [own]
    allowed, too_big, missing = results(rollout)
    assert allowed == "6"
    assert "6 is greater than the maximum of 5" in too_big
    assert missing == "Error: the arguments do not fit tool 'add': a: Field required"


def test_a_row_whose_schema_is_illegal_is_no_task(play: Play) -> None:
    illegal = {**OF_THE_ROW, "parameters": {"type": "objekt"}}

    rollout = play("ok", params={"tools": [illegal]})

    assert rollout.error_kind == FailureKind.TASK_INVALID
    assert "offers tool 'of_the_row' with an illegal schema: 'objekt'" in (rollout.error or "")


def test_a_schema_never_makes_a_replica_fetch_an_address(play: Play) -> None:
    elsewhere = {**OF_THE_ROW, "parameters": {"$ref": "http://127.0.0.1:9/schema"}}

    rollout = play(call_tool("of_the_row"), "ok", params={"tools": [elsewhere]})

    assert "the tool's schema cannot be applied" in results(rollout)[0]


# What the row says about tool calls.


@pytest.fixture
def guess(play: Play) -> Play:
    """Play the guessing game with these actions."""

    def run(*actions: str, **settings: Any) -> Rollout:
        return play(*actions, environment=Guessing(), agent="gymnasium", secret=4, **settings)

    return run


def test_an_episode_is_observations_and_actions_and_its_reward_their_sum(guess: Play) -> None:
    rollout = guess("2", "6", "4")

    assert ended(rollout) == ("completed", None)
    assert rollout.reward == 0.25
    assert rollout.metrics == {"steps": 3.0, "tries": 3.0}
    items = json.loads(rollout.response)
    said = [(item["role"], item["content"][0]["text"]) for item in items]
    assert said == [
        ("user", "Guess a number."), ("assistant", "2"), ("user", "higher"), ("assistant", "6"),
        ("user", "lower"), ("assistant", "4"), ("user", "Right!"),
    ]  # fmt: skip
    sampled = RENDERER.decode(rollout.token_ids[rollout.loss_mask == 1])
    assert sampled == "2<|im_end|>6<|im_end|>4<|im_end|>"
    told = RENDERER.decode(rollout.token_ids[rollout.loss_mask == 0])
    assert told.index("Guess a number.") < told.index("higher") < told.index("lower")
    assert "Right!" not in told
    assert json.loads(rollout.tools) == []
    assert rollout.turns[1].tool_seconds > 0


def test_an_episode_ends_at_max_turns_and_keeps_what_it_earned(guess: Play) -> None:
    rollout = guess("1", options={"max_turns": 2})

    assert ended(rollout) == ("truncated", "max_turns")
    assert (rollout.reward, len(rollout.turns)) == (-0.5, 2)


def test_an_action_cut_by_its_token_limit_is_not_played(guess: Play) -> None:
    rollout = guess("1", "44444", max_output_tokens=3)

    assert ended(rollout) == ("truncated", "length")
    assert rollout.metrics["steps"] == 1


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("raise", "step: ValueError: the board fell over"),
        ("text", "step() must return a Step with a text as observation, got 'not a Step'"),
    ],
)
def test_a_step_that_fails_fails_the_rollout(guess: Play, action: str, says: str) -> None:
    rollout = guess(action)

    assert (rollout.error_kind, rollout.error) == ("environment_error", says)


def test_every_turn_carries_the_priority_of_its_environment(play: Play) -> None:
    engine = ScriptedEngine(model="m", engine_args={"reply": "tests.replies:turns_in_the_prompt"})
    priorities: list[int] = []

    async def generate(request: GenerationRequest) -> Generation:
        priorities.append(request.call.priority)
        return await engine.generate(request)

    play(call_tool("count"), "ok", generate=generate, priority=-3)

    assert priorities == [-3, -3]
