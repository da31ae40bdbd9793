"""Task rows of Parquet files, as the JSON text they would be in a JSONL file.

A table has a value in every column of every row, so null stands for "this row has no such key", at
every depth. A `responses_create_params` that is text is JSON, as files have it whose rows differ in
shape; other text is text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from gym_ray.errors import ConfigError, FileTorn
from gym_ray.store.places import parquet_file

PARQUET_SUFFIX = ".parquet"
_BATCH_ROWS = 256
_PARAMS = "responses_create_params"


def check_parquet(path: Path, key: str, *, raw: bool) -> None:
    """Refuse a file whose rows cannot be task rows.

    Args:
        path: the file.
        key: what messages call the place where it was named.
        raw: task rows are yet to be made of its rows, so it needs no prompts.

    Raises:
        ConfigError: no Parquet, no prompts, or a column of a type that JSON has not.
    """
    try:
        schema = parquet_file(path).schema_arrow
    except (FileTorn, OSError) as error:
        raise ConfigError(f"{key} {path}: is no Parquet file: {error}") from None
    if _PARAMS not in schema.names and not raw:
        raise ConfigError(
            f"{key} {path}: has no column {_PARAMS!r}; its columns are {', '.join(schema.names)}. "
            "Make task rows of it with a template: gym-ray prepare … --prompt YAML"
        )
    field = column_without_json(schema)
    if field is not None:
        raise ConfigError(
            f"{key} {path}: column {field.name!r} is {field.type}, which a task row "
            "cannot hold; cast it to text or a number"
        )


def column_without_json(schema: pa.Schema) -> pa.Field | None:
    """The first column whose values JSON cannot hold; None where there is none."""
    return next((field for field in schema if not _has_json(field.type)), None)


def parquet_rows(path: Path) -> Iterator[bytes]:
    """The rows of a checked file, a batch in memory at a time."""
    for batch in parquet_file(path).iter_batches(batch_size=_BATCH_ROWS):
        for row in batch.to_pylist(maps_as_pydicts="strict"):
            given = _without_nulls(row)
            params = given.get(_PARAMS)
            if isinstance(params, str):
                # Text that is no JSON stays text, and the row is told to have no params.
                given[_PARAMS] = _parsed(params)
            text = json.dumps(given, ensure_ascii=False, separators=(",", ":"))
            yield text.encode("utf-8", "surrogatepass")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _has_json(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_struct(kind):
        return all(_has_json(kind.field(index).type) for index in range(kind.num_fields))
    if types.is_map(kind):
        return _is_text(kind.key_type) and _has_json(kind.item_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _has_json(kind.value_type)
    if types.is_dictionary(kind):
        return _has_json(kind.value_type)
    simple = (types.is_null, types.is_boolean, types.is_integer, types.is_floating, _is_text)
    return any(is_kind(kind) for is_kind in simple)


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )
