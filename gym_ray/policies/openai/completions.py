"""Completions over tokens: what is sent to `/completions`, and how the answer reads."""

from __future__ import annotations

from typing import Any

import numpy as np

from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.openai.tokens import (
    failed,
    generation_of,
    ids_of,
    shared_parameters,
    stop_reason_of,
    token_ids_of,
)
from gym_ray.turn import Generation, Tokens

PATH = "/completions"

_ADVICE = (
    "completions need a server that returns token IDs and logprobs (vLLM does); for any other set "
    "policy.engine_args.api=chat"
)


def body_of(
    request: GenerationRequest, *, model: str, max_tokens: int, seed: int | None
) -> dict[str, Any]:
    """The request's JSON, in vLLM's words.

    Args:
        request: the policy call.
        model: name the server knows the model by.
        max_tokens: most tokens to sample.
        seed: of this very call; None for the server's random stream.
    """
    return {
        "model": model,
        "prompt": request.prompt_token_ids,
        "max_tokens": max_tokens,
        "logprobs": 0,  # of the sampled token alone
        "stop_token_ids": list(request.call.stop_token_ids),
        "skip_special_tokens": False,
        **shared_parameters(request.call.sampling, seed),
    }


def generation(body: dict[str, Any], prompt: Tokens, seconds: float) -> Generation:
    """The answer.

    Args:
        body: its JSON.
        prompt: int32 [P] that was sent.
        seconds: the call took.

    Raises:
        RolloutFailure: `policy_error` when tokens or logprobs are missing or of something else.
    """
    try:
        choice = body["choices"][0]
        logprobs = choice.get("logprobs") or {}
        values = logprobs.get("token_logprobs") or []
        names = logprobs.get("tokens") or []
        token_ids = token_ids_of(choice.get("token_ids"), names)
        told_prompt = choice.get("prompt_token_ids")
        reason = stop_reason_of(choice.get("finish_reason"))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise failed(f"the server's answer is no completion ({error!r}); {_ADVICE}") from error
    if token_ids is None or (len(token_ids) and not values):
        raise failed(f"the server returned no token IDs, or no logprobs; {_ADVICE}")
    named = token_ids_of(None, names) if names else None
    if named is not None and not np.array_equal(named, token_ids):
        raise failed("the server returned logprobs of other tokens than it sampled")
    if told_prompt is not None and not np.array_equal(ids_of(told_prompt), prompt):
        raise failed(
            f"the server sampled from another prompt ({len(told_prompt)} tokens) than the "
            f"{len(prompt)} it was sent: it must not truncate or re-tokenize prompts"
        )
    return generation_of(token_ids, values, reason, seconds)
