"""Values of a tool call's arguments, where a family writes them as text between tags.

Such a format has no quotes, so `5` may be the number or the text; the tool's schema decides. A
value that the schema allows as a string only is the text, exactly. Where it allows a string and
something else, JSON of the something else is read as that, and all other text is the string.

Not owned here: what the schema says (schema_reading), and whether arguments fit it in the end,
which who carries them out checks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from gym_ray.renderers.schema_reading import SchemaReader, type_of
from gym_ray.strict_json import finite_number, refuse_constant

#: What Python calls them; templates write values with `str`, and policies follow.
_PYTHON = {"True": True, "False": False, "None": None}


def decode_json(text: str) -> Any:
    """The value a JSON text stands for.

    Control characters inside a string are read, though JSON wants them escaped: models write
    line breaks there, and the masks of guided decoding let them through.

    Raises:
        ValueError: it is no JSON; neither are NaN, infinities and numbers that no float holds.
        RecursionError: it is nested too deeply.
    """
    return DECODER.decode(text)


def is_finite(value: Any) -> bool:
    """Whether JSON can carry a value that was read from it: Python reads `1e999` as infinity."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float) and not math.isfinite(item):
            return False
        if isinstance(item, Mapping):
            stack += item.values()
        elif isinstance(item, list):
            stack += item
    return True


def parameters_of(tools: Any) -> dict[str, dict[str, Any]]:
    """Schema of the arguments of each tool, by name; `tools` as `tools_for_chat` returns them."""
    found = {}
    for tool in tools or ():
        function = tool.get("function") or tool
        schema = function.get("parameters")
        found[str(function.get("name"))] = schema if isinstance(schema, dict) else {}
    return found


def argument_value(name: str, text: str, parameters: dict[str, Any]) -> Any:
    """The value of one argument.

    Args:
        name: of the argument.
        text: what stands between its tags.
        parameters: schema of all arguments of the tool.

    Raises:
        ValueError: the text is no JSON, and the schema allows no string.
    """
    reader = SchemaReader(parameters)
    schema = reader.property(name)
    types = reader.types(schema)
    if types == {"string"}:
        return text
    try:
        value = decode_json(text.strip())
    except (ValueError, RecursionError):
        if "string" in types:
            return text
        if text.strip() in _PYTHON:
            return _PYTHON[text.strip()]
        raise ValueError(f"the value of {name!r} is neither JSON nor may it be text") from None
    if "string" not in types:
        return value
    if isinstance(value, str) or type_of(value) not in types:
        return text
    # Both may be: what the whole schema refuses, as an enumeration does, is not meant.
    return text if reader.fits(text, schema) and not reader.fits(value, schema) else value


DECODER = json.JSONDecoder(parse_constant=refuse_constant, parse_float=finite_number, strict=False)
