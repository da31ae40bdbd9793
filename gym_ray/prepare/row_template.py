"""Row templates: task rows made of rows that others wrote in a shape of their own.

A YAML file says what the policy is told, `user` and perhaps `system` with `{field}` or
`{field.inner}` in them (`verifiers.templates` has the rules) or `input`, the field that holds the
messages; and under `fields` what an environment's fields are called there. Whatever a row has
already is never replaced: which of the two is meant?
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from gym_ray.config.section import Section
from gym_ray.errors import ConfigError
from gym_ray.task import invalid
from gym_ray.verifiers.templates import fill, names_in, value_of

_PARAMS = "responses_create_params"
_TEXT = "write {name:json} to have it as JSON, or name a field of it, such as {name.inner}"


class RowTemplate(Section):
    """The file's content."""

    user: str | None = pydantic.Field(None, min_length=1)
    """What the user says."""
    system: str | None = None
    """What is said before, if anything."""
    input: str | None = pydantic.Field(None, min_length=1)
    """The field that holds the messages, or the user's text, in place of `user`."""
    fields: dict[str, str] = pydantic.Field(default_factory=dict)
    """Fields of the task row, by path, and the paths of the fields they are filled from."""

    @pydantic.model_validator(mode="after")
    def _says_something(self) -> RowTemplate:
        if self.user is not None and self.input is not None:
            raise ValueError("user and input are both there, and one replaces the other")
        if self.user is None and self.input is None and (self.system or not self.fields):
            raise ValueError("neither user nor input is there")
        if any(target.partition(".")[0] == _PARAMS for target in self.fields):
            raise ValueError(f"fields cannot fill {_PARAMS}; user, system and input do")
        for target in self.fields:
            if not all(target.split(".")):
                raise ValueError(f"fields: {target!r} is no path; write names with a point between")
            inner = next((other for other in self.fields if other.startswith(f"{target}.")), None)
            if inner is not None:
                raise ValueError(f"fields fill {inner!r} and also all of {target!r}; keep one")
        return self

    @classmethod
    def read(cls, path: str) -> RowTemplate:
        """Read a template.

        Raises:
            ConfigError: there is none at `path`, or it is something else.
        """
        try:
            tree = yaml.safe_load(Path(path).read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"prompt {path}: cannot be read: {error}") from None
        try:
            return cls.model_validate(tree)
        except pydantic.ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
                for problem in error.errors()
            )
            raise ConfigError(
                f"prompt {path}: {problems}; write `user: …` (and, if wanted, `system: …`) or "
                "`input: FIELD`, and `fields: {TASK_FIELD: FIELD}` where names differ"
            ) from None

    def changes(self, row: Any) -> dict[str, Any]:
        """The top-level fields of a task row that a raw row lacks.

        Args:
            row: the parsed raw row.

        Returns:
            `responses_create_params`, unless the template has fields only, and the others it fills.

        Raises:
            RolloutFailure: `task_invalid`: a field is there already, or one that is asked for is
                not there, is null, or has a value that is no text.
        """
        if not isinstance(row, dict):
            raise invalid("is no JSON object; a raw row must be one")
        found: dict[str, Any] = {}
        if self.user is not None or self.input is not None:
            found[_PARAMS] = self._create_params(row)
        for target, source in self.fields.items():
            _set(found, row, target, _value(source, row))
        return found

    def _create_params(self, row: Mapping[str, Any]) -> dict[str, Any]:
        params = row.get(_PARAMS)
        params = {} if params is None else params
        if not isinstance(params, dict):
            raise invalid(f"field {_PARAMS!r} must be an object")
        if params.get("input") is not None:
            raise invalid(
                f"field '{_PARAMS}.input' is there already, and the template would replace it; "
                "prepare such rows without one, or with `fields` alone"
            )
        return {**params, "input": list(self._items(row))}

    def _items(self, row: Mapping[str, Any]) -> Iterator[Any]:
        if self.system is not None:
            yield {"role": "system", "content": _filled(self.system, row)}
        if self.user is not None:
            yield {"role": "user", "content": _filled(self.user, row)}
            return
        assert self.input is not None
        told = _value(self.input, row)
        if isinstance(told, str):
            yield {"role": "user", "content": told}
            return
        if not isinstance(told, list) or not told:
            raise invalid(f"field {self.input!r} must be the user's text or a list of messages")
        roles = [message.get("role") if isinstance(message, dict) else None for message in told]
        if self.system is not None and roles[0] in ("system", "developer"):
            raise invalid(f"field {self.input!r} begins with what the template's `system` says")
        if roles[-1] == "assistant":
            raise invalid(
                f"field {self.input!r} ends with the assistant's message, which the policy is to "
                "write; leave that message out"
            )
        yield from told


def _set(found: dict[str, Any], row: Mapping[str, Any], target: str, value: Any) -> None:
    """Set what a path names, in copies of the row's own objects."""
    first, *rest = target.split(".")
    if not rest:
        if row.get(first) is not None:
            raise invalid(f"field {target!r} is there already, and the template would replace it")
        found[first] = value
        return
    inner: Any = found.setdefault(first, dict(_object(row.get(first), first)))
    for key in rest[:-1]:
        inner[key] = dict(_object(inner.get(key), target))
        inner = inner[key]
    if inner.get(rest[-1]) is not None:
        raise invalid(f"field {target!r} is there already, and the template would replace it")
    inner[rest[-1]] = value


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"field {name!r} must be an object, as the template fills fields of it")
    return value


def _filled(template: str, row: Mapping[str, Any]) -> str:
    for name, as_json in names_in(template):
        value = _value(name, row)
        if isinstance(value, list | dict) and not as_json:
            kind = "a list" if isinstance(value, list) else "an object"
            hint = _TEXT.replace("name", name)
            raise invalid(f"field {name!r} of the template is {kind}, which is no text; {hint}")
    return fill(template, row)


def _value(name: str, row: Mapping[str, Any]) -> Any:
    """What a path names. Tables have a value in every column, so null is a field that is not there.

    Raises:
        RolloutFailure: `task_invalid`, it is not there.
    """
    try:
        value = value_of(name, row)
    except KeyError:
        nearest = difflib.get_close_matches(name, row, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise invalid(f"field {name!r} of the template is not there{hint}") from None
    if value is None:
        raise invalid(f"field {name!r} of the template is null, that is, not there")
    return value
