"""What families of the `renderers` library (0.1.12) get wrong, corrected in one place.

A correction stands here until the library has it, with the report that asks for it:

* It refuses to continue a turn that ended inside its reasoning: the policy's own behavior, which
  is no reason to lose a rollout. The turn is continued as it was sampled (renderers#139 and #152
  close the thoughts of cut turns only).
* It cuts a block of calls at the first closing tag, also inside an argument (no report with it;
  vllm#45167 has the same in vLLM).
* It strips every space around a value that stands between tags (vllm#48753 has the same in
  vLLM), and reads the value by a part of its schema (renderers#47, #63).
* It reads call syntax where no tools are offered, where it is text.
* It lets what Python's JSON reader raises besides `JSONDecodeError` through: numbers of thousands
  of digits, and nesting without end.

What it gets wrong about text that spells control tokens (renderers#116) is in `message_text`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from renderers.base import ParsedResponse, ParsedToolCall

from gym_ray.renderers.argument_values import parameters_of
from gym_ray.renderers.tool_blocks import (
    FUNCTION,
    INVOKE,
    JSON,
    MARKED_PAIRS,
    PAIRS,
    BlockSyntax,
    read_blocks,
)

if TYPE_CHECKING:
    from renderers.base import Renderer, Tokenizer

#: How the families write calls whose blocks are read here.
BLOCKS: dict[str, BlockSyntax] = {
    "qwen3": JSON,
    "qwen3-vl": JSON,
    **dict.fromkeys(("qwen3.5", "qwen3.6", "qwen3.8", "prime-qwen3"), FUNCTION),
    **dict.fromkeys(("nemotron-3", "nemotron-3-ultra", "nemotron-3.5"), FUNCTION),
    **dict.fromkeys(("glm-4.5", "glm-5", "glm-5.1", "glm-5.3"), PAIRS),
    **dict.fromkeys(("laguna-m.1", "laguna-s-2.1", "laguna-xs-2.1", "laguna-xs.2"), PAIRS),
    "hy3": MARKED_PAIRS,
    "minimax-m2": INVOKE,
}

#: Ends the cut turns of gpt-oss, which has another token for turns that end by themselves.
_MESSAGE_END = "<|end|>"


class CorrectedFamily:
    """A family of the library, corrected.

    Args:
        family: its name.
        renderer: the library's object.
        tokenizer: of the model.
    """

    def __init__(self, family: str, renderer: Renderer, tokenizer: Tokenizer) -> None:
        self._renderer = renderer
        self._tokenizer = tokenizer
        self._syntax = BLOCKS.get(family)
        self._stops = frozenset(renderer.get_stop_token_ids())

    def bridge(
        self,
        prompt: list[int],
        generation: list[int],
        messages: list[Any],
        tools: list[Any] | None,
    ) -> list[int] | None:
        """The next turn's prompt; None when it can only be rendered anew."""
        bridged = self._renderer.bridge_to_next_turn(prompt, generation, messages, tools=tools)
        if bridged is not None:
            return list(bridged.token_ids)
        if not generation or generation[-1] not in self._stops:
            return None
        # It ended inside its reasoning. The family closes the thought of a turn that was cut:
        # what it adds after closing that turn belongs after this one.
        cut = self._renderer.bridge_to_next_turn(prompt, generation[:-1], messages, tools=tools)
        if cut is None:
            return None
        added = list(cut.token_ids)[len(prompt) + len(generation) - 1 :]
        ends = self._stops | {self._tokenizer.convert_tokens_to_ids(_MESSAGE_END)}
        closed = next((i for i, token in enumerate(added) if token in ends), None)
        if closed is None:
            return None
        following = added[closed + 1 :]
        if following[:1] == generation[-1:]:  # the stop token opens the next message
            following = following[1:]
        return [*prompt, *generation, *following]

    def parse(
        self, generation: list[int], prompt: list[int], tools: list[Any] | None
    ) -> ParsedResponse:
        """What the policy said.

        Args:
            generation: what was sampled.
            prompt: what it was sampled from.
            tools: those offered; empty for none, so that there are no calls, and None when it is
                not known which there were.
        """
        try:
            parsed = self._renderer.parse_response(generation, tools=tools, prompt_ids=prompt)
        except (ValueError, RecursionError):
            return ParsedResponse(content=self._decode(self._without_stops(generation)))
        if not parsed.tool_calls:
            return parsed
        if tools is not None and not tools:
            return self._without_calls(parsed, generation)
        if self._syntax is None:
            return self._with_text(parsed, generation)
        return self._with_blocks(parsed, generation, tools)

    def _with_blocks(
        self, parsed: ParsedResponse, generation: list[int], tools: list[Any] | None
    ) -> ParsedResponse:
        assert self._syntax is not None
        ids = self._without_stops(generation)
        ids = ids[_start(parsed.tool_calls) :]
        opening = self._tokenizer.convert_tokens_to_ids(self._syntax.open)
        text, opens = "", []
        run: list[int] = []
        for token in ids:
            if token == opening:
                text += self._decode(run)
                opens.append(len(text))
                text += self._syntax.open
                run = []
            else:
                run.append(token)
        text += self._decode(run)
        calls = read_blocks(self._syntax, text, opens, parameters_of(tools))
        return dataclasses.replace(parsed, tool_calls=calls)

    def _with_text(self, parsed: ParsedResponse, generation: list[int]) -> ParsedResponse:
        """Calls that cannot be read with all of their text, tags included."""
        calls = [
            call
            if call.name or call.token_span is None
            else dataclasses.replace(call, raw=self._decode(generation[slice(*call.token_span)]))
            for call in parsed.tool_calls
        ]
        return dataclasses.replace(parsed, tool_calls=calls)

    def _without_calls(self, parsed: ParsedResponse, generation: list[int]) -> ParsedResponse:
        """All that was said outside the reasoning as content."""
        ids = self._without_stops(generation)
        start = _start(parsed.tool_calls)
        while start and self._opens_calls(ids[start - 1]):
            start -= 1
        before, after = self._decode(ids[:start]), self._decode(ids[start:])
        said = parsed.content
        # The family took the space around the content off; here it is between two parts of it.
        position = before.rfind(said) if said.strip() else len(before)
        content = before[position:] + after if position >= 0 else f"{said}\n{after}"
        return dataclasses.replace(parsed, content=content, tool_calls=[])

    def _opens_calls(self, token: int) -> bool:
        """Whether a token opens the part of a turn that has the calls, as `deepseek-v3`'s does."""
        text = self._decode([token])
        return len(text) > 4 and "tool" in text and text.startswith("<") and text.endswith(">")

    def _without_stops(self, generation: list[int]) -> list[int]:
        end = len(generation)
        while end and generation[end - 1] in self._stops:
            end -= 1
        return generation[:end]

    def _decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))


def _start(calls: Sequence[ParsedToolCall]) -> int:
    """Where the first call begins, in tokens."""
    return min((call.token_span[0] for call in calls if call.token_span is not None), default=0)
