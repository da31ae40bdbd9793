"""Task rows: what is legal, what a malformed one is told, and what makes two the same."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.task import Task, agent_name, parse_task, rollout_id_of, task_id_of, unparsable_task_id

USER = {"role": "user", "content": "1 + 1 = ?"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)

TOOL_USE = ("tool_choice", "parallel_tool_calls", "max_tool_calls")


def parsed(line: Any) -> Task:
    text = line if isinstance(line, str | bytes) else json.dumps(line)
    return parse_task(text, task_index=3, source_file="tasks.jsonl", source_line=4)


def refusal(line: Any) -> str:
    with pytest.raises(RolloutFailure) as caught:
        parsed(line)
    assert caught.value.kind == FailureKind.TASK_INVALID
    assert "\n" not in caught.value.message
    return caught.value.message


def with_params(**params: Any) -> dict[str, Any]:
    return {"responses_create_params": params}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "write one JSON object per line"),
        ('{"a": 1} {"b": 2}', "write one JSON object per line"),
        (b'{"a": "\xff"}', "is not UTF-8 text"),
        (json.dumps({"a": 1}).encode("utf-16"), "is not UTF-8 text"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "has field 'c' twice; which one is meant?"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": [-Infinity]}', "-Infinity is no JSON number"),
        ('{"a": 1e999}', "1e999 is too large for a number"),
        ("[1, 2]", "is a JSON array; a task row must be an object"),
        ("null", "is a JSON null; a task row must be an object"),
        ({"expected_answer": "2"}, '{"responses_create_params": {"input": '),
        ({"response_create_params": {}}, "did you mean it by 'response_create_params'?"),
        (with_params(), "has no 'input'; write a string or a list of messages"),
        ({"responses_create_params": "1 + 1"}, "must be an object with an 'input', got \"1 + 1\""),
        (with_params(input=[]), "input is empty; write a string or a list of messages"),
        (with_params(input=""), "input is empty; write a string or a list of messages"),
        (with_params(input=7), "input must be a string or a list of messages, got 7"),
        (with_params(input=["hi"]), "input[0] must be an object with 'role' and 'content'"),
        (
            with_params(input=[USER, {**USER, "role": "robot"}]),
            'input[1].role must be one of user, assistant, system, developer, got "robot"',
        ),
        (
            with_params(input="hi", tool_choice="always"),
            'tool_choice must be one of auto, none, required, or {"type": "function", "name": "…"}',
        ),
        (with_params(input="hi", tool_choice={"type": "allowed_tools"}), "tool_choice must be one"),
        (with_params(input="hi", tool_choice={"type": "function"}), "tool_choice must be one of"),
        (
            with_params(input="hi", tool_choice={"type": "function", "name": "none"}),
            "tool_choice must be one of",
        ),
        (with_params(input="hi", tool_choice=[]), "tool_choice must be one of"),
        (
            with_params(input="hi", parallel_tool_calls="no"),
            'parallel_tool_calls must be true or false, got "no"',
        ),
        (with_params(input="hi", max_tool_calls=0), 'set tool_choice to "none"'),
        (with_params(input="hi", max_tool_calls=True), "max_tool_calls must be a whole number"),
        (with_params(input="hi", max_tool_calls=1.5), "max_tool_calls must be a whole number"),
        (with_params(input=[{"content": "hi"}]), "input[0].role must be one of user"),
        (with_params(input=[{"role": "user"}]), "content must be a string or a list of parts"),
        (
            with_params(input=[{"role": "user", "content": [{"type": "input_image"}]}]),
            'content[0] must be a text part {"type": "input_text", "text": "…"}',
        ),
        (with_params(input=[{"type": "image"}]), "input[0].type must be one of message, function"),
        (with_params(input=[{"type": "function_call", "name": "f"}]), "arguments must be a string"),
        (
            with_params(input=[{"type": "function_call_output", "call_id": "c"}]),
            "input[0].output must be a string, got null",
        ),
        (with_params(input=[{"type": "reasoning", "summary": 5}]), "summary must be a string or"),
        (with_params(input=[USER], temprature=1), "unknown key 'temprature'; did you mean 'temper"),
        (with_params(input=[USER], instructions=5), "instructions must be a string, got 5"),
        (with_params(input=[USER], tools={}), "tools must be a list of function tools"),
        (with_params(input=[USER], tools=[{"type": "function"}]), '"name": "…", "parameters": '),
        (
            with_params(input=[USER], tools=[{"type": "web_search", "name": "web"}]),
            "tools[0].type must be 'function', got \"web_search\"",
        ),
        ({**with_params(input=[USER]), "agent_ref": 7}, "agent_ref must be a string or an object"),
        ({**with_params(input=[USER]), "agent_ref": {}}, "an object with a string 'name', got {}"),
        ({**with_params(input=[USER]), "answer": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_a_malformed_row_is_told_what_to_write(line: Any, says: str) -> None:
    assert says in refusal(line)


@pytest.mark.parametrize("depth", [950, 980, 985, 990, 995, 2000, 100_000])
def test_nesting_is_either_read_or_refused(depth: int) -> None:
    text = json.dumps(with_params(input="hi"))[:-1] + f', "x": {"[" * depth}{"]" * depth}}}'
    told = ""
    try:
        parsed(text)
    except RolloutFailure as failure:
        told = failure.message
    assert told in ("", "is JSON nested too deeply to be read")


@settings(max_examples=25)
@given(st.text() | st.binary() | JSON.map(json.dumps))
def test_no_line_breaks_the_parser(line: str | bytes) -> None:
    try:
        parsed(line)
    except RolloutFailure as failure:
        failure.message.encode()


@settings(max_examples=30)
@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("input", "tools", "instructions", "temperature", "metadata", "other", *TOOL_USE), JSON
        ),
    )
)
def test_no_create_params_break_the_check_and_accepted_ones_can_be_used(params: Any) -> None:
    try:
        task = parsed(with_params(**params))
    except RolloutFailure as failure:
        failure.message.encode()
    else:
        assert all(isinstance(item, dict) for item in task.input_items)
        assert isinstance(task.tools, list)
        assert isinstance(task.tool_choice, str)
        assert isinstance(task.parallel_tool_calls, bool)
        assert task.max_tool_calls is None or task.max_tool_calls > 0


def test_a_refusal_quoting_half_a_character_can_be_stored() -> None:
    assert "\\ud800" in refusal('{"responses_create_params": "\\ud800"}')


def test_a_refusal_quotes_no_more_than_a_little() -> None:
    assert len(refusal(with_params(input={"x": "y" * 10_000}))) < 200


def test_a_task_knows_its_fields_and_its_place() -> None:
    task = parsed({**with_params(input="hi"), "expected_answer": "2"})

    assert task["expected_answer"] == "2"
    assert (task.task_index, task.source_file, task.source_line) == (3, "tasks.jsonl", 4)
    assert task.input_items == [{"role": "user", "content": "hi"}]
    assert task.tools == []


def test_instructions_come_first_as_a_system_message() -> None:
    task = parsed(with_params(input=[USER], instructions="be brief"))

    assert task.input_items == [{"role": "system", "content": "be brief"}, USER]


def test_null_parameters_are_as_good_as_none() -> None:
    task = parsed(with_params(input="hi", tools=None, instructions=None, temperature=None))

    assert task.tools == []
    assert task.input_items == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("choice", "means"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "add"}, "add"),
        ({"type": "function", "function": {"name": "add"}}, "add"),
    ],
)
def test_a_tool_may_be_chosen_in_the_shape_of_either_api(choice: Any, means: str) -> None:
    assert parsed(with_params(input="hi", tool_choice=choice)).tool_choice == means


def test_how_often_tools_may_be_called_is_told_by_the_row() -> None:
    told = parsed(with_params(input="hi", parallel_tool_calls=False, max_tool_calls=3))
    silent = parsed(with_params(input="hi", parallel_tool_calls=None, max_tool_calls=None))

    assert (told.parallel_tool_calls, told.max_tool_calls) == (False, 3)
    assert (silent.parallel_tool_calls, silent.max_tool_calls) == (True, None)


@pytest.mark.parametrize(
    ("ref", "name"),
    [("a", "a"), ({"name": "a"}, "a"), ({"type": "responses_api_agents", "name": "a"}, "a")],
)
def test_an_agent_may_be_named_as_string_or_object(ref: Any, name: str) -> None:
    assert agent_name({"agent_ref": ref}) == name


def test_a_row_may_name_no_agent() -> None:
    assert agent_name({}) is None


@settings(max_examples=25)
@given(st.dictionaries(st.text(), JSON, max_size=5), st.integers())
def test_identity_is_that_of_the_content(row: dict[str, Any], index: int) -> None:
    shuffled = dict(reversed(list(row.items())))
    reserved = {**shuffled, "_ng_task_index": index, "_ng_rollout_index": 1, "_rowidx": index}

    assert task_id_of(shuffled) == task_id_of(row)
    if not any(key.startswith("_") for key in row):
        assert task_id_of(reserved) == task_id_of(row)
    assert task_id_of({**row, "another key": 1}) != task_id_of(row)


def test_identity_does_not_depend_on_spacing_or_escapes() -> None:
    spaced = parsed('{ "responses_create_params":  {"input": "\\u00e9"} }')
    tight = parsed('{"responses_create_params":{"input":"é"}}')

    assert spaced.task_id == tight.task_id


def test_an_unparsable_line_is_identified_by_its_place_and_bytes() -> None:
    identities = {
        unparsable_task_id("a", 1, b"x"),
        unparsable_task_id("b", 1, b"x"),
        unparsable_task_id("a", 2, b"x"),
        unparsable_task_id("a", 1, b"y"),
    }

    assert len(identities) == 4
    assert unparsable_task_id("a", 1, b"x") in identities


def test_rollout_ids_differ_by_task_environment_and_index() -> None:
    identities = {
        rollout_id_of(task, environment, index)
        for task in ("a", "b")
        for environment in ("x", "y")
        for index in (0, 1)
    }

    assert len(identities) == 8
    assert all(len(identity) == 32 for identity in identities)


def test_a_field_that_is_twice_among_many_is_found_in_little_time() -> None:
    names = [f"field_{number}" for number in range(100_000)]
    line = "{" + ",".join(f'"{name}": 1' for name in [*names, names[-1]]) + "}"
    began = time.process_time()
    with pytest.raises(RolloutFailure, match="'field_99999' twice"):
        parse_task(line, task_index=0, source_file="t.jsonl", source_line=1)
    assert time.process_time() - began < 5
