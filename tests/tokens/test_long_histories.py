"""Trees of messages that no history makes slow: each test ends at once, or, if it fails, never."""

from __future__ import annotations

import numpy as np
import pytest

from gym_ray.agents.message_tree import MessageTree
from gym_ray.renderers import load_renderer
from gym_ray.renderers.messages import Message
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.renderers.tokenizers import ByteTokenizer
from gym_ray.turn import Generation

USER: Message = {"role": "user", "content": "Go."}
BLANK: Message = {"role": "assistant", "content": ""}


@pytest.fixture(scope="module")
def renderer() -> RolloutRenderer:
    return load_renderer(None)


def say(tree: MessageTree, text: str, messages: list[Message]) -> int | None:
    """One turn in which the policy says `text`; the turn it continues."""
    token_ids = np.asarray(ByteTokenizer().encode(f"{text}<|im_end|>"), np.int32)
    logprobs = np.zeros(len(token_ids), np.float32)
    prompt = tree.prompt(messages)
    tree.add(prompt, Generation(token_ids, logprobs, "stop", (), 0.0, 0.0))
    return prompt.continues


@pytest.mark.parametrize(
    "pattern",
    [[BLANK], [BLANK, BLANK], [BLANK, {"role": "assistant", "content": "A"}, BLANK], [BLANK, USER]],
)
def test_blank_messages_can_be_counted_in_one_way(
    renderer: RolloutRenderer, pattern: list[Message]
) -> None:
    tree = MessageTree(renderer)
    messages = [USER]
    for _ in range(40):
        say(tree, "", messages)
        messages = messages + pattern
    assert say(tree, "", messages) in (39, None)


def test_turns_that_said_nothing_are_each_continued(renderer: RolloutRenderer) -> None:
    tree = MessageTree(renderer)
    continued = [say(tree, "", [USER, *[BLANK, USER] * turn]) for turn in range(60)]
    assert continued == [None, *range(59)]


def test_a_blank_message_that_the_policy_did_not_say_is_an_edit(
    renderer: RolloutRenderer,
) -> None:
    for text in ("", "A"):
        tree, said = MessageTree(renderer), {**BLANK, "content": text}
        say(tree, text, [USER])

        assert tree.prompt([USER, said, BLANK, USER]).continues is None
        assert tree.prompt([USER, said, USER]).continues == 0


def test_reasoning_may_come_back_as_a_message_of_its_own(renderer: RolloutRenderer) -> None:
    tree = MessageTree(renderer)
    say(tree, "<think>\nHm.\n</think>\n\n", [USER])
    thought: Message = {**BLANK, "reasoning_content": "Hm."}

    for returned in ([thought], [thought, BLANK], [BLANK, thought]):
        assert tree.prompt([USER, *returned, USER]).continues == 0


def test_look_alikes_do_not_multiply(renderer: RolloutRenderer) -> None:
    tree = MessageTree(renderer)
    messages = [USER]
    for level in range(12):
        for _ in range(8):
            say(tree, "A", messages)
        assert tree.prompt(messages).follows == (8 * level - 1 if level else None)
        messages = [*messages, {"role": "assistant", "content": "A"}, USER]
