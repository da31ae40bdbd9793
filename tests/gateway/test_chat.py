"""Chat completions through OpenAI's own client."""

import asyncio
import dataclasses
import json
from typing import Any

import openai
import pytest

from gym_ray.policies.engine import GenerationRequest
from gym_ray.turn import Generation
from tests.gateway.conftest import KEY, Connect
from tests.gateway.policies import MODEL, ChatOnlyPolicy, WatchedEngine, token_policy
from tests.replies import tool_calls

TURN_END, END_OF_TEXT = 258, 256
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Sum of two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        },
    },
}


def ask(content: str) -> list[Any]:
    return [{"role": "user", "content": content}]


def test_answer_has_text_usage_and_names(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ask("say: four"))
    again = client.chat.completions.create(model=MODEL, messages=ask("say: four"))
    assert answer.choices[0].message.content == "four"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.id != again.id
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("?user\nsay: four?\n?assistant\n")
    assert answer.usage.completion_tokens == len("four") + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5


def test_the_length_ends_an_answer(client: openai.OpenAI) -> None:
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
        answer = client.chat.completions.create(
            model=MODEL, messages=ask("say: four and five"), **limit
        )
        assert answer.choices[0].message.content == "fou"
        assert answer.choices[0].finish_reason == "length"


def test_stop_texts_are_cut_off_and_their_tokens_kept(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=ask("say: one. two. three"),
        stop=[" three", ". two"],
        extra_body={"return_token_ids": True},
    )
    assert answer.choices[0].message.content == "one"
    assert answer.choices[0].finish_reason == "stop"
    assert bytes(answer.choices[0].token_ids[:8]) == b"one. two"  # type: ignore[attr-defined]


def test_several_choices_are_sampled_apart(client: openai.OpenAI, engine: WatchedEngine) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ask("say: a"), n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({request.call.request_id for request in engine.requests}) == 3
    assert len({request.call.seed for request in engine.requests}) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3 * 2


def test_a_prompt_of_several_choices_is_rendered_once(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, engine = token_policy()
    rendered: list[int] = []
    render = type(policy.renderer).render

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        tokens = render(self, *arguments, **options)
        rendered.append(len(tokens))
        return tokens

    monkeypatch.setattr(type(policy.renderer), "render", counted)
    # Long enough to be tokenized in a thread, where choices would overtake each other.
    for text, n in (("say: a", 4), ("word " * 5000 + "say: a", 8)):
        rendered.clear()
        engine.requests.clear()
        answer = connect(policy).chat.completions.create(model=MODEL, messages=ask(text), n=n)

        assert len(answer.choices) == len(engine.requests) == n
        assert rendered == [len(engine.requests[0].prompt_token_ids)]
        prompts = {request.prompt_token_ids.tobytes() for request in engine.requests}
        assert len(prompts) == 1


def test_sampling_is_what_was_asked_for(client: openai.OpenAI, engine: WatchedEngine) -> None:
    client.chat.completions.create(
        model=MODEL,
        messages=ask("say: a"),
        temperature=0.5,
        top_p=0.9,
        extra_body={"top_k": 20, "stop_token_ids": [10]},
    )
    sampling = engine.requests[0].call.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 20)
    assert engine.requests[0].call.stop_token_ids == (TURN_END, END_OF_TEXT, 10)


def test_json_answers_are_guided_by_their_schema(
    client: openai.OpenAI, engine: WatchedEngine
) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    client.chat.completions.create(
        model=MODEL,
        messages=ask("say: a"),
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    client.chat.completions.create(
        model=MODEL, messages=ask("say: a"), response_format={"type": "json_object"}
    )
    tags = [json.loads(request.call.sampling.structural_tag or "") for request in engine.requests]
    assert tags[0]["format"] == {"type": "json_schema", "json_schema": schema}
    assert tags[1]["format"]["json_schema"] == {"type": "object"}


def test_tools_are_called_and_their_results_read(client: openai.OpenAI) -> None:
    calls = tool_calls(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}))
    messages = ask(f"say: Adding.\n{calls}")
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=[ADD])
    assert first.choices[0].finish_reason == "tool_calls"
    said = first.choices[0].message
    assert said.content == "Adding."
    assert said.tool_calls is not None
    assert [call.function.name for call in said.tool_calls] == ["add", "add"]
    assert len({call.id for call in said.tool_calls}) == 2

    messages.append(said)
    for call in said.tool_calls:
        arguments = json.loads(call.function.arguments)
        result = str(arguments["a"] + arguments["b"])
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=[ADD])
    assert second.choices[0].message.content == "The tools say 3 and 7"
    assert second.choices[0].finish_reason == "stop"


def test_one_call_is_told_where_one_is_wanted(client: openai.OpenAI) -> None:
    calls = tool_calls(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}))
    answer = client.chat.completions.create(
        model=MODEL, messages=ask(f"say: {calls}"), tools=[ADD], parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls or ()) == 1
    assert answer.choices[0].message.content is None


def test_tool_choice_none_hides_the_tools(client: openai.OpenAI, engine: WatchedEngine) -> None:
    for choice in ("none", "auto"):
        client.chat.completions.create(
            model=MODEL, messages=ask("say: a"), tools=[ADD], tool_choice=choice
        )
    hidden, shown = (bytes(r.prompt_token_ids[1:40].astype("uint8")) for r in engine.requests)
    assert hidden.startswith(b"user\nsay: a")
    assert shown.startswith(b"system\n# Functions")


def test_logprobs_name_every_sampled_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=ask("say: hé"), logprobs=True, top_logprobs=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert logprobs.content[0].token == "h"
    assert len(logprobs.content) == len("hé".encode()) + 1
    # A token may be a part of a character: its bytes are its own, whatever its text looks like.
    spelled = [entry.bytes for entry in logprobs.content[:-1]]
    assert spelled == [[byte] for byte in "hé".encode()]
    assert all(entry.logprob < 0 for entry in logprobs.content)


def test_token_ids_come_in_the_shapes_of_vllm_and_nemo_gym(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=ask("say: hi"),
        logprobs=True,
        extra_body={"return_token_ids": True, "return_tokens_as_token_ids": True},
    ).model_dump()
    choice = answer["choices"][0]
    assert choice["token_ids"] == [*b"hi", TURN_END]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == [
        f"token_id:{token}" for token in choice["token_ids"]
    ]
    message = choice["message"]
    assert message["prompt_token_ids"] == answer["prompt_token_ids"]
    assert message["generation_token_ids"] == choice["token_ids"]
    assert message["generation_log_probs"] == [
        entry["logprob"] for entry in choice["logprobs"]["content"]
    ]


def test_stream_accumulates_to_the_same_answer(client: openai.OpenAI) -> None:
    calls = tool_calls(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}))
    with client.chat.completions.stream(
        model=MODEL,
        messages=ask(f"say: Adding.\n{calls}"),
        tools=[ADD],
        stream_options={"include_usage": True},
    ) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_completion()
    whole = client.chat.completions.create(
        model=MODEL, messages=ask(f"say: Adding.\n{calls}"), tools=[ADD]
    )
    assert "content.delta" in kinds
    assert "tool_calls.function.arguments.done" in kinds
    said, expected = streamed.choices[0].message, whole.choices[0].message
    assert said.content == expected.content
    assert [call.function.arguments for call in said.tool_calls or ()] == [
        call.function.arguments for call in expected.tool_calls or ()
    ]
    assert streamed.choices[0].finish_reason == "tool_calls"
    assert streamed.usage == whole.usage


def test_stream_of_several_choices_has_their_tokens(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=ask("say: hi"),
            n=2,
            stream=True,
            logprobs=True,
            extra_body={"return_token_ids": True},
        )
    )
    said = [chunk for chunk in chunks if getattr(chunk, "prompt_token_ids", None)]
    assert sorted(chunk.choices[0].index for chunk in said) == [0, 1]
    for chunk in said:
        assert chunk.choices[0].delta.content == "hi"
        assert chunk.choices[0].token_ids == [*b"hi", TURN_END]  # type: ignore[attr-defined]
        assert chunk.choices[0].logprobs is not None
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_raw_responses_carry_an_id(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ask("say: a"))
    assert raw.headers["x-request-id"] == raw.parse().id


def test_async_clients_are_served_at_once(url: str) -> None:
    async def answers() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            calls = [
                client.chat.completions.create(model=MODEL, messages=ask(f"say: {number}"))
                for number in range(16)
            ]
            return [done.choices[0].message.content for done in await asyncio.gather(*calls)]

    assert asyncio.run(answers()) == [str(number) for number in range(16)]


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_policy_without_tokens_chats_and_tells_none(connect: Connect) -> None:
    info = token_policy()[0].info
    client = connect(ChatOnlyPolicy(info))
    answer = client.chat.completions.create(
        model=MODEL, messages=ask("hi"), logprobs=True, extra_body={"return_token_ids": True}
    ).model_dump()
    assert answer["choices"][0]["message"]["content"] == "You said: hi"
    assert answer["prompt_token_ids"] is None
    assert "generation_token_ids" not in answer["choices"][0]["message"]
    assert answer["usage"]["total_tokens"] == 10
    with pytest.raises(openai.BadRequestError, match="returns no token IDs"):
        client.completions.create(model=MODEL, prompt="hi")


def test_a_policy_whose_context_is_not_known_answers_all_the_same(connect: Connect) -> None:
    policy, _ = token_policy()
    unknown = dataclasses.replace(policy, info=dataclasses.replace(policy.info, context_length=0))
    client = connect(unknown)
    answer = client.chat.completions.create(model=MODEL, messages=ask("say: four"))
    assert answer.choices[0].message.content == "four"
    assert client.completions.create(model=MODEL, prompt="say: four").choices[0].text == "four"
    assert client.models.retrieve(MODEL).model_dump()["max_model_len"] is None


def test_what_the_engine_gave_up_is_an_error_not_a_finish_reason(connect: Connect) -> None:
    policy, engine = token_policy()

    async def aborted(request: GenerationRequest) -> Generation:
        return dataclasses.replace(await engine.generate(request), stop_reason="abort")

    client = connect(dataclasses.replace(policy, generate=aborted))
    with pytest.raises(openai.InternalServerError, match="aborted"):
        client.chat.completions.create(model=MODEL, messages=ask("say: four"))
    with pytest.raises(openai.InternalServerError, match="aborted"):
        client.completions.create(model=MODEL, prompt="say: four")


def test_ids_of_calls_are_those_of_no_other_answer(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "say: " + tool_calls(("add", {}), ("add", {}))}]
    tools: Any = [{"type": "function", "function": {"name": "add"}}]
    answers = [
        client.chat.completions.create(model=MODEL, messages=messages, tools=tools, n=2)
        for _ in range(2)
    ]
    ids = [
        call.id
        for answer in answers
        for choice in answer.choices
        for call in choice.message.tool_calls or ()
    ]
    assert len(set(ids)) == len(ids) == 8
