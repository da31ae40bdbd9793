"""Rows in shapes of others become task rows by a template, and by nothing else of a user's."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gym_ray.errors import ConfigError, RolloutFailure
from gym_ray.prepare import TaskFile, prepare
from gym_ray.prepare.row_template import RowTemplate

Row = dict[str, Any]

USER = {"role": "user", "content": "How many?"}

#: Published shapes: environment, template, a row, and the fields the task row must have.
SHAPES: dict[str, tuple[str, Row, Row, Row]] = {
    "GSM8K": (
        "math",
        {"user": "{question}", "fields": {"expected_answer": "answer"}},
        {"question": "How many?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
        {"expected_answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
    ),
    "verl": (
        "math",
        {"input": "prompt", "fields": {"expected_answer": "reward_model.ground_truth"}},
        {
            "data_source": "gsm8k",
            "prompt": [USER],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "7"},
        },
        {"expected_answer": "7"},
    ),
    "open-instruct": (
        "math",
        {"input": "messages", "fields": {"expected_answer": "ground_truth"}},
        {"messages": [USER], "ground_truth": "7", "dataset": "gsm8k"},
        {"expected_answer": "7"},
    ),
    "open-instruct's programs": (
        "code",
        {"input": "question", "fields": {"verifier_metadata.unit_tests.asserts": "test_cases"}},
        {"question": "How many?", "test_cases": ["assert f(1) == 2"]},
        {"verifier_metadata": {"unit_tests": {"asserts": ["assert f(1) == 2"]}}},
    ),
    "OpenAI evals": (
        "string_match",
        {"input": "input", "fields": {"expected_answer": "ideal"}},
        {"input": [{"role": "system", "content": "Count."}, USER], "ideal": "7"},
        {"expected_answer": "7"},
    ),
}


def jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def zipped(path: Path, rows: list[Row]) -> Path:
    path = path.with_suffix(".jsonl.gz")
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def parquet(path: Path, rows: list[Row]) -> Path:
    path = path.with_suffix(".parquet")
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def prepared(folder: Path, environment: str, template: Row, path: Path) -> list[Row]:
    (folder / "template.yaml").write_text(yaml.safe_dump(template))
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"environments": {environment: {}}}))
    task_file = TaskFile("train", str(path), environment, prompt=str(folder / "template.yaml"))
    report = prepare(config, folder / "out", task_files=[task_file], quiet=True)
    assert [rejected.reason for rejected in report.rejections] == []
    return [json.loads(line) for line in (folder / "out" / "train.jsonl").open()]


@pytest.mark.parametrize("write", [jsonl, zipped, parquet])
@pytest.mark.parametrize("shape", SHAPES)
def test_published_shapes_need_a_template_and_no_script(
    tmp_path: Path, shape: str, write: Callable[[Path, list[Row]], Path]
) -> None:
    environment, template, raw, fields = SHAPES[shape]
    # A second row without a field of the first: a table then has a null there.
    rows = [raw, {**raw, "note": "more"}]

    found = prepared(tmp_path, environment, template, write(tmp_path / "raw.jsonl", rows))

    assert len(found) == 2
    for row in found:
        assert row.items() >= fields.items()
        assert row["responses_create_params"]["input"][-1] == USER
    told = found[0]["responses_create_params"]["input"]
    assert len(told) == (2 if shape == "OpenAI evals" else 1)


@pytest.mark.parametrize(
    ("template", "row", "reason"),
    [
        ({"user": "{q}"}, {"q": None}, "field 'q' of the template is null"),
        ({"user": "{q}"}, {"p": 1}, "field 'q' of the template is not there"),
        ({"user": "{question}"}, {"qestion": 1}, "did you mean 'qestion'"),
        ({"user": "{q}"}, {"q": [USER]}, "is a list, which is no text; write {q:json}"),
        ({"user": "{q.a}"}, {"q": {"a": {"b": 1}}}, "is an object, which is no text"),
        ({"input": "m"}, {"m": 7}, "must be the user's text or a list of messages"),
        ({"input": "m"}, {"m": []}, "must be the user's text or a list of messages"),
        ({"input": "m"}, {"m": [USER, {"role": "assistant", "content": "7"}]}, "ends with the"),
        (
            {"input": "m", "system": "Count."},
            {"m": [{"role": "system", "content": "Talk."}, USER]},
            "begins with what the template's `system` says",
        ),
        ({"fields": {"a": "b"}}, {"a": 1, "b": 2}, "field 'a' is there already"),
        ({"fields": {"a.b": "c"}}, {"a": {"b": 1}, "c": 2}, "field 'a.b' is there already"),
        ({"fields": {"a.b": "c"}}, {"a": 1, "c": 2}, "field 'a' must be an object"),
        (
            {"user": "hi"},
            {"responses_create_params": {"input": "hello"}},
            "field 'responses_create_params.input' is there already",
        ),
        ({"user": "hi"}, [1], "is no JSON object"),
    ],
)
def test_a_row_that_does_not_fit_its_template_is_told_why(
    template: Row, row: Any, reason: str
) -> None:
    with pytest.raises(RolloutFailure) as caught:
        RowTemplate.model_validate(template).changes(row)
    assert reason in caught.value.message


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"system": "Be brief."},
        {"user": "{q}", "input": "q"},
        {"fields": {"responses_create_params.input": "q"}},
        {"user": "{q}", "filds": {}},
        {"fields": {"meta": "m", "meta.unit": "u"}},
        {"fields": {"meta.unit": "u", "meta": "m"}},
        {"fields": {"meta..unit": "u"}},
        {"fields": {"": "u"}},
    ],
)
def test_a_template_that_says_nothing_or_two_things_is_refused(tmp_path: Path, tree: Row) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=r"write `user: …`"):
        RowTemplate.read(str(path))


def test_values_are_json_where_that_is_asked_for() -> None:
    template = RowTemplate(user="{n} of {all:json}, {{n:json}}, {name:json}")
    (message,) = template.changes({"n": 2, "all": [1, "é"], "name": "a"})[
        "responses_create_params"
    ]["input"]
    assert message["content"] == '2 of [1, "é"], {n:json}, "a"'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner),
    max_leaves=8,
)
PATHS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map(".".join)
TARGETS = st.dictionaries(PATHS, PATHS, min_size=1).filter(
    lambda fields: not any(one.startswith(f"{other}.") for one in fields for other in fields)
)


@given(st.dictionaries(st.sampled_from("abcd"), JSON), TARGETS)
def test_what_a_row_says_is_never_replaced(row: Row, fields: dict[str, str]) -> None:
    before = json.dumps(row)
    try:
        changes = RowTemplate(fields=fields).changes(row)
    except RolloutFailure:
        return
    finally:
        assert json.dumps(row) == before
    assert _kept(row, {**row, **changes})


def _kept(before: Any, after: Any) -> bool:
    if isinstance(before, dict) and isinstance(after, dict):
        return all(_kept(value, after.get(key)) for key, value in before.items())
    return before is None or before == after
