"""Sampled tokens and their log-probabilities, as vLLM's OpenAI server returns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation, Logprobs, StopReason, Tokens, VersionSpan

#: A log-probability may exceed 0 by rounding; by more than this it is wrong.
LOGPROB_ROUNDING = 1e-6

#: What vLLM writes for minus infinity, which JSON cannot hold.
LOWEST_LOGPROB = -9999.0

_TOKEN_ID = "token_id:"

#: Of int32, in which token IDs are kept.
_HIGHEST_ID = 2**31 - 1

_STOP_REASONS: dict[str, StopReason] = {
    "stop": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "eos": "stop",
    "length": "length",
    "abort": "abort",
}


def stop_reason_of(finish_reason: object) -> StopReason:
    """Why a generation ended.

    Raises:
        RolloutFailure: `policy_error` for a reason that leaves no whole answer.
    """
    reason = _STOP_REASONS.get(str(finish_reason))
    if reason is None:
        raise failed(f"the server ended the generation with finish_reason {finish_reason!r}")
    return reason


def token_ids_of(told: object, names: Sequence[object]) -> Tokens | None:
    """int32 [T], from a list of IDs, else from names like `token_id:123`; None without either.

    Raises:
        RolloutFailure: `policy_error`, one is no token ID.
    """
    if isinstance(told, list):
        return ids_of(told)
    if not all(isinstance(name, str) and name.startswith(_TOKEN_ID) for name in names):
        return None
    return ids_of([_number(str(name)[len(_TOKEN_ID) :]) for name in names])


def ids_of(told: object) -> Tokens:
    """int32 [T] of a list of token IDs in JSON, which may hold anything.

    Raises:
        RolloutFailure: `policy_error`, it is none, or one is no whole number from 0 to 2^31 - 1.
    """
    if not isinstance(told, list):
        raise failed(f"the server returned token IDs that are no list: {_shown(told)}")
    for position, value in enumerate(told):
        if type(value) is not int or not 0 <= value <= _HIGHEST_ID:
            raise failed(f"the server returned token ID {_shown(value)} at position {position}")
    return np.asarray(told, dtype=np.int32)


def require_limit(token_ids: Tokens, limit: int) -> None:
    """Raises `RolloutFailure` `policy_error` when more was sampled than was asked for."""
    if len(token_ids) > limit:
        raise failed(f"the server returned {len(token_ids)} tokens, and {limit} were asked for")


def _number(text: str) -> object:
    """The whole number a text is, or the text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def generation_of(
    token_ids: Tokens, logprobs: Sequence[Any], stop_reason: StopReason, seconds: float
) -> Generation:
    """A checked generation.

    Raises:
        RolloutFailure: `policy_error` when tokens and logprobs do not fit each other.
    """
    return Generation(
        token_ids=token_ids,
        logprobs=_checked(token_ids, logprobs),
        stop_reason=stop_reason,
        version_spans=(VersionSpan(0, 0, len(token_ids)),) if len(token_ids) else (),
        queued_seconds=0.0,
        generation_seconds=seconds,
    )


def _checked(token_ids: Tokens, logprobs: Sequence[Any]) -> Logprobs:
    if len(logprobs) != len(token_ids):
        raise failed(f"the server returned {len(token_ids)} tokens but {len(logprobs)} logprobs")
    values = np.asarray([np.nan if v is None else v for v in logprobs], dtype=np.float32)
    wrong = np.flatnonzero(~np.isfinite(values) | (values <= LOWEST_LOGPROB))
    if len(wrong):
        raise failed(f"the server returned logprob {logprobs[wrong[0]]} at position {wrong[0]}")
    if len(values) and values.max() > LOGPROB_ROUNDING:
        raise failed(
            f"the server returned logprob {values.max():g}, above 0: start it with "
            "--logprobs-mode processed_logprobs"
        )
    return np.minimum(values, np.float32(0))


def is_plain(sampling: Sampling) -> bool:
    """Whether tokens are drawn from the model's own distribution, or recorded as if (greedy)."""
    free = sampling.structural_tag is None and sampling.grammar is None
    whole = sampling.top_p == 1.0 and sampling.top_k is None
    return free and (sampling.temperature == 0.0 or (sampling.temperature == 1.0 and whole))


def shared_parameters(sampling: Sampling, seed: int | None) -> dict[str, Any]:
    """Parameters of a request that vLLM's completions and chat both take.

    Every one that a server could have a default of its own for is sent: the row names the
    distribution, so the server must not choose another.
    """
    parameters: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": -1 if sampling.top_k is None else sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }
    if seed is not None:
        parameters["seed"] = seed
    if sampling.stop:
        parameters["stop"] = list(sampling.stop)
    if sampling.grammar is not None:
        parameters["structured_outputs"] = {"grammar": sampling.grammar}
    if sampling.structural_tag is not None:
        parameters["structured_outputs"] = {"structural_tag": sampling.structural_tag}
    return parameters


def failed(message: str) -> RolloutFailure:
    return RolloutFailure(FailureKind.POLICY_ERROR, message)
