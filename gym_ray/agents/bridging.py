"""Whether a policy's renderer can carry an agent's conversation; asked before anything starts."""

from __future__ import annotations

import numpy as np

from gym_ray.errors import ConfigError
from gym_ray.renderers.messages import Message
from gym_ray.renderers.renderer import BridgeImpossible, RolloutRenderer
from gym_ray.turn import Tokens

#: What each multi-turn agent tells the policy between two turns.
_NEW_MESSAGE: dict[str, Message] = {
    "tool_calling": {"role": "tool", "tool_call_id": "call_0", "name": "f", "content": "1"},
    "gymnasium": {"role": "user", "content": "1"},
}

_QUESTION: list[Message] = [{"role": "user", "content": "?"}]
_ANSWER: Message = {"role": "assistant", "reasoning_content": "1", "content": "1"}

#: Agents whose rollouts have more than one turn.
MULTI_TURN = frozenset(_NEW_MESSAGE)


def require_bridge(environment: str, agent: str, renderer: RolloutRenderer) -> None:
    """Try one turn after another.

    Args:
        environment: name of its config section, for the message.
        agent: name of the agent.
        renderer: of the policy's model.

    Raises:
        ConfigError: the agent takes several turns, and the second could only be had by rendering
            the conversation anew, which would train on tokens the policy never saw.
    """
    if agent not in MULTI_TURN:
        return
    reason = f"renderer {renderer.family} has no way to continue a conversation"
    if renderer.can_bridge:
        prompt = renderer.render(_QUESTION)
        try:
            renderer.bridge(prompt, _answer(renderer, prompt), [_NEW_MESSAGE[agent]])
        except BridgeImpossible as error:
            reason = str(error)
        else:
            return
    raise ConfigError(
        f"environments.{environment}.agent {agent} takes several turns, and {reason}; "
        "set policy.renderer to the model's family (or chatml), keep "
        "policy.thinking_retention=all, or use agent: single_turn"
    )


def _answer(renderer: RolloutRenderer, prompt: Tokens) -> Tokens:
    """A turn as the policy would sample it, int32 [G], thinking closed where the prompt opens it.

    It is cut out of a rendered history, from where that leaves the prompt (a prompt may open
    `<think>` and a newline where the history has an empty `<think></think>`).
    """
    history = renderer.render([*_QUESTION, _ANSWER, *_QUESTION])
    shared = min(len(prompt), len(history))
    differs = np.flatnonzero(prompt[:shared] != history[:shared])
    start = int(differs[0]) if len(differs) else shared
    stops = start + np.flatnonzero(np.isin(history[start:], renderer.stop_token_ids))
    if not len(stops):  # turns of this family end in no token of the history
        return np.asarray(renderer.stop_token_ids[:1], dtype=np.int32)
    return history[start : stops[0] + 1]
