"""What unit tests share: no Ray behind their back, and short ways to values."""

import os

# Before anything imports ray: touching ray.data must not start a cluster.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"

import datetime
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.task import rollout_id_of, task_id_of
from gym_ray.turn import Turn, VersionSpan
from tests.play import Play, player

# Machines that run tests are busy: a slow example says nothing about the code.
hypothesis.settings.register_profile(
    "unit", max_examples=30, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unit")

NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)


def _row(question: str, **fields: Any) -> dict[str, Any]:
    return {
        "responses_create_params": {"input": [{"role": "user", "content": question}]},
        **fields,
    }


def _spec(task_index: int = 0, rollout_index: int = 0, environment: str = "sums") -> RolloutSpec:
    row = _row(f"question {task_index}")
    task_id = task_id_of(row)
    return RolloutSpec(
        rollout_id=rollout_id_of(task_id, environment, rollout_index),
        task_id=task_id,
        task_index=task_index,
        rollout_index=rollout_index,
        environment=environment,
        source_file="tasks.jsonl",
        source_line=task_index + 1,
        task=json.dumps(row),
    )


def _rollout(
    task_index: int = 0, rollout_index: int = 0, environment: str = "sums", **fields: Any
) -> Rollout:
    """A completed rollout of 3 prompt tokens and 2 sampled ones; `fields` replace what differs."""
    spec = _spec(task_index, rollout_index, environment)
    failed = fields.get("status") == "failed"
    sequence = {
        "token_ids": np.array([1, 2, 3, task_index, rollout_index], dtype=np.int32),
        "loss_mask": np.array([0, 0, 0, 1, 1], dtype=np.int8),
        "logprobs": np.array([0, 0, 0, -0.5, -0.25], dtype=np.float32),
        "turns": (Turn(3, 2, "stop", (VersionSpan(0, 0, 2),), 0.0, 0.5),),
        "reward": 1.0,
    }
    defaults = {"run_id": "run", "agent": "single_turn", "model": "m", "status": "completed"}
    return Rollout(
        **{
            "spec": spec,
            "started_at": NOON,
            **defaults,
            **({} if failed else sequence),
            **fields,
        }
    )


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    """`make_row(question, **fields)`: a legal task row."""
    return _row


@pytest.fixture
def make_spec() -> Callable[..., RolloutSpec]:
    """`make_spec(task_index, rollout_index, environment)`: a manifest row."""
    return _spec


@pytest.fixture
def make_rollout() -> Callable[..., Rollout]:
    """`make_rollout(task_index, rollout_index, environment, **fields)`: a finished rollout."""
    return _rollout


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """`write_lines(lines, name)`: a file of rows, each a dict or the text of a line."""

    def write(lines: list[Any], name: str = "tasks.jsonl") -> Path:
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("".join(f"{text}\n" for text in texts))
        return path

    return write


@pytest.fixture
def gym_ray(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """`gym_ray(*arguments)`: run a command line; exit code, standard output, standard error."""
    from gym_ray.cli.main import main

    def run(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gym-ray", *map(str, arguments)])
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        assert ("Traceback" in output.err) == ("--debug" in arguments and ended.value.code != 0)
        assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
        return ended.value.code, output.out, output.err  # type: ignore[return-value]

    return run


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., tuple[list[dict[str, Any]], dict[str, Any]]]:
    """`exported(rollouts, kind, *arguments)`: rows of an export's JSONL, and its report."""
    from tests.exports import export_rows

    return functools.partial(export_rows, tmp_path)


@pytest.fixture
def play(make_spec: Callable[..., RolloutSpec]) -> Play:
    """See `tests.play.player`."""
    return player(make_spec)
