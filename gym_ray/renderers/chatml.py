"""The ChatML renderer: `<|im_start|>role … <|im_end|>`, tool calls as text.

For models whose vocabulary has the turn tokens but no tool tokens (the bundled SmolLM2), and
for the scripted policy's byte tokenizer. Plugged into the `renderers` library by import path.

Owned here, and held by tests:

* a render equals the model's chat template token for token (ordinary text);
* text never becomes a control token: a tool result holding `<|im_end|>` stays seven letters
  and some punctuation, where a chat template would end the turn;
* a bridge starts with exactly the previous prompt and completion, whatever was sampled, and
  equals a full render whenever the completion is what a render would have produced.

Not owned here: reading completions (chatml_parsing) and finding a template's wording
(chatml_template).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from renderers.base import (
    Message,
    ParsedResponse,
    RenderedTokens,
    Tokenizer,
    ToolSpec,
    extract_message_tool_names,
    reject_assistant_in_extension,
    resolve_thinking_retention,
    should_rerender_for_thinking_retention,
)
from renderers.configs import BaseRendererConfig

from gym_ray.renderers.chatml_parsing import CALL_CLOSE, CALL_OPEN, parse_text
from gym_ray.renderers.tokenizers import END_OF_TEXT, TURN_END, TURN_START

TOOLS_HEADER = (
    "# Functions\n\nThese functions are available to you, one JSON signature a line:\n<tools>"
)
TOOLS_FOOTER = (
    "\n</tools>\n\n"
    "To call a function, write its name and its arguments as one JSON object between "
    "tool_call tags:\n"
    "<tool_call>\n"
    '{"name": "the_function", "arguments": {"argument": "value"}}\n'
    "</tool_call>"
)


class ChatMLConfig(BaseRendererConfig):  # type: ignore[misc]
    """What differs between ChatML models."""

    default_system: str | None = None
    """System message of a conversation that brings none; None for no system turn."""

    tools_header: str = TOOLS_HEADER
    """Text of the system turn before the tool signatures."""

    tools_footer: str = TOOLS_FOOTER
    """Text of the system turn after the tool signatures."""

    _internal_fields = frozenset({"default_system", "tools_header", "tools_footer"})


class ChatMLRenderer:
    """Renders, bridges and parses ChatML conversations.

    Args:
        tokenizer: needs `<|im_start|>` and `<|im_end|>` in its vocabulary.
        config: see `ChatMLConfig`.

    Raises:
        ValueError: the tokenizer lacks a turn token.
    """

    config_class: ClassVar[type[ChatMLConfig]] = ChatMLConfig

    def __init__(self, tokenizer: Tokenizer, config: ChatMLConfig | None = None) -> None:
        self.config = config or ChatMLConfig()
        self.effective_thinking_retention = resolve_thinking_retention(self.config, "all")
        self._tokenizer = tokenizer
        self._turn_start = self._required_id(TURN_START)
        self._turn_end = self._required_id(TURN_END)
        self._end_of_text = self._control_id(END_OF_TEXT)
        self._control_ids = {self._turn_start, self._turn_end, self._end_of_text} - {None}
        self._newline = self._encode("\n")
        self._assistant_opener = self._encode("assistant\n")

    @property
    def is_prefix_stable(self) -> bool:
        """Whether a full render of a longer conversation keeps the shorter one's tokens."""
        return bool(self.effective_thinking_retention == "all")

    def get_stop_token_ids(self) -> list[int]:
        stops = [self._turn_end]
        if self._end_of_text is not None:
            stops.append(self._end_of_text)
        return stops

    def render(
        self,
        messages: list[Message],
        *,
        tools: list[ToolSpec] | None = None,
        add_generation_prompt: bool = False,
    ) -> RenderedTokens:
        """A whole conversation.

        Raises:
            ValueError: no messages, or one with a role or content this format has no form for.
        """
        if not messages:
            raise ValueError("a conversation needs at least one message")
        rendered = RenderedTokens(
            message_roles=[str(message["role"]) for message in messages],
            message_tool_names=extract_message_tool_names(messages),
        )
        has_system = messages[0]["role"] == "system"
        system = self._system_text(messages[0] if has_system else None, tools or [])
        if system is not None:
            self._append_turn(rendered, "system\n" + system, 0 if has_system else -1)
        self._append_turns(rendered, messages, start=1 if has_system else 0)
        if add_generation_prompt:
            self._append(rendered, [self._turn_start, *self._assistant_opener], -1)
        return rendered

    def render_ids(
        self,
        messages: list[Message],
        *,
        tools: list[ToolSpec] | None = None,
        add_generation_prompt: bool = False,
    ) -> list[int]:
        rendered = self.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)
        return list(rendered.token_ids)

    def bridge_to_next_turn(
        self,
        previous_prompt_ids: list[int],
        previous_completion_ids: list[int],
        new_messages: list[Message],
        *,
        tools: list[ToolSpec] | None = None,
    ) -> RenderedTokens | None:
        """The next turn's prompt: everything so far, verbatim, then the new messages.

        A completion that did not end its turn (cut at its length, or ended by
        `<|endoftext|>`) is followed by the `<|im_end|>` it lacks.
        """
        if (
            not previous_prompt_ids
            or not new_messages
            or reject_assistant_in_extension(new_messages)
            or should_rerender_for_thinking_retention(
                self.effective_thinking_retention, new_messages
            )
        ):
            return None
        rendered = RenderedTokens(
            message_roles=[str(message["role"]) for message in new_messages],
            message_tool_names=extract_message_tool_names(new_messages),
        )
        self._append(rendered, [*previous_prompt_ids, *previous_completion_ids], -1)
        if not previous_completion_ids or previous_completion_ids[-1] != self._turn_end:
            self._append(rendered, [self._turn_end], -1)
        self._append(rendered, self._newline, -1)
        self._append_turns(rendered, new_messages, start=0)
        self._append(rendered, [self._turn_start, *self._assistant_opener], -1)
        return rendered

    def parse_response(
        self,
        token_ids: list[int],
        *,
        tools: list[ToolSpec] | None = None,
        prompt_ids: list[int] | None = None,
    ) -> ParsedResponse:
        stops = set(self.get_stop_token_ids())
        end = len(token_ids)
        while end and token_ids[end - 1] in stops:
            end -= 1
        # No list of tools leaves open which there are; an empty one says that there are none.
        return parse_text(self._decode(token_ids[:end]), calls=tools is None or bool(tools))

    def _append_turns(
        self, rendered: RenderedTokens, messages: list[Message], *, start: int
    ) -> None:
        last_user = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
        index = start
        while index < len(messages):
            message = messages[index]
            match message["role"]:
                case "tool":
                    index = self._append_tool_results(rendered, messages, index)
                    continue
                case "assistant":
                    keeps_reasoning = self.is_prefix_stable or index > last_user
                    self._append_assistant(rendered, message, index, keeps_reasoning)
                case "system" | "user" as role:
                    self._append_turn(rendered, f"{role}\n{text_of(message)}", index)
                case role:
                    raise ValueError(f"message {index} has role {role!r}, which ChatML has not")
            index += 1

    def _append_turn(self, rendered: RenderedTokens, text: str, index: int) -> None:
        body = [self._turn_start, *self._encode(text), self._turn_end, *self._newline]
        self._append(rendered, body, index)

    def _append_assistant(
        self, rendered: RenderedTokens, message: Message, index: int, keeps_reasoning: bool
    ) -> None:
        # One encoding pass over role and body, as the template does it: a body that starts
        # with whitespace may merge with the role's newline.
        body = self._encode("assistant\n" + _assistant_text(message, keeps_reasoning))
        opener = len(self._assistant_opener)
        self._append(rendered, [self._turn_start, *body[:opener]], index)
        self._append(rendered, [*body[opener:], self._turn_end], index, sampled=True)
        self._append(rendered, self._newline, index)

    def _append_tool_results(
        self, rendered: RenderedTokens, messages: list[Message], start: int
    ) -> int:
        """One user turn with the run of tool results from `start`; returns the index after."""
        text, ends, index = "user", [], start
        while index < len(messages) and messages[index]["role"] == "tool":
            text += f"\n<tool_response>\n{text_of(messages[index])}\n</tool_response>"
            ends.append(len(text))
            index += 1
        body = self._encode(text)
        # A token on the border of two results counts for the later one.
        cuts = [len(self._encode(text[:end])) for end in ends[:-1]] + [len(body)]
        position = 0
        self._append(rendered, [self._turn_start], start)
        for message_index, cut in enumerate(cuts, start):
            self._append(rendered, body[position:cut], message_index)
            position = max(position, cut)
        self._append(rendered, [self._turn_end, *self._newline], index - 1)
        return index

    def _append(
        self, rendered: RenderedTokens, token_ids: list[int], index: int, *, sampled: bool = False
    ) -> None:
        rendered.token_ids.extend(token_ids)
        rendered.message_indices.extend([index] * len(token_ids))
        rendered.sampled_mask.extend([sampled] * len(token_ids))

    def _system_text(self, message: Message | None, tools: list[ToolSpec]) -> str | None:
        system = self.config.default_system if message is None else text_of(message)
        if not tools:
            return system
        signatures = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in tools)
        section = self.config.tools_header + signatures + self.config.tools_footer
        return section if system is None else f"{system}\n\n{section}"

    def _encode(self, text: str) -> list[int]:
        """Token IDs of `text`, none of them a control token."""
        token_ids = self._encode_piece(text)
        if self._control_ids.isdisjoint(token_ids):
            return token_ids
        pieces = _INSIDE_CONTROL.split(text)
        return [token_id for piece in pieces for token_id in self._encode_piece(piece)]

    def _encode_piece(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _decode(self, token_ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def _control_id(self, token: str) -> int | None:
        token_id = self._tokenizer.convert_tokens_to_ids(token)
        # The unknown token's ID alone proves nothing: in SmolLM2 it is <|endoftext|>'s own.
        if isinstance(token_id, int) and self._decode([token_id]) == token:
            return token_id
        return None

    def _required_id(self, token: str) -> int:
        token_id = self._control_id(token)
        if token_id is None:
            raise ValueError(f"the tokenizer has no token {token}, so ChatML cannot be rendered")
        return token_id


def text_of(message: Mapping[str, Any]) -> str:
    """Text of a message whose content is a string, text parts, or nothing.

    Raises:
        ValueError: the content holds a part that is not text.
    """
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(_part_texts(content or []))


def _part_texts(parts: list[Any]) -> Iterator[str]:
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise ValueError("ChatML renders text only; a message has a part without 'text'")
        yield part["text"]


def _assistant_text(message: Mapping[str, Any], keeps_reasoning: bool) -> str:
    content = text_of(message)
    reasoning = message.get("reasoning_content")
    calls = [_call_text(call.get("function") or call) for call in message.get("tool_calls") or []]
    thought = ""
    if keeps_reasoning and isinstance(reasoning, str):
        thought = f"<think>\n{reasoning}\n</think>\n\n"
    return thought + "\n".join([content, *calls] if content else calls)


def _call_text(function: Mapping[str, Any]) -> str:
    name, arguments = function.get("name"), function.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    if not name or arguments.startswith(CALL_OPEN):
        return arguments  # a malformed attempt, kept as the text it was
    name = json.dumps(name, ensure_ascii=False)
    return f'{CALL_OPEN}\n{{"name": {name}, "arguments": {arguments}}}\n{CALL_CLOSE}'


_INSIDE_CONTROL = re.compile(r"(?<=<)(?=\|(?:im_start|im_end|endoftext)\|>)")
