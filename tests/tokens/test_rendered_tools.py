"""Tools that stand in a prompt, in every family: they are told from others, and from none."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from gym_ray.gateway.rendered_tools import tools_stand_in
from gym_ray.renderers.messages import Message
from gym_ray.renderers.renderer import RolloutRenderer
from tests.tokens.families import FAMILIES

USER: Message = {"role": "user", "content": "Go."}
SYSTEM: Message = {"role": "system", "content": "Be brief."}


def tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"x": {"type": "string"}}}
    return {
        "type": "function",
        "function": {"name": name, "description": f"Does {name}.", "parameters": parameters},
    }


OFFERED = [[], [tool("add")], [tool("look_up")], [tool("add"), tool("look_up")]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("opening", [[USER], [SYSTEM, USER]])
@pytest.mark.parametrize("reworded", [False, True])
def test_tools_of_a_prompt_are_told_from_others(
    families: dict[str, RolloutRenderer], family: str, opening: list[Message], reworded: bool
) -> None:
    renderer = families[family]
    now = [{**m, "content": m["content"] + " Well?"} for m in opening] if reworded else opening
    said: Message = {"role": "assistant", "content": "Ok."}
    for before, offered in itertools.product(OFFERED, OFFERED):
        prompt = renderer.render(opening, before)
        found = tools_stand_in(renderer, [*now, said, USER], offered, prompt)
        if not np.array_equal(prompt, renderer.render(opening, offered)):
            assert not found, (before, offered)
        elif not reworded:
            assert found, (before, offered)
