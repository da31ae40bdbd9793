"""Tools an environment offers: typed methods, and the JSON schema the policy is shown of them.

Owned here: turning a method into a definition, and its arguments into a call. Not owned here:
timeouts, size limits and what the policy is told when a call goes wrong (agents).

    >>> class Shop(Environment):                                       # doctest: +SKIP
    ...     @tool
    ...     async def price(self, state: Basket, item: str, count: int = 1) -> float:
    ...         '''Price of an item.
    ...
    ...         Args:
    ...             item: its name.
    ...             count: how many of it.
    ...         '''
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import pydantic

from gym_ray.errors import ConfigError, one_line

Method = TypeVar("Method", bound=Callable[..., Any])

#: Name of the argument that receives the rollout's state and is not shown to the policy.
STATE_ARGUMENT = "state"

_MARK = "__gym_ray_tool__"


class UnknownTool(LookupError):
    """There is no tool of this name."""


def tool(method: Method) -> Method:
    """Decorator: offer a method of an environment to the policy as a tool.

    The tool's name is the method's, its description the docstring up to `Args:`, its arguments
    the type hints (anything pydantic validates, JSON in) with the descriptions under `Args:`.
    An argument named `state` receives what `reset` returned. An `async def` runs on the
    replica's event loop and must not block; a plain `def` runs in a thread. Calls of one turn
    run at the same time. What is returned goes to the policy: text as it is, anything else as
    JSON. What is raised goes to the policy as an error, except a `RolloutFailure`, which fails
    the rollout.
    """
    setattr(method, _MARK, True)
    return method


@dataclasses.dataclass(frozen=True, slots=True)
class MethodTool:
    """One tool of an environment.

    Attributes:
        definition: as in a task row's `tools`.
        method: the bound method.
        arguments: pydantic model of what the policy passes.
        takes_state: whether the method asks for the rollout's state.
    """

    definition: dict[str, Any]
    method: Callable[..., Any]
    arguments: type[pydantic.BaseModel]
    takes_state: bool

    def bind(self, arguments: Mapping[str, Any], state: Any) -> dict[str, Any]:
        """Keyword arguments of the method.

        Raises:
            pydantic.ValidationError: the arguments do not fit.
        """
        checked = self.arguments.model_validate(arguments)
        # Only what was passed: the method's own defaults stay its own.
        given = {name: getattr(checked, name) for name in checked.model_fields_set}
        return {**given, STATE_ARGUMENT: state} if self.takes_state else given


def method_tools(owner: object) -> dict[str, MethodTool]:
    """Tools of an environment by name, in the order they are defined, base classes first.

    Raises:
        ConfigError: a tool's signature cannot be offered; names the argument.
    """
    return {name: _method_tool(owner, name) for name in tool_names(type(owner))}


def tool_names(owner: type) -> list[str]:
    """Names of the tools of an environment's class, in the order of `method_tools`."""
    names: dict[str, None] = {}
    for kind in reversed(owner.__mro__):
        names.update(dict.fromkeys(vars(kind)))
    return [name for name in names if getattr(getattr(owner, name, None), _MARK, False)]


def _method_tool(owner: object, name: str) -> MethodTool:
    method = getattr(owner, name)
    where = f"tool {type(owner).__name__}.{name}"
    text, described = _read_docstring(inspect.getdoc(method) or "")
    try:
        hints = typing.get_type_hints(method, include_extras=True)
    except Exception as error:
        raise ConfigError(f"{where}: its type hints cannot be read: {one_line(error)}") from error
    fields: dict[str, Any] = {}
    takes_state = False
    for argument in inspect.signature(method).parameters.values():
        if argument.name == STATE_ARGUMENT:
            takes_state = True
            continue
        if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
            raise ConfigError(f"{where}: argument {argument} cannot be passed by name")
        if argument.name not in hints:
            raise ConfigError(
                f"{where}: argument {argument.name!r} needs a type, e.g. {argument.name}: str"
            )
        default = ... if argument.default is argument.empty else argument.default
        fields[argument.name] = (
            hints[argument.name],
            pydantic.Field(default, description=described.get(argument.name)),
        )
    try:
        model: type[pydantic.BaseModel] = pydantic.create_model(
            name, __config__=pydantic.ConfigDict(extra="forbid"), **fields
        )
        schema = _without_titles(model.model_json_schema())
    except Exception as error:
        raise ConfigError(f"{where}: cannot be offered as JSON: {one_line(error)}") from error
    definition = {
        "type": "function",
        "name": name,
        "description": text,
        "parameters": {"properties": {}, **schema},
        "strict": False,
    }
    return MethodTool(definition, method, model, takes_state)


def _without_titles(schema: Any) -> Any:
    """A JSON schema without pydantic's titles, which only repeat the names."""
    if isinstance(schema, list):
        return [_without_titles(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _without_titles(part) for name, part in value.items()}
        if key in ("properties", "$defs")
        else _without_titles(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }


_SECTION = re.compile(r"(Args|Arguments|Returns|Raises|Yields|Example|Examples):\s*")
_ARGUMENT = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """What a docstring says of the whole, and of each argument under `Args:`."""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if _SECTION.fullmatch(line)]
    summary = "\n".join(lines[: starts[0]] if starts else lines).strip()
    described: dict[str, str] = {}
    for start, end in itertools.pairwise([*starts, len(lines)]):
        if lines[start].startswith("Arg"):
            described.update(_read_arguments(lines[start + 1 : end]))
    return summary, described


def _read_arguments(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Name and description of each argument; deeper indented lines continue the one above."""
    body = [line for line in lines if line.strip()]
    margin = min((len(line) - len(line.lstrip()) for line in body), default=0)
    name, words = "", [""]
    for line in body:
        opening = _ARGUMENT.fullmatch(line[margin:])
        if opening:
            if name:
                yield name, " ".join(words).strip()
            name, words = opening[1], [opening[2]]
        else:
            words.append(line.strip())
    if name:
        yield name, " ".join(words).strip()
