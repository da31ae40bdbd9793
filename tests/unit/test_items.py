"""Responses-API items to chat messages and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_ray.renderers import (
    AssistantMessage,
    ToolCall,
    items_from_message,
    messages_from_items,
    text_of_items,
    tools_for_chat,
)

#: No deadline: the machine may be busy.
quick = settings(max_examples=25, deadline=None)

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
calls = st.builds(
    lambda number, name, arguments: ToolCall(f"call_{number}", name, json.dumps(arguments)),
    st.integers(0, 99),
    st.text(min_size=1, max_size=5),
    st.dictionaries(text, text, max_size=2),
)
assistants = st.builds(
    AssistantMessage,
    content=text,
    reasoning=st.none() | text,
    tool_calls=st.lists(calls, max_size=3).map(tuple),
)


@quick
@given(st.lists(assistants, max_size=3))
def test_turns_survive_the_way_through_items(turns):
    items, messages = [], []
    for number, turn in enumerate(turns):
        items += items_from_message(turn, item_id_prefix=str(number))
        items.append({"type": "function_call_output", "call_id": "c", "output": "done"})
        messages += [
            turn.as_message(),
            {"role": "tool", "tool_call_id": "c", "content": "done"},
        ]
    assert messages_from_items(items) == messages


@quick
@given(st.lists(assistants, min_size=1, max_size=3))
def test_item_ids_are_unique_and_deterministic(turns):
    def ids():
        return [
            item["id"]
            for number, turn in enumerate(turns)
            for item in items_from_message(turn, item_id_prefix=f"a_{number}")
        ]

    assert len(set(ids())) == len(ids())
    assert ids() == ids()


@quick
@given(assistants)
def test_the_text_of_a_turns_items_is_its_content(turn):
    items = items_from_message(turn, item_id_prefix="0")
    assert items
    assert text_of_items(items) == turn.content


def test_the_shapes_are_those_of_the_responses_api():
    turn = AssistantMessage("Hi.", "hm", (ToolCall("call_1", "add", "{}"),))
    assert items_from_message(turn, item_id_prefix="r_0") == [
        {
            "id": "rs_r_0",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": None,
        },
        {
            "id": "msg_r_0",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hi.", "annotations": []}],
        },
        {
            "id": "fc_r_0_0",
            "type": "function_call",
            "call_id": "call_1",
            "name": "add",
            "arguments": "{}",
            "status": "completed",
        },
    ]


def test_a_malformed_call_is_an_incomplete_item():
    turn = AssistantMessage("", None, (ToolCall("call_1", "", "<tool_call>{", "unclosed_block"),))
    [item] = items_from_message(turn, item_id_prefix="0")
    assert (item["type"], item["status"]) == ("function_call", "incomplete")
    assert item["arguments"] == "<tool_call>{"


def test_an_empty_turn_is_an_empty_message_item():
    [item] = items_from_message(AssistantMessage(""), item_id_prefix="0")
    assert (item["type"], text_of_items([item])) == ("message", "")


def test_input_items_become_chat_messages():
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"},
                                     {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "summary": [{"text": "short"}], "content": [{"text": "full"}]},
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1",
         "generation_token_ids": [1]},
        {"type": "function_call", "name": "g", "arguments": "{}", "call_id": "2"},
        {"type": "function_call_output", "call_id": "1", "output": "one"},
        {"type": "message", "role": "assistant", "content": "Done."},
    ]  # fmt: skip
    assert messages_from_items(items) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "ab"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "full",
            "tool_calls": [
                {"type": "function", "id": "1", "function": {"name": "f", "arguments": "{}"}},
                {"type": "function", "id": "2", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "one"},
        {"role": "assistant", "content": "Done."},
    ]


def test_two_assistant_messages_in_a_row_stay_two():
    items = [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert [message["content"] for message in messages_from_items(items)] == ["a", "b"]


def test_text_that_is_no_text_is_replaced():
    [message] = messages_from_items([{"role": "user", "content": "a\ud800b\ud83d\ude00"}])
    assert message["content"] == "a\ufffdb\N{GRINNING FACE}"


def test_an_unknown_item_is_refused():
    with pytest.raises(ValueError, match="web_search_call"):
        messages_from_items([{"type": "web_search_call"}])


def test_flat_tools_become_nested_ones():
    parameters = {"type": "object", "properties": {"a": {"type": "number"}}}
    flat = [
        {"type": "function", "name": "f", "description": "F.", "parameters": parameters,
         "strict": True},
        {"name": "g"},
    ]  # fmt: skip
    nested = tools_for_chat(flat)
    assert nested[0] == {
        "type": "function",
        "function": {"name": "f", "description": "F.", "parameters": parameters},
    }
    assert nested[1]["function"]["name"] == "g"
    assert nested[1]["function"]["parameters"] == {"type": "object", "properties": {}}


def test_the_final_answer_is_the_last_assistant_message():
    items = [
        {"role": "assistant", "content": "first"},
        {"type": "message", "role": "assistant", "content": [{"text": "la"}, {"text": "st"}]},
        {"type": "function_call_output", "call_id": "1", "output": "x"},
        {"role": "user", "content": "y"},
    ]
    assert text_of_items(items) == "last"
    assert text_of_items(items[2:]) == ""
