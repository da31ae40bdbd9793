"""Marks beside the tokens: texts that should not be there, and rollouts to keep out of the loss.

NeMo RL can penalize a turn whose tool call was written as text (and so never carried out) and one
whose thinking leaked into the answer; it relies on the environment to find them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gym_ray.rollout import Rollout

#: NeMo RL's defaults.
TOOL_CALL_PATTERNS = ("<tool_call>", "</tool_call>", "<function_call>", "</function_call>")
THINKING_TAGS = ("<think>", "</think>")


@dataclasses.dataclass(frozen=True, slots=True)
class RowFlags:
    """What is looked for.

    Attributes:
        tool_call_patterns: texts only a tool call that could not be read leaves behind.
        thinking_tags: tags that only enclose thinking.
        mask_truncated: truncation reasons of rollouts kept out of the loss.
    """

    tool_call_patterns: Sequence[str] = TOOL_CALL_PATTERNS
    thinking_tags: Sequence[str] = THINKING_TAGS
    mask_truncated: Collection[str] = ()

    def of_item(self, item: Mapping[str, Any]) -> dict[str, bool]:
        """Marks of a turn by its last item.

        A tool call that could not be read is invalid, whether it was left in the text (NeMo RL's
        servers) or is an incomplete item (gym-ray's renderers). An answer holds no thinking tag at
        all; in reasoning, one pair may be told, so a tag that stands there twice is one too many.
        """
        reasoning = item.get("type") == "reasoning"
        text = _text(item.get("summary" if reasoning else "content"))
        allowed = 1 if reasoning else 0
        unread = item.get("type") == "function_call" and item.get("status") == "incomplete"
        return {
            "is_invalid_tool_call": unread
            or any(pattern in text for pattern in self.tool_call_patterns),
            "has_malformed_thinking": any(text.count(tag) > allowed for tag in self.thinking_tags),
        }

    def masks(self, rollout: Rollout, row: Mapping[str, Any]) -> bool:
        """Whether a rollout is kept out of the loss: cut short for a reason that says nothing, or
        flagged by its task row or its verifier (metric `mask_sample`)."""
        nested = row.get("instance_config")
        flagged = isinstance(nested, Mapping) and nested.get("mask_sample")
        cut = rollout.truncation_reason in self.mask_truncated
        return bool(cut or flagged or row.get("mask_sample"))


def _text(parts: Any) -> str:
    """Text of the first part of a message's content or of a reasoning summary."""
    if not isinstance(parts, list) or not parts or not isinstance(parts[0], Mapping):
        return ""
    text = parts[0].get("text")
    return text if isinstance(text, str) else ""
