"""Histories of sessions: what a client did not change is one branch, and what it did is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_ray.agents.sessions import Closing, SessionState
from gym_ray.nemo_gym import turn_of_item
from gym_ray.renderers.messages import Message
from gym_ray.rollout import Rollout
from tests.replies import tool_calls
from tests.sessions import Caller, Replica, closed, saying, sum_row
from tests.unit.spelling import spelled

TEXT = st.sampled_from(["Ok.", "naïve 🦙", '{"a": 1}', "two\nlines"])
VALUES = st.recursive(
    st.sampled_from([0, 1, 2.0, -3.0, 1.5, 2**40, True, None, "x", " é ", "1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
CALLS = st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3), max_size=3)


@st.composite
def sayings(draw: st.DrawFn, least: int) -> list[str]:
    """What the policy says, turn by turn: reasoning, text and calls, each perhaps; no two turns
    look alike."""
    said: list[str] = []
    for number in range(draw(st.integers(least, 5))):
        thought = draw(st.sampled_from(["", "", "<think>\nHm, so.\n</think>\n\n"]))
        calls = [{**arguments, "turn": number} for arguments in draw(CALLS)]
        text = (
            f"{number}: {draw(TEXT)}" if not calls else draw(st.sampled_from(["", "", "Look:\n"]))
        )
        said.append(thought + text + tool_calls(*(("add", arguments) for arguments in calls)))
    return said


def replies_to(said: Message, draw: Any) -> list[Message]:
    """Results of all calls; where there are none, the user goes on."""
    results: list[Message] = [
        {"role": "tool", "tool_call_id": call["id"], "content": draw(TEXT)}
        for call in said.get("tool_calls", ())
    ]
    return results or [{"role": "user", "content": draw(TEXT)}]


def rollout_of(
    replies: list[str], scenario: Callable[[Caller], Awaitable[Closing | None]]
) -> tuple[SessionState, Rollout]:
    """State and rollout of a session in which the policy says `replies`."""
    found: list[Rollout] = []

    async def run() -> SessionState:
        replica = Replica(generate=saying(*replies), options={"max_turns": 1000})
        async with replica.session(sum_row()) as (opened, caller):
            rollout = replica.host._rollouts[opened.rollout_id]
            state = await closed(caller, await scenario(caller) or Closing("verify"))
            found.append(await rollout)
            return state

    return asyncio.run(run()), found[0]


async def conversed(caller: Caller, turns: int, draw: Any, choose: Any) -> list[Message]:
    """So many turns with a client that spells everything anew in each; the history as told."""
    history = caller.question
    for _ in range(turns):
        said = (await caller.chat(spelled(history, choose))).message.as_message()
        history = [*history, said, *replies_to(said, draw)]
    return history


def chooser(draw: Any) -> Any:
    return lambda *values: draw(st.sampled_from(values))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_history_that_is_spelled_anew_in_every_call_is_one_branch(data: st.DataObject) -> None:
    replies = data.draw(sayings(1))
    told: list[Message] = []

    async def scenario(caller: Caller) -> None:
        told.extend(await conversed(caller, len(replies), data.draw, chooser(data.draw)))

    state, rollout = rollout_of(replies, scenario)

    assert (rollout.side_branches, rollout.left_out, state.turns_left_out) == ((), "[]", 0)
    assert len(rollout.turns) == len(replies)
    while told[-1]["role"] != "assistant":
        told.pop()  # Never sent.
    assert in_groups(from_items(json.loads(rollout.response))) == in_groups(from_told(told[1:]))


def from_told(messages: list[Message]) -> list[tuple[Any, ...]]:
    """What messages say, one thing at a time."""
    found: list[tuple[Any, ...]] = []
    for message in messages:
        if message["role"] == "tool":
            found.append(("output", message["tool_call_id"], message["content"]))
            continue
        if message.get("reasoning_content"):
            found.append(("thought", message["reasoning_content"]))
        if message["content"] or not message.get("tool_calls"):
            found.append((message["role"], message["content"]))
        for call in message.get("tool_calls", ()):
            found.append(("call", call["id"], json.loads(call["function"]["arguments"])))
    return found


def from_items(items: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for item in items:
        match item["type"]:
            case "reasoning":
                found.append(("thought", item["summary"][0]["text"]))
            case "message":
                found.append((item["role"], item["content"][0]["text"]))
            case "function_call":
                found.append(("call", item["call_id"], json.loads(item["arguments"])))
            case _:
                found.append(("output", item["call_id"], item["output"]))
    return found


def in_groups(said: list[tuple[Any, ...]]) -> list[Any]:
    """The same where only outputs of one turn stand in another order, or with other blanks."""
    groups: list[Any] = []
    outputs: list[Any] = []
    for kind, *what in [*said, ("end",)]:
        if kind == "output":
            outputs.append((what[0], what[1].strip()))
            continue
        groups += sorted(outputs)
        outputs = []
        groups.append((kind, *(w.strip() if isinstance(w, str) else w for w in what)))
    return groups


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_a_client_did_change_is_another_branch_and_named_as_such(data: st.DataObject) -> None:
    replies = data.draw(sayings(2))
    kept: list[int] = []

    async def scenario(caller: Caller) -> None:
        choose = chooser(data.draw)
        history = await conversed(caller, len(replies), data.draw, choose)
        places = [number for number in range(1, len(history) - 1) if is_said(history[number])]
        place = data.draw(st.sampled_from(places))
        edited = edit(history, place, choose)
        kept.append(sum(message["role"] == "assistant" for message in history[:place]))
        await caller.chat(spelled(edited, choose))

    state, rollout = rollout_of([*replies, "3"], scenario)

    assert rollout.side_branches
    left_out = len(replies) - kept[0]
    assert state.turns_left_out == left_out
    left = [turn_of_item(item) for items in json.loads(rollout.left_out) for item in items]
    assert len(set(left) - {None}) == left_out
    assert rollout.reward == 1.0, "the edited history is the task's conversation"


def is_said(message: Message) -> bool:
    return message["role"] == "assistant"


def edit(history: list[Message], place: int, choose: Any) -> list[Message]:
    """The history with one message of the policy changed, or left out with its results."""
    message = json.loads(json.dumps(history[place]))
    before, after = history[:place], history[place + 1 :]
    calls = message.get("tool_calls", [])
    match choose("text", "value", "dropped"):
        case "value" if calls:
            function = choose(*calls)["function"]
            function["arguments"] = json.dumps({**json.loads(function["arguments"]), "a": "new"})
        case "dropped":
            while after and after[0]["role"] == "tool":
                after = after[1:]
            return [*before, *after]
        case _:
            message["content"] += " And more."
    return [*before, message, *after]


@pytest.mark.parametrize(
    ("told", "sent", "same"),
    [
        ('{"a": 1.0}', '{"a": 1}', True),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": 12345678901234567890}', '{"a": 12345678901234567000}', True),
        ('{"a": 9007199254740993}', '{"a": 9007199254740000}', False),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ('{"a": "1"}', '{"a": 1}', False),
        ('{"a": null}', "{}", False),
        ("{}", "", True),
        ('{"a": 1}', json.dumps('{"a": 1}'), True),
        ('{"a": -0.0}', '{"a": 0}', True),
    ],
)
def test_arguments_are_equal_as_json_values(told: str, sent: str, same: bool) -> None:
    async def scenario(caller: Caller) -> None:
        said = (await caller.chat(caller.question)).message.as_message()
        (call,) = said["tool_calls"]
        call["function"]["arguments"] = sent
        result = {"role": "tool", "tool_call_id": call["id"], "content": "2"}
        await caller.chat([*caller.question, said, result])

    call = '<tool_call>\n{"name": "add", "arguments": ' + told + "}\n</tool_call>"
    _, rollout = rollout_of([call, "3"], scenario)

    assert (rollout.side_branches == ()) is same
