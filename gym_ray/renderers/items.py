"""Responses-API items to chat messages and back.

Rows speak in items (`message`, `function_call`, `function_call_output`, `reasoning`), chat
templates in messages. Reading items as messages is `conversation/items.py`, which what is below
here needs too; this adds the other direction. Pure functions, no tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gym_ray.conversation.items import messages_from_items, text_of, text_of_items
from gym_ray.renderers.messages import AssistantMessage, Message

__all__ = [
    "Item",
    "items_from_message",
    "items_from_told",
    "messages_from_items",
    "text_of_items",
    "tools_for_chat",
    "tools_from_chat",
]

Item = dict[str, Any]


def tools_for_chat(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tool definitions in the nested shape chat templates know.

    `{"type": "function", "name": …}` becomes `{"type": "function", "function": {"name": …}}`.
    """
    return [
        {
            "type": "function",
            "function": {
                "name": tool["name"],
                "description": tool.get("description") or "",
                "parameters": tool.get("parameters") or {"type": "object", "properties": {}},
            },
        }
        for tool in tools
    ]


def items_from_message(assistant: AssistantMessage, *, item_id_prefix: str) -> list[Item]:
    """Output items of one turn of the policy: reasoning, message, function calls.

    A turn always gives at least one item. A malformed function call has status `incomplete`
    and the sampled text as its arguments.

    Args:
        assistant: what the policy said.
        item_id_prefix: unique per turn; IDs are it, the item's kind and its number.
    """
    items: list[Item] = []
    if assistant.reasoning is not None:
        items.append(
            {
                "id": f"rs_{item_id_prefix}",
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": assistant.reasoning}],
                "encrypted_content": None,
            }
        )
    if assistant.content or not assistant.tool_calls:
        items.append(
            {
                "id": f"msg_{item_id_prefix}",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": assistant.content, "annotations": []}],
            }
        )
    for index, call in enumerate(assistant.tool_calls):
        items.append(
            {
                "id": f"fc_{item_id_prefix}_{index}",
                "type": "function_call",
                "call_id": call.id,
                "name": call.name,
                "arguments": call.arguments,
                "status": "completed" if call.error is None else "incomplete",
            }
        )
    return items


def items_from_told(messages: Sequence[Message]) -> list[Item]:
    """Items of what the policy was told between two turns: tool results, user messages."""
    items: list[Item] = []
    for message in messages:
        text = text_of(message.get("content") or "")
        if message["role"] == "tool":
            call_id = message.get("tool_call_id") or ""
            items.append(
                {
                    "id": f"fco_{call_id}",
                    "type": "function_call_output",
                    "call_id": call_id,
                    "output": text,
                    "status": "completed",
                }
            )
        else:
            part = {"type": "input_text", "text": text}
            items.append({"type": "message", "role": message["role"], "content": [part]})
    return items


def tools_from_chat(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The inverse of `tools_for_chat`: tool definitions in the flat shape rows hold."""
    return [{"type": "function", **tool["function"]} for tool in tools]
