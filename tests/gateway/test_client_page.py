"""Every program and command of docs/client.md runs, and its tables are complete."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gym_ray.client
from gym_ray.client import RolloutResult
from gym_ray.client.call_options import CallOptions
from tests.gateway.batches import KEY, Rollouts, batch_service

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("GYM_RAY_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    with batch_service(Rollouts()) as url:
        yield url


def blocks(language: str, url: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return [block.replace("http://127.0.0.1:8000", url) for block in found]


def test_programs_do_what_they_show(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, groups, asynchronous, kept = blocks("python", url)
    names: dict[str, Any] = {}

    def printed(program: str) -> list[str]:
        exec(program, names)
        return sorted(capsys.readouterr().out.splitlines())

    assert [line.split(" ")[:2] for line in printed(first)] == [["0", "1.0"], ["1", "1.0"]]
    lines = printed(groups)
    equal = "[1.0, 1.0, 1.0, 1.0] [0.0, 0.0, 0.0, 0.0] 0"
    assert [line for line in lines if "[" in line] == [f"0 {equal}", f"1 {equal}"]
    assert any(line.startswith("Task ") and "4 rollouts, reward 1" in line for line in lines)
    assert printed(asynchronous) == ["0 1.0", "1 1.0"]
    for _ in range(2):
        printed(kept)
        lines = [json.loads(line) for line in Path("kept.jsonl").read_text().splitlines()]
        assert sorted(line["index"] for line in lines) == [0, 1]


def test_commands_get_answers(url: str) -> None:
    (command,) = blocks("bash", url)

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        env={"GYM_RAY_API_KEY": KEY, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    decoder, text, answers = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        answer, end = decoder.raw_decode(text)
        answers.append(answer)
        text = text[end:].strip()
    opened, given, page = answers
    assert (opened["room"], given) == (4096, {"acknowledged": []})
    assert [result["result"]["reward"] for result in page["results"]] == [1.0]


def test_the_page_names_every_option_error_and_field() -> None:
    names = [
        *CallOptions.__annotations__,
        *(name for name in gym_ray.client.__all__ if name not in ("RolloutGroup", "RolloutResult")),
        *(name for name in dir(RolloutResult) if not name.startswith("_") and name != "failed"),
    ]
    assert [name for name in names if not re.search(rf"[`.]{name}[`(]", PAGE)] == []
