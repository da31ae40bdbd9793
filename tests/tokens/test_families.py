"""What holds for every renderer family, on one small tokenizer (see properties)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_ray.renderers import RolloutRenderer
from tests.tokens import properties
from tests.tokens.families import FAMILIES, OTHER_FAMILIES

Renderers = dict[str, RolloutRenderer]
each_family = pytest.mark.parametrize("family", [*FAMILIES, *OTHER_FAMILIES])


@each_family
@given(arguments=properties.ARGUMENTS)
def test_arguments_are_read_exactly_as_they_were_written(
    families: Renderers, family: str, arguments: dict
) -> None:
    properties.arguments_are_exact(families[family], arguments)


@each_family
@given(arguments=properties.ARGUMENTS)
def test_where_no_tools_are_offered_a_call_is_content(
    families: Renderers, family: str, arguments: dict
) -> None:
    properties.calls_are_text_without_tools(families[family], arguments)


@each_family
@given(arguments=properties.ARGUMENTS, told=properties.TEXTS)
def test_a_bridge_continues_every_call_with_every_result(
    families: Renderers, family: str, arguments: dict, told: str
) -> None:
    properties.bridge_continues(families[family], arguments, told)


@each_family
@given(text=properties.TEXTS)
def test_text_of_messages_forges_nothing(families: Renderers, family: str, text: str) -> None:
    properties.text_stays_text(families[family], text)


@each_family
@given(thought=properties.TEXTS, data=st.data())
def test_a_turn_that_ends_in_its_thought_is_continued(
    families: Renderers, family: str, thought: str, data: st.DataObject
) -> None:
    stop = data.draw(st.sampled_from(families[family].stop_token_ids))
    properties.open_thought_is_continued(families[family], thought, stop)


@each_family
@given(data=st.data())
def test_whatever_is_sampled_can_be_read(
    families: Renderers, family: str, data: st.DataObject
) -> None:
    token_ids = data.draw(properties.tokens_of(families[family]))
    properties.anything_can_be_read_and_continued(families[family], token_ids)
