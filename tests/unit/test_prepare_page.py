"""The commands of docs/prepare.md, run in order, say what the page says."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from gym_ray.cli.main import main
from gym_ray.config.environment import License
from gym_ray.prepare.prepared_rows import PREPARED_SCHEMA

PAGE = (Path(__file__).parents[2] / "docs" / "prepare.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader stands who copied every file of the page."""
    monkeypatch.chdir(tmp_path)
    tasks, raw, published = blocks("json")
    files = {"tasks.jsonl": tasks, "raw.jsonl": raw, "published.jsonl": published}
    files |= {"held.jsonl": tasks.splitlines()[1]}
    files |= {text.split("\n")[0].removeprefix("# "): text for text in blocks("yaml")}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_command_does_what_the_page_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    said = []
    for command in commands:
        monkeypatch.setattr(sys, "argv", [*shlex.split(command), "--quiet"])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        said.append((int(ended.value.code or 0), output.out + output.err))

    assert [code for code, _ in said] == [1, 0, 0, 0, 0, 0]
    for (_, output), shown in zip(said, blocks("text"), strict=False):
        assert output.strip() == shown.strip()
    train = (folder / "declared" / "train.jsonl").read_text().splitlines()
    assert len(train) == 2 * 3 + 1
    assert sum("Ann has 3 pears" in line for line in train) == 1
    assert (folder / "declared" / "validation.jsonl").read_text().count("\n") == 1
    metrics = [path.read_text() for path in (folder / "data").glob("*_metrics.json")]
    assert ["Input tokens" in text for text in metrics] == [True] * len(metrics) != []


def test_the_report_can_be_had_as_json(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    command = "gym-ray prepare config.yaml --train math=held.jsonl --output data --json --quiet"
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["written"] == {"train": 1}


def test_nothing_left_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (folder / "bad.jsonl").write_text("{}\n")
    command = "gym-ray prepare config.yaml --train bad.jsonl --output o --on-invalid drop --quiet"
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "no row is left of 1; see o/report.json" in capsys.readouterr().err


def test_the_page_names_every_license_and_column() -> None:
    text = " ".join(PAGE.split())
    assert [name for name in get_args(License) if f"`{name}`" not in text] == []
    assert [name for name in PREPARED_SCHEMA.names if f"`{name}`" not in text] == []
