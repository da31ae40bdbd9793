"""Responses through OpenAI's own client."""

from typing import Any

import openai
import pytest

from gym_ray.errors import FailureKind, RolloutFailure
from tests.gateway.policies import MODEL, WatchedEngine
from tests.replies import tool_calls

TURN_END = 258
ADD = {
    "type": "function",
    "name": "add",
    "description": "Sum of two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    },
    "strict": None,
}


def test_text_comes_with_usage_and_what_was_asked(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=MODEL,
        input="say: four",
        instructions="Be brief.",
        temperature=0.5,
        metadata={"run": "7"},
    )
    assert response.output_text == "four"
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.output_tokens == len("four") + 1
    assert response.usage.total_tokens == response.usage.input_tokens + 5
    assert (response.temperature, response.metadata) == (0.5, {"run": "7"})
    assert response.instructions == "Be brief."


def test_the_length_leaves_a_response_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="say: four and", max_output_tokens=3)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_functions_are_called_and_their_outputs_read(client: openai.OpenAI) -> None:
    history: list[Any] = [
        {"role": "user", "content": "say: Adding.\n" + tool_calls(("add", {"a": 1, "b": 2}))}
    ]
    first = client.responses.create(model=MODEL, input=history, tools=[ADD])
    assert [item.type for item in first.output] == ["message", "function_call"]
    call = first.output[1]
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("add", '{"a": 1, "b": 2}')
    history += first.output
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": "3"})
    second = client.responses.create(model=MODEL, input=history, tools=[ADD])
    assert second.output_text == "The tools say 3"


def test_chat_and_responses_see_the_same_prompt(
    client: openai.OpenAI, engine: WatchedEngine
) -> None:
    client.responses.create(model=MODEL, input=[{"role": "user", "content": "say: a"}], tools=[ADD])
    function = {key: ADD[key] for key in ("name", "description", "parameters")}
    client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "say: a"}],
        tools=[{"type": "function", "function": function}],
    )
    first, second = engine.requests
    assert first.prompt_token_ids.tolist() == second.prompt_token_ids.tolist()


def test_stream_has_the_events_the_client_accumulates(client: openai.OpenAI) -> None:
    said = "say: <think>\nHm.\n</think>\n\nAdding.\n" + tool_calls(("add", {"a": 1, "b": 2}))
    with client.responses.stream(model=MODEL, input=said, tools=[ADD]) as stream:
        events = list(stream)
        streamed = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert {
        "response.reasoning_summary_text.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
    } <= set(kinds)
    numbers = [event.sequence_number for event in events]
    assert numbers == list(range(len(events)))
    whole = client.responses.create(model=MODEL, input=said, tools=[ADD])
    assert streamed.output_text == whole.output_text == "Adding."
    assert [item.type for item in streamed.output] == ["reasoning", "message", "function_call"]
    assert streamed.usage == whole.usage


def test_stream_that_fails_late_ends_with_a_failed_response(
    client: openai.OpenAI, engine: WatchedEngine
) -> None:
    engine.hold = True
    engine.failure = RolloutFailure(FailureKind.POLICY_ERROR, "the engine broke")
    stream = client.responses.create(model=MODEL, input="say: a", stream=True)
    assert next(stream).type == "response.created"
    engine.hold = False
    last = list(stream)[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "the engine broke"


def test_last_item_carries_the_tokens_when_asked(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=MODEL,
        input="say: hi",
        include=["message.output_text.logprobs"],
        extra_body={"return_token_ids": True},
    ).model_dump()
    item = response["output"][-1]
    assert item["generation_token_ids"] == [*b"hi", TURN_END]
    assert len(item["prompt_token_ids"]) == response["usage"]["input_tokens"]
    logprobs = item["content"][0]["logprobs"]
    assert [entry["logprob"] for entry in logprobs] == item["generation_log_probs"]


def test_json_text_is_guided_by_its_schema(client: openai.OpenAI, engine: WatchedEngine) -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    client.responses.create(
        model=MODEL,
        input="say: a",
        text={"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}},
    )
    assert '"additionalProperties": false' in (
        engine.requests[0].call.sampling.structural_tag or ""
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("background", True),
        ("reasoning", {"effort": "high"}),
        ("prompt", {"id": "pmpt_1"}),
    ],
)
def test_what_needs_storage_or_another_model_is_refused(
    client: openai.OpenAI, field: str, value: Any
) -> None:
    with pytest.raises(openai.BadRequestError, match=field):
        client.responses.create(model=MODEL, input="say: a", extra_body={field: value})


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([], "input"),
        ([{"type": "item_reference", "id": "msg_1"}], "input.0.type"),
        ([{"type": "function_call", "name": "add", "arguments": "{}"}], "input.0.call_id"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "input.0.content.0"),
        ([{"type": "function_call_output", "call_id": "c"}], "input.0.output"),
    ],
)
def test_items_that_cannot_be_read_are_named(
    client: openai.OpenAI, items: list[Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input=items)
    assert refused.value.param == param
