"""Sessions of a replica: an agent outside makes the policy calls, here by hand."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gym_ray.agents.sessions import Closing, SessionError, SessionState
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.nemo_gym import output_row
from gym_ray.policies.call import Call
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.sampling import Sampling, turn_samplings
from gym_ray.turn import Generation
from gym_ray.verdict import Verdict
from tests.replies import tool_calls
from tests.sessions import (
    RENDERER,
    Caller,
    Replica,
    closed,
    played,
    recorded,
    sum_row,
    until_ended,
)

STOPS = RENDERER.stop_token_ids

TWO_SUMS = (
    tool_calls(("add", {"a": 1, "b": 1}), ("add", {"a": 2, "b": 2})),
    tool_calls(("add", {"a": 2, "b": 1})),
    "3",
)


def test_a_session_leaves_the_row_the_built_in_agent_would(tmp_path: Path) -> None:
    row = sum_row(*TWO_SUMS)

    state, rollout = recorded(tmp_path, row, played)
    built_in = asyncio.run(Replica().built_in(row))

    assert (state.status, state.reward, state.turns, state.open) == ("completed", 1.0, 3, False)
    assert (rollout.agent, rollout.reward) == ("external", 1.0)
    assert rollout.token_ids.tolist() == built_in.token_ids.tolist()
    assert rollout.loss_mask.tolist() == built_in.loss_mask.tolist()
    assert rollout.logprobs.tolist() == built_in.logprobs.tolist()
    theirs, ours = json.loads(rollout.response), json.loads(built_in.response)
    assert without_ids(theirs) == without_ids(ours)
    assert (rollout.tools, rollout.prompt) == (built_in.tools, built_in.prompt)
    assert rollout.sampling == built_in.sampling
    assert rollout.side_branches == ()


def without_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items as they are in every rollout: of a call's ID, which call it is."""
    numbers: dict[str, int] = {}
    return [
        {name: value for name, value in item.items() if name not in ("id", "call_id")}
        | ({"call": numbers.setdefault(item["call_id"], len(numbers))} if "call_id" in item else {})
        for item in items
    ]


def test_an_edited_history_is_a_branch_and_the_newest_turn_is_the_rollout(tmp_path: Path) -> None:
    async def edit(caller: Caller) -> SessionState:
        first = (await caller.chat(caller.question)).message.as_message()
        told = [{"role": "user", "content": "More?"}]
        await caller.chat([*caller.question, first, *told])
        await caller.chat([*caller.question, {"role": "assistant", "content": "Edited."}, *told])
        return await closed(caller)

    state, rollout = recorded(tmp_path, sum_row("one", "two", "3"), edit)

    assert state.turns == 3
    assert (state.reward, len(rollout.turns), len(rollout.side_branches)) == (1.0, 1, 1)
    (item,) = json.loads(rollout.response)
    assert item["content"][0]["text"] == "3"


def test_concurrent_calls_are_recorded_each_as_its_own_branch(tmp_path: Path) -> None:
    async def fan_out(caller: Caller) -> SessionState:
        await asyncio.gather(*(caller.chat(caller.question) for _ in range(8)))
        return await closed(caller)

    state, rollout = recorded(tmp_path, sum_row(*"12345678"), fan_out)

    assert (state.turns, len(rollout.turns), len(rollout.side_branches)) == (8, 1, 7)


def test_token_prompts_continue_the_conversation_they_start_with(tmp_path: Path) -> None:
    async def in_tokens(caller: Caller) -> SessionState:
        answer = await caller.chat(caller.question)
        assert answer.prompt_token_ids is not None
        assert answer.generation is not None
        more = np.frombuffer(b"\nMore.\n", dtype=np.uint8).astype(np.int32)
        prompt = np.concatenate([answer.prompt_token_ids, answer.generation.token_ids, more])
        request = GenerationRequest(Call("x", Sampling(max_output_tokens=2000), STOPS), prompt)
        await caller.host.generate(caller.opened.session_id, caller.opened.key, request)
        return await closed(caller)

    _, rollout = recorded(tmp_path, sum_row("one", "3"), in_tokens)

    assert (len(rollout.turns), rollout.side_branches) == (2, ())
    texts = [item["content"][0]["text"] for item in json.loads(rollout.response)]
    assert texts == ["one", "\nMore.\n", "3"]


def test_the_runs_sampling_wins_and_a_call_only_narrows_it(tmp_path: Path) -> None:
    seen: list[GenerationRequest] = []
    engine = ScriptedEngine(model="m", engine_args={"reply": "3"})

    async def generate(request: GenerationRequest) -> Generation:
        seen.append(request)
        return await engine.generate(request)

    async def ask(caller: Caller) -> SessionState:
        wish = Sampling(temperature=0.0, top_p=0.5, top_k=1, max_output_tokens=7, stop=("x",))
        await caller.chat(caller.question, sampling=wish, seed=5)
        greedy = dataclasses.replace(wish, max_output_tokens=10**6, stop=())
        await caller.chat(caller.question, sampling=greedy)
        return await closed(caller)

    run = Sampling(temperature=0.9, top_p=0.8, max_output_tokens=100)
    _, rollout = recorded(tmp_path, sum_row(), ask, generate=generate, sampling=run)

    assert seen[0].call.sampling == dataclasses.replace(run, max_output_tokens=7, stop=("x",))
    assert seen[1].call.sampling == run
    assert [request.call.seed for request in seen] == [None, None]
    assert Sampling.from_json(rollout.sampling) == run


def test_what_single_turns_were_sampled_with_is_in_the_row(tmp_path: Path) -> None:
    async def ask(caller: Caller) -> SessionState:
        first = await caller.chat(caller.question, sampling=Sampling(max_output_tokens=9))
        await caller.chat(
            [*caller.question, first.message.as_message(), {"role": "user", "content": "?"}],
            sampling=Sampling(max_output_tokens=5000, structural_tag="{}"),
        )
        return await closed(caller)

    _, rollout = recorded(tmp_path, sum_row("one", "3"), ask)

    stored = json.loads(rollout.sampling)
    assert stored["max_output_tokens"] == 2000
    assert stored["turns"] == [{"max_output_tokens": 9}, {"structural_tag": "{}"}]


def test_the_sampling_of_side_branches_is_not_taken_for_that_of_the_rollouts_turns(
    tmp_path: Path,
) -> None:
    async def ask(caller: Caller) -> SessionState:
        await caller.chat(caller.question, sampling=Sampling(max_output_tokens=9))
        await caller.chat(caller.question)
        return await closed(caller)

    _, rollout = recorded(tmp_path, sum_row("one", "3"), ask)

    assert (len(rollout.turns), len(rollout.side_branches)) == (1, 1)
    assert turn_samplings(rollout.sampling, 1) == [Sampling(max_output_tokens=2000)]


def test_a_stop_text_is_not_told_and_the_conversation_goes_on_from_its_tokens(
    tmp_path: Path,
) -> None:
    async def ask(caller: Caller) -> SessionState:
        sampling = Sampling(max_output_tokens=2000, stop=("Observation:",))
        first = await caller.chat(caller.question, sampling=sampling)
        assert (first.message.content, first.stop_reason) == ("look ", "stop")
        told = {"role": "user", "content": "Observation: 3"}
        await caller.chat([*caller.question, first.message.as_message(), told])
        return await closed(caller)

    _, rollout = recorded(tmp_path, sum_row("look Observation: I made it up", "3"), ask)

    assert (len(rollout.turns), rollout.side_branches) == (2, ())
    assert json.loads(rollout.response)[0]["content"][0]["text"] == "look "


def test_one_call_at_a_time_tells_one_call_and_goes_on_from_it(tmp_path: Path) -> None:
    async def ask(caller: Caller) -> SessionState:
        first = (await caller.chat(caller.question, parallel_tool_calls=False)).message
        assert len(first.tool_calls) == 1
        result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "2"}
        await caller.chat([*caller.question, first.as_message(), result])
        return await closed(caller)

    _, rollout = recorded(tmp_path, sum_row(*TWO_SUMS), ask)

    assert (len(rollout.turns), rollout.side_branches) == (2, ())


def test_tools_that_may_not_be_called_are_not_offered(tmp_path: Path) -> None:
    async def ask(caller: Caller) -> SessionState:
        await caller.chat(caller.question, tool_choice="none")
        return await closed(caller)

    _, rollout = recorded(tmp_path, sum_row("3"), ask)

    assert json.loads(rollout.tools) == []


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"stop_token_ids": (65,)}, "leave stop_token_ids out"),
        ({"required_prefix_token_ids": np.asarray([65, 66])}, "a session continues its own tokens"),
        (
            {"tool_choice": "required", "sampling": Sampling(structural_tag="{}")},
            "exclude each other",
        ),
    ],
)
def test_what_a_session_cannot_honor_is_refused_and_nothing_recorded(
    wish: dict[str, Any], message: str
) -> None:
    async def scenario() -> None:
        async with Replica().session(sum_row("3")) as (_, caller):
            with pytest.raises(RolloutFailure, match=message):
                await caller.chat(caller.question, **wish)
            await caller.chat(caller.question, stop_token_ids=STOPS)
            assert (await closed(caller)).turns == 1

    asyncio.run(scenario())


def test_the_tokens_a_client_was_told_are_a_prefix_it_may_require(tmp_path: Path) -> None:
    async def ask(caller: Caller) -> SessionState:
        first = await caller.chat(caller.question)
        assert first.prompt_token_ids is not None
        assert first.generation is not None
        seen = np.concatenate([first.prompt_token_ids, first.generation.token_ids])
        history = [*caller.question, first.message.as_message(), {"role": "user", "content": "?"}]
        await caller.chat(history, required_prefix_token_ids=seen)
        return await closed(caller)

    _, rollout = recorded(tmp_path, sum_row("one", "3"), ask)

    assert (len(rollout.turns), rollout.side_branches) == (2, ())


def test_words_put_into_the_policys_mouth_are_no_turn_of_its_own(tmp_path: Path) -> None:
    async def ask(caller: Caller) -> SessionState:
        first = (await caller.chat(caller.question)).message.as_message()
        injected = {"role": "assistant", "content": "And more."}
        await caller.chat([*caller.question, first, injected, {"role": "user", "content": "?"}])
        return await closed(caller)

    _, rollout = recorded(tmp_path, sum_row("one", "3"), ask)

    output = output_row(rollout)["response"]["output"]
    assert sum("generation_token_ids" in item for item in output) == len(rollout.turns) == 2


def test_a_reward_from_outside_counts_instead_of_the_verifiers(tmp_path: Path) -> None:
    async def reward(caller: Caller) -> SessionState:
        await caller.chat(caller.question)
        verdict = Verdict(0.5, {"style": 0.2, "content": 0.3})
        return await closed(caller, Closing("reward", verdict))

    state, rollout = recorded(tmp_path, sum_row("wrong"), reward)

    assert (state.reward, rollout.reward) == (0.5, 0.5)
    assert rollout.reward_components == {"style": 0.2, "content": 0.3}


def test_an_abandoned_session_is_a_cancelled_row(tmp_path: Path) -> None:
    async def abandon(caller: Caller) -> SessionState:
        await caller.chat(caller.question)
        return await closed(caller, Closing("abandon"))

    state, rollout = recorded(tmp_path, sum_row("3"), abandon)

    assert (state.status, state.error_kind) == ("failed", "cancelled")
    assert (rollout.status, rollout.reward) == ("failed", None)


def test_max_turns_ends_a_session_and_further_calls_are_refused(tmp_path: Path) -> None:
    async def too_many(caller: Caller) -> SessionState:
        for _ in range(2):
            await caller.chat(caller.question)
        for _ in range(2):
            with pytest.raises(SessionError, match=r"ended \(truncated: max_turns\)"):
                await caller.chat(caller.question)
        return await closed(caller)

    state, rollout = recorded(tmp_path, sum_row("3"), too_many, options={"max_turns": 2})

    assert (state.status, state.truncation_reason, state.reward) == ("truncated", "max_turns", 1.0)
    assert len(rollout.side_branches) == 1


def test_a_rollout_whose_last_prompt_outgrows_the_context_is_truncated(tmp_path: Path) -> None:
    async def outgrow(caller: Caller) -> SessionState:
        first = (await caller.chat(caller.question)).message.as_message()
        long = {"role": "user", "content": "x" * 5000}
        with pytest.raises(RolloutFailure) as caught:
            await caller.chat([*caller.question, first, long])
        assert caught.value.is_overflow
        return await closed(caller)

    state, _ = recorded(tmp_path, sum_row("3"), outgrow, options={"max_context_tokens": 3000})

    assert (state.status, state.truncation_reason) == ("truncated", "context")


def test_a_first_prompt_that_is_too_long_is_refused_and_leaves_the_session_open() -> None:
    async def scenario() -> None:
        async with Replica(options={"max_context_tokens": 3000}).session(sum_row("3")) as (_, call):
            with pytest.raises(RolloutFailure, match="policy_rejected"):
                await call.chat([{"role": "user", "content": "x" * 5000}])
            await call.chat(call.question)
            assert (await closed(call)).status == "completed"

    asyncio.run(scenario())


def test_an_answer_cut_by_the_runs_limit_is_truncated_but_not_one_cut_as_asked() -> None:
    async def ended(limit: int) -> str | None:
        replica = Replica(sampling=Sampling(max_output_tokens=2))
        async with replica.session(sum_row("a long answer")) as (_, caller):
            await caller.chat(caller.question, sampling=Sampling(max_output_tokens=limit))
            return (await closed(caller)).truncation_reason

    assert asyncio.run(ended(2)) == "length"
    assert asyncio.run(ended(1)) is None


def test_an_expired_session_is_verified_with_what_it_has(tmp_path: Path) -> None:
    async def wait(caller: Caller) -> SessionState:
        await caller.chat(caller.question)
        return await until_ended(caller)

    state, rollout = recorded(tmp_path, sum_row("3"), wait, timeout_seconds=0.5)

    assert (state.status, state.truncation_reason, state.reward) == ("truncated", "deadline", 1.0)
    assert rollout.truncation_reason == "deadline"


def test_a_session_that_expires_without_a_call_has_failed(tmp_path: Path) -> None:
    state, rollout = recorded(tmp_path, sum_row("3"), until_ended, timeout_seconds=0.2)

    assert state.error_kind == rollout.error_kind == FailureKind.ROLLOUT_TIMEOUT
