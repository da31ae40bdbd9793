"""What a tool's schema says about one argument, in a time that no schema can stretch.

Schemas come with rows and values from the policy, and both are read where the event loop waits. So
every part of a schema is read once, however often references and alternatives lead to it, and
patterns are not tried: whether arguments fit in the end is asked where it may take its time.

Covered: local `$ref`, `allOf`, `anyOf`, `oneOf`, types, `enum`, `const`, bounds of numbers and of
lengths, `required`, and the parts of objects and arrays. All else is taken to fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ALL_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})

#: Schemas are no deeper than this, or what is below allows all.
_MAX_DEPTH = 32
#: Parts of a schema that are held against parts of a value; beyond it the rest is taken to fit.
_MOST_STEPS = 20_000
#: Digits of a position in a list.
_MAX_DIGITS = 9

#: Bounds, by what they bound: the smallest, or the largest.
_AT_LEAST = {"minimum": "number", "minLength": "string", "minItems": "array"}
_AT_MOST = {"maximum": "number", "maxLength": "string", "maxItems": "array"}


class SchemaReader:
    """Reads the schema of one tool's arguments.

    Args:
        parameters: the schema, which references in it lead into.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._root = parameters
        self._types: dict[int, frozenset[str]] = {}

    def property(self, name: str) -> Any:
        """The schema of an argument, wherever the schema has it."""
        found = list(self._properties(name, self._root, set(), 0))
        if not found:
            return self._root.get("additionalProperties", True)
        return found[0] if len(found) == 1 else {"anyOf": found}

    def types(self, schema: Any) -> frozenset[str]:
        """The JSON types a schema allows; all of them where it says nothing that can be read."""
        return self._types_of(schema, 0) or ALL_TYPES

    def fits(self, value: Any, schema: Any) -> bool:
        """Whether nothing that is looked at here refuses a value."""
        try:
            return _Fit(self).of(value, schema, 0)
        except RecursionError:  # two values of endless depth were compared
            return True

    def resolved(self, reference: Any) -> Any:
        """What a reference within the schema leads to; True, which allows all, if nowhere."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return True
        found: Any = self._root
        for part in reference[1:].split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and part in found:
                found = found[part]
            elif isinstance(found, list) and _position(part) < len(found):
                found = found[_position(part)]
            else:
                return True
        return found

    def _properties(self, name: str, schema: Any, seen: set[int], depth: int) -> Iterator[Any]:
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or id(schema) in seen:
            return
        seen.add(id(schema))
        properties = schema.get("properties")
        if isinstance(properties, Mapping) and name in properties:
            yield properties[name]
        parts = [part for key in ("allOf", "anyOf", "oneOf") for part in list_of(schema.get(key))]
        if "$ref" in schema:
            parts.append(self.resolved(schema["$ref"]))
        for part in parts:
            yield from self._properties(name, part, seen, depth + 1)

    def _types_of(self, schema: Any, depth: int) -> frozenset[str]:
        """None where a schema contradicts itself, or leads nowhere but back to itself."""
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return ALL_TYPES
        if id(schema) not in self._types:
            self._types[id(schema)] = frozenset()
            self._types[id(schema)] = self._read_types(schema, depth + 1)
        return self._types[id(schema)]

    def _read_types(self, schema: Mapping[str, Any], depth: int) -> frozenset[str]:
        allowed = ALL_TYPES
        named = list_of(schema.get("type")) or [schema.get("type")]
        names = ALL_TYPES.intersection(name for name in named if isinstance(name, str))
        if names:
            allowed &= names | {"integer"} if "number" in names else names
        values = [schema["const"]] if "const" in schema else list_of(schema.get("enum"))
        if values:
            allowed &= {type_of(value) for value in values}
        all_of = list_of(schema.get("allOf"))
        if "$ref" in schema:
            all_of = [*all_of, self.resolved(schema["$ref"])]
        for part in all_of:
            allowed &= self._types_of(part, depth)
        for key in ("anyOf", "oneOf"):
            if branches := list_of(schema.get(key)):
                allowed &= frozenset().union(*(self._types_of(part, depth) for part in branches))
        return allowed


class _Fit:
    """One value held against one schema."""

    def __init__(self, reader: SchemaReader) -> None:
        self._reader = reader
        self._steps = 0
        self._seen: set[tuple[int, int]] = set()

    def of(self, value: Any, schema: Any, depth: int) -> bool:
        if isinstance(schema, bool):
            return schema
        met = (id(value), id(schema))
        enough = depth > _MAX_DEPTH or self._steps > _MOST_STEPS or met in self._seen
        if not isinstance(schema, Mapping) or enough:
            return True
        self._steps += 1
        self._seen.add(met)
        try:
            return self._fits(value, schema, depth + 1)
        finally:
            self._seen.discard(met)

    def _fits(self, value: Any, schema: Mapping[str, Any], depth: int) -> bool:
        if not (self._is_meant(value, schema) and _is_within(value, schema)):
            return False
        all_of = list_of(schema.get("allOf"))
        if "$ref" in schema:
            all_of = [*all_of, self._reader.resolved(schema["$ref"])]
        return (
            all(self.of(value, part, depth) for part in all_of)
            and all(
                any(self.of(value, part, depth) for part in branches)
                for key in ("anyOf", "oneOf")
                if (branches := list_of(schema.get(key)))
            )
            and all(self.of(part, of, depth) for part, of in _parts(value, schema))
        )

    def _is_meant(self, value: Any, schema: Mapping[str, Any]) -> bool:
        """Whether its type is named, and the value itself where values are."""
        named = list_of(schema.get("type")) or [schema.get("type")]
        names = ALL_TYPES.intersection(name for name in named if isinstance(name, str))
        kind = type_of(value)
        if names and kind not in names and not (kind == "integer" and "number" in names):
            return False
        values = [schema["const"]] if "const" in schema else list_of(schema.get("enum"))
        self._steps += len(values)
        return not values or any(type_of(one) == kind and one == value for one in values)


def _is_within(value: Any, schema: Mapping[str, Any]) -> bool:
    kind = type_of(value)
    kind = "number" if kind == "integer" else kind
    size = value if kind == "number" else len(value) if kind in ("string", "array") else 0
    for word, bounded in (*_AT_LEAST.items(), *_AT_MOST.items()):
        bound = schema.get(word)
        if bounded != kind or isinstance(bound, bool) or not isinstance(bound, int | float):
            continue
        if size < bound if word in _AT_LEAST else size > bound:
            return False
    required = list_of(schema.get("required"))
    return kind != "object" or all(name in value for name in required if isinstance(name, str))


def _parts(value: Any, schema: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Parts of an object or array, each with its schema."""
    if isinstance(value, list):
        for part in value if "items" in schema and "prefixItems" not in schema else ():
            yield part, schema["items"]
        return
    properties = schema.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    open_to = True if "patternProperties" in schema else schema.get("additionalProperties", True)
    for name, part in value.items() if isinstance(value, Mapping) else ():
        yield part, known.get(name, open_to)


def list_of(value: Any) -> list[Any]:
    """The value where it is a list, else none."""
    return value if isinstance(value, list) else []


def type_of(value: Any) -> str:
    """What JSON calls the type of a value."""
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


def _position(part: str) -> int:
    return int(part) if part.isdecimal() and len(part) <= _MAX_DIGITS else 10**_MAX_DIGITS
