"""Metrics that are compared with those of an earlier `prepare`, or of NeMo Gym."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gym_ray.cli.main import main
from gym_ray.compat.metrics_conflicts import differences
from gym_ray.errors import ConfigError
from gym_ray.prepare import TaskFile, prepare

CONFIG = {"environments": {"math": {}}}


def tasks(folder: Path, *questions: str) -> TaskFile:
    path = folder / "tasks.jsonl"
    rows = [{"responses_create_params": {"input": q}, "expected_answer": "2"} for q in questions]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TaskFile("train", str(path), "math")


def prepared(folder: Path, *questions: str, **options: Any) -> Any:
    options = {"compare_metrics": differences, "quiet": True, **options}
    return prepare(CONFIG, folder / "out", task_files=[tasks(folder, *questions)], **options)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1.0}, {"a": 1.004, "b": 2}, []),
        ({"a": 1.0}, {"a": 1.006}, ["a: 1.0 -> 1.006"]),
        ({"a": 0.1}, {"a": 0.1004}, []),
        ({"a": 0.1}, {"a": 0.1006}, ["a: 0.1 -> 0.1006"]),
        ({"a": {"b": 1}}, {"a": {}}, ["a.b: 1 -> (absent)"]),
        ({"a": {"b": 1}}, {"a": 1}, ['a: {"b": 1} -> 1']),
        ({"a": [1, {"b": 2}]}, {"a": [{"b": 2}, 1]}, []),
        ({"a": [1, 1]}, {"a": [1]}, ["a: [1, 1] -> [1]"]),
        ({"a": None}, {"a": "x"}, ['a: null -> "x"']),
        ({"a": True}, {"a": False}, ["a: true -> false"]),
    ],
)
def test_what_was_there_must_still_be_there(
    before: dict[str, Any], after: dict[str, Any], expected: list[str]
) -> None:
    assert differences(before, after) == expected


def test_changed_rows_are_noticed_and_the_old_metrics_stay(tmp_path: Path) -> None:
    prepared(tmp_path, "1 + 1?")
    old = (tmp_path / "out" / "train_metrics.json").read_text()

    report = prepared(tmp_path, "1 + 1?", "What is 2 + 0?")

    assert "Number of examples: 1 -> 2" in report.conflicts["train_metrics.json"]
    assert report.written == {}
    assert (tmp_path / "out" / "train_metrics.json").read_text() == old
    new = json.loads((tmp_path / "out" / "train_metrics_conflict.json").read_text())
    assert new["Number of examples"] == 2
    assert not (tmp_path / "out" / "train.jsonl").exists()

    again = prepared(tmp_path, "1 + 1?")
    assert (again.conflicts, again.written) == ({}, {"train": 1})
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "train.jsonl", "train.parquet", "train_metrics.json", "rejected.jsonl", "report.json",
    }  # fmt: skip


def test_overwriting_compares_nothing(tmp_path: Path) -> None:
    prepared(tmp_path, "1 + 1?")
    report = prepared(tmp_path, "1 + 1?", "2 + 0?", compare_metrics=None)
    assert (report.conflicts, report.written) == ({}, {"train": 2})


def test_rejected_rows_leave_the_metrics_to_compare_with(tmp_path: Path) -> None:
    prepared(tmp_path, "1 + 1?")
    assert prepared(tmp_path, "").rejected == 1
    assert (tmp_path / "out" / "train_metrics.json").exists()


def test_metrics_of_a_split_without_rows_do_not_stay(tmp_path: Path) -> None:
    prepared(tmp_path, "1 + 1?")
    (tmp_path / "out" / "validation_metrics.json").write_text("{}")
    prepared(tmp_path, "1 + 1?")
    assert not (tmp_path / "out" / "validation_metrics.json").exists()


@pytest.mark.parametrize(("text", "reason"), [("{", "cannot be read"), ("[]", "no JSON object")])
def test_earlier_metrics_that_are_none_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    prepared(tmp_path, "1 + 1?")
    (tmp_path / "out" / "train_metrics.json").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        prepared(tmp_path, "1 + 1?")


def test_the_command_fails_and_tells_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    prepared(tmp_path, "1 + 1?")
    file = tasks(tmp_path, "2 + 0?", "1 + 1?")
    (tmp_path / "config.yaml").write_text("environments: {math: {}}")
    command = ["gym-ray", "prepare", str(tmp_path / "config.yaml"), "--train", file.path]
    command += ["--output", str(tmp_path / "out"), "--on-metrics-conflict", "fail", "--quiet"]
    monkeypatch.setattr(sys, "argv", command)

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "train_metrics.json: Number of examples: 1 -> 2" in said.out
    assert "the new metrics are in" in said.err
    assert "train_metrics_conflict.json" in said.err
