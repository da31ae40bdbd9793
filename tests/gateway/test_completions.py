"""Raw completions and the tokenizer routes."""

from typing import Any

import httpx
import openai
import pytest

from tests.gateway.policies import MODEL, WatchedEngine

TURN_START, TURN_END = 257, 258


def test_text_and_its_tokens_are_the_same_prompt(
    client: openai.OpenAI, engine: WatchedEngine
) -> None:
    text = client.completions.create(model=MODEL, prompt="say: four")
    tokens = client.completions.create(model=MODEL, prompt=list(b"say: four"))
    assert text.choices[0].text == tokens.choices[0].text == "four"
    assert text.choices[0].finish_reason == "stop"
    first, second = engine.requests
    assert first.prompt_token_ids.tolist() == second.prompt_token_ids.tolist()
    assert text.usage is not None
    assert (text.usage.prompt_tokens, text.usage.completion_tokens) == (9, 5)


def test_names_of_control_tokens_in_a_raw_prompt_are_control_tokens(
    client: openai.OpenAI, engine: WatchedEngine
) -> None:
    client.completions.create(model=MODEL, prompt="<|im_start|>user\n")
    assert engine.requests[0].prompt_token_ids.tolist() == [TURN_START, *b"user\n"]


@pytest.mark.parametrize("prompts", [["say: a", "say: b"], [list(b"say: a"), list(b"say: b")]])
def test_several_prompts_have_their_choices_in_order(
    client: openai.OpenAI, prompts: list[Any]
) -> None:
    answer = client.completions.create(model=MODEL, prompt=prompts, n=2)
    assert [choice.text for choice in answer.choices] == ["a", "a", "b", "b"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (12, 8)


def test_logprobs_and_token_ids(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="say: hi", logprobs=0, extra_body={"return_token_ids": True}
    )
    choice = answer.choices[0]
    assert choice.token_ids == [*b"hi", TURN_END]  # type: ignore[attr-defined]
    assert choice.prompt_token_ids == list(b"say: hi")  # type: ignore[attr-defined]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["h", "i", "<|im_end|>"]
    assert choice.logprobs.text_offset == [0, 1, 2]


def test_offsets_count_characters_of_the_text_not_of_parts_of_them(client: openai.OpenAI) -> None:
    choice = client.completions.create(model=MODEL, prompt="say: hé🦙!", logprobs=0).choices[0]

    assert choice.text == "hé🦙!"
    assert choice.logprobs is not None
    assert choice.logprobs.text_offset == [0, 1, 1, 2, 2, 2, 2, 3, 4]


def test_stream_of_completions(client: openai.OpenAI) -> None:
    chunks = list(
        client.completions.create(
            model=MODEL,
            prompt=["say: a", "say: b"],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert sorted(c.choices[0].text for c in chunks if c.choices) == ["a", "b"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 16


@pytest.mark.parametrize(
    "wish",
    [
        {"best_of": 3},
        {"echo": True},
        {"suffix": "end"},
        {"logprobs": 2},
        {"logit_bias": {"1": 5}},
        {"frequency_penalty": 0.5},
        {"presence_penalty": 0.5},
    ],
)
def test_what_cannot_be_honored_is_refused_by_name(
    client: openai.OpenAI, wish: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt="a", **wish)
    assert refused.value.param == next(iter(wish))


def test_wishes_for_nothing_are_fine(client: openai.OpenAI) -> None:
    client.completions.create(
        model=MODEL, prompt="a", best_of=1, echo=False, frequency_penalty=0, logit_bias={}
    )


def test_tokenize_is_what_a_chat_would_prompt_with(
    client: openai.OpenAI, engine: WatchedEngine, http: httpx.Client
) -> None:
    messages: list[Any] = [{"role": "user", "content": "say: a"}]
    client.chat.completions.create(model=MODEL, messages=messages)
    body = {"model": MODEL, "messages": messages}
    told = http.post("/tokenize", json=body).json()
    assert told["tokens"] == engine.requests[0].prompt_token_ids.tolist()
    assert told["count"] == len(told["tokens"])
    assert told["max_model_len"] == 2048
    closed = {**body, "add_generation_prompt": False, "return_token_strs": True}
    told = http.post("/tokenize", json=closed).json()
    assert told["token_strs"][-2:] == ["<|im_end|>", "\n"]


def test_detokenize_gives_the_text_back(http: httpx.Client) -> None:
    prompt = "<|im_start|>user\nhé"
    tokens = http.post("/tokenize", json={"prompt": prompt}).json()
    assert tokens["tokens"][0] == TURN_START
    body = {"model": MODEL, "tokens": tokens["tokens"]}
    told = http.post("/detokenize", json=body).json()
    assert told == {"prompt": prompt}


def test_tokenize_wants_a_prompt_or_messages(http: httpx.Client) -> None:
    for body in ({}, {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}):
        answer = http.post("/tokenize", json=body)
        assert answer.status_code == 400
