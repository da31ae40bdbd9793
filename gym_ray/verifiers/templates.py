"""Prompt templates filled with what a row and a reply hold.

Unlike `str.format`: a name is a path of keys and nothing else (no attributes, no conversions), what
is filled in is never read as template again, and braces that hold no name stay as they are, so JSON
and LaTeX can stand in a template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_NAME = re.compile(r"\{\{([A-Za-z_][\w.]*(?::json)?)\}\}|\{([A-Za-z_][\w.]*)(:json)?\}")


def names_in(template: str) -> list[tuple[str, bool]]:
    """Names a template is filled with, in order, each once, and whether as JSON (`{name:json}`).

    >>> names_in('{question} in \\\\frac{1}{2}, as {"a": 1}, not {{kept}}: {meta.topic:json}')
    [('question', False), ('meta.topic', True)]
    """
    found = ((match.group(2), match.group(3) is not None) for match in _NAME.finditer(template))
    return list(dict.fromkeys((name, as_json) for name, as_json in found if name))


def value_of(name: str, values: Mapping[str, Any]) -> Any:
    """The value at a path of keys, `a.b` for `values["a"]["b"]`.

    Raises:
        KeyError: there is none.
    """
    found: Any = values
    for key in name.split("."):
        if not isinstance(found, Mapping) or key not in found:
            raise KeyError(name)
        found = found[key]
    return found


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The template with every `{name}` replaced; `{{name}}` becomes `{name}`.

    Text goes in as it is, anything else as JSON, and so does what is named `{name:json}`.

    >>> fill("{{a}} {a} {b.c} {", {"a": "{b}", "b": {"c": [1]}})
    '{a} {b} [1] {'

    Raises:
        KeyError: a name has no value.
    """

    def replaced(match: re.Match[str]) -> str:
        if match.group(1):
            return f"{{{match.group(1)}}}"
        value = value_of(match.group(2), values)
        as_text = isinstance(value, str) and match.group(3) is None
        return value if as_text else json.dumps(value, ensure_ascii=False)

    return _NAME.sub(replaced, template)
