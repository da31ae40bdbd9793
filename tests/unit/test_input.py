"""Task input: what counts as a row, where it stood, and how a changed source is noticed."""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gym_ray.collection import jsonl_text
from gym_ray.collection.input import InputLine, TaskInput
from gym_ray.config.load import load_config
from gym_ray.environment import Environment
from gym_ray.errors import ConfigError

Write = Callable[..., Path]


class Counting(Environment):
    def __init__(self, *, rows: int = 2, broken: str | None = None) -> None:
        self.rows, self.broken = rows, broken

    def tasks(self) -> Iterator[Mapping[str, Any]]:
        for number in range(self.rows):
            yield {"responses_create_params": {"input": f"count to {number} é"}}
        if self.broken == "raise":
            raise ZeroDivisionError("no more")
        if self.broken == "json":
            yield {"when": object()}
        if self.broken == "text":
            yield {"half": "\ud800"}


def task_input(name: Any, **params: Any) -> TaskInput:
    config = load_config(
        {"environments": {"counting": {"params": params}}, "collect": {"input": str(name)}}
    )
    return TaskInput(config, {"counting": Counting(**params)})


def refusal(name: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        list(task_input(name).lines())
    return str(caught.value)


def test_lines_keep_their_numbers_and_blank_ones_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b"\xef\xbb\xbf{1}\r\n\n   \t\n{2}\n\xff\n{3}")

    assert list(task_input(path).lines()) == [
        InputLine(str(path), 1, b"{1}"),
        InputLine(str(path), 4, b"{2}"),
        InputLine(str(path), 5, b"\xff"),
        InputLine(str(path), 6, b"{3}"),
    ]


def test_a_glob_reads_its_files_in_order_each_counted_from_one(
    tmp_path: Path, write_lines: Write
) -> None:
    second, first = write_lines(["{b1", "{b2"], "b.jsonl"), write_lines(["{a1"], "a.jsonl")

    lines = list(task_input(tmp_path / "*.jsonl").lines())

    assert [(line.source_file, line.source_line, line.raw) for line in lines] == [
        (str(first), 1, b"{a1"),
        (str(second), 1, b"{b1"),
        (str(second), 2, b"{b2"),
    ]


def test_a_name_with_brackets_is_a_name_when_such_a_file_exists(write_lines: Write) -> None:
    path = write_lines(["{x"], "part[1].jsonl")

    assert [line.raw for line in task_input(path).lines()] == [b"{x"]


def test_a_fingerprint_changes_with_the_content_only(write_lines: Write) -> None:
    path = write_lines(["{a", "b"])
    before = task_input(path).fingerprints()

    assert task_input(write_lines(["{a", "b"])).fingerprints() == before
    assert task_input(write_lines(["{a", "c"])).fingerprints() != before
    assert [(f.source_file, f.size) for f in before] == [(str(path), 5)]


def test_generated_rows_are_numbered_and_fingerprinted_by_their_params() -> None:
    generated = task_input("env:counting", rows=3)

    lines = list(generated.lines())

    assert [(line.source_file, line.source_line) for line in lines] == [
        ("env:counting", number) for number in (1, 2, 3)
    ]
    row = json.loads(lines[2].raw)
    assert row["responses_create_params"]["input"] == "count to 2 é"
    assert generated.fingerprints() == task_input("env:counting", rows=3).fingerprints()
    assert generated.fingerprints() != task_input("env:counting", rows=4).fingerprints()


@pytest.mark.parametrize(
    ("broken", "says"),
    [("raise", "row 3: ZeroDivisionError: no more"), ("json", "row 3: TypeError: Object of type")],
)
def test_an_environment_that_breaks_while_generating_is_named(broken: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"Counting\.tasks\(\) failed") as caught:
        list(task_input("env:counting", broken=broken).lines())
    assert says in str(caught.value)


def test_a_generated_row_that_is_no_text_comes_through_to_be_refused_as_a_row() -> None:
    assert len(list(task_input("env:counting", broken="text").lines())) == 3


def test_what_cannot_be_read_is_told_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").touch()

    assert "no such file; give a JSONL (or .jsonl.gz, .jsonl.zst) or Parquet file" in refusal(
        tmp_path / "none"
    )
    assert f"is a folder; write {tmp_path}/*.jsonl" in refusal(tmp_path)
    assert "is no Parquet file" in refusal(tmp_path / "rows.parquet")
    assert "nosuch:// cannot be read here" in refusal("nosuch://bucket/tasks.jsonl")
    assert "no environment 'maths' is configured; configured: counting" in refusal("env:maths")


def test_an_environment_without_tasks_says_so() -> None:
    config = load_config({"environments": {"plain": {}}, "collect": {"input": "env:plain"}})

    with pytest.raises(ConfigError, match=r"does not generate tasks; set collect\.input"):
        list(TaskInput(config, {"plain": Environment()}).lines())


def compressed(suffix: str, content: bytes) -> bytes:
    if suffix == ".gz":
        return gzip.compress(content)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    found: bytes = sink.getvalue().to_pybytes()
    return found


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_lines_are_those_of_the_file(tmp_path: Path, suffix: str) -> None:
    lines = [b'{"a": %d}\r\n' % number for number in range(50_000)]
    half = compressed(suffix, b"".join(lines[:25_000]))
    path = tmp_path / f"tasks.jsonl{suffix}"
    # Two frames, as parallel compressors and `cat` make them.
    path.write_bytes(half + compressed(suffix, b"\n" + b"".join(lines[25_000:])))

    found = list(task_input(path).lines())

    assert [line.raw for line in found] == [line.strip() for line in lines]
    assert [line.source_line for line in found][24_999:25_001] == [25_000, 25_002]

    path.write_bytes(half[:-100])
    assert f"collect.input {path}: cannot be read to its end: OSError: Truncated" in refusal(path)
    path.write_bytes(b"".join(lines))
    assert f"collect.input {path}: cannot be read to its end" in refusal(path)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_line_longer_than_a_row_may_be_is_never_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(jsonl_text, "MOST_LINE_BYTES", 1024**2)
    path = tmp_path / f"tasks.jsonl{suffix}"
    content = b"{}\n" + b" " * 1024**2 + b"{}\n"
    path.write_bytes(compressed(suffix, content) if suffix else content)

    assert f"{path}:2: is longer than 1 MiB; write one task row per line" in refusal(path)
