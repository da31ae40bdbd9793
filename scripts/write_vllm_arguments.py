"""Write gym_ray/policies/vllm_arguments.json: the engine arguments of the vLLM that is installed.

`gym-ray` reads it before it starts anything, where importing vLLM would take ten seconds.

    python scripts/write_vllm_arguments.py

Of an argument's values it holds what is sure: vLLM checks most of them as fields of its pydantic
configs, and where such a field is plain (true or false, a number, a text, one of some words, a
bound) that is what an argument takes. Where vLLM changes a value before it checks it, or takes a
config of its own, nothing is said of the values.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any

import torch
import vllm
from vllm.engine import arg_utils

from gym_ray.policies.vllm_arguments import TABLE

_PLAIN = {bool: "bool", int: "int", float: "float", str: "str"}
_BOUNDS = ("ge", "gt", "le", "lt")

#: Validators that leave every value but null as it is.
_HARMLESS = ("skip_none",)

#: Types of values that no config file holds, beside those that it does.
_UNWRITABLE = (torch.dtype, type(None))


def table() -> dict[str, Any]:
    """What the file holds."""
    owners = {
        name: owner
        for cls in reversed(arg_utils.AsyncEngineArgs.__mro__[:-1])
        for name, owner in _owners(cls)
    }
    fields = sorted(dataclasses.fields(arg_utils.AsyncEngineArgs), key=lambda field: field.name)
    return {
        "version": vllm.__version__.partition("+")[0],
        "arguments": {
            field.name: _takes(field.type, owners.get(field.name))
            for field in fields
            if not field.name.startswith("_")
        },
    }


def text() -> str:
    """The file: a line for each argument."""
    made = table()
    rows = ",\n".join(
        f"    {json.dumps(name)}: {json.dumps(takes)}" for name, takes in made["arguments"].items()
    )
    return f'{{\n  "version": {json.dumps(made["version"])},\n  "arguments": {{\n{rows}\n  }}\n}}\n'


def _owners(cls: type) -> Iterator[tuple[str, tuple[str, str]]]:
    """By argument, the config and its field that the default comes from: `Config.field`, or
    `get_field(Config, "field")`."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    for statement in tree.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        match statement.value:
            case ast.Attribute(value=ast.Name(id=config), attr=field):
                yield statement.target.id, (config, field)
            case ast.Call(
                func=ast.Name(id="get_field"), args=[ast.Name(id=config), ast.Constant(value=field)]
            ):
                yield statement.target.id, (config, field)


def _takes(annotation: Any, owner: tuple[str, str] | None) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    if owner is not None:
        config, name = getattr(arg_utils, owner[0]), owner[1]
        field = getattr(config, "__pydantic_fields__", {}).get(name)
        if field is None or _is_changed(config, name):
            return {}
        annotation = field.annotation
        for constraint in field.metadata:
            found = {bound: getattr(constraint, bound, None) for bound in _BOUNDS}
            bounds |= {bound: limit for bound, limit in found.items() if limit is not None}
    kinds, values = _of(annotation)
    # Words that no config checks may be read in other ways, too.
    if kinds is None or (owner is None and values):
        return {}
    if "str" in kinds:
        values = {value for value in values if not isinstance(value, str)}
    takes = {"kinds": sorted(kinds), "values": sorted(values, key=str)}
    return {**{key: value for key, value in takes.items() if value}, **bounds}


def _is_changed(config: Any, field: str) -> bool:
    """Whether vLLM may change a value of a field before it checks it."""
    decorators = config.__pydantic_decorators__
    return any(
        (field in validator.info.fields or "*" in validator.info.fields)
        and validator.info.mode != "after"
        and not any(harmless in name for harmless in _HARMLESS)
        for name, validator in decorators.field_validators.items()
    )


def _of(annotation: Any) -> tuple[set[str] | None, set[Any]]:
    """Kinds and single values an annotation stands for; None for the kinds where it holds more."""
    if annotation in _PLAIN:
        return {_PLAIN[annotation]}, set()
    if annotation in _UNWRITABLE:
        return set(), set()
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return set(), set(typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        parts = [_of(part) for part in typing.get_args(annotation)]
        if any(kinds is None for kinds, _ in parts):
            return None, set()
        return set().union(*(kinds or () for kinds, _ in parts)), set().union(
            *(values for _, values in parts)
        )
    return None, set()


if __name__ == "__main__":
    TABLE.write_text(text())
    print(f"{TABLE}: {len(table()['arguments'])} arguments of vLLM {vllm.__version__}")
