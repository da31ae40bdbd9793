"""A file with 25 kinds of broken rows: `prepare` finds exactly those, and touches no other."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from gym_ray.prepare import TaskFile, prepare

INPUT = {"input": [{"role": "user", "content": "1 + 1?"}]}
MATH = {"responses_create_params": INPUT, "expected_answer": "2"}


def params(**changes: Any) -> dict[str, Any]:
    return {**MATH, "responses_create_params": {**INPUT, **changes}}


def item(**fields: Any) -> dict[str, Any]:
    return params(input=[fields])


#: Kind of broken row: the row or its text, the field and a part of the reason to be reported.
BROKEN: dict[str, tuple[Any, str | None, str]] = {
    "not JSON": ('{"responses_create_params": {', None, "is not JSON"),
    "two objects on a line": (json.dumps(MATH) * 2, None, "is not JSON"),
    "NaN": ('{"score": NaN, ' + json.dumps(MATH)[1:], None, "NaN is no JSON number"),
    "not UTF-8": (b'{"question": "\xff"}', None, "is not UTF-8 text"),
    "too deep": ("[" * 100_000, None, "nested too deeply"),
    "not an object": ([MATH], None, "must be an object"),
    "a field twice": (
        '{"expected_answer": "3", ' + json.dumps(MATH)[1:], "expected_answer", "twice"),
    "half a surrogate pair": ({**MATH, "note": "\ud800"}, None, "half of a surrogate pair"),
    "no create params": ({"expected_answer": "2"}, "responses_create_params", "has no"),
    "create params no object": (
        {**MATH, "responses_create_params": "1 + 1?"}, "responses_create_params", "an object"),
    "unknown parameter": (
        params(temprature=1), "responses_create_params.temprature", "did you mean 'temperature'?"),
    "no input": (
        {**MATH, "responses_create_params": {}}, "responses_create_params.input", "no 'input'"),
    "empty input": (params(input=[]), "responses_create_params.input", "is empty"),
    "input of another type": (params(input=7), "responses_create_params.input", "list of messages"),
    "unknown item type": (item(type="image"), "responses_create_params.input[0].type", "one of"),
    "unknown role": (
        item(role="teacher", content="?"), "responses_create_params.input[0].role", "one of"),
    "no content": (item(role="user"), "responses_create_params.input[0].content", "a string"),
    "a part without text": (
        item(role="user", content=[{"type": "input_image"}]),
        "responses_create_params.input[0].content[0]", "text part"),
    "a call without an ID": (
        item(type="function_call", name="add", arguments="{}"),
        "responses_create_params.input[0].call_id", "a string"),
    "instructions no text": (
        params(instructions=["Be brief."]), "responses_create_params.instructions", "a string"),
    "a tool without a name": (
        params(tools=[{"type": "function"}]), "responses_create_params.tools[0]", "name"),
    "tool parameters no schema": (
        params(tools=[{"type": "function", "name": "f", "parameters": {"type": "objekt"}}]),
        "responses_create_params.tools[0].parameters", "no JSON schema"),
    "temperature out of range": (
        params(temperature=3), "responses_create_params.temperature", "from 0 to 2"),
    "a parameter of the wrong type": (
        params(metadata="x"), "responses_create_params.metadata", "an object"),
    "no expected answer": (
        {"responses_create_params": INPUT}, "expected_answer", "Field required"),
    "an agent nobody answers to": (
        {**MATH, "agent_ref": {"name": "maths"}}, "agent_ref", "did you mean 'math'?"),
    "another environment's agent": (
        {**MATH, "agent_ref": {"name": "mcqa"}}, "agent_ref", "is environment mcqa's"),
}  # fmt: skip

AGENT = '"agent_ref": {"type": "responses_api_agents", "name": "math"}'

#: Rows as they stand in the file, and as they are to be written.
LEGAL = {
    '{"responses_create_params":{"input":"1+1?"},"expected_answer":2}': None,
    '{"expected_answer": 1.10, "responses_create_params": {"input": "é \\u00e9 \\/"}  }': None,
    '{"responses_create_params": {"input": "a"}, "expected_answer": 100000000000000000001}': None,
    '  {"responses_create_params": {"input": "b"}, "expected_answer": 1e2, "_ng_x": [ 1 ]}': None,
    '{"agent_ref": {"name": "math", "v": 1.0}, "responses_create_params": {"input": "c"}, '
    '"expected_answer": "}{"}': "as it is",
    '{"agent_ref" : "math_agent" , "responses_create_params": {"input": "d"}, '
    '"expected_answer": "2"}': '{"agent_ref" : {"type": "responses_api_agents", "name": '
    '"math_agent"} , "responses_create_params": {"input": "d"}, "expected_answer": "2"}',
}


def written(text: str, given: str | None) -> str:
    if given is not None:
        return text if given == "as it is" else given
    closing = len(text[:-1].rstrip())
    return f"{text[:closing]}, {AGENT}{text[closing:]}"


def as_bytes(row: Any) -> bytes:
    if isinstance(row, bytes):
        return row
    return (row if isinstance(row, str) else json.dumps(row)).encode()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    environments = {"math": {"agent_refs": ["math_agent"]}, "mcqa": {}}
    path.write_text(yaml.safe_dump({"environments": environments}))
    return path


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Legal rows with a broken one after each, a blank line, and no newline at the end."""
    legal = [text.encode() for text in LEGAL]
    lines = [b""]
    for index, (row, _, _) in enumerate(BROKEN.values()):
        lines += [as_bytes(row), *legal[index : index + 1]]
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_exactly_the_broken_rows_are_reported_and_the_others_kept(
    config: Path, tasks: Path, tmp_path: Path
) -> None:
    assert len(BROKEN) >= 25
    files = [TaskFile("train", str(tasks), environment="math", name="hard")]

    report = prepare(config, tmp_path / "out", task_files=files, on_invalid="drop", quiet=True)

    lines = tasks.read_bytes().split(b"\n")
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").open()]
    assert len(rejected) == report.rejected == len(BROKEN)
    for entry, (kind, (row, field, reason)) in zip(rejected, BROKEN.items(), strict=True):
        assert lines[entry["line"] - 1] == as_bytes(row), kind
        assert (entry["file"], entry["dataset"]) == (str(tasks), "hard")
        assert entry["field"] == field, (kind, entry["reason"])
        assert reason in entry["reason"], kind
    kept = (tmp_path / "out" / "train.jsonl").read_bytes().decode()
    assert kept.splitlines() == [written(text, given) for text, given in LEGAL.items()]
    table = pq.read_table(tmp_path / "out" / "train.parquet")
    assert table["task"].to_pylist() == kept.splitlines()
    assert [lines[n - 1].decode() for n in table["source_line"].to_pylist()] == list(LEGAL)


def test_nothing_is_written_when_a_row_is_rejected_and_none_may_be(
    config: Path, tasks: Path, tmp_path: Path
) -> None:
    files = [TaskFile("train", str(tasks), environment="math")]
    prepare(config, tmp_path / "out", task_files=files, on_invalid="drop", quiet=True)

    report = prepare(config, tmp_path / "out", task_files=files, quiet=True)

    assert report.rejected == len(BROKEN)
    assert report.written == {}
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"report.json", "rejected.jsonl"}  # nor does the earlier train.jsonl stay
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert saved["rejected"] == len(BROKEN)
    assert saved["rejections"][0]["reason"].startswith("is not JSON")
