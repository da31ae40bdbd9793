"""Parquet as task input: the same tasks as the JSONL they were made from."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gym_ray.collection.input import TaskInput
from gym_ray.config.load import load_config
from gym_ray.errors import ConfigError
from gym_ray.task import parse_task

Row = Callable[..., dict[str, Any]]


def lines_of(name: Any) -> list[tuple[int, dict[str, Any]]]:
    config = load_config({"environments": {"math": {}}, "collect": {"input": str(name)}})
    return [(line.source_line, json.loads(line.raw)) for line in TaskInput(config, {}).lines()]


def test_rows_are_those_of_the_jsonl_file_with_the_same_ids(
    tmp_path: Path, make_row: Row, write_lines: Callable[..., Path]
) -> None:
    rows = [make_row("one é", expected_answer="1"), make_row("two", level=3, tags=["a"])]
    rows[1]["responses_create_params"]["temperature"] = 0.5
    pq.write_table(pa.Table.from_pylist(rows, schema=_schema(rows)), tmp_path / "tasks.parquet")

    found = lines_of(tmp_path / "tasks.parquet")

    assert found == list(enumerate(rows, start=1))
    assert found == lines_of(write_lines(rows))
    parsed = parse_task(
        json.dumps(found[0][1]).encode(), task_index=0, source_file="t", source_line=1
    )
    assert parsed.row == rows[0]


def _schema(rows: list[dict[str, Any]]) -> pa.Schema:
    params = pa.struct(
        [
            ("input", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            ("temperature", pa.float64()),
        ]
    )
    return pa.schema(
        [
            ("responses_create_params", params),
            ("expected_answer", pa.string()),
            ("level", pa.int64()),
            ("tags", pa.list_(pa.string())),
        ]
    )


def test_params_may_be_json_text_and_files_be_globbed_together(
    tmp_path: Path, make_row: Row
) -> None:
    for name in ("b", "a"):
        row = make_row(name)
        table = pa.table({"responses_create_params": [json.dumps(row["responses_create_params"])]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    (tmp_path / "c.jsonl").write_text(json.dumps(make_row("c")) + "\n")

    assert lines_of(tmp_path / "*.*") == [
        (1, make_row("a")),
        (1, make_row("b")),
        (1, make_row("c")),
    ]


def test_text_that_is_no_json_is_an_invalid_row_not_a_crash(tmp_path: Path) -> None:
    pq.write_table(pa.table({"responses_create_params": ["{broken"]}), tmp_path / "t.parquet")

    assert lines_of(tmp_path / "t.parquet") == [(1, {"responses_create_params": "{broken"})]


def test_files_that_hold_no_tasks_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["?"]}), tmp_path / "q.parquet")
    when = pa.table({"responses_create_params": ["{}"], "when": [datetime.date(2026, 1, 1)]})
    pq.write_table(when, tmp_path / "d.parquet")
    (tmp_path / "n.parquet").write_text("no")

    for name, says in (
        ("q", "no column 'responses_create_params'; its columns are question"),
        ("d", "column 'when' is date32"),
        ("n", "is no Parquet file"),
    ):
        with pytest.raises(ConfigError, match=says):
            lines_of(tmp_path / f"{name}.parquet")
