"""What official clients send back and are told in sessions: items, refusals, IDs, named answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from gym_ray.rollout import Rollout
from gym_ray.serving.recorder import RecordTarget
from gym_ray.store.stored_run import read_rollouts
from tests.gateway.policies import MODEL
from tests.gateway.session_server import (
    Replicas,
    call,
    client_of,
    code_of,
    of,
    opened,
    serving_sessions,
)
from tests.replies import tool_calls
from tests.sessions import saying, sum_row
from tests.workshop import ADD_TOOL

THOUGHT = "<think>\nHm.\n</think>\n\n"
SUMS = THOUGHT + "Look:\n" + tool_calls(("add", {"a": 1.0, "b": 1}), ("add", {"a": 2, "b": 2}))


def ended(
    tmp_path: Path,
    replies: list[str],
    play: Callable[[openai.OpenAI], dict[str, Any] | None],
    **replica: Any,
) -> tuple[dict[str, Any], Rollout]:
    """State and row of a session in which the policy says `replies`; `play` may say how it ends."""
    target = RecordTarget(str(tmp_path), "run")
    with serving_sessions(Replicas(target, generate=saying(*replies), **replica)) as url:
        session = opened(url, sum_row())
        with client_of(session) as client:
            body = play(client)
        status, state = call("POST", of(url, session, "/verify"), session["key"], body)
    assert status == 200, state
    (rollout,) = read_rollouts(tmp_path)
    return state, rollout


def test_items_may_be_sent_by_reference(tmp_path: Path) -> None:
    def play(client: openai.OpenAI) -> None:
        question: Any = {"role": "user", "content": "1 + 1, 2 + 2?"}
        tools: Any = [ADD_TOOL]
        first = client.responses.create(model=MODEL, input=[question], tools=tools)
        assert [item.type for item in first.output] == [
            "reasoning", "message", "function_call", "function_call",
        ]  # fmt: skip
        references: Any = [{"type": "item_reference", "id": item.id} for item in first.output]
        outputs: Any = [
            {"type": "function_call_output", "call_id": item.call_id, "output": "2"}
            for item in first.output
            if item.type == "function_call"
        ]
        client.responses.create(model=MODEL, input=[question, *references, *outputs], tools=tools)
        with pytest.raises(openai.BadRequestError, match="no answer of this session has an item"):
            client.responses.create(
                model=MODEL, input=[{"type": "item_reference", "id": "msg_of_nobody"}]
            )

    state, rollout = ended(tmp_path, [SUMS, "3"], play)

    assert (state["reward"], len(rollout.turns), rollout.side_branches) == (1.0, 2, ())


def test_a_prompt_that_leaves_no_room_is_openais_error_and_the_session_goes_on(
    tmp_path: Path,
) -> None:
    def play(client: openai.OpenAI) -> None:
        question: Any = {"role": "user", "content": "1 + 2?"}
        long: Any = {"role": "user", "content": "x" * 5000}
        client.chat.completions.create(model=MODEL, messages=[question])
        for messages in ([question, long], [long]):
            with pytest.raises(openai.BadRequestError) as refused:
                client.chat.completions.create(model=MODEL, messages=messages)
            assert refused.value.code == "context_length_exceeded"
        client.chat.completions.create(model=MODEL, messages=[question])

    state, _ = ended(tmp_path, ["3"], play, options={"max_context_tokens": 3000})

    assert (state["status"], state["turns"]) == ("completed", 2)


def test_ids_of_calls_are_those_of_no_other_turn(tmp_path: Path) -> None:
    ids: list[str] = []

    def play(client: openai.OpenAI) -> None:
        tools: Any = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
        for _ in range(2):
            answer = client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "?"}], tools=tools, n=2
            )
            for choice in answer.choices:
                ids.extend(call.id for call in choice.message.tool_calls or ())

    for folder in ("one", "two"):
        ended(tmp_path / folder, [SUMS], play)

    assert len(set(ids)) == len(ids) == 16


def test_verify_may_name_the_answer_that_counts(tmp_path: Path) -> None:
    def play(client: openai.OpenAI) -> dict[str, Any]:
        question: Any = [{"role": "user", "content": "1 + 2?"}]
        answers = [client.chat.completions.create(model=MODEL, messages=question) for _ in "abc"]
        return {"answer": answers[1].id}

    state, rollout = ended(tmp_path, ["1", "3", "5"], play)

    assert (state["reward"], state["turns_left_out"]) == (1.0, 2)
    assert len(rollout.side_branches) == 2


def test_an_answer_that_was_never_given_cannot_be_named(tmp_path: Path) -> None:
    with serving_sessions(Replicas(RecordTarget(str(tmp_path), "run"))) as url:
        session = opened(url, sum_row("3"))
        with client_of(session) as client:
            client.responses.create(model=MODEL, input='replies: ["3"]')
        refused = call("POST", of(url, session, "/verify"), session["key"], {"answer": "resp_x"})
        assert code_of(refused) == (409, "session_conflict")
        assert call("POST", of(url, session, "/verify"), session["key"])[1]["reward"] == 1.0
