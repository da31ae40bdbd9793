"""Values of a tool call's arguments, where a family writes them as text between tags.

Such a format has no quotes, so `5` may be the number or the text; the tool's schema decides. A
value that the schema allows as a string only is the text, exactly. Where it allows a string and
something else, JSON of the something else is read as that, and all other text is the string.

Covered: local `$ref`, `allOf`, `anyOf`, `oneOf`, lists of types, `enum`, `const`, no type at all.
Not owned here: whether arguments fit the schema in the end, which who carries them out checks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from gym_ray.json_schema import misfit

_ALL = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
#: What Python calls them; templates write values with `str`, and policies follow.
_PYTHON = {"True": True, "False": False, "None": None}
#: Schemas may refer to themselves.
_MAX_DEPTH = 32


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
    schema = _schema_of(name, parameters)
    types = _types(schema, parameters)
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
    if isinstance(value, str) or _type_of(value) not in types:
        return text
    # Both may be: what the whole schema refuses, as an enumeration does, is not meant.
    return (
        text if _fits(text, schema, parameters) and not _fits(value, schema, parameters) else value
    )


def _schema_of(name: str, parameters: dict[str, Any]) -> Any:
    found = list(_properties(name, parameters, parameters, 0))
    if not found:
        return parameters.get("additionalProperties", True)
    return found[0] if len(found) == 1 else {"anyOf": found}


def _properties(name: str, schema: Any, root: dict[str, Any], depth: int) -> Iterator[Any]:
    """Every schema of a property, wherever the object's schema has it."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and name in properties:
        yield properties[name]
    parts = [part for key in ("allOf", "anyOf", "oneOf") for part in _list(schema.get(key))]
    if "$ref" in schema:
        parts.append(_resolved(schema["$ref"], root))
    for part in parts:
        yield from _properties(name, part, root, depth + 1)


def _types(schema: Any, root: dict[str, Any], depth: int = 0) -> frozenset[str]:
    """The JSON types a schema allows; all of them where it says nothing that can be read."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return _ALL
    allowed = _ALL
    if "$ref" in schema:
        allowed &= _types(_resolved(schema["$ref"], root), root, depth + 1)
    named = schema.get("type")
    names = _ALL.intersection(name for name in _list(named, named) if isinstance(name, str))
    if names:
        allowed &= names | {"integer"} if "number" in names else names
    values = [schema["const"]] if "const" in schema else _list(schema.get("enum"))
    if values:
        allowed &= {_type_of(value) for value in values}
    for part in _list(schema.get("allOf")):
        allowed &= _types(part, root, depth + 1)
    for key in ("anyOf", "oneOf"):
        if branches := _list(schema.get(key)):
            allowed &= frozenset().union(*(_types(part, root, depth + 1) for part in branches))
    return allowed or _ALL


def _list(value: Any, other: Any = None) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if other is None else [other]


def _resolved(reference: Any, root: Any) -> Any:
    """What a reference within the schema leads to; True, which allows all, if nowhere."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return True
    for part in reference[1:].split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(root, Mapping) and part in root:
            root = root[part]
        elif isinstance(root, list) and part.isdecimal() and int(part) < len(root):
            root = root[int(part)]
        else:
            return True
    return root


def _type_of(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
        case None:
            return "null"
    return "object"


def _fits(value: Any, schema: Any, root: dict[str, Any]) -> bool:
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    whole = {**definitions, **schema} if isinstance(schema, Mapping) else schema
    try:
        return misfit(value, whole) is None
    except Exception:  # a reference that leads nowhere, or a schema that is none
        return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is too large")
    return number


DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, strict=False)
