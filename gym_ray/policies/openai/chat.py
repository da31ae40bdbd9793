"""Chat completions: what is sent to `/chat/completions`, and how the answer reads.

Token fields ride on the assistant messages of the history (`prompt_token_ids`,
`generation_token_ids`, `generation_log_probs`), and `required_prefix_token_ids` repeats what the
newest of them saw and said; a server that honors it (NeMo RL's) continues those very tokens.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gym_ray.policies.chat import TOKEN_FIELDS, ChatRequest
from gym_ray.policies.openai.tokens import (
    failed,
    ids_of,
    shared_parameters,
    stop_reason_of,
    token_ids_of,
)
from gym_ray.renderers.messages import AssistantMessage, Message, ToolCall
from gym_ray.turn import StopReason, Tokens

PATH = "/chat/completions"
TOKENIZE_PATH = "/../tokenize"


@dataclasses.dataclass(frozen=True, slots=True)
class Dialect:
    """What a server takes beside OpenAI's own chat completions.

    Attributes:
        token_fields: vLLM's fields, tokens above all; others refuse what they do not know.
        limit_field: name of the field that limits the answer's tokens.
    """

    token_fields: bool
    limit_field: str


#: Tried in this order; the first one a server takes is spoken to all.
DIALECTS = (
    Dialect(token_fields=True, limit_field="max_tokens"),
    Dialect(token_fields=False, limit_field="max_tokens"),
    Dialect(token_fields=False, limit_field="max_completion_tokens"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """An answer, read.

    Attributes:
        message: what the policy said.
        stop_reason: why it ended.
        token_ids, logprobs: what was sampled; None when the server returns no token IDs.
        prompt_token_ids: int32 [P], or None.
        prompt_tokens, output_tokens: as the server counts them.
    """

    message: AssistantMessage
    stop_reason: StopReason
    token_ids: Tokens | None
    logprobs: tuple[Any, ...]
    prompt_token_ids: Tokens | None
    prompt_tokens: int
    output_tokens: int


def body_of(
    request: ChatRequest, *, model: str, seed: int | None, dialect: Dialect
) -> dict[str, Any]:
    """The request's JSON."""
    sampling = request.call.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": [_history(message, dialect) for message in request.messages],
        dialect.limit_field: sampling.max_output_tokens,
    }
    if request.tools:
        body["tools"] = list(request.tools)
        body["tool_choice"] = _tool_choice(request.tool_choice)
        if not request.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    if not dialect.token_fields:
        body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if seed is not None:
            body["seed"] = seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        return body
    body |= {"logprobs": True, "top_logprobs": 0, **shared_parameters(sampling, seed)}
    prefix = required_prefix(request)
    if prefix is not None:
        body["required_prefix_token_ids"] = prefix
    return body


def tokenize_body(request: ChatRequest, *, model: str) -> dict[str, Any]:
    """What asks `/tokenize` for the prompt's tokens."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_history(message, DIALECTS[0]) for message in request.messages],
        "add_generation_prompt": True,
    }
    if request.tools:
        body["tools"] = list(request.tools)
    prefix = required_prefix(request)
    if prefix is not None:
        body["required_prefix_token_ids"] = prefix
    return body


def required_prefix(request: ChatRequest) -> Tokens | None:
    """int32 [N] that the prompt has to start with; None where nothing is known of the history."""
    if request.required_prefix_token_ids is not None:
        return np.asarray(request.required_prefix_token_ids, dtype=np.int32)
    for message in reversed(request.messages):
        if message.get("prompt_token_ids") is not None:
            generation = message.get("generation_token_ids")
            parts = (message["prompt_token_ids"], [] if generation is None else generation)
            return np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])
    return None


def read(body: dict[str, Any], *, call_id_prefix: str) -> Said:
    """The answer.

    Args:
        body: its JSON.
        call_id_prefix: for the IDs of calls that come without one.

    Raises:
        RolloutFailure: `policy_error` when it is no chat completion.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"]
        entries = (choice.get("logprobs") or {}).get("content") or []
        logprobs = tuple(entry["logprob"] for entry in entries)
        names = [entry["token"] for entry in entries]
        told = choice.get("token_ids")
        token_ids = token_ids_of(told, names) if told is not None or names else None
        # Servers differ in where they tell the prompt's tokens.
        prompt = body.get("prompt_token_ids") or choice.get("prompt_token_ids")
        usage = body.get("usage") or {}
        return Said(
            message=AssistantMessage(
                content=_text(message.get("content")),
                reasoning=message.get("reasoning") or message.get("reasoning_content") or None,
                tool_calls=_calls(message.get("tool_calls") or (), call_id_prefix),
            ),
            stop_reason=stop_reason_of(choice.get("finish_reason")),
            token_ids=token_ids,
            logprobs=logprobs,
            prompt_token_ids=None if prompt is None else ids_of(prompt),
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            output_tokens=int(usage.get("completion_tokens") or 0),
        )
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise failed(f"the server's answer is no chat completion ({error!r})") from error


def prompt_tokens(body: dict[str, Any]) -> Tokens:
    """int32 [P] of an answer of `/tokenize`; raises `RolloutFailure`."""
    try:
        return ids_of(body["tokens"])
    except (KeyError, TypeError) as error:
        raise failed(f"the server's /tokenize answered no token IDs ({error!r})") from error


def _history(message: Message, dialect: Dialect) -> Message:
    """A message as the server takes it."""
    sent = {
        key: value
        for key, value in message.items()
        if dialect.token_fields or key not in TOKEN_FIELDS
    }
    if calls := sent.get("tool_calls"):
        sent["tool_calls"] = [_readable_call(call) for call in calls]
    return sent


def _readable_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call of the history. Servers parse its arguments and refuse the whole request for some
    that are no JSON object; the tool's result says what was wrong with them."""
    function = call["function"]
    if _problem(function["arguments"]) is None:
        return dict(call)
    return {**call, "function": {**function, "arguments": "{}"}}


def _tool_choice(choice: str) -> Any:
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


def _calls(calls: Sequence[Mapping[str, Any]], prefix: str) -> tuple[ToolCall, ...]:
    found = []
    for index, call in enumerate(calls):
        function = call.get("function") or {}
        arguments = function.get("arguments")
        if arguments is None:
            arguments = "{}"
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        name = function.get("name") or ""
        error = _problem(text) if name else "missing_name: the tool call has no function name"
        found.append(ToolCall(call.get("id") or f"{prefix}_{index}", name, text, error))
    return tuple(found)


def _problem(arguments: str) -> str | None:
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return "invalid_json: the arguments are not one JSON object"
    if not isinstance(parsed, dict):
        return "malformed_structure: the arguments are not a JSON object"
    return None


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or "" for part in content)
