"""What all answers have in common: names, logprobs, token fields, and whether the model is ours."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse, Response

from gym_ray.gateway.backend import PolicyBackend
from gym_ray.gateway.errors import ApiError
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.turn import Generation, StopReason, Tokens

#: JSON has no minus infinity; vLLM writes this for it.
LOWEST_LOGPROB = -9999.0

#: Below this many tokens an answer is written in less time than a hop to a thread costs.
_INLINE_TOKENS = 1024


class JSONAnswer(JSONResponse):
    """A JSON answer that may quote what the client sent."""

    def render(self, content: Any) -> bytes:
        return to_json(content).encode()


async def answer_with(build: Callable[[], dict[str, Any]], *, id: str, tokens: int) -> Response:
    """The JSON answer that `build` makes; a long one is made off the event loop.

    Args:
        build: makes the answer.
        id: of the answer.
        tokens: how many there were of prompt and answer.
    """

    def answer() -> Response:
        return JSONAnswer(build(), headers={"x-request-id": id})

    return answer() if tokens < _INLINE_TOKENS else await asyncio.to_thread(answer)


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def new_id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def check_model(policy: PolicyBackend, model: str | None) -> None:
    """Raises `ApiError` 404 when another model is asked for than there is."""
    if model is not None and model != policy.info.model:
        raise ApiError(
            404,
            f"there is no model {model!r} here; this gateway serves {policy.info.model!r}",
            param="model",
            code="model_not_found",
        )


def finish_reason(stop_reason: StopReason, *, calls_tools: bool = False) -> str:
    """OpenAI's word for why an answer ended."""
    return "tool_calls" if calls_tools and stop_reason == "stop" else stop_reason


def logprobs_of(generation: Generation) -> list[float]:
    """Logprobs of the sampled tokens as JSON can carry them."""
    return [max(value, LOWEST_LOGPROB) for value in generation.logprobs.tolist()]


def token_names(
    renderer: RolloutRenderer | None, generation: Generation, *, as_ids: bool
) -> list[tuple[str, list[int] | None]]:
    """Name and bytes of every sampled token: its text, or `token_id:N` without bytes.

    A part of a character has U+FFFD for a text, and its own bytes.
    """
    token_ids = generation.token_ids.tolist()
    if as_ids or renderer is None:
        return [(f"token_id:{token_id}", None) for token_id in token_ids]
    return [
        (renderer.decode([token_id]), list(renderer.token_bytes(token_id)))
        for token_id in token_ids
    ]


def token_logprobs(
    renderer: RolloutRenderer | None, generation: Generation, *, as_ids: bool
) -> list[dict[str, Any]]:
    """`logprobs.content` of a chat completion, `logprobs` of a response's text."""
    names = token_names(renderer, generation, as_ids=as_ids)
    return [
        {"token": name, "logprob": logprob, "bytes": spelled, "top_logprobs": []}
        for (name, spelled), logprob in zip(names, logprobs_of(generation), strict=True)
    ]


def token_fields(prompt: Tokens | None, generation: Generation | None) -> dict[str, Any]:
    """NeMo Gym's token fields of one policy call; none when the policy returns no token IDs."""
    if prompt is None or generation is None:
        return {}
    return {
        "prompt_token_ids": prompt.tolist(),
        "generation_token_ids": generation.token_ids.tolist(),
        "generation_log_probs": logprobs_of(generation),
    }
