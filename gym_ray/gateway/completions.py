"""`POST /completions`: raw prompts, as text or as tokens."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from gym_ray.gateway.answers import (
    answer_with,
    check_model,
    finish_reason,
    logprobs_of,
    new_id,
    now,
    token_names,
)
from gym_ray.gateway.backend import GetPolicy, PolicyBackend
from gym_ray.gateway.disconnects import gather, unless_disconnected
from gym_ray.gateway.errors import ApiError, bad_request
from gym_ray.gateway.sampling_request import (
    MAX_CHOICES,
    ResponseFormat,
    SamplingFields,
    StreamOptions,
    TokenId,
    json_tag,
    sampling_of,
)
from gym_ray.gateway.streaming import Stream
from gym_ray.gateway.token_chat import check_length, check_room
from gym_ray.gateway.tokenization import renderer_of
from gym_ray.policies.call import Call
from gym_ray.policies.chat import cut_at_stop
from gym_ray.policies.engine import GenerationRequest, require_sound
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.renderers.token_bytes import text_offsets
from gym_ray.turn import Generation, StopReason, Tokens

_TokenPrompt = Annotated[list[TokenId], Field(min_length=1)]


class CompletionRequest(SamplingFields):
    """A completion of one or more prompts."""

    prompt: (
        str
        | _TokenPrompt
        | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
        | Annotated[list[_TokenPrompt], Field(min_length=1, max_length=MAX_CHOICES)]
    )
    """Text, token IDs, or a list of either."""
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    n: int | None = Field(1, ge=1, le=MAX_CHOICES)
    logprobs: int | None = None
    """Only 0: logprobs are those of the sampled tokens."""
    response_format: ResponseFormat | None = None
    stream_options: StreamOptions | None = None
    add_special_tokens: bool | None = True
    """Whether the tokenizer adds its own to prompts that are text."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Completed:
    """One choice.

    Attributes:
        prompt: int32 [P].
        generation: what was sampled.
        text: of the generation, before any stop text.
        stop_reason: why it ended.
    """

    prompt: Tokens
    generation: Generation
    text: str
    stop_reason: StopReason


@dataclasses.dataclass(frozen=True, slots=True)
class _Form:
    """How the answers of one request look."""

    id: str
    model: str
    renderer: RolloutRenderer
    body: CompletionRequest


def add_completion_route(
    router: APIRouter, get_policy: GetPolicy, *, timeout_seconds: float, any_model: bool
) -> None:
    """See `openai_routes`."""
    given = Depends(get_policy)

    @router.post("/completions", summary="Completion of raw prompts")
    async def completions(
        body: CompletionRequest, request: Request, policy: PolicyBackend = given
    ) -> Response:
        if not any_model:
            check_model(policy, body.model)
        form = _Form(new_id("cmpl-"), policy.info.model, renderer_of(policy), body)
        asked = await _generation_requests(form, policy, timeout_seconds)
        calls = [_completed(form, policy, one) for one in asked]
        if body.stream:
            return await _stream(form, calls)
        choices = await unless_disconnected(request.receive, gather(calls))
        tokens = sum(len(done.prompt) + len(done.generation.token_ids) for done in choices)
        return await answer_with(lambda: _completion(form, choices), id=form.id, tokens=tokens)


async def _generation_requests(
    form: _Form, policy: PolicyBackend, timeout_seconds: float
) -> list[GenerationRequest]:
    """One for each choice: prompts in order, each `n` times."""
    body, choices = form.body, form.body.n or 1
    if body.logprobs:
        raise bad_request(
            "logprobs may only be 0: they are those of the sampled tokens", param="logprobs"
        )
    sampling = sampling_of(
        body,
        policy.sampling,
        max_output_tokens=body.max_tokens,
        structural_tag=json_tag(body.response_format),
    )
    for text in [body.prompt] if _is_one(body.prompt) else body.prompt:
        if isinstance(text, str):
            check_length(form.renderer, policy.info.context_length, text=text)
    prompts = await asyncio.to_thread(_prompts, form)
    if len(prompts) * choices > MAX_CHOICES:
        raise bad_request(f"prompts times n may be at most {MAX_CHOICES}", param="n")
    for prompt in prompts:
        if not len(prompt):
            raise bad_request("the prompt has no tokens", param="prompt")
        check_room(prompt, policy.info.context_length)
    # A raw prompt is ended by what ends the model's own turns, as everywhere.
    stops = dict.fromkeys((*form.renderer.stop_token_ids, *(body.stop_token_ids or ())))
    return [
        GenerationRequest(
            Call(
                request_id=f"{form.id}/{index}",
                sampling=sampling,
                stop_token_ids=tuple(stops),
                seed=body.engine_seed(index),
                timeout_seconds=timeout_seconds,
            ),
            prompts[index // choices],
        )
        for index in range(len(prompts) * choices)
    ]


def _prompts(form: _Form) -> list[Tokens]:
    prompt = form.body.prompt
    several: Sequence[Any] = [prompt] if _is_one(prompt) else prompt
    special = form.body.add_special_tokens is not False
    return [
        form.renderer.encode(one, special=special)
        if isinstance(one, str)
        else np.asarray(one, dtype=np.int32)
        for one in several
    ]


def _is_one(prompt: str | list[Any]) -> bool:
    return isinstance(prompt, str) or isinstance(prompt[0], int)


async def _completed(form: _Form, policy: PolicyBackend, request: GenerationRequest) -> _Completed:
    generation = await policy.generate(request)
    require_sound(generation, form.renderer.vocabulary_size)
    whole = form.renderer.decode(_without_stop(generation, request.call.stop_token_ids))
    text = cut_at_stop(whole, request.call.sampling.stop)
    stop_reason = generation.stop_reason if len(text) == len(whole) else "stop"
    return _Completed(request.prompt_token_ids, generation, text, stop_reason)


def _without_stop(generation: Generation, stops: Sequence[int]) -> list[int]:
    """The tokens that are text: a stop token ends the choice and is not said."""
    token_ids: list[int] = generation.token_ids.tolist()
    return token_ids[:-1] if token_ids and token_ids[-1] in stops else token_ids


def _completion(form: _Form, choices: Sequence[_Completed]) -> dict[str, Any]:
    return {
        **_head(form),
        "choices": [_choice(form, index, choice) for index, choice in enumerate(choices)],
        "usage": _usage(form, choices),
    }


def _choice(form: _Form, index: int, choice: _Completed) -> dict[str, Any]:
    body = form.body
    answer: dict[str, Any] = {
        "index": index,
        "text": choice.text,
        "logprobs": None,
        "finish_reason": finish_reason(choice.stop_reason),
    }
    if body.logprobs is not None:
        answer["logprobs"] = _logprobs(form, choice)
    if body.return_token_ids:
        answer["token_ids"] = choice.generation.token_ids.tolist()
        answer["prompt_token_ids"] = choice.prompt.tolist()
    return answer


def _logprobs(form: _Form, choice: _Completed) -> dict[str, Any]:
    as_ids = bool(form.body.return_tokens_as_token_ids)
    names = token_names(form.renderer, choice.generation, as_ids=as_ids)
    spelled = [form.renderer.token_bytes(token) for token in choice.generation.token_ids.tolist()]
    return {
        "tokens": [name for name, _ in names],
        "token_logprobs": logprobs_of(choice.generation),
        "top_logprobs": None,
        "text_offset": text_offsets(spelled),
    }


def _usage(form: _Form, choices: Sequence[_Completed]) -> dict[str, int]:
    prompts = choices[:: form.body.n or 1]
    prompt_tokens = sum(len(choice.prompt) for choice in prompts)
    completion_tokens = sum(len(choice.generation.token_ids) for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _head(form: _Form) -> dict[str, Any]:
    return {"id": form.id, "object": "text_completion", "created": now(), "model": form.model}


async def _stream(form: _Form, calls: Sequence[Any]) -> Response:
    def on_answer(index: int, choice: _Completed) -> Iterator[dict[str, Any]]:
        yield {**_head(form), "choices": [_choice(form, index, choice)]}

    def closing(choices: Sequence[_Completed]) -> Iterator[dict[str, Any]]:
        options = form.body.stream_options
        if options is not None and options.include_usage:
            yield {**_head(form), "choices": [], "usage": _usage(form, choices)}

    def on_error(error: ApiError) -> dict[str, Any]:
        return error.body

    return await Stream(
        calls,
        opening=(),
        on_answer=on_answer,
        closing=closing,
        on_error=on_error,
        done="data: [DONE]\n\n",
    ).response()
