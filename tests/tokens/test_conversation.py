"""Conversations over eight renderers: history is continued token for token, or it branches.

A policy that says anything a hypothesis draws talks to a client that returns its messages as
clients do: reasoning dropped, arguments re-serialized, history edited or compacted, tools
changed.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_ray.agents.message_tree import MessageTree, Prompt
from gym_ray.renderers import load_renderer
from gym_ray.renderers.check import completion_of
from gym_ray.renderers.messages import AssistantMessage, Message
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.renderers.tokenizers import ByteTokenizer
from gym_ray.turn import Generation, Tokens, VersionSpan
from tests.tokens.families import FAMILIES

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Döes it.",
            "parameters": {"type": "object", "properties": {"x": {"type": "string"}}},
        },
    }
    for name in ("add", "look_up")
]
USER: Message = {"role": "user", "content": "Go."}
TEXT = st.sampled_from(
    ["", "Ok.", "  spaced \n", "naïve 🦙👩‍👩‍👧 née", "日本語 \u0301", '{"a": 1}']
)
CHANGES = st.sampled_from(["none"] * 4 + ["edit", "compact", "tools", "resample"])


def generation(token_ids: Tokens) -> Generation:
    return Generation(
        token_ids=np.asarray(token_ids, dtype=np.int32),
        logprobs=-np.arange(1, len(token_ids) + 1, dtype=np.float32),
        stop_reason="stop",
        version_spans=(VersionSpan(0, 0, len(token_ids)),),
        queued_seconds=0.0,
        generation_seconds=0.0,
    )


@st.composite
def sayings(draw: st.DrawFn, family: str) -> Message:
    """Something a policy says: reasoning, text, and up to three calls at once."""
    calls = draw(st.integers(0, 1 if family == "llama-3" else 3))
    said: Message = {"role": "assistant", "content": draw(TEXT)}
    if draw(st.booleans()):
        said["reasoning_content"] = draw(TEXT.filter(bool))
    if calls:
        said["tool_calls"] = [
            {
                "type": "function",
                "id": f"functions.add:{index}",
                "function": {"name": "add", "arguments": {"x": draw(TEXT)}},
            }
            for index in range(calls)
        ]
    return said


def sampled_from(draw: Any, renderer: RolloutRenderer, said: Message, prompt: Tokens) -> Tokens:
    """Tokens that say it: as a render would, or split otherwise, or cut at a token limit."""
    for wording in (said, {**said, "reasoning_content": "Hm."}):
        tokens = completion_of(renderer, [USER], wording, [USER], TOOLS)
        if tokens is not None:
            break
    assert tokens is not None
    manner = draw(st.sampled_from(["canonical", "split", "cut"]))
    if manner == "split":
        return split(renderer, tokens)
    if manner == "cut":  # in the middle of a tool call, of a character, of anything
        return tokens[: draw(st.integers(0, len(tokens) - 1))]
    return tokens


def split(renderer: RolloutRenderer, tokens: Tokens) -> Tokens:
    """The same text in other tokens: every character on its own, some in several tokens."""
    tokenizer = renderer._tokenizer
    pieces: list[int] = []
    for token in tokens.tolist():
        text = tokenizer.decode([token])
        if token in tokenizer.all_special_ids or "\ufffd" in text or len(text) < 2:
            pieces.append(token)
        else:
            for character in text:
                pieces += tokenizer.encode(character, add_special_tokens=False)
    return np.asarray(pieces, dtype=np.int32)


def as_sent_back(said: AssistantMessage, draw: Any) -> Message:
    """The message as a client returns it."""
    message = said.as_message()
    reasoning = message.get("reasoning_content")
    match draw(st.sampled_from(["field", "dropped", "inline"])):
        case "dropped":
            message.pop("reasoning_content", None)
        case "inline" if reasoning is not None:
            del message["reasoning_content"]
            message["content"] = f"<think>\n{reasoning}\n</think>\n\n{message['content']}"
    if not message["content"] and draw(st.booleans()):
        message["content"] = None if message.get("tool_calls") else ""
    for call, ours in zip(message.get("tool_calls", []), said.tool_calls, strict=True):
        if ours.error is None:
            arguments = json.loads(ours.arguments)
            call["function"]["arguments"] = json.dumps(arguments, indent=draw(st.integers(0, 2)))
    return message


def answers_to(said: AssistantMessage, draw: Any) -> list[Message]:
    results: list[Message] = [
        {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": draw(TEXT)}
        for call in said.tool_calls
        if call.error is None
    ]
    return results or [{"role": "user", "content": draw(TEXT)}]


def is_renderable(renderer: RolloutRenderer, messages: list[Message], tools: list[Any]) -> bool:
    """Whether the family has a form for these messages at all."""
    try:
        renderer.render(messages, tools)
    except Exception:
        return False
    return True


@pytest.mark.parametrize("family", FAMILIES)
def test_every_turn_continues_sampled_tokens_or_begins_a_branch(
    families: dict[str, RolloutRenderer], family: str
) -> None:
    renderer = families[family]

    @settings(max_examples=8, database=None)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        conversation, record = MessageTree(renderer), []
        messages, tools, change = [USER], TOOLS, "none"
        for _ in range(data.draw(st.integers(1, 5))):
            prompt = conversation.prompt(messages, tools)
            taken = len(record)
            if change == "none" and taken and prompt.obstacle is None:
                assert prompt.continues == taken - 1
            if change in ("edit", "compact", "tools"):
                assert prompt.continues != taken - 1
            said_tokens = sampled_from(
                data.draw, renderer, data.draw(sayings(family)), prompt.token_ids
            )
            sample = generation(said_tokens)
            said = conversation.add(prompt, sample)
            record.append((prompt, sample))
            change = data.draw(CHANGES)
            if change == "resample":
                continue
            following = [*messages, as_sent_back(said, data.draw), *answers_to(said, data.draw)]
            if change == "edit":
                following[0] = {"role": "user", "content": f"Go {taken}."}
            elif change == "compact":
                following = [{"role": "user", "content": f"So far: {taken}."}]
            elif change == "tools":
                tools = TOOLS[:1] if tools is TOOLS else TOOLS
            if not is_renderable(renderer, following, tools):
                break
            messages = following
        assert_branches_hold(conversation, record)

    holds()


def assert_branches_hold(
    conversation: MessageTree, record: list[tuple[Prompt, Generation]]
) -> None:
    """Every turn stands verbatim in a branch, and every sampled token counts exactly once."""
    transcript = conversation.transcript
    for number, (prompt, sample) in enumerate(record):
        kept_prompt, kept_generation = transcript.history(number)
        assert np.array_equal(kept_prompt, prompt.token_ids)
        assert np.array_equal(kept_generation, sample.token_ids)
        if prompt.continues is not None:
            earlier = np.concatenate(transcript.history(prompt.continues))
            assert np.array_equal(prompt.token_ids[: len(earlier)], earlier)
    end = 0
    for turn in transcript.turns:
        assert turn.prompt_length >= end
        end = turn.prompt_length + turn.generation_length
    branches = [
        (transcript.token_ids, transcript.loss_mask, transcript.logprobs),
        *((side.token_ids, side.loss_mask, side.logprobs) for side in transcript.side_branches),
    ]
    assert sum(int(mask.sum()) for _, mask, _ in branches) == sum(
        len(sample.token_ids) for _, sample in record
    )
    for prompt, sample in record:
        start, end = len(prompt.token_ids), len(prompt.token_ids) + len(sample.token_ids)
        whole = np.concatenate([prompt.token_ids, sample.token_ids])
        homes = [b for b in branches if np.array_equal(b[0][:end], whole)]
        assert homes
        assert not end - start or any(
            mask[start:end].all() and np.array_equal(logprobs[start:end], sample.logprobs)
            for _, mask, logprobs in homes
        )


@pytest.fixture(scope="module")
def renderer() -> RolloutRenderer:
    return load_renderer(None)


def say(conversation: MessageTree, text: str, messages: list[Message], **options: Any) -> Message:
    """One turn in which the policy says `text`; the message as the client gets it."""
    prompt = conversation.prompt(messages, **options)
    sample = generation(np.asarray(ByteTokenizer().encode(text)))
    return conversation.add(prompt, sample).as_message()


def test_history_that_only_grows_is_one_branch(renderer: RolloutRenderer) -> None:
    conversation = MessageTree(renderer)
    first = say(conversation, "A<|im_end|>", [USER])
    say(conversation, "B<|im_end|>", [USER, first, USER])

    assert len(conversation.transcript.turns) == 2
    assert conversation.transcript.side_branches == ()


@pytest.mark.parametrize(
    "returned",
    [
        {"role": "assistant", "content": "A"},
        {"role": "assistant", "content": "A", "reasoning_content": "hm"},
        {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
    ],
)
def test_a_message_that_says_the_same_is_not_an_edit(
    renderer: RolloutRenderer, returned: Message
) -> None:
    conversation = MessageTree(renderer)
    say(conversation, "<think>\nhm\n</think>\n\nA<|im_end|>", [USER])

    assert conversation.prompt([USER, returned, USER]).continues == 0


@pytest.mark.parametrize(
    "returned",
    [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "A", "reasoning_content": "ha"},
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "A", "tool_calls": [{"function": {"name": "add"}}]},
    ],
)
def test_a_message_that_says_something_else_is_an_edit(
    renderer: RolloutRenderer, returned: Message
) -> None:
    conversation = MessageTree(renderer)
    say(conversation, "<think>\nhm\n</think>\n\nA<|im_end|>", [USER])

    prompt = conversation.prompt([USER, returned, USER])

    assert (prompt.continues, prompt.obstacle) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "continues"),
    [
        ('{"y":"é","x":1}', 0),
        ('{\n "x": 1,\n "y": "\\u00e9"}', 0),
        ('{"x": 2, "y": "é"}', None),
        ('{"x": 1}', None),
        ("not JSON", None),
    ],
)
def test_arguments_are_compared_as_json_not_as_text(
    renderer: RolloutRenderer, arguments: str, continues: int | None
) -> None:
    conversation = MessageTree(renderer)
    call = '<tool_call>\n{"name": "add", "arguments": {"x": 1, "y": "é"}}\n</tool_call><|im_end|>'
    said = say(conversation, call, [USER], tools=TOOLS)
    said["tool_calls"][0]["function"]["arguments"] = arguments

    result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "3"}
    assert conversation.prompt([USER, said, result], TOOLS).continues == continues


@pytest.mark.parametrize("answers", ["first", "unknown"])
def test_an_output_put_in_before_a_turn_is_an_edit(renderer: RolloutRenderer, answers: str) -> None:
    conversation = MessageTree(renderer)
    calls = [
        f'<tool_call>\n{{"name": "add", "arguments": {{"x": {number}}}}}\n</tool_call><|im_end|>'
        for number in range(2)
    ]
    first = say(conversation, calls[0], [USER], tools=TOOLS)
    told = {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "1"}
    second = say(conversation, calls[1], [USER, first, told], tools=TOOLS)
    more = {**told, "content": "2"} | ({} if answers == "first" else {"tool_call_id": "x"})

    assert conversation.prompt([USER, first, told, second, more], TOOLS).follows == 1
    assert conversation.prompt([USER, first, told, more, second], TOOLS).follows == 0


def test_what_cannot_be_bridged_branches_and_says_why() -> None:
    conversation = MessageTree(load_renderer(None, thinking_retention="tool_cycle"))
    first = say(conversation, "<think>\nhm\n</think>\n\nA<|im_end|>", [USER])
    prompt = conversation.prompt([USER, first, USER])
    conversation.add(prompt, generation(np.asarray([66, 258])))

    assert prompt.continues is None
    assert "user messages" in (prompt.obstacle or "")
    assert "hm" not in conversation._renderer.decode(prompt.token_ids)
    (side,) = conversation.transcript.side_branches
    assert "hm" in conversation._renderer.decode(side.token_ids)


def test_two_conversations_of_one_rollout_are_each_continued(renderer: RolloutRenderer) -> None:
    conversation = MessageTree(renderer)
    other: Message = {"role": "user", "content": "Count."}
    ours = say(conversation, "A<|im_end|>", [USER])
    theirs = say(conversation, "1<|im_end|>", [other])
    say(conversation, "B<|im_end|>", [USER, ours, USER])
    say(conversation, "2<|im_end|>", [other, theirs, USER])

    assert len(conversation.transcript.turns) == 2
    (side,) = conversation.transcript.side_branches
    assert (side.loss_mask.sum(), conversation.transcript.loss_mask.sum()) == (4, 4)


def test_with_other_tools_history_is_rendered_anew(renderer: RolloutRenderer) -> None:
    conversation = MessageTree(renderer)
    first = say(conversation, "A<|im_end|>", [USER], tools=TOOLS)

    assert conversation.prompt([USER, first, USER], TOOLS).continues == 0
    assert conversation.prompt([USER, first, USER], TOOLS[:1]).continues is None


def test_a_prompt_asked_for_again_before_a_turn_is_added_is_rendered_once() -> None:
    renderer = load_renderer(None, "chatml")
    rendered: list[int] = []
    render = renderer.render

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(renderer, name)

        def render(self, *arguments: Any) -> Tokens:
            tokens = render(*arguments)
            rendered.append(len(tokens))
            return tokens

    conversation = MessageTree(Counted())  # type: ignore[arg-type]
    first = [conversation.prompt([dict(USER)], TOOLS) for _ in range(4)]
    assert len(rendered) == 1
    assert len({id(prompt) for prompt in first}) == 1

    for prompt in first[:2]:  # Two choices of one request become two branches.
        conversation.add(prompt, generation(np.array([65, renderer.stop_token_ids[0]], np.int32)))
    assert len(conversation.transcript.turns) + len(conversation.transcript.side_branches) == 2

    again = conversation.prompt([dict(USER)], TOOLS)
    assert (len(rendered), again.token_ids.tolist()) == (2, first[0].token_ids.tolist())
    called = {"function": {"name": "add", "arguments": {"x": 1}}}
    same = {"function": {"name": "add", "arguments": {"x": True}}}
    for call in (called, same):
        conversation.prompt([USER, {"role": "assistant", "content": "", "tool_calls": [call]}])
    assert len(rendered) == 4, "equal in Python, and not in what they say"
