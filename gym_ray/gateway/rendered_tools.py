"""Whether a prompt that a client sends back was rendered with the tools it offers now.

Tools stand in the prompt, so tokens that were rendered with others show the policy tools it does
not have, or hide those it has. Nothing but the tokens tells which they were: they are compared with
what the conversation's beginning is rendered to, and where a client re-worded that, with the text
that tools add to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gym_ray.agents.same_message import text_of
from gym_ray.policies.chat import without_tokens
from gym_ray.renderers.messages import Message
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.turn import Tokens


def tools_stand_in(
    renderer: RolloutRenderer,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    prompt: Tokens,
) -> bool:
    """Whether a prompt has these tools and no others, as far as it can be told.

    Args:
        renderer: of the policy's model.
        messages: the conversation, of which the prompt is of a later turn.
        tools: offered now.
        prompt: int32 [P].
    """
    opening = _opening(messages)
    try:
        begun = renderer.render_closed(opening, tools)
        if np.array_equal(prompt[: len(begun)], begun):
            return True
        return _stand_in_text(renderer, opening, tools, renderer.decode(prompt))
    except Exception:
        # A family may refuse a beginning by itself; a conversation it took was rendered by it.
        return True


def _stand_in_text(
    renderer: RolloutRenderer,
    opening: list[Message],
    tools: Sequence[dict[str, Any]],
    prompt: str,
) -> bool:
    """The same of a prompt whose beginning was re-worded. Where a family puts text of the client
    between texts of the tools, it cannot be told, and they are taken for others.
    """

    def text(*offered: dict[str, Any]) -> str:
        return renderer.decode(renderer.render_closed(opening, offered))

    plain = text()
    alpha, beta = _tool("alpha"), _tool("beta")
    if tools:
        begun, more = text(*tools), text(*tools, alpha)
        added = _added(begun, plain)
        another = more[_shared(begun, more) :].partition("alpha")[0].lstrip()
        _, found, after = prompt.partition(added)
        return bool(found) and not (another and after.lstrip().startswith(another))
    common = [_added(text(tool), plain) for tool in (alpha, beta)]
    added = common[0][: _shared(*common)].strip()
    if any(content and content in added for content in (text_of(m["content"]) for m in opening)):
        return False
    return not added or added not in prompt


def _opening(messages: Sequence[Message]) -> list[Message]:
    """What stands before the policy's first turn."""
    opening: list[Message] = []
    for message in messages:
        if message["role"] == "assistant":
            break
        opening.append(without_tokens(message))
    return opening


def _tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {}}
    function = {"name": name, "description": name, "parameters": parameters}
    return {"type": "function", "function": function}


def _added(text: str, plain: str) -> str:
    """The part of a text that another one lacks, where the rest is the same."""
    start = _shared(text, plain)
    rest, plain = text[start:], plain[start:]
    return rest[: len(rest) - _shared(rest[::-1], plain[::-1])]


def _shared(one: str, other: str) -> int:
    """How many first characters two texts have in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
