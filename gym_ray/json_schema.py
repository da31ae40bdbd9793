"""Whether a value fits a JSON Schema.

Owned here: which draft and which formats are checked, of a tool's arguments as of an answer.
References outside the schema are not followed: a task row must not make a replica fetch addresses.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Hashable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from gym_ray.errors import one_line

#: Formats whose check needs nothing but the standard library, so that it is the same everywhere.
_FORMATS = ("date", "email", "ipv4", "ipv6", "uuid")
#: Beyond these a message says where it went wrong but not everything that did.
_PROBLEM_CHARACTERS = 200
_MISFIT_CHARACTERS = 2000


def schema_problem(schema: Any) -> str | None:
    """Why `schema` is no JSON Schema; None when it is one."""
    if not isinstance(schema, Mapping | bool):
        return f"is a {type(schema).__name__}, not an object"
    try:
        return _schema_problem(json.dumps(schema))
    except RecursionError:
        return "is nested too deeply"


def misfit(value: Any, schema: Any) -> str | None:
    """Where `value` does not fit `schema` and why; None when it fits.

    Raises:
        Exception: the schema cannot be applied, e.g. a reference in it leads nowhere.
    """
    from jsonschema.exceptions import best_match

    problem = best_match(_validator(json.dumps(schema)).iter_errors(value))
    if problem is None:
        return None
    return f"{problem.json_path}: {problem.message[:_MISFIT_CHARACTERS]}"


@functools.lru_cache(maxsize=4096)  # a check takes tens of milliseconds, and each task has many
def _schema_problem(schema: str) -> str | None:
    from jsonschema.exceptions import best_match

    try:
        parsed = json.loads(schema)
        draft = _draft(parsed)
        problem = best_match(draft(draft.META_SCHEMA).iter_errors(parsed))
        return None if problem is None else str(problem.message)[:_PROBLEM_CHARACTERS]
    except Exception as error:  # what the library does with odder things
        return one_line(error, _PROBLEM_CHARACTERS)


@functools.lru_cache(maxsize=4096)
def _validator(schema: str) -> Any:
    from jsonschema import FormatChecker
    from referencing import Registry

    formats = FormatChecker(_FORMATS)
    formats.checks("date-time")(_is_date_time)
    parsed = json.loads(schema)
    return _draft(parsed)(parsed, registry=Registry(), format_checker=formats)


def _draft(schema: Any) -> Any:
    """The validator of the draft a schema is of."""
    from jsonschema.validators import Draft202012Validator, validator_for

    return _with_quick_words(validator_for(schema, default=Draft202012Validator))


@functools.cache
def _with_quick_words(draft: Any) -> Any:
    """A validator whose every word takes no longer than the value is large, where the library
    compares the items of a mixed array all with all, and divides decimals as they are written.
    """
    import attrs
    from jsonschema.validators import extend

    words = {"uniqueItems": _unique_items, "multipleOf": _is_multiple, "divisibleBy": _is_multiple}
    known = {name: word for name, word in words.items() if name in draft.VALIDATORS}
    quick: Any = extend(draft, known)
    evolve = quick.evolve

    def evolved(self: Any, **changes: Any) -> Any:
        """The validator of a part, which the library takes from its own where the part is of a
        draft that it names, as the drafts' own schemas do.
        """
        part = evolve(self, **changes)
        if getattr(type(part), "is_quick", False):
            return part
        fields = [field for field in attrs.fields(type(part)) if field.init]
        given = {field.alias: getattr(part, field.name) for field in fields}
        kind: Any = type(part)
        return _with_quick_words(kind)(**given)

    quick.evolve, quick.is_quick = evolved, True
    return quick


def _unique_items(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if not wanted or not validator.is_type(instance, "array"):
        return
    if len({_identity(item) for item in instance}) < len(instance):
        yield ValidationError(f"{instance!r} has non-unique elements")


def _identity(value: Any) -> Hashable:
    """What two JSON values have in common exactly when they are equal: 1 is 1.0 and not true."""
    match value:
        case bool():
            return (bool, value)
        case Mapping():
            return frozenset((name, _identity(part)) for name, part in value.items())
        case list():
            return tuple(map(_identity, value))
    hashable: Hashable = value
    return hashable


def _is_multiple(validator: Any, step: Any, value: Any, schema: Any) -> Iterator[Any]:
    """Whether the decimals as written divide: 19.99 is a multiple of 0.01, if no float says so."""
    from jsonschema.exceptions import ValidationError

    if not validator.is_type(value, "number"):
        return
    try:
        is_multiple = (Fraction(str(value)) / Fraction(str(step))).denominator == 1
    except (ValueError, ZeroDivisionError):  # an infinite number, or steps of nothing
        is_multiple = False
    if not is_multiple:
        yield ValidationError(f"{value!r} is not a multiple of {step}")


def _is_date_time(value: object) -> bool:
    """RFC 3339: a date, `T`, a time with seconds, and an offset."""
    if not isinstance(value, str):
        return True
    if not re.fullmatch(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", value):
        return False
    try:
        datetime.datetime.fromisoformat(f"{value[:10]}T{value[11:19]}")
    except ValueError:
        return False
    return True
