"""Columns: name, type and meaning in one place, from which schemas and docs/formats.md are made.

Meanings are not put into the files: every segment of a run would carry them in its footer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import pyarrow as pa


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column, or a part of a nested one.

    Attributes:
        name: of the column.
        type: of its values.
        meaning: for docs/formats.md.
        parts: what the struct, or each struct of the list, is made of.
        shape: what the parts are called together, where several columns have the same.
    """

    name: str
    type: pa.DataType
    meaning: str
    children: tuple[Column, ...] = ()
    shape: str = ""

    def renamed(self, name: str, meaning: str) -> Column:
        """A column of the same type that means something else."""
        return dataclasses.replace(self, name=name, meaning=meaning)


def struct(name: str, meaning: str, *children: Column) -> Column:
    """A column whose values have these parts."""
    return Column(name, pa.struct([(part.name, part.type) for part in children]), meaning, children)


def structs(name: str, meaning: str, *children: Column, shape: str = "") -> Column:
    """A column whose values are lists of what has these parts."""
    return Column(name, pa.list_(struct(name, meaning, *children).type), meaning, children, shape)


def schema_of(columns: Sequence[Column], metadata: dict[str, str] | None = None) -> pa.Schema:
    """The Arrow schema of a file that has these columns."""
    return pa.schema([(column.name, column.type) for column in columns], metadata=metadata)


def described(columns: Sequence[Column], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Name, type and meaning of every column and of its parts: `turns`, `turns[].stop_reason`.

    Parts that have a name together are left out.
    """
    for column in columns:
        if column.shape:
            yield f"{prefix}{column.name}", f"list<{column.shape}>", column.meaning
            continue
        yield f"{prefix}{column.name}", type_name(column.type), column.meaning
        joint = "[]." if pa.types.is_list(column.type) else "."
        yield from described(column.children, f"{prefix}{column.name}{joint}")


def type_name(kind: pa.DataType) -> str:
    """A type in the words of the docs: `list<int32>`, `map<string, float64>`, `list<struct>`."""
    if pa.types.is_map(kind):
        return f"map<{type_name(kind.key_type)}, {type_name(kind.item_type)}>"
    if pa.types.is_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return "struct"
    if pa.types.is_timestamp(kind):
        return f"timestamp[{kind.unit}, {kind.tz}]"
    # Arrow calls them by the C types.
    return {"double": "float64", "float": "float32"}.get(str(kind), str(kind))
