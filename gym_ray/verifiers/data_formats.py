"""Data written as JSON, YAML or TOML, read as JSON values.

Owned here: what counts as well-formed. Stricter than the libraries where a text could be read in
two ways: duplicate keys, numbers JSON does not have, and YAML anchors are refused. YAML is read by
the core schema of version 1.2, so `no` is a word and `2024-05-01` is text.
"""

from __future__ import annotations

import datetime
import functools
import math
import re
import tomllib
from typing import Any

from gym_ray import strict_json


class Unreadable(ValueError):
    """A text is not well-formed in its format."""


def parse_json(text: str) -> Any:
    """The value a JSON text is.

    Raises:
        Unreadable: it is none.
    """
    try:
        return strict_json.parse_json(text)
    except strict_json.InvalidJson as error:
        raise Unreadable(f"no JSON: it {error}") from None


def parse_yaml(text: str) -> Any:
    """The value a YAML text is; keys are text as it is written.

    Raises:
        Unreadable: it is none, or several documents, or has anchors.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_yaml_loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unreadable(f"no YAML: {' '.join(str(error).split())}") from None


def parse_toml(text: str) -> Any:
    """The value a TOML text is; dates and times as ISO 8601 text.

    Raises:
        Unreadable: it is none.
    """
    try:
        return _as_json(tomllib.loads(text))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"no TOML: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large for a number")
    return number


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_as_json(part) for part in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no JSON number")
    return value


@functools.cache
def _yaml_loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe loader with YAML 1.2's scalars, and none of what makes a text ambiguous."""

        yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

        def compose_node(self, parent: Any, index: Any) -> Any:
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise ValueError("anchors and aliases are refused")
            if getattr(event, "tag", None):
                raise ValueError(f"tag {event.tag} is refused")
            return super().compose_node(parent, index)

    def mapping(loader: Any, node: Any) -> dict[str, Any]:
        pairs = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError("a key is not text")
            pairs.append((key.value, loader.construct_object(value, deep=True)))
        return _object(pairs)

    def integer(loader: Any, node: Any) -> int:
        return int(node.value, {"0o": 8, "0x": 16}.get(node.value[:2], 10))

    def number(loader: Any, node: Any) -> float:
        return _finite(node.value)

    def boolean(loader: Any, node: Any) -> bool:
        return bool(node.value.lower() == "true")

    tag = "tag:yaml.org,2002:"
    Loader.add_constructor(f"{tag}map", mapping)
    Loader.add_constructor(f"{tag}int", integer)
    Loader.add_constructor(f"{tag}float", number)
    Loader.add_constructor(f"{tag}bool", boolean)
    for name, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ):
        Loader.add_implicit_resolver(f"{tag}{name}", re.compile(rf"(?:{pattern})\Z"), first)
    return Loader
