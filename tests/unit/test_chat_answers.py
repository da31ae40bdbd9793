"""What a client is told of what the policy said."""

import asyncio
from typing import Any

import numpy as np
import pytest

from gym_ray.gateway.token_chat import TokenPolicy
from gym_ray.policies.call import Call
from gym_ray.policies.chat import ChatAnswer, ChatRequest, as_asked
from gym_ray.policies.engine import GenerationRequest, PolicyInfo
from gym_ray.renderers import load_renderer
from gym_ray.renderers.messages import AssistantMessage, ToolCall
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation, VersionSpan

RENDERER = load_renderer(None)
WHOLE = ToolCall("1", "add", '{"a": "x STOP y"}')
BROKEN = ToolCall("2", "add", '<tool_call>{"name": "add", "arguments": {"a": "x STOP y', "unclosed")
NAMELESS = ToolCall("3", "", "<tool_call>{oops</tool_call>", "invalid_json: …")
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "add", "parameters": {}}}


def request(*stops: str, stop_token_ids: tuple[int, ...] = (), **fields: Any) -> ChatRequest:
    call = Call("id", Sampling(stop=stops), stop_token_ids, None, 10.0)
    return ChatRequest(call, ({"role": "user", "content": "?"},), **fields)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (AssistantMessage("a STOP b"), AssistantMessage("a ")),
        (AssistantMessage("", "hm STOP b"), AssistantMessage("", "hm ")),
        (AssistantMessage("said", "hm STOP b", (WHOLE,)), AssistantMessage("", "hm ")),
        (
            AssistantMessage("", "hm", (BROKEN,)),
            AssistantMessage("", "hm", (ToolCall("2", "add", BROKEN.arguments[:-6], "unclosed"),)),
        ),
    ],
)
def test_a_stop_text_ends_the_message_whichever_part_it_is_in(
    said: AssistantMessage, told: AssistantMessage
) -> None:
    assert as_asked(said, request("STOP")) == (told, True)


def test_a_call_that_was_read_whole_is_told_whole() -> None:
    said = AssistantMessage("", None, (WHOLE,))

    assert as_asked(said, request("STOP")) == (said, False)


def test_a_call_that_names_no_tool_is_content() -> None:
    said = AssistantMessage("Ok.", None, (NAMELESS, WHOLE))

    told, stopped = as_asked(said, request())

    assert (told.content, told.tool_calls) == ("Ok.\n<tool_call>{oops</tool_call>", (WHOLE,))
    assert not stopped


def answer(text: str, stop: int, **fields: Any) -> ChatAnswer:
    """What the gateway answers when the policy says `text` and ends with the token `stop`."""

    async def generate(asked: GenerationRequest) -> Generation:
        assert stop in asked.call.stop_token_ids
        ids = np.asarray([*text.encode(), stop], dtype=np.int32)
        return Generation(
            token_ids=ids,
            logprobs=-np.ones(len(ids), dtype=np.float32),
            stop_reason="stop",
            version_spans=(VersionSpan(0, 0, len(ids)),),
            queued_seconds=0.0,
            generation_seconds=0.0,
        )

    policy = TokenPolicy(
        PolicyInfo("scripted", "1", "m", "f", 4096, 0), RENDERER, Sampling(), generate
    )
    return asyncio.run(policy.chat(request(stop_token_ids=(ord("!"),), tools=(TOOL,), **fields)))


@pytest.mark.parametrize(
    ("text", "content", "reasoning"),
    [
        ("four", "four", None),
        ("<think>\nhm", "", "hm"),
        ("<think>hm</think>\n\nfour", "four", "hm"),
    ],
)
@pytest.mark.parametrize("stop", [ord("!"), RENDERER.stop_token_ids[0]])
def test_the_token_that_ends_a_turn_is_not_said(
    text: str, content: str, reasoning: str | None, stop: int
) -> None:
    told = answer(text, stop)

    assert (told.message.content, told.message.reasoning) == (content, reasoning)
    assert told.generation is not None
    assert told.generation.token_ids.tolist() == [*text.encode(), stop]


def test_the_token_that_ends_a_broken_call_is_not_said() -> None:
    text = '<tool_call>{"name": "add", "arguments": {"a": "x'

    [call] = answer(text, ord("!")).message.tool_calls

    assert (call.name, call.arguments) == ("add", text)


def test_where_the_choice_is_no_tool_call_syntax_is_content() -> None:
    text = 'It is <tool_call>{"name": "add", "arguments": {}}</tool_call>'

    assert answer(text, ord("!"), tool_choice="none").message == AssistantMessage(text)
    assert len(answer(text, ord("!")).message.tool_calls) == 1
