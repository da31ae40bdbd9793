"""`POST /responses`. A conversation is sent whole, output items included; only a session, which
stores what it answered, takes references to them.
"""

from __future__ import annotations

from typing import Any, Literal

import pydantic
from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from gym_ray.gateway.answers import answer_with, check_model, new_id, now
from gym_ray.gateway.backend import GetPolicy, PolicyBackend
from gym_ray.gateway.chat_requests import (
    InputItem,
    ResponseTool,
    ResponseToolChoice,
    chat_tools,
    item_messages,
    prefix_of,
    tool_choice_of,
)
from gym_ray.gateway.disconnects import unless_disconnected
from gym_ray.gateway.errors import bad_request
from gym_ray.gateway.response_answers import ResponseEvents, ResponseForm, response_object
from gym_ray.gateway.sampling_request import (
    SamplingFields,
    TokenId,
    check_stop_tokens,
    sampling_of,
    schema_tag,
)
from gym_ray.gateway.streaming import Stream
from gym_ray.gateway.token_chat import check_length
from gym_ray.policies.call import Call
from gym_ray.policies.chat import ChatRequest

_LOGPROBS = "message.output_text.logprobs"


class TextFormat(pydantic.BaseModel):
    """What the text of an answer has to be."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextConfig(pydantic.BaseModel):
    """`text` of a response."""

    format: TextFormat | None = None


class Reasoning(pydantic.BaseModel):
    """`reasoning` of a response: nothing of it can be asked for."""

    effort: str | None = None
    summary: str | None = None


class ResponseRequest(SamplingFields):
    """A response."""

    input: str | list[InputItem]
    instructions: str | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = True
    text: TextConfig | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    reasoning: Reasoning | None = None
    required_prefix_token_ids: list[TokenId] | None = None
    """Tokens the prompt has to start with, as NeMo RL asks for them."""


def add_response_route(
    router: APIRouter,
    get_policy: GetPolicy,
    *,
    timeout_seconds: float,
    any_model: bool,
    item_references: bool,
) -> None:
    """See `openai_routes`."""
    given = Depends(get_policy)

    @router.post("/responses", summary="Response")
    async def responses(
        body: ResponseRequest, request: Request, policy: PolicyBackend = given
    ) -> Response:
        if not any_model:
            check_model(policy, body.model)
        check_stop_tokens(policy, body)
        response_id = new_id("resp_")
        asked = response_request(
            body,
            policy,
            request_id=response_id,
            timeout_seconds=timeout_seconds,
            item_references=item_references,
        )
        form = ResponseForm(
            id=response_id,
            policy=policy,
            created_at=now(),
            echoed=_echoed(body, asked),
            logprobs=_LOGPROBS in (body.include or ()),
            tokens_as_ids=bool(body.return_tokens_as_token_ids),
            token_ids=bool(body.return_token_ids),
        )
        if body.stream:
            events = ResponseEvents(form)
            return await Stream(
                [policy.chat(asked)],
                opening=events.opening(),
                on_answer=lambda _, answer: events.answered(answer),
                closing=lambda _: (),
                on_error=events.failed,
                named=True,
            ).response()
        answer = await unless_disconnected(request.receive, policy.chat(asked))
        tokens = answer.prompt_tokens + answer.output_tokens
        return await answer_with(
            lambda: response_object(form, answer), id=response_id, tokens=tokens
        )


def response_request(
    body: ResponseRequest,
    policy: PolicyBackend,
    *,
    request_id: str,
    timeout_seconds: float,
    item_references: bool = False,
) -> ChatRequest:
    """The policy call a response asks for.

    Raises:
        ApiError: 400, the request asks for what cannot be had.
    """
    if body.reasoning is not None and body.reasoning.effort is not None:
        raise bad_request("reasoning.effort is not supported: leave it out", param="reasoning")
    items = body.input
    if isinstance(items, str):
        items = [InputItem(role="user", content=items)]
    messages = item_messages(items, body.instructions, item_references=item_references)
    if not messages:
        raise bad_request("input holds no message", param="input")
    tools = chat_tools(body.tools)
    check_length(policy.renderer, policy.info.context_length, messages=messages, tools=tools)
    return ChatRequest(
        Call(
            request_id=f"{request_id}/0",
            sampling=sampling_of(
                body,
                policy.sampling,
                max_output_tokens=body.max_output_tokens,
                structural_tag=_text_tag(body.text),
            ),
            stop_token_ids=tuple(body.stop_token_ids or ()),
            seed=body.engine_seed(0),
            timeout_seconds=timeout_seconds,
        ),
        messages,
        tools,
        tool_choice=tool_choice_of(body.tool_choice, tools),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        required_prefix_token_ids=prefix_of(body.required_prefix_token_ids),
    )


def _text_tag(text: TextConfig | None) -> str | None:
    format_ = None if text is None else text.format
    if format_ is None or format_.type == "text":
        return None
    if format_.type == "json_object":
        return schema_tag({"type": "object"}, param="text.format")
    if format_.schema_ is None:
        raise bad_request("text.format needs schema", param="text.format.schema")
    return schema_tag(format_.schema_, param="text.format.schema")


def _echoed(body: ResponseRequest, asked: ChatRequest) -> dict[str, Any]:
    """What the response repeats of the request, with the defaults it was given."""
    plain = body.model_dump(
        include={"instructions", "metadata", "user", "max_output_tokens"}, by_alias=True
    )
    text = {"format": {"type": "text"}}
    if body.text is not None and body.text.format is not None:
        text = body.text.model_dump(by_alias=True, exclude_none=True)
    return {
        **plain,
        "temperature": asked.call.sampling.temperature,
        "top_p": asked.call.sampling.top_p,
        "parallel_tool_calls": asked.parallel_tool_calls,
        "tool_choice": (
            body.tool_choice.model_dump()
            if isinstance(body.tool_choice, ResponseToolChoice)
            else asked.tool_choice
        ),
        "tools": [{**tool.model_dump(), "strict": None} for tool in body.tools or ()],
        "text": text,
        "reasoning": None,
        "truncation": "disabled",
    }
