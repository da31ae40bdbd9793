"""Calls as policies write them, token by token, where a careless reader goes wrong."""

import json
from typing import Any

import numpy as np
import pytest

from gym_ray.renderers import AssistantMessage, RolloutRenderer
from gym_ray.renderers.messages import Message
from tests.tokens.properties import CALL_ID, QUESTION, TOOL, result

Renderers = dict[str, RolloutRenderer]
XML = ("qwen3.5", "nemotron-3")
THOUGHT = "</think>"


def read(renderer: RolloutRenderer, text: str, tools: Any = (TOOL,)) -> AssistantMessage:
    """What a policy says that samples this text, names of control tokens as such."""
    prompt = renderer.render([QUESTION], list(tools or ()))
    generation = [*renderer.encode(text, special=False).tolist(), renderer.stop_token_ids[0]]
    return renderer.parse(np.asarray(generation, dtype=np.int32), prompt, tools)


def call_of(renderer: RolloutRenderer, text: str) -> Any:
    [call] = read(renderer, text).tool_calls
    return call


def xml(value: str, name: str = "old") -> str:
    return (
        f"{THOUGHT}\n\n<tool_call>\n<function=edit>\n<parameter={name}>\n{value}\n</parameter>\n"
        "</function>\n</tool_call>"
    )


@pytest.mark.parametrize("family", XML)
@pytest.mark.parametrize(
    "value",
    [
        "    return x", "    return x\n", "\n\n a \n\n", "", "\n", "\t", "a</parameter> b",
        "</tool_call>", "a</tool_call>\n", "5", "null", " \r\n",
    ],
)  # fmt: skip
def test_one_line_break_comes_off_each_end_of_a_value_and_nothing_more(
    families: Renderers, family: str, value: str
) -> None:
    call = call_of(families[family], xml(value))

    assert (call.name, json.loads(call.arguments), call.error) == ("edit", {"old": value}, None)


@pytest.mark.parametrize("family", XML)
@pytest.mark.parametrize(
    "block",
    [
        "<function=edit>\n<parameter=old>\na</parameter>\n</function>b\n</parameter>\n</function>\n",
        "<function=edit>\n<parameter=old>\na\n</function>\n",
        "<function=edit>\n<parameter=old>\na\n</parameter>\n",
        "<function=edit>\nold: a\n</function>\n",
        "<function=edit>\n<parameter=count>\nmany\n</parameter>\n</function>\n",
    ],
)
def test_a_value_that_was_cut_or_cannot_be_read_is_an_error_of_the_named_tool(
    families: Renderers, family: str, block: str
) -> None:
    call = call_of(families[family], f"{THOUGHT}<tool_call>\n{block}</tool_call>")

    assert (call.name, call.arguments) == ("edit", f"<tool_call>\n{block}</tool_call>")
    assert "JSON object" not in call.error
    assert call.error.startswith(("malformed_structure: the tags", "invalid_json: a value"))


@pytest.mark.parametrize("family", XML)
def test_the_schema_of_a_value_is_followed(families: Renderers, family: str) -> None:
    renderer = families[family]

    assert json.loads(call_of(renderer, xml("5", "kind")).arguments) == {"kind": "5"}
    assert json.loads(call_of(renderer, xml("left", "any")).arguments) == {"any": "left"}
    assert json.loads(call_of(renderer, xml("True", "sure")).arguments) == {"sure": True}


@pytest.mark.parametrize("family", XML)
def test_a_broken_block_does_not_take_the_next_one(families: Renderers, family: str) -> None:
    broken = "<tool_call>\n<function=edit>\n<parameter=old>\na\n</tool_call>"
    text = f"{THOUGHT}\n{broken}\n{xml('b').removeprefix(THOUGHT)}"

    first, second = read(families[family], text).tool_calls

    assert (first.arguments, first.name) == (broken, "edit")
    assert first.error is not None
    assert (json.loads(second.arguments), second.error) == ({"old": "b"}, None)


@pytest.mark.parametrize("family", ["chatml", "qwen3"])
@pytest.mark.parametrize("text", ["a</tool_call>b", "<tool_call>", "</tool_call>\n<tool_call>\n{"])
def test_tags_in_a_json_string_are_part_of_the_string(
    families: Renderers, family: str, text: str
) -> None:
    function = json.dumps({"name": "edit", "arguments": {"old": text}})
    said = read(families[family], f"Ok.\n<tool_call>\n{function}\n</tool_call>\n" * 2)

    assert [json.loads(call.arguments) for call in said.tool_calls] == [{"old": text}] * 2
    assert [call.error for call in said.tool_calls] == [None, None]


def test_a_value_of_glm_is_what_stands_between_its_tags(families: Renderers) -> None:
    text = "\n    return x</tool_call>\n"
    pair = f"<arg_key>old</arg_key><arg_value>{text}</arg_value>"

    call = call_of(families["glm-5"], f"{THOUGHT}<tool_call>edit{pair}</tool_call>")

    assert (call.name, json.loads(call.arguments), call.error) == ("edit", {"old": text}, None)


UNREADABLE = {
    "chatml": '<tool_call>\n{"name": "edit", "arguments": {"old": }\n</tool_call>',
    "qwen3": '<tool_call>\n{"arguments": {"old": }, "name": "edit"}\n</tool_call>',
    "qwen3.5": "</think><tool_call>\n<function=edit>\n<parameter=old>\na",
    "glm-5": "</think><tool_call>edit<arg_key>old</arg_key>\n</tool_call>",
    "nemotron-3": "</think><tool_call>\n<function=edit>\n<parameter=old>\na",
    "kimi-k2": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.edit:0"
        "<|tool_call_argument_begin|>{oops<|tool_call_end|><|tool_calls_section_end|>"
    ),
    "deepseek-v3": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>edit\n```json\n{oops\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
}


@pytest.mark.parametrize("family", UNREADABLE)
def test_a_call_that_cannot_be_read_has_the_name_that_stands_in_it(
    families: Renderers, family: str
) -> None:
    renderer = families[family]

    said = read(renderer, UNREADABLE[family])

    [call] = said.tool_calls
    assert call.name == "edit"
    assert call.error is not None
    # As history, it is text that was said; no family writes it as a call or leaves it out.
    again = renderer.render([QUESTION, said.as_message(), result("Error")], [TOOL])
    assert call.arguments.strip() in renderer.decode(again)


NOT_FINITE = ["NaN", "-Infinity", "1e999", '[1, {"a": -1e400}]']
CALLS = {
    "chatml": '<tool_call>\n{"name": "edit", "arguments": {"any": %s}}\n</tool_call>',
    "qwen3": '<tool_call>\n{"name": "edit", "arguments": {"any": %s}}\n</tool_call>',
    "llama-3": '{"name": "edit", "parameters": {"any": %s}}',
    "kimi-k2": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.edit:0"
        '<|tool_call_argument_begin|>{"any": %s}<|tool_call_end|><|tool_calls_section_end|>'
    ),
    "deepseek-v3": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>edit\n```json\n"
        '{"any": %s}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", CALLS)
@pytest.mark.parametrize("number", NOT_FINITE)
def test_numbers_that_json_has_not_make_a_call_malformed(
    families: Renderers, family: str, number: str
) -> None:
    call = call_of(families[family], CALLS[family] % number)

    assert call.name == "edit"
    assert call.error is not None
    assert number in call.arguments


@pytest.mark.parametrize("family", XML)
def test_numbers_that_json_has_not_are_no_value_of_a_number(
    families: Renderers, family: str
) -> None:
    assert call_of(families[family], xml("1e999", "count")).error.startswith("invalid_json: ")


@pytest.mark.parametrize("family", CALLS)
@pytest.mark.parametrize("value", ["9" * 5000, "[" * 20000], ids=["digits", "nesting"])
def test_json_without_end_is_kept_as_it_was_sampled(
    families: Renderers, family: str, value: str
) -> None:
    said = read(families[family], CALLS[family] % value)

    assert all(call.error is not None for call in said.tool_calls)
    assert value in said.content + "".join(call.arguments for call in said.tool_calls)


@pytest.mark.parametrize("family", ["chatml", "qwen3", "llama-3", "kimi-k2", "deepseek-v3"])
@pytest.mark.parametrize("arguments", ["3", "[]", "null", '"text"'])
def test_arguments_that_are_no_object_make_a_call_malformed(
    families: Renderers, family: str, arguments: str
) -> None:
    [call] = read(
        families[family], (CALLS[family] % "3").replace('{"any": 3}', arguments)
    ).tool_calls

    assert call.name == "edit"
    assert call.error is not None or (arguments, call.arguments) == ("null", "{}")


def test_a_call_in_a_history_without_a_readable_form_is_text_that_was_said(
    families: Renderers,
) -> None:
    call = {"type": "function", "id": CALL_ID, "function": {"name": "", "arguments": "<oops>"}}
    said: Message = {"role": "assistant", "content": "Ok.", "tool_calls": [call]}

    for family in ("qwen3", "qwen3.5", "glm-5", "deepseek-v3", "llama-3"):
        prompt = families[family].render([QUESTION, said, QUESTION], [TOOL])
        assert "Ok.\n<oops>" in families[family].decode(prompt)
