"""`ChatAnswer` as a chat completion, whole or in chunks. Pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from gym_ray.gateway.answers import finish_reason, now, token_fields, token_logprobs
from gym_ray.gateway.backend import PolicyBackend
from gym_ray.policies.chat import ChatAnswer
from gym_ray.renderers.messages import AssistantMessage


@dataclasses.dataclass(frozen=True, slots=True)
class ChatForm:
    """How the answers of one request look.

    Attributes:
        id: of the completion.
        policy: it comes from.
        logprobs: whether it has them.
        tokens_as_ids: whether tokens of logprobs read `token_id:N`.
        token_ids: whether it has token IDs.
    """

    id: str
    policy: PolicyBackend
    logprobs: bool = False
    tokens_as_ids: bool = False
    token_ids: bool = False


def chat_completion(form: ChatForm, answers: Sequence[ChatAnswer]) -> dict[str, Any]:
    """The answer to a chat completion that is not streamed."""
    completion = {
        **_head(form, "chat.completion"),
        "choices": [_choice(form, index, answer) for index, answer in enumerate(answers)],
        "usage": usage(answers),
    }
    if form.token_ids:
        completion["prompt_token_ids"] = _prompt_ids(answers[0])
    return completion


def opening_chunks(form: ChatForm, choices: int) -> Iterator[dict[str, Any]]:
    """What a stream begins with, before anything was sampled."""
    for index in range(choices):
        delta = {"role": "assistant", "content": ""}
        yield _chunk(form, [{"index": index, "delta": delta, "finish_reason": None}])


def choice_chunks(form: ChatForm, index: int, answer: ChatAnswer) -> Iterator[dict[str, Any]]:
    """One choice of a stream: what was said, then why it ended."""
    message = message_of(answer.message)
    delta: dict[str, Any] = {"content": message["content"] or ""}
    if "reasoning_content" in message:
        delta["reasoning_content"] = message["reasoning_content"]
    if "tool_calls" in message:
        calls = enumerate(message["tool_calls"])
        delta["tool_calls"] = [{"index": number, **call} for number, call in calls]
    if form.token_ids:
        delta.update(token_fields(answer.prompt_token_ids, answer.generation))
    said: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": None}
    said.update(_tokens(form, answer))
    chunk = _chunk(form, [said])
    if form.token_ids:
        chunk["prompt_token_ids"] = _prompt_ids(answer)
    yield chunk
    reason = finish_reason(answer.stop_reason, calls_tools=bool(answer.message.tool_calls))
    yield _chunk(form, [{"index": index, "delta": {}, "finish_reason": reason}])


def usage_chunk(form: ChatForm, answers: Sequence[ChatAnswer]) -> dict[str, Any]:
    """What ends a stream with `include_usage`."""
    return {**_chunk(form, []), "usage": usage(answers)}


def message_of(said: AssistantMessage) -> dict[str, Any]:
    """The message of a choice. Malformed calls are in it, as they were sampled."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": said.content if said.content or not said.tool_calls else None,
        "refusal": None,
    }
    message.update({k: v for k, v in said.as_message().items() if k not in ("role", "content")})
    return message


def usage(answers: Sequence[ChatAnswer]) -> dict[str, int]:
    """Tokens of one prompt, and of all choices."""
    prompt_tokens = answers[0].prompt_tokens
    completion_tokens = sum(answer.output_tokens for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _head(form: ChatForm, kind: str) -> dict[str, Any]:
    return {
        "id": form.id,
        "object": kind,
        "created": now(),
        "model": form.policy.info.model,
        "system_fingerprint": form.policy.info.fingerprint,
    }


def _chunk(form: ChatForm, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {**_head(form, "chat.completion.chunk"), "choices": choices}


def _choice(form: ChatForm, index: int, answer: ChatAnswer) -> dict[str, Any]:
    message = message_of(answer.message)
    if form.token_ids:
        message.update(token_fields(answer.prompt_token_ids, answer.generation))
    return {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason(
            answer.stop_reason, calls_tools=bool(answer.message.tool_calls)
        ),
        **_tokens(form, answer),
    }


def _tokens(form: ChatForm, answer: ChatAnswer) -> dict[str, Any]:
    """Token fields of a choice, as far as they were asked for."""
    fields: dict[str, Any] = {}
    generation = answer.generation
    if form.logprobs and generation is not None:
        content = token_logprobs(form.policy.renderer, generation, as_ids=form.tokens_as_ids)
        fields["logprobs"] = {"content": content, "refusal": None}
    if form.token_ids:
        fields["token_ids"] = None if generation is None else generation.token_ids.tolist()
    return fields


def _prompt_ids(answer: ChatAnswer) -> list[int] | None:
    prompt = answer.prompt_token_ids
    return None if prompt is None else prompt.tolist()
