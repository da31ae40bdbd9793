"""`POST /chat/completions`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from gym_ray.gateway.answers import answer_with, check_model, new_id
from gym_ray.gateway.backend import GetPolicy, PolicyBackend
from gym_ray.gateway.chat_answers import (
    ChatForm,
    chat_completion,
    choice_chunks,
    opening_chunks,
    usage_chunk,
)
from gym_ray.gateway.chat_requests import (
    ChatMessage,
    ChatTool,
    ChatToolChoice,
    chat_messages,
    chat_tools,
    prefix_of,
    tool_choice_of,
)
from gym_ray.gateway.disconnects import gather, unless_disconnected
from gym_ray.gateway.errors import ApiError
from gym_ray.gateway.sampling_request import (
    MAX_CHOICES,
    ResponseFormat,
    SamplingFields,
    StreamOptions,
    TokenId,
    check_stop_tokens,
    json_tag,
    sampling_of,
)
from gym_ray.gateway.streaming import Stream
from gym_ray.gateway.token_chat import check_length
from gym_ray.policies.call import Call
from gym_ray.policies.chat import ChatAnswer, ChatRequest


class ChatCompletionRequest(SamplingFields):
    """A chat completion."""

    messages: list[ChatMessage] = Field(min_length=1)
    tools: list[ChatTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | ChatToolChoice | None = None
    parallel_tool_calls: bool | None = True
    response_format: ResponseFormat | None = None
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    n: int | None = Field(1, ge=1, le=MAX_CHOICES)
    logprobs: bool | None = False
    stream_options: StreamOptions | None = None
    required_prefix_token_ids: list[TokenId] | None = None
    """Tokens the prompt has to start with, as NeMo RL asks for them."""


def add_chat_route(
    router: APIRouter, get_policy: GetPolicy, *, timeout_seconds: float, any_model: bool
) -> None:
    """See `openai_routes`."""
    given = Depends(get_policy)

    @router.post("/chat/completions", summary="Chat completion")
    async def chat_completions(
        body: ChatCompletionRequest, request: Request, policy: PolicyBackend = given
    ) -> Response:
        if not any_model:
            check_model(policy, body.model)
        check_stop_tokens(policy, body)
        form = ChatForm(
            id=new_id("chatcmpl-"),
            policy=policy,
            logprobs=bool(body.logprobs),
            tokens_as_ids=bool(body.return_tokens_as_token_ids),
            token_ids=bool(body.return_token_ids),
        )
        asked = chat_requests(body, policy, request_id=form.id, timeout_seconds=timeout_seconds)
        calls = policy.choices(asked)
        if body.stream:
            return await _stream(form, body, calls)
        answers = await unless_disconnected(request.receive, gather(calls))
        tokens = sum(answer.prompt_tokens + answer.output_tokens for answer in answers)
        return await answer_with(lambda: chat_completion(form, answers), id=form.id, tokens=tokens)


def chat_requests(
    body: ChatCompletionRequest, policy: PolicyBackend, *, request_id: str, timeout_seconds: float
) -> list[ChatRequest]:
    """One policy call for each choice.

    Raises:
        ApiError: 400, the request asks for what cannot be had.
    """
    tools = chat_tools(body.tools)
    sampling = sampling_of(
        body,
        policy.sampling,
        max_output_tokens=body.max_completion_tokens or body.max_tokens,
        structural_tag=json_tag(body.response_format),
    )
    messages = chat_messages(body.messages)
    check_length(policy.renderer, policy.info.context_length, messages=messages, tools=tools)
    return [
        ChatRequest(
            Call(
                request_id=f"{request_id}/{index}",
                sampling=sampling,
                stop_token_ids=tuple(body.stop_token_ids or ()),
                seed=body.engine_seed(index),
                timeout_seconds=timeout_seconds,
            ),
            messages,
            tools,
            tool_choice=tool_choice_of(body.tool_choice, tools),
            parallel_tool_calls=body.parallel_tool_calls is not False,
            required_prefix_token_ids=prefix_of(body.required_prefix_token_ids),
        )
        for index in range(body.n or 1)
    ]


async def _stream(form: ChatForm, body: ChatCompletionRequest, calls: Sequence[Any]) -> Response:
    def closing(answers: Sequence[ChatAnswer]) -> Iterator[dict[str, Any]]:
        if body.stream_options is not None and body.stream_options.include_usage:
            yield usage_chunk(form, answers)

    def on_error(error: ApiError) -> dict[str, Any]:
        return error.body

    return await Stream(
        calls,
        opening=opening_chunks(form, len(calls)),
        on_answer=lambda index, answer: choice_chunks(form, index, answer),
        closing=closing,
        on_error=on_error,
        done="data: [DONE]\n\n",
    ).response()
