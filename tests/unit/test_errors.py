"""Errors as text that rows, answers and terminals show."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest

from gym_ray.cli import main as cli
from gym_ray.errors import one_line


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("cannot reach https://user:pa55@host/x", "cannot reach https://***@host/x"),
        ("redis://:pa55@host and s3://key@host", "redis://***@host and s3://***@host"),
        ("no such key sk-verysecretvalue", "no such key ***"),
        ("write to me@example.com or see http://host/a@b", None),
        ("PATH is /usr/bin", None),
    ],
)
def test_secrets_are_left_out_of_what_others_read(
    monkeypatch: pytest.MonkeyPatch, message: str, shown: str | None
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "sk-verysecretvalue")
    monkeypatch.setenv("SHORT_TOKEN", "PATH")
    assert one_line(ValueError(message)) == f"ValueError: {shown or message}"


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "make room"), (errno.EROFS, "may be written to")]
)
def test_a_disk_that_takes_nothing_more_is_told_with_its_path_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, number: int, advice: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(number, "the disk's own words", str(tmp_path / "run"))

    monkeypatch.setattr(cli, "app", full)
    monkeypatch.setattr(sys, "argv", ["gym-ray"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code == 1
    assert str(tmp_path / "run") in error
    assert advice in error
    assert "re-issue" in error
