"""Tokens that a client sends back are the prompt's beginning, whatever it did to the text."""

import asyncio
from typing import Any

import httpx
import hypothesis
import openai
import pytest
from hypothesis import strategies as st

from gym_ray.gateway.app import GatewaySettings, create_app
from tests.gateway.policies import MODEL, WatchedEngine, token_policy
from tests.replies import tool_calls

TOKENS = {"return_token_ids": True}


def test_history_is_continued_from_its_tokens(client: openai.OpenAI, engine: WatchedEngine) -> None:
    messages: list[Any] = [{"role": "user", "content": "say:  spaced  "}]
    first = client.chat.completions.create(model=MODEL, messages=messages, extra_body=TOKENS)
    said = first.choices[0].message.model_dump()
    said["content"] = "re-worded by the client"
    messages += [said, {"role": "user", "content": "say: on"}]
    client.chat.completions.create(model=MODEL, messages=messages)
    history = said["prompt_token_ids"] + said["generation_token_ids"]
    prompt = engine.requests[1].prompt_token_ids.tolist()
    assert prompt[: len(history)] == history
    assert bytes(token % 256 for token in prompt[len(history) :]).startswith(b"\n\x01user\n")


def test_history_without_tokens_is_rendered(client: openai.OpenAI, engine: WatchedEngine) -> None:
    messages: list[Any] = [
        {"role": "user", "content": "say: a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "say: c"},
    ]
    client.chat.completions.create(model=MODEL, messages=messages)
    assert b"assistant\nb" in bytes(t % 256 for t in engine.requests[0].prompt_token_ids.tolist())


def test_responses_items_are_continued_from_their_tokens(
    client: openai.OpenAI, engine: WatchedEngine
) -> None:
    history: list[Any] = [
        {"role": "user", "content": "say: One.\n" + tool_calls(("add", {"a": 1}))}
    ]
    first = client.responses.create(model=MODEL, input=history, extra_body=TOKENS)
    items = [item.model_dump() for item in first.output]
    items[0]["content"][0]["text"] = "re-worded"
    history += [*items, {"type": "function_call_output", "call_id": "x", "output": "3"}]
    client.responses.create(model=MODEL, input=history)
    expected = items[-1]["prompt_token_ids"] + items[-1]["generation_token_ids"]
    assert engine.requests[1].prompt_token_ids.tolist()[: len(expected)] == expected


def tool(name: str) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


A, B = tool("add"), tool("subtract")


@pytest.mark.parametrize("reworded", [False, True])
@pytest.mark.parametrize(
    ("before", "now", "continued"),
    [
        ({"tools": [A]}, {"tools": [A]}, True),
        ({"tools": [A, B]}, {"tools": [A, B], "tool_choice": "auto"}, True),
        ({}, {}, True),
        ({"tools": [A, B]}, {"tools": [A]}, False),
        ({"tools": [A]}, {"tools": [A, B]}, False),
        ({"tools": [A]}, {"tools": [B]}, False),
        ({"tools": [A]}, {"tools": [A], "tool_choice": "none"}, False),
        ({"tools": [A]}, {}, False),
        ({}, {"tools": [A]}, False),
    ],
)
def test_history_is_continued_from_its_tokens_only_with_the_tools_that_stand_in_them(
    client: openai.OpenAI,
    engine: WatchedEngine,
    before: dict[str, Any],
    now: dict[str, Any],
    continued: bool,
    reworded: bool,
) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "say: a"}
    ]  # fmt: skip
    first = client.chat.completions.create(
        model=MODEL, messages=messages, extra_body=TOKENS, **before
    )
    said = first.choices[0].message.model_dump()
    if reworded:
        messages[0] = {"role": "system", "content": "Be long."}
    messages += [said, {"role": "user", "content": "say: b"}]
    client.chat.completions.create(model=MODEL, messages=messages, **now)

    history = said["prompt_token_ids"] + said["generation_token_ids"]
    prompt = engine.requests[1].prompt_token_ids.tolist()
    assert (prompt[: len(history)] == history) is continued


@pytest.mark.parametrize("limit", [2, 100])
def test_required_prefix_is_kept(
    client: openai.OpenAI, engine: WatchedEngine, http: httpx.Client, limit: int
) -> None:
    messages: list[Any] = [{"role": "user", "content": "say: four"}]
    first = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=limit, extra_body=TOKENS
    ).model_dump()
    prefix = first["prompt_token_ids"] + first["choices"][0]["token_ids"]
    messages += [{"role": "assistant", "content": "x"}, {"role": "user", "content": "say: on"}]
    wish = {"required_prefix_token_ids": prefix}
    client.chat.completions.create(model=MODEL, messages=messages, extra_body=wish)
    prompt = engine.requests[1].prompt_token_ids.tolist()
    assert prompt[: len(prefix)] == prefix
    told = http.post("/tokenize", json={"messages": messages, **wish})
    assert told.json()["tokens"] == prompt


def test_required_prefix_that_cannot_be_kept_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="required_prefix_token_ids"):
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "assistant", "content": "a"}],
            extra_body={"required_prefix_token_ids": [1, 2, 3]},
        )


@st.composite
def turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What the policy samples, how a client garbles it, and what comes next, turn by turn."""
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    call = st.builds(lambda value: tool_calls(("add", {"a": value})), text)
    return draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "said": st.lists(text | call, min_size=1, max_size=3).map("\n".join),
                    "limit": st.integers(1, 80),
                    "garbled": text,
                    "as_tool": st.booleans(),
                }
            ),
            min_size=2,
            max_size=4,
        )
    )


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(turns())
def test_every_turn_starts_with_all_tokens_before_it(turns: list[dict[str, Any]]) -> None:
    policy, _ = token_policy()
    app = create_app(policy=policy, settings=GatewaySettings())

    async def play() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            messages: list[dict[str, Any]] = []
            tokens: list[int] = []
            for turn in turns:
                content = f"say: {turn['said']}"
                if messages and turn["as_tool"]:
                    message = {"role": "tool", "tool_call_id": "x", "content": content}
                else:
                    message = {"role": "user", "content": content}
                body = {
                    "messages": [*messages, message],
                    "max_tokens": turn["limit"],
                    "return_token_ids": True,
                }
                answer = await client.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                said = answer.json()["choices"][0]["message"]
                assert said["prompt_token_ids"][: len(tokens)] == tokens
                tokens = said["prompt_token_ids"] + said["generation_token_ids"]
                said["content"] = turn["garbled"]
                for call in said.get("tool_calls", ()):
                    call["function"]["arguments"] = "{ }"
                messages += [message, said]

    asyncio.run(play())
