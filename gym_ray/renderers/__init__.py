"""Renderers: messages to tokens and back, for one model family at a time.

Importing this package is cheap: the `renderers` library and `transformers` are loaded by
`load_renderer`, not before.
"""

from gym_ray.renderers.items import (
    items_from_message,
    messages_from_items,
    text_of_items,
    tools_for_chat,
)
from gym_ray.renderers.messages import AssistantMessage, Message, ToolCall
from gym_ray.renderers.renderer import BridgeImpossible, RolloutRenderer, load_renderer

__all__ = [
    "AssistantMessage",
    "BridgeImpossible",
    "Message",
    "RolloutRenderer",
    "ToolCall",
    "items_from_message",
    "load_renderer",
    "messages_from_items",
    "text_of_items",
    "tools_for_chat",
]
