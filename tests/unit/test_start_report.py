"""What is told while policy and environments start."""

from __future__ import annotations

from pathlib import Path

import pytest

from gym_ray.collection import start_report
from gym_ray.collection.start_report import StartReport


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """The clock, which only the test moves."""
    clock = [100.0]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    return clock


def test_what_is_done_is_told_with_its_time_and_again_now_and_then(
    seconds: list[float], tmp_path: Path
) -> None:
    said: list[str] = []
    log = tmp_path / "log.txt"
    report = StartReport("vllm m", log, said.append)

    report.does("importing vLLM")
    seconds[0] += 5
    report.waits()
    log.write_text("Loading safetensors checkpoint shards:  40% Completed | 2/5\n")
    report.does("loading m")
    seconds[0] += 11
    report.waits()
    report.does("warming up")

    assert said == [
        "importing vLLM (0 s)",
        "loading m 40 % (5 s)",
        "loading m 40 % (16 s)",
        "warming up (16 s)",
    ]


def test_how_long_a_start_took_is_told_by_the_next_one(
    seconds: list[float], tmp_path: Path
) -> None:
    said: list[str] = []
    first = StartReport("vllm m", tmp_path / "log.txt", said.append)
    seconds[0] += 24.6
    first.is_up()

    StartReport("vllm m", tmp_path / "log.txt", said.append).does("importing vLLM")
    StartReport("vllm another", tmp_path / "log.txt", said.append).does("importing vLLM")

    assert said == ["importing vLLM (0 s; usually up after 25 s)", "importing vLLM (0 s)"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"vllm m": "soon"}', b"\xff"])
def test_a_file_of_times_that_is_not_one_tells_nothing(
    seconds: list[float], tmp_path: Path, content: bytes
) -> None:
    start_report._file().parent.mkdir(parents=True)
    start_report._file().write_bytes(content)
    said: list[str] = []

    report = StartReport("vllm m", tmp_path / "log.txt", said.append)
    report.does("importing vLLM")
    report.is_up()

    assert said == ["importing vLLM (0 s)"]
    assert start_report._remembered() == {"vllm m": 0.0}
