"""`POST /tokenize` and `/detokenize`, in vLLM's shapes.

Messages are tokenized as a chat completion of the same messages would be, token fields in the
history included: clients that ask for the tokens of a prompt afterwards get those it had.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pydantic
from fastapi import APIRouter, Depends
from pydantic import ConfigDict, Field
from starlette.responses import Response

from gym_ray.gateway.answers import JSONAnswer, check_model
from gym_ray.gateway.backend import GetPolicy, PolicyBackend
from gym_ray.gateway.chat_requests import (
    ChatMessage,
    ChatTool,
    chat_messages,
    chat_tools,
    prefix_of,
)
from gym_ray.gateway.errors import bad_request
from gym_ray.gateway.sampling_request import TokenId, refuse_what_cannot_be_honored
from gym_ray.gateway.strict_route import StrictRoute
from gym_ray.gateway.token_chat import check_length, closed_prompt_tokens, prompt_tokens
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.turn import Tokens


class TokenizeRequest(pydantic.BaseModel):
    """Either a prompt or messages."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1)
    tools: list[ChatTool] | None = None
    add_generation_prompt: bool = True
    """Whether the tokens end where the policy's turn begins (messages only)."""
    add_special_tokens: bool | None = None
    """Whether the tokenizer adds its own (prompts only; default true)."""
    return_token_strs: bool | None = False
    required_prefix_token_ids: list[TokenId] | None = None


class DetokenizeRequest(pydantic.BaseModel):
    """Tokens to text."""

    model: str | None = None
    tokens: list[TokenId]


def tokenize_routes(get_policy: GetPolicy) -> APIRouter:
    """Mount it where vLLM's clients look: beside `/v1`, not below it.

    Args:
        get_policy: the dependency that finds the policy of a request.
    """
    router = APIRouter(route_class=StrictRoute, tags=["tokens"])
    given = Depends(get_policy)

    @router.post("/tokenize", summary="Tokens of a prompt or of messages")
    async def tokenize(body: TokenizeRequest, policy: PolicyBackend = given) -> Response:
        check_model(policy, body.model)
        renderer = renderer_of(policy)
        tokens = await _tokens(renderer, body, policy.info.context_length)
        answer: dict[str, Any] = {
            "count": len(tokens),
            "max_model_len": policy.info.context_length or None,
            "tokens": tokens.tolist(),
            "token_strs": None,
        }
        if body.return_token_strs:
            answer["token_strs"] = await asyncio.to_thread(_strings, renderer, tokens)
        return JSONAnswer(answer)

    @router.post("/detokenize", summary="Text of tokens")
    async def detokenize(body: DetokenizeRequest, policy: PolicyBackend = given) -> Response:
        check_model(policy, body.model)
        renderer = renderer_of(policy)
        return JSONAnswer({"prompt": await asyncio.to_thread(renderer.decode, body.tokens)})

    return router


def renderer_of(policy: PolicyBackend) -> RolloutRenderer:
    """Raises `ApiError` 400 when the policy takes no token IDs."""
    if policy.renderer is None:
        raise bad_request(
            "the policy behind this gateway speaks messages only and returns no token IDs; use "
            "/v1/chat/completions or /v1/responses"
        )
    return policy.renderer


async def _tokens(renderer: RolloutRenderer, body: TokenizeRequest, context_length: int) -> Tokens:
    refuse_what_cannot_be_honored(body.model_extra or {})
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("send either prompt or messages", param="prompt")
    if body.messages is None:
        check_length(renderer, context_length, text=body.prompt or "")
        special = body.add_special_tokens is not False
        return await asyncio.to_thread(renderer.encode, body.prompt or "", special=special)
    if body.add_special_tokens:
        raise bad_request(
            "the chat format has all the special tokens there are: leave add_special_tokens out",
            param="add_special_tokens",
        )
    messages, tools = chat_messages(body.messages), chat_tools(body.tools)
    check_length(renderer, context_length, messages=messages, tools=tools)
    if not body.add_generation_prompt:
        return await closed_prompt_tokens(renderer, messages, tools)
    prefix = prefix_of(body.required_prefix_token_ids)
    return await prompt_tokens(renderer, messages, tools, required_prefix=prefix)


def _strings(renderer: RolloutRenderer, tokens: Tokens) -> list[str]:
    return [renderer.decode([token]) for token in tokens.tolist()]
