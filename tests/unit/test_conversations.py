"""Which conversation of a session is the task's, and what becomes of calls that are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gym_ray.agents.sessions import Closing, SessionError, SessionState
from gym_ray.atif.trajectories import trajectory_of
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.nemo_gym import output_row
from gym_ray.policies.engine import GenerationRequest
from gym_ray.renderers import load_renderer
from gym_ray.rollout import Rollout
from gym_ray.turn import Generation
from tests.replies import tool_calls
from tests.sessions import Caller, Scenario, closed, recorded, saying, sum_row

QUESTION = "What is 1 + 2?"
MAIN = {"role": "system", "content": "You solve sums."}
CALL = tool_calls(("add", {"a": 1, "b": 2}))
OVERFLOW = {"role": "user", "content": "x" * 5000}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def ended(
    tmp_path: Path, scenario: Scenario, *replies: str, **replica: Any
) -> tuple[SessionState, Rollout]:
    """State and row of a session about `QUESTION`, to which 3 is the answer."""
    row = sum_row()
    row["responses_create_params"]["input"] = QUESTION
    return recorded(tmp_path, row, scenario, generate=saying(*replies), **replica)


async def say(caller: Caller, *messages: dict[str, Any], tools: bool = True) -> dict[str, Any]:
    """One call; the message as it was told."""
    choice = {} if tools else {"tool_choice": "none"}
    return (await caller.chat(list(messages), **choice)).message.as_message()


def answered(said: dict[str, Any], content: str = "3") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": content}


HELPERS = {
    "title": [user(f"Write a title for: {QUESTION}")],
    "summary": [user("Summarize what was done.")],
    "guard": [{"role": "system", "content": "Is this safe?"}, user("3")],
    "guard of the question": [{"role": "system", "content": "Is this safe?"}, user(QUESTION)],
}


@pytest.mark.parametrize("when", ["first", "last", "between"])
@pytest.mark.parametrize("helper", HELPERS)
def test_helpers_calls_are_not_the_rollout_whenever_they_come(
    tmp_path: Path, helper: str, when: str
) -> None:
    async def scenario(caller: Caller) -> SessionState:
        if when == "first":
            await say(caller, *HELPERS[helper], tools=False)
        said = await say(caller, MAIN, user(QUESTION))
        if when == "between":
            await say(caller, *HELPERS[helper], tools=False)
        await say(caller, MAIN, user(QUESTION), said, answered(said))
        if when == "last":
            await say(caller, *HELPERS[helper], tools=False)
        return await closed(caller)

    replies = [CALL, "3"]
    replies.insert({"first": 0, "between": 1, "last": 2}[when], "A helper's words.")
    state, rollout = ended(tmp_path, scenario, *replies)

    assert (state.reward, state.turns, state.turns_left_out) == (1.0, 3, 1)
    assert (len(rollout.turns), len(rollout.side_branches)) == (2, 1)
    ((item,),) = json.loads(rollout.left_out)
    assert item["content"][0]["text"] == "A helper's words."


def test_a_history_compacted_while_calls_are_open_is_the_tasks_conversation(
    tmp_path: Path,
) -> None:
    async def scenario(caller: Caller) -> SessionState:
        await say(caller, MAIN, user(QUESTION))
        await say(caller, MAIN, user("So far: 1 + 2 was added."))
        return await closed(caller)

    state, rollout = ended(tmp_path, scenario, CALL, "3")

    assert (state.reward, state.turns_left_out) == (1.0, 1)
    ((call,),) = json.loads(rollout.left_out)
    assert call["type"] == "function_call"


def test_a_history_written_into_the_question_is_the_tasks_conversation(tmp_path: Path) -> None:
    async def scenario(caller: Caller) -> SessionState:
        await say(caller, user(QUESTION))
        await say(caller, user(f"{QUESTION}\n\nSo far: it was called."))
        return await closed(caller)

    state, _ = ended(tmp_path, scenario, CALL, "3")

    assert (state.reward, state.turns_left_out) == (1.0, 1)


@pytest.mark.parametrize(
    ("system", "tools"),
    [(MAIN, False), ({"role": "system", "content": "It is 12:01."}, True)],
)
def test_other_tools_and_another_system_message_make_a_branch_that_leaves_nothing_out(
    tmp_path: Path, system: dict[str, Any], tools: bool
) -> None:
    async def scenario(caller: Caller) -> SessionState:
        said = await say(caller, MAIN, user(QUESTION))
        await say(caller, system, user(QUESTION), said, answered(said), tools=tools)
        return await closed(caller)

    state, rollout = ended(tmp_path, scenario, CALL, "3")

    assert (state.reward, state.turns_left_out, len(rollout.side_branches)) == (1.0, 0, 1)
    kinds = [item["type"] for item in json.loads(rollout.response)]
    assert kinds == ["function_call", "function_call_output", "message"]
    output = output_row(rollout)["response"]["output"]
    assert sum("generation_token_ids" in item for item in output) == len(rollout.turns) == 1
    said_before, said = [s for s in trajectory_of(rollout)["steps"] if s["source"] == "agent"]
    assert (said_before["is_copied_context"], said["llm_call_count"]) == (True, 1)


def test_a_family_that_cannot_continue_makes_branches_and_leaves_nothing_out(
    tmp_path: Path,
) -> None:
    async def scenario(caller: Caller) -> SessionState:
        said = await say(caller, user(QUESTION))
        more = [user(QUESTION), said, answered(said), user("Well?")]
        again = await say(caller, *more)
        await say(caller, *more, again, user("Sure?"))
        return await closed(caller)

    thought = "<think>\nHm.\n</think>\n\n"
    drops_thoughts = load_renderer(None, thinking_retention="tool_cycle")
    state, rollout = ended(
        tmp_path, scenario, thought + CALL, thought + "4", "3", renderer=drops_thoughts
    )

    assert (state.reward, state.turns_left_out, len(rollout.turns)) == (1.0, 0, 1)
    assert [json.loads(rollout.left_out), len(rollout.side_branches)] == [[], 2]
    items = json.loads(rollout.response)
    kinds = [item.get("role") or item["type"] for item in items]
    assert kinds == [
        "reasoning", "function_call", "function_call_output", "user",
        "reasoning", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert ["id" in item for item in items if item["type"] == "message"] == [False] * 3 + [True]


def test_the_answer_that_counts_can_be_named(tmp_path: Path) -> None:
    async def scenario(caller: Caller) -> SessionState:
        first = await caller.chat([user(QUESTION)], request_id="chatcmpl-1/0")
        await caller.chat([user(QUESTION)], request_id="chatcmpl-2/0")
        more = [user(QUESTION), first.message.as_message(), user("Sure?")]
        await caller.chat(more, request_id="chatcmpl-3/0")
        with pytest.raises(SessionError, match="no answer with the ID 'chatcmpl-9'"):
            await closed(caller, Closing("verify", answer="chatcmpl-9"))
        return await closed(caller, Closing("verify", answer="chatcmpl-1"))

    state, rollout = ended(tmp_path, scenario, "3", "4", "5")

    assert (state.reward, state.turns, state.turns_left_out) == (1.0, 3, 2)
    assert (len(rollout.turns), len(rollout.side_branches)) == (1, 2)
    sampled = sum(int(branch.loss_mask.sum()) for branch in rollout.side_branches)
    assert sampled + int(rollout.loss_mask.sum()) == 3 * rollout.turns[0].generation_length


def test_of_turns_that_look_alike_the_one_whose_tokens_came_back_is_continued(
    tmp_path: Path,
) -> None:
    async def scenario(caller: Caller) -> SessionState:
        answers = [await caller.chat([user(QUESTION)]) for _ in range(3)]
        for answer in answers:
            assert answer.generation is not None
            assert answer.prompt_token_ids is not None
            fields = {
                "prompt_token_ids": answer.prompt_token_ids.tolist(),
                "generation_token_ids": answer.generation.token_ids.tolist(),
            }
            history = [user(QUESTION), {**answer.message.as_message(), **fields}, user("Sure?")]
            later = await caller.chat(history)
            assert later.prompt_token_ids is not None
            seen = np.concatenate([answer.prompt_token_ids, answer.generation.token_ids])
            assert later.prompt_token_ids[: len(seen)].tolist() == seen.tolist()
        return await closed(caller)

    # The policy thinks differently, and says the same.
    thoughts = [f"<think>\n{number}\n</think>\n\n3" for number in "abc"]
    state, rollout = ended(tmp_path, scenario, *thoughts, "3")

    assert state.turns == 6
    assert [len(branch.token_ids) > 0 for branch in rollout.side_branches] == [True, True]


def test_of_calls_that_look_alike_the_one_whose_id_came_back_is_continued(tmp_path: Path) -> None:
    async def scenario(caller: Caller) -> SessionState:
        first, second = [await say(caller, user(QUESTION)) for _ in range(2)]
        assert first["tool_calls"][0]["id"] != second["tool_calls"][0]["id"]
        await say(caller, user(QUESTION), first, answered(first))
        await say(caller, user(QUESTION), second, answered(second))
        return await closed(caller)

    _, rollout = ended(tmp_path, scenario, CALL, CALL, "3")

    assert (len(rollout.turns), len(rollout.side_branches)) == (2, 1)


def test_a_refused_call_has_its_own_error_and_the_session_goes_on(tmp_path: Path) -> None:
    async def scenario(caller: Caller) -> SessionState:
        said = await say(caller, user(QUESTION))
        with pytest.raises(RolloutFailure) as caught:
            await say(caller, user("A long file:"), OVERFLOW)  # A sub-agent's.
        assert caught.value.is_overflow
        await say(caller, user(QUESTION), said, answered(said))
        return await closed(caller)

    state, rollout = ended(tmp_path, scenario, CALL, "3", options={"max_context_tokens": 3000})

    assert (state.status, state.reward, rollout.side_branches) == ("completed", 1.0, ())


def test_a_history_that_was_compacted_after_it_outgrew_the_context_is_completed(
    tmp_path: Path,
) -> None:
    async def scenario(caller: Caller) -> SessionState:
        said = await say(caller, MAIN, user(QUESTION))
        with pytest.raises(RolloutFailure):
            await say(caller, MAIN, user(QUESTION), said, OVERFLOW)
        await say(caller, MAIN, user("So far: 1 + 2."))
        return await closed(caller)

    state, _ = ended(tmp_path, scenario, "Hm.", "3", options={"max_context_tokens": 3000})

    assert (state.status, state.reward, state.turns_left_out) == ("completed", 1.0, 1)


def test_what_the_policy_refuses_for_another_reason_ends_nothing(tmp_path: Path) -> None:
    refused = RolloutFailure(FailureKind.POLICY_REJECTED, "token 999999 is not in the vocabulary")
    policy, calls = saying("3"), iter([False, True, False])

    async def generate(request: GenerationRequest) -> Generation:
        if next(calls):
            raise refused
        return await policy(request)

    async def scenario(caller: Caller) -> SessionState:
        await say(caller, *caller.question)
        with pytest.raises(RolloutFailure, match="not in the vocabulary"):
            await say(caller, *caller.question)
        await say(caller, *caller.question)
        return await closed(caller)

    state, _ = recorded(tmp_path, sum_row(), scenario, generate=generate)

    assert dataclasses.replace(state, turns=2).status == "completed"
    assert state.turns == 2
