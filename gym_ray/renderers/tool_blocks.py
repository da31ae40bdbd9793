"""Reading blocks of tool calls whose ends a policy may write in the middle of an argument.

The `renderers` library cuts a block at the first closing tag and reads what it has cut; here a
block is read first and then ends where it is complete, so that `</tool_call>` in a string is part
of the string. Values between tags are taken as they were sampled: what the family's own template
puts around a value is taken off, and nothing else.

One reader for each syntax; `corrections` says which family writes which.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

from renderers.base import ParsedToolCall, ToolCallParseStatus

from gym_ray.renderers.argument_values import DECODER, argument_value

#: What a body came to, and where it ends: name, arguments (None: they could not be read), end.
_Body = tuple[str, dict[str, Any] | None, int]


@dataclasses.dataclass(frozen=True, slots=True)
class BlockSyntax:
    """How a family writes calls.

    Attributes:
        open, close: the tags around a block.
        read: reads one call out of a text, from a position to a limit, with the schemas of the
            tools' arguments by name; None when it is none.
        several: whether a block may hold more than one call.
    """

    open: str
    close: str
    read: Callable[[str, int, int, dict[str, dict[str, Any]]], _Body | None]
    several: bool = False


def read_blocks(
    syntax: BlockSyntax,
    text: str,
    opens: Sequence[int],
    parameters: dict[str, dict[str, Any]],
) -> list[ParsedToolCall]:
    """Every attempt at a call, its raw text with the tags around it.

    Args:
        syntax: of the family.
        text: decoded, from the first block on.
        opens: where in it the opening tags are that are tokens.
        parameters: schema of the arguments of each tool, by name.
    """
    calls: list[ParsedToolCall] = []
    end = 0
    for start, limit in itertools.pairwise((*opens, len(text))):
        if start < end:
            continue  # it is in an argument
        read, end = _read_block(syntax, text, start, limit, parameters)
        calls += read
    return calls


def _read_block(
    syntax: BlockSyntax, text: str, start: int, limit: int, parameters: dict[str, dict[str, Any]]
) -> tuple[list[ParsedToolCall], int]:
    bodies: list[_Body] = []
    position = start + len(syntax.open)
    while True:
        body = syntax.read(text, position, limit, parameters)
        if body is not None:
            bodies.append(body)
            position = body[2]
        close = _skip_space(text, position)
        if bodies and text.startswith(syntax.close, close):
            end = close + len(syntax.close)
            return [_call(body, text[start:end]) for body in bodies], end
        if body is None or not syntax.several:
            return _broken(syntax, text, start, limit)


def _call(body: _Body, raw: str) -> ParsedToolCall:
    name, arguments, _ = body
    if arguments is None:
        status = ToolCallParseStatus.INVALID_JSON
        return ParsedToolCall(raw=raw, name=name or None, status=status)
    status = ToolCallParseStatus.OK if name else ToolCallParseStatus.MISSING_NAME
    return ParsedToolCall(raw=raw, name=name or None, arguments=arguments, status=status)


def _broken(
    syntax: BlockSyntax, text: str, start: int, limit: int
) -> tuple[list[ParsedToolCall], int]:
    close = text.find(syntax.close, start, limit)
    if close == -1:
        status = ToolCallParseStatus.UNCLOSED_BLOCK
        return [ParsedToolCall(raw=text[start:limit], status=status)], limit
    end = close + len(syntax.close)
    status = ToolCallParseStatus.MALFORMED_STRUCTURE
    return [ParsedToolCall(raw=text[start:end], status=status)], end


def _read_json(
    text: str, start: int, limit: int, parameters: dict[str, dict[str, Any]]
) -> _Body | None:
    """`{"name": …, "arguments": …}`"""
    try:
        value, end = DECODER.raw_decode(text, _skip_space(text, start))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return "", None, end
    name = value.get("name")
    return name if isinstance(name, str) else "", value.get("arguments", {}), end


def _read_function(
    text: str, start: int, limit: int, parameters: dict[str, dict[str, Any]]
) -> _Body | None:
    """`<function=NAME>`, `<parameter=KEY>`, line break, value, line break, `</parameter>`, …"""
    opened = _FUNCTION.match(text, start, limit)
    if opened is None:
        return None
    name = opened[1]
    pairs, end = _pairs(text, opened.end(), limit, _PARAMETER, _PARAMETER_END)
    closed = _FUNCTION_END.match(text, end, limit)
    if closed is None:
        return None
    values = [(key, value.removeprefix("\n").removesuffix("\n")) for key, value in pairs]
    return name, _arguments(values, parameters.get(name, {})), closed.end()


def _pairs_syntax(mark: str = "") -> BlockSyntax:
    """The name, then `<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>`, …

    Args:
        mark: what a family has at the end of each of its tags.
    """
    key, key_end, value, value_end, close = (
        re.escape(f"<{tag}{mark}>")
        for tag in ("arg_key", "/arg_key", "arg_value", "/arg_value", "/tool_call")
    )
    separator = re.escape(f"<tool_sep{mark}>")
    name_pattern = re.compile(rf"((?:(?!{key}|{close}|{separator})[\s\S])*)(?:{separator})?")
    key_pattern = re.compile(rf"\s*{key}((?:(?!{key_end})[\s\S])*){key_end}\s*{value}")
    end_pattern = re.compile(rf"{value_end}(?=\s*(?:{key}|{close}))")

    def read(
        text: str, start: int, limit: int, parameters: dict[str, dict[str, Any]]
    ) -> _Body | None:
        opened = name_pattern.match(text, start, limit)
        if opened is None:
            return None
        name = opened[1].strip()
        pairs, end = _pairs(text, opened.end(), limit, key_pattern, end_pattern)
        return name, _arguments(pairs, parameters.get(name, {})), end

    return BlockSyntax(f"<tool_call{mark}>", f"</tool_call{mark}>", read)


def _read_invoke(
    text: str, start: int, limit: int, parameters: dict[str, dict[str, Any]]
) -> _Body | None:
    """`<invoke name="NAME">`, `<parameter name="KEY">VALUE</parameter>`, …, `</invoke>`"""
    opened = _INVOKE.match(text, start, limit)
    if opened is None:
        return None
    name = opened[1]
    pairs, end = _pairs(text, opened.end(), limit, _NAMED_PARAMETER, _NAMED_PARAMETER_END)
    closed = _INVOKE_END.match(text, end, limit)
    if closed is None:
        return None
    return name, _arguments(pairs, parameters.get(name, {})), closed.end()


def _pairs(
    text: str, start: int, limit: int, key: re.Pattern[str], value_end: re.Pattern[str]
) -> tuple[list[tuple[str, str]], int]:
    """Keys and the texts of their values, and the end of the last of them. A closing tag ends a
    value only where the format goes on behind it."""
    pairs: list[tuple[str, str]] = []
    while (opened := key.match(text, start, limit)) is not None:
        closed = value_end.search(text, opened.end(), limit)
        if closed is None:
            break
        pairs.append((opened[1].strip(), text[opened.end() : closed.start()]))
        start = closed.end()
    return pairs, start


def _arguments(
    pairs: Sequence[tuple[str, str]], parameters: dict[str, Any]
) -> dict[str, Any] | None:
    try:
        return {key: argument_value(key, text, parameters) for key, text in dict(pairs).items()}
    except ValueError:
        return None


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


_FUNCTION = re.compile(r"\s*<function=([^>]+)>")
_FUNCTION_END = re.compile(r"\s*</function>")
_PARAMETER = re.compile(r"\s*<parameter=([^>]+)>")
_PARAMETER_END = re.compile(r"</parameter>(?=\s*(?:<parameter=|</function>))")
_INVOKE = re.compile(r"\s*<invoke name=\"([^\"]+)\">")
_INVOKE_END = re.compile(r"\s*</invoke>")
_NAMED_PARAMETER = re.compile(r"\s*<parameter name=\"([^\"]+)\">")
_NAMED_PARAMETER_END = re.compile(r"</parameter>(?=\s*(?:<parameter name=|</invoke>))")

JSON = BlockSyntax("<tool_call>", "</tool_call>", _read_json)
FUNCTION = BlockSyntax("<tool_call>", "</tool_call>", _read_function)
PAIRS = _pairs_syntax()
MARKED_PAIRS = _pairs_syntax(":opensource")
INVOKE = BlockSyntax("<minimax:tool_call>", "</minimax:tool_call>", _read_invoke, several=True)
