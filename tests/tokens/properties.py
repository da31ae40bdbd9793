"""What holds for a renderer of any family, on any tokenizer; each raises AssertionError.

The tests of this folder run them on all families over one small tokenizer, and on real tokenizers
of five families.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from gym_ray.renderers.check import completion_of
from gym_ray.renderers.messages import AssistantMessage, Message
from gym_ray.renderers.renderer import BridgeImpossible, RolloutRenderer
from gym_ray.turn import Tokens

#: A value that spells how its own format goes on behind a value cannot be told from that.
_GOES_ON = re.compile(r"</parameter>\s*</function>|</arg_value>\s*</tool_call>")

CALL_ID = "functions.edit:0"
QUESTION: Message = {"role": "user", "content": "Go."}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "old": {"type": "string"},
        "kind": {"$ref": "#/$defs/Kind"},
        "any": {},
        "count": {"type": "integer"},
        "sure": {"type": "boolean"},
        "more": {"type": "array"},
        "deep": {"type": "object"},
    },
    "$defs": {"Kind": {"enum": ["left", "right", "5", "true"]}},
}
TOOL = {
    "type": "function",
    "function": {"name": "edit", "description": "Edits.", "parameters": SCHEMA},
}

#: What a format or a tokenizer gives another meaning, and what a careless parser strips.
PIECES = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start|>", "<|end|>", "<|call|>",
    "<｜User｜>", "<｜end▁of▁sentence｜>", "<|user|>", "<start_of_turn>", "<end_of_turn>",
    "<think>", "</think>", "<tool_call>", "</tool_call>", "</tool_response>", "<|im_", "end|>",
    "</parameter>", "</arg_value>", "</function>", "```", '"', "\\", "{", "}", "\n", "\t", "  ",
    "é", "日本", "🦙", "a", "return x", "<", ">",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=7).map("".join)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "old": TEXTS,
        "kind": st.sampled_from(SCHEMA["$defs"]["Kind"]["enum"]),
        "any": st.sampled_from(["left", "  right\n", "<tool_call>"]),
        "count": st.integers(-99, 99),
        "sure": st.booleans(),
        "more": st.lists(_JSON, max_size=3),
        "deep": st.dictionaries(TEXTS, _JSON, max_size=3),
    },
)


def says(arguments: dict[str, Any], name: str = "edit") -> Message:
    """A call as history has it, with a thought before it."""
    call = {"type": "function", "id": CALL_ID, "function": {"name": name, "arguments": arguments}}
    thought = "I had better look."
    return {
        "role": "assistant", "content": "", "reasoning_content": thought, "tool_calls": [call],
    }  # fmt: skip


def result(text: str, name: str = "edit") -> Message:
    return {"role": "tool", "tool_call_id": CALL_ID, "name": name, "content": text}


def sampled(renderer: RolloutRenderer, said: Message) -> tuple[Tokens, Tokens]:
    """The prompt of a turn in which the policy says this, and what it samples."""
    generation = completion_of(renderer, [QUESTION], said, [result("1")], [TOOL])
    if generation is None:  # a family that is not asked to think
        said = {key: value for key, value in said.items() if key != "reasoning_content"}
        generation = completion_of(renderer, [QUESTION], said, [result("1")], [TOOL])
    assert generation is not None
    return renderer.render([QUESTION], [TOOL]), generation


def arguments_are_exact(renderer: RolloutRenderer, arguments: dict[str, Any]) -> None:
    """What a family writes as a call is read as the very same call."""
    spelled = [arguments.get("old", ""), json.dumps(arguments, ensure_ascii=False)]
    assume(not any(map(_GOES_ON.search, spelled)))
    prompt, generation = sampled(renderer, says(arguments))

    said = renderer.parse(generation, prompt, [TOOL])

    [call] = said.tool_calls
    assert (call.name, call.error) == ("edit", None)
    assert json.loads(call.arguments) == arguments


def calls_are_text_without_tools(renderer: RolloutRenderer, arguments: dict[str, Any]) -> None:
    prompt, generation = sampled(renderer, says(arguments))

    said = renderer.parse(generation, prompt, [])

    assert said.tool_calls == ()
    assert "edit" in said.content
    assert said.content in renderer.decode(generation)


def bridge_continues(renderer: RolloutRenderer, arguments: dict[str, Any], told: str) -> Tokens:
    """The next prompt starts with what there was, and has the result and nothing of it as
    control tokens; returns what was added."""
    prompt, generation = sampled(renderer, says(arguments))
    added = [
        renderer.bridge(prompt, generation, [result(text)], [TOOL]) for text in ("y", f"x{told}x")
    ]

    history = np.concatenate([prompt, generation])
    for following in added:
        assert np.array_equal(following[: len(history)], history)
    plain, hostile = (following[len(history) :] for following in added)
    assert controls(renderer, plain) == controls(renderer, hostile)
    shown = renderer.decode(hostile)
    assert f"x{told}x" in shown or json.dumps(f"x{told}x", ensure_ascii=False) in shown
    return hostile


def text_stays_text(renderer: RolloutRenderer, text: str) -> None:
    """`text`, wherever somebody else than the policy may have written it, is no control token."""
    roles = ["system", "user"] if renderer.can_bridge else ["user"]
    rendered = []
    for told in ("y", f"x{text}x"):
        tool = {**TOOL["function"], "description": told}  # type: ignore[dict-item]
        call = {**says({"old": told}), "reasoning_content": "hm"}
        messages = [{"role": role, "content": told} for role in roles]
        tools = []
        if renderer.can_bridge:
            messages += [call, result(told)]
            tools = [{"type": "function", "function": tool}]
        rendered.append(renderer.render(messages, tools))
    assert controls(renderer, rendered[0]) == controls(renderer, rendered[1])
    # Vocabularies of SentencePiece have one sign for the space and for this.
    assert f"x{text}x".replace("▁", " ") in renderer.decode(rendered[1]).replace("▁", " ")


def open_thought_is_continued(renderer: RolloutRenderer, thought: str, stop: int) -> None:
    """A turn that ends inside its reasoning is kept as it was sampled, and says nothing."""
    assume("</think>" not in thought)
    prompt = renderer.render([QUESTION])
    opened = "" if renderer.decode(prompt).rstrip().endswith("<think>") else "<think>"
    if renderer.family == "gpt-oss":  # whose prompt opens the channel of thoughts
        opened = ""
    spelled = [*renderer.encode(f"{opened}\nx", special=False)]
    spelled += renderer.encode(thought, special=False).tolist()
    assume(not set(spelled) & set(renderer.stop_token_ids))
    generation = np.asarray([*spelled, stop], dtype=np.int32)

    said = renderer.parse(generation, prompt, [TOOL])
    following = renderer.bridge(prompt, generation, [{"role": "user", "content": "And?"}])

    history = np.concatenate([prompt, generation])
    assert np.array_equal(following[: len(history)], history)
    assert renderer.decode(following[len(history) :]).count("And?") == 1
    assert isinstance(said, AssistantMessage)


def anything_can_be_read_and_continued(renderer: RolloutRenderer, token_ids: list[int]) -> None:
    """Whatever a policy samples is read; it is continued, or there is no way to."""
    prompt = renderer.render([QUESTION], [TOOL])
    generation = np.asarray(token_ids, dtype=np.int32)

    for tools in ([TOOL], [], None):
        said = renderer.parse(generation, prompt, tools)
        for call in said.tool_calls:
            assert isinstance(call.name, str)
            if call.error is None:
                assert isinstance(json.loads(call.arguments, parse_constant=_refuse), dict)
        assert tools != [] or said.tool_calls == ()
        renderer.render([QUESTION, said.as_message(), result("1")], [TOOL])
    try:
        following = renderer.bridge(prompt, generation, [result("1")], [TOOL])
    except BridgeImpossible:
        return
    assert np.array_equal(following[: len(prompt)], prompt)


def controls(renderer: RolloutRenderer, token_ids: Tokens) -> list[int]:
    """The control tokens among some tokens."""
    names = set(renderer.control_tokens.values())
    return [token for token in token_ids.tolist() if token in names]


def tokens_of(renderer: RolloutRenderer) -> st.SearchStrategy[list[int]]:
    """Tokens a policy may sample: those of the format, and some of text."""
    spelled = renderer.encode('{"name": "edit", "arguments": {}} <function=edit> x', special=False)
    known = [*renderer.control_tokens.values()][-60:] + spelled.tolist()
    return st.lists(st.sampled_from(known), max_size=12)


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")
