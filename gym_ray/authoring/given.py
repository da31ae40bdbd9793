"""Policies whose turns are given instead of sampled."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gym_ray.agents.policy_calls import Generate
from gym_ray.environment import GoldStep
from gym_ray.policies.engine import GenerationRequest
from gym_ray.renderers.tokenizers import ByteTokenizer
from gym_ray.turn import Generation, VersionSpan

#: What a policy says: one reply at every turn, or a text for each turn and then nothing.
Script = str | tuple[str, ...]


def follow(script: Script) -> Generate:
    """A policy that follows a script, in tokens of the ChatML renderer over bytes.

    Args:
        script: of one rollout.
    """
    turns: Iterator[str] = (
        itertools.repeat(script)
        if isinstance(script, str)
        else itertools.chain(script, itertools.repeat(""))
    )

    async def generate(request: GenerationRequest) -> Generation:
        return spoken(next(turns), request)

    return generate


def spoken(text: str, request: GenerationRequest) -> Generation:
    """A whole turn of the ChatML renderer over bytes."""
    token_ids = ByteTokenizer().encode(text, split_special_tokens=True)
    tokens = np.asarray([*token_ids, *request.call.stop_token_ids[:1]], dtype=np.int32)
    return Generation(
        token_ids=tokens,
        logprobs=np.zeros(len(tokens), dtype=np.float32),
        stop_reason="stop",
        version_spans=(VersionSpan(0, 0, len(tokens)),),
        queued_seconds=0.0,
        generation_seconds=0.0,
    )


def script_of(gold: str | Sequence[GoldStep]) -> Script:
    """The script of a gold answer.

    Raises:
        ValueError: a step is neither a text nor a call.
    """
    if isinstance(gold, str):
        return gold
    return tuple(_turn(number, step) for number, step in enumerate(gold, start=1))


def _turn(number: int, step: object) -> str:
    if isinstance(step, str):
        return step
    if isinstance(step, Mapping) and isinstance(step.get("name"), str):
        arguments = step.get("arguments", {})
        if isinstance(arguments, Mapping):
            return call_text(step["name"], arguments)
    raise ValueError(
        f"step {number} is {json.dumps(step, default=repr)[:80]}; write a text, or a call: "
        '{"name": "…", "arguments": {…}}'
    )


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """A call of a tool as a ChatML model writes it."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    # No text in it can end the call.
    return "<tool_call>\n" + call.replace("<", "\\u003c") + "\n</tool_call>"
