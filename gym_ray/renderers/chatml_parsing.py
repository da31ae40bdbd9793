"""Reading what a ChatML policy said: reasoning, content and text-form tool calls.

Works on decoded text, so it needs no tool tokens in the vocabulary. Every attempt at a tool
call is reported with a status, in order; nothing the policy wrote is dropped silently.
Not owned here: whether a named tool exists and whether its arguments fit (agents).
"""

from __future__ import annotations

from typing import Any

from renderers.base import ParsedResponse, ParsedToolCall, ToolCallParseStatus

from gym_ray.renderers.argument_values import DECODER

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"


def parse_text(text: str, *, calls: bool = True) -> ParsedResponse:
    """Split one turn of the policy, decoded and without its stop token, into its channels.

    Args:
        text: what was sampled.
        calls: whether there are any tools to call; without, calls are text like other text.
    """
    reasoning, rest, complete = _split_reasoning(text)
    content, tool_calls = _split_tool_calls(rest) if calls else (rest, [])
    return ParsedResponse(
        content=content,
        reasoning_content=reasoning,
        tool_calls=tool_calls,
        reasoning_complete=complete,
    )


def _split_reasoning(text: str) -> tuple[str | None, str, bool]:
    """Reasoning, what follows it, and whether the channel was closed."""
    opened = text.lstrip()
    if not opened.startswith(THINK_OPEN):
        return None, text, True
    reasoning, closed, rest = opened.removeprefix(THINK_OPEN).partition(THINK_CLOSE)
    reasoning = reasoning.removeprefix("\n")
    if not closed:
        return reasoning, "", False
    return reasoning.removesuffix("\n"), rest.removeprefix("\n").removeprefix("\n"), True


def _split_tool_calls(text: str) -> tuple[str, list[ParsedToolCall]]:
    """Text around the tool calls, and every attempt at one."""
    before, opened, _ = text.partition(CALL_OPEN)
    if not opened:
        return text, []
    # The newline that sets the first call apart belongs to the call, not to the content.
    around = [before.removesuffix("\n")]
    tool_calls: list[ParsedToolCall] = []
    position = len(before)
    while position != -1:
        call, end = _read_call(text, position)
        tool_calls.append(call)
        position = text.find(CALL_OPEN, end)
        between = (text[end:] if position == -1 else text[end:position]).strip()
        if between:
            around.append(between)
    return "\n".join(around) if around[0] else "\n".join(around[1:]), tool_calls


def _read_call(text: str, start: int) -> tuple[ParsedToolCall, int]:
    """The attempt opening at `start`, and where it ends."""
    body = _skip_space(text, start + len(CALL_OPEN))
    try:
        value, body_end = DECODER.raw_decode(text, body)
    except (ValueError, RecursionError):
        return _broken_call(text, start)
    close = _skip_space(text, body_end)
    if text.startswith(CALL_CLOSE, close):
        end = close + len(CALL_CLOSE)
        return _call_from(value, raw=text[start:end]), end
    return _broken_call(text, start)


def _broken_call(text: str, start: int) -> tuple[ParsedToolCall, int]:
    """An attempt without readable JSON and a close; it ends before the next attempt opens."""
    body = start + len(CALL_OPEN)
    next_open = text.find(CALL_OPEN, body)
    limit = len(text) if next_open == -1 else next_open
    close = text.find(CALL_CLOSE, body, limit)
    if close == -1:
        status = ToolCallParseStatus.UNCLOSED_BLOCK
        return ParsedToolCall(raw=text[start:limit], status=status), limit
    end = close + len(CALL_CLOSE)
    return ParsedToolCall(raw=text[start:end], status=ToolCallParseStatus.INVALID_JSON), end


def _call_from(value: Any, *, raw: str) -> ParsedToolCall:
    if not isinstance(value, dict):
        return ParsedToolCall(raw=raw, status=ToolCallParseStatus.MALFORMED_STRUCTURE)
    name = value.get("name")
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _object_or_none(arguments)
    if not isinstance(name, str) or not name.isprintable() or not name.strip():
        return ParsedToolCall(raw=raw, status=ToolCallParseStatus.MISSING_NAME)
    if not isinstance(arguments, dict):
        status = ToolCallParseStatus.MALFORMED_STRUCTURE
        return ParsedToolCall(raw=raw, name=name, status=status)
    return ParsedToolCall(raw=raw, name=name, arguments=arguments)


def _object_or_none(text: str) -> Any:
    """Some models quote the arguments object once more; read it out of its string."""
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position
