"""Requests in OpenAI's shapes to `ChatRequest`: messages, items, tools and the choice among them.

Pure functions, and the pydantic shapes they read. Chat completions and responses meet here, and
so do deployment and sessions: what a request means does not depend on who answers it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pydantic
from pydantic import ConfigDict, Field

from gym_ray.gateway.errors import bad_request
from gym_ray.gateway.sampling_request import TokenId
from gym_ray.policies.chat import ITEM_REFERENCE, TOKEN_FIELDS
from gym_ray.renderers.items import messages_from_items, tools_for_chat
from gym_ray.renderers.messages import Message
from gym_ray.turn import Tokens

_TEXT_PARTS = ("text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal")
#: What `ChatRequest.tool_choice` means by these is no tool's name.
_CHOICES = ("auto", "none", "required")


class TokenFields(pydantic.BaseModel):
    """The tokens of the policy call a message or an item comes from, sent back unchanged."""

    model_config = ConfigDict(extra="ignore")

    prompt_token_ids: list[TokenId] | None = None
    generation_token_ids: list[TokenId] | None = None
    generation_log_probs: list[float] | None = None

    def tokens(self) -> dict[str, list[Any]] | None:
        """All token fields there are; None unless both kinds of IDs are there."""
        if not self.prompt_token_ids or not self.generation_token_ids:
            return None
        fields = {name: getattr(self, name) for name in TOKEN_FIELDS}
        return {name: value for name, value in fields.items() if value is not None}


class ChatContentPart(pydantic.BaseModel):
    """A piece of a message: text."""

    model_config = ConfigDict(extra="ignore")

    type: str = "text"
    text: str | None = None
    refusal: str | None = None


class FunctionCall(pydantic.BaseModel):
    """Name and arguments of a tool call."""

    name: str
    arguments: str


class MessageToolCall(pydantic.BaseModel):
    """A tool call in a message of the assistant."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(TokenFields):
    """A message of a chat completion."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ChatContentPart] | None = None
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class InputItem(TokenFields):
    """An item of a response's input."""

    type: str = "message"
    id: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[ChatContentPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[ChatContentPart] | None = None
    summary: list[ChatContentPart] | None = None


class FunctionDefinition(pydantic.BaseModel):
    """What a tool is called, does and takes."""

    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ChatTool(pydantic.BaseModel):
    """A tool of a chat completion."""

    type: Literal["function"]
    function: FunctionDefinition


class ResponseTool(FunctionDefinition):
    """A tool of a response."""

    type: Literal["function"]


class NamedFunction(pydantic.BaseModel):
    """Which tool to call."""

    name: str


class ChatToolChoice(pydantic.BaseModel):
    """The one tool to call, in a chat completion."""

    type: Literal["function"]
    function: NamedFunction


class ResponseToolChoice(pydantic.BaseModel):
    """The one tool to call, in a response."""

    type: Literal["function"]
    name: str


def chat_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Messages as renderers take them; token fields stay on those of the assistant.

    Raises:
        ApiError: 400, something in them is not text, or missing.
    """
    return tuple(_message(message, f"messages.{i}") for i, message in enumerate(messages))


def item_messages(
    items: Sequence[InputItem], instructions: str | None, *, item_references: bool = False
) -> tuple[Message, ...]:
    """Messages of a response's input.

    The items of one policy call are one message. Token fields are on the last of them, and so
    are that message's.

    Args:
        items, instructions: of the request.
        item_references: whether references to items are taken, each as a message of its own.

    Raises:
        ApiError: 400, an item is of a kind no message is made of, or lacks a field.
    """
    messages: list[Message] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    call: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        if item_references and item.type == "item_reference" and item.id:
            messages += messages_from_items(call)
            call = []
            messages.append({"role": "assistant", "content": "", ITEM_REFERENCE: item.id})
            continue
        call.append(_item(item, f"input.{index}"))
        tokens = item.tokens() if item.role in (None, "assistant") else None
        if tokens is None:
            continue
        messages += messages_from_items(call)
        call = []
        if messages[-1]["role"] == "assistant":
            messages[-1].update(tokens)
    messages += messages_from_items(call)
    return tuple(messages)


def chat_tools(tools: Sequence[ChatTool | ResponseTool] | None) -> tuple[dict[str, Any], ...]:
    """Definitions as `tools_for_chat` returns them, so that every way in renders the same."""
    functions = [tool.function if isinstance(tool, ChatTool) else tool for tool in tools or ()]
    return tuple(tools_for_chat([function.model_dump() for function in functions]))


def tool_choice_of(
    choice: str | ChatToolChoice | ResponseToolChoice | None, tools: Sequence[Mapping[str, Any]]
) -> str:
    """`auto`, `none`, `required`, or the name of the one tool to call.

    Raises:
        ApiError: 400, a tool has to be called that is not there.
    """
    match choice:
        case ChatToolChoice():
            name = choice.function.name
        case ResponseToolChoice():
            name = choice.name
        case "required" if not tools:
            raise bad_request("tool_choice required needs tools", param="tool_choice")
        case _:
            return choice or "auto"
    if name in _CHOICES or name not in {tool["function"]["name"] for tool in tools}:
        raise bad_request(f"tool_choice names {name!r}, which is no tool", param="tool_choice")
    return name


def prefix_of(token_ids: Sequence[int] | None) -> Tokens | None:
    """`required_prefix_token_ids` as an array; an empty list wishes for nothing."""
    return np.asarray(token_ids, dtype=np.int32) if token_ids else None


def _message(message: ChatMessage, where: str) -> Message:
    role = "system" if message.role == "developer" else message.role
    result: Message = {"role": role, "content": _text(message.content, f"{where}.content")}
    if message.name is not None:
        result["name"] = message.name
    if role == "tool":
        if message.tool_call_id is None:
            raise bad_request("a tool's message needs tool_call_id", param=f"{where}.tool_call_id")
        result["tool_call_id"] = message.tool_call_id
    if role != "assistant":
        if message.content is None:
            raise bad_request(f"a message of role {role} needs content", param=f"{where}.content")
        return result
    reasoning = message.reasoning_content or message.reasoning
    if reasoning is not None:
        result["reasoning_content"] = reasoning
    if message.tool_calls:
        result["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    return {**result, **(message.tokens() or {})}


def _item(item: InputItem, where: str) -> dict[str, Any]:
    needed = {
        "message": ("role", "content"),
        "function_call": ("call_id", "name", "arguments"),
        "function_call_output": ("call_id", "output"),
        "reasoning": (),
    }.get(item.type)
    if needed is None:
        raise bad_request(
            f"items of type {item.type!r} are not supported; send messages, reasoning, "
            "function_call and function_call_output, whole (store: false)",
            param=f"{where}.type",
        )
    for field in needed:
        if getattr(item, field) is None:
            raise bad_request(
                f"an item of type {item.type} needs {field}", param=f"{where}.{field}"
            )
    result: dict[str, Any] = {"type": item.type}
    for field in needed or ("content", "summary"):
        value = getattr(item, field)
        result[field] = _text(value, f"{where}.{field}") if field in _TEXTS else value
    return result


_TEXTS = ("content", "output", "summary")


def _text(content: str | Sequence[ChatContentPart] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for index, part in enumerate(content):
        text = part.refusal if part.type == "refusal" else part.text
        if part.type not in _TEXT_PARTS or text is None:
            raise bad_request(
                f"a part of type {part.type!r} is no text, and the policy reads text only",
                param=f"{where}.{index}",
            )
        texts.append(text)
    return "".join(texts)
