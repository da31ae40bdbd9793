"""The template to train with: the ChatML renderer's tokens, and its mask of sampled ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gym_ray.renderers.chatml import ChatMLConfig, ChatMLRenderer
from gym_ray.renderers.chatml_template import chatml_config_matching
from gym_ray.renderers.chatml_training import training_template
from gym_ray.renderers.tokenizers import load_tokenizer
from tests.tokens.test_chatml_template import TOOL_TEMPLATE, TOOLS

#: No deadline: the machine may be busy.
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

#: What the tokenizer has tokens for: it lacks the bytes of some control characters and of
#: unassigned planes, and transformers stops marking at a turn that begins with one.
known = st.characters(exclude_categories=("Cs", "Cc", "Cn", "Co")) | st.sampled_from("\n\t")
prose = st.text(known, max_size=30).filter(lambda text: "<" not in text)
told = st.builds(
    lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "tool"]), prose
)
calls = st.lists(
    st.builds(
        lambda name, arguments: {
            "type": "function",
            "id": "c",
            "function": {"name": name, "arguments": arguments},
        },
        st.sampled_from(["add", "lööк_up", 'quo"te']),
        st.dictionaries(prose, prose | st.integers(0, 9), max_size=2) | st.just('{"a":  1}'),
    ),
    max_size=2,
)
said = st.builds(
    lambda text, thought, made: {
        "role": "assistant",
        "content": text,
        # In Parquet, what a message lacks is null.
        "reasoning_content": thought,
        "tool_calls": made,
    },
    # A blank that a turn begins with becomes one token with the line break before it.
    prose.map(str.lstrip),
    st.none() | prose,
    st.none() | calls,
)
systems = st.lists(st.builds(lambda text: {"role": "system", "content": text}, prose), max_size=1)
conversations = st.builds(
    lambda system, messages: [*system, *messages],
    systems,
    st.lists(told | said, min_size=1, max_size=5),
)


@pytest.fixture(scope="module")
def own(tokenizer_directory: Any) -> Any:
    return load_tokenizer(str(tokenizer_directory))


@pytest.fixture(scope="module", params=["bundled", "tools", "none"])
def tokenizer(request: pytest.FixtureRequest, own: Any) -> Any:
    """The bundled model's tokenizer, with its own template, one that has tools, or none."""
    tokenizer = copy.deepcopy(own)
    if request.param != "bundled":
        tokenizer.chat_template = {"tools": TOOL_TEMPLATE, "none": None}[request.param]
    return tokenizer


@quick
@given(messages=conversations, tools=st.sampled_from([None, TOOLS]), asks=st.booleans())
def test_it_gives_the_renderers_tokens_and_marks_what_the_policy_would_sample(
    tokenizer: Any, messages: list[dict[str, Any]], tools: Any, asks: bool
) -> None:
    config = chatml_config_matching(tokenizer) or ChatMLConfig()
    expected = ChatMLRenderer(tokenizer, config).render(
        messages, tools=tools, add_generation_prompt=asks
    )

    found = tokenizer.apply_chat_template(
        messages,
        tools=tools,
        chat_template=training_template(tokenizer),
        add_generation_prompt=asks,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )

    assert found["input_ids"] == expected.token_ids
    assert found["assistant_masks"] == [int(sampled) for sampled in expected.sampled_mask]
