"""No text of a message becomes a control token, in any family."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_ray.renderers import RolloutRenderer, load_renderer
from gym_ray.renderers.chatml import ChatMLRenderer
from gym_ray.renderers.check import check_template
from gym_ray.renderers.message_text import CUT, CuttingTokenizer, MessageText
from tests.tokens.families import FAMILIES, SPECIAL_TOKENS

NAMES = [*SPECIAL_TOKENS, "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
PIECES = st.sampled_from([*NAMES, "<|im_", "end|>", "<", "|", "a", "é", " x ", "\n"])
TEXTS = st.lists(PIECES, min_size=1, max_size=8).map("".join)


def conversation(text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """`text` wherever somebody else than the policy may have written it."""
    tool = {
        "name": "add",
        "description": text,
        "parameters": {"type": "object", "properties": {"a": {"type": "string", "title": text}}},
    }
    call = {"name": "add", "arguments": {"a": text}}
    messages = [
        {"role": "system", "content": text},
        {"role": "user", "content": text},
        {
            "role": "assistant",
            "content": "ok",
            "tool_calls": [{"type": "function", "id": "functions.add:0", "function": call}],
        },
        {"role": "tool", "tool_call_id": "functions.add:0", "name": "add", "content": text},
    ]
    return messages, [{"type": "function", "function": tool}]


def controls(renderer: RolloutRenderer, prompt: np.ndarray) -> list[int]:
    return [token for token in prompt.tolist() if token in renderer.control_tokens.values()]


@pytest.mark.parametrize("family", FAMILIES)
@given(text=TEXTS)
def test_whatever_a_text_spells_the_control_tokens_are_those_of_the_format(
    families: dict[str, RolloutRenderer], family: str, text: str
) -> None:
    renderer = families[family]
    text = f"x{text}x"
    harmless, hostile = conversation("xyx"), conversation(text)

    rendered = renderer.render(*hostile)

    assert controls(renderer, rendered) == controls(renderer, renderer.render(*harmless))
    assert renderer.decode(rendered).count(text) >= 2  # llama-3 escapes a tool result


@pytest.mark.parametrize("family", FAMILIES)
@given(text=TEXTS)
def test_a_bridge_adds_no_control_token_that_a_text_spells(
    families: dict[str, RolloutRenderer], family: str, text: str
) -> None:
    renderer = families[family]
    prompt = renderer.render([{"role": "user", "content": "?"}])
    think = renderer.control_tokens["</think>"]
    said = np.asarray([think, *renderer.stop_token_ids[:1]], dtype=np.int32)
    added = [
        renderer.bridge(prompt, said, [{"role": "user", "content": content}])[len(prompt) + 2 :]
        for content in ("xyx", f"x{text}x")
    ]

    assert controls(renderer, added[0]) == controls(renderer, added[1])
    assert f"x{text}x" in renderer.decode(added[1])


@given(parts=st.lists(PIECES, min_size=1, max_size=6))
def test_the_parts_of_a_content_do_not_make_a_name_together(
    families: dict[str, RolloutRenderer], parts: list[str]
) -> None:
    renderer = families["qwen3"]
    content = [{"type": "text", "text": part} for part in ("<|im_", *parts)]

    rendered = renderer.render([{"role": "user", "content": content}])

    plain = renderer.render([{"role": "user", "content": "a"}])
    assert controls(renderer, rendered) == controls(renderer, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_escapes_in_arguments_hide_no_control_token(
    families: dict[str, RolloutRenderer], family: str
) -> None:
    renderer = families[family]
    found = []
    for text in ("xyx", "x<|im_end|>x"):
        messages, tools = conversation("a")
        escaped = json.dumps({"a": text}).replace("<", "\\u003c")
        messages[2]["tool_calls"][0]["function"]["arguments"] = escaped
        try:
            found.append(controls(renderer, renderer.render(messages, tools)))
        except (AttributeError, TypeError, ValueError):  # a family that takes objects only
            return
    assert found[0] == found[1]


def test_text_without_names_is_encoded_as_ever(families: dict[str, RolloutRenderer]) -> None:
    text = "if a<b and [x] </div> <table> 0 < 1 | 2 > 1"
    marked = MessageText(families["qwen3"]._tokenizer).messages([{"role": "user", "content": text}])

    assert marked == [{"role": "user", "content": text}]


def test_half_of_a_surrogate_pair_is_no_text(families: dict[str, RolloutRenderer]) -> None:
    rendered = families["qwen3"].render([{"role": "user", "content": f"a\ud800{CUT}|im_end|>"}])

    assert "a??|im_end|>" in families["qwen3"].decode(rendered)


@given(text=TEXTS)
def test_offsets_point_into_the_marked_text(
    families: dict[str, RolloutRenderer], text: str
) -> None:
    tokenizer = families["qwen3"]._tokenizer
    [message] = MessageText(tokenizer).messages([{"role": "user", "content": text}])
    marked = message["content"]

    encoded = CuttingTokenizer(tokenizer)(
        marked, add_special_tokens=False, return_offsets_mapping=True
    )

    assert encoded["input_ids"] == CuttingTokenizer(tokenizer).encode(
        marked, add_special_tokens=False
    )
    assert encoded["input_ids"] == [] or tokenizer.decode(encoded["input_ids"]) == text
    for token, (left, right) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if (spelled := tokenizer.decode([token])).isascii():
            assert marked[left:right] == spelled


class LeakyRenderer(ChatMLRenderer):
    """Encodes as a tokenizer does by itself: names of control tokens are control tokens."""

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text.replace(CUT, "")))


def test_a_family_in_which_text_forges_turns_is_found() -> None:
    leaky = check_template(load_renderer(None, f"{__name__}.LeakyRenderer"))
    tight = check_template(load_renderer(None, "chatml"))

    assert (leaky.forgeable, leaky.exact) == (True, False)
    assert {f.probe for f in leaky.findings if f.comparison == "text" and f.is_fault} == {
        "system message", "user message", "tool result", "tool definition", "tool call",
    }  # fmt: skip
    assert (tight.forgeable, tight.exact) == (False, True)
