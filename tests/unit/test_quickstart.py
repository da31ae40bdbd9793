"""What scripts/quickstart.sh ends with, over a run that is there already."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gym_ray.cli.main import main
from gym_ray.config.load import load_config
from tests.stored import stored_run, sum_rollout

ROOT = Path(__file__).parents[2]
SETTINGS = "say() { :; }; output=runs/sums config=deployments/laptop-cpu.yaml"
COLLECTS = 'gym-ray collect "$config" collect.output="$output" "$@"\n'


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the script prints after a collection of two tasks, one of which is mastered."""
    monkeypatch.chdir(tmp_path)
    replies = [(1, ["2", "2"]), (2, ["5", "4"])]
    stored_run(
        Path("runs/sums"),
        [
            sum_rollout(number, repeat, reply=reply)
            for number, group in replies
            for repeat, reply in enumerate(group)
        ],
    )
    text = (ROOT / "scripts" / "quickstart.sh").read_text()
    _, collects, ending = text.partition(COLLECTS)
    assert collects
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{SETTINGS}\n{ending}"],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_best_and_the_worst_rollout_of_the_task_with_spread_are_shown(said: str) -> None:
    shown, _, _ = said.partition("The dataset is ")

    best, worst = shown.partition("The best of them:")[2].split("The worst of them:")
    for text, reply, reward in ((best, "4", "1"), (worst, "5", "0")):
        assert "2 + 2 = ?" in text
        lines = [line.split() for line in text.splitlines()]
        assert [reply] in lines
        assert any(line and line[0] == "reward" and line[-1] == reward for line in lines)
        assert any("expected" in line[0] and line[-1] == "4" for line in lines if line)


def test_every_command_that_is_named_next_works(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [
        shlex.split(line) for line in said.splitlines() if line.strip().startswith("gym-ray ")
    ]

    assert len(commands) == 4
    for _, *arguments in commands:
        if arguments[0] == "collect":
            config = load_config(ROOT / arguments[1], arguments[2:])
            assert (ROOT / str(config.collect.input)).is_file()
            assert config.collect.output != "runs/sums"
        else:
            monkeypatch.setattr(sys, "argv", ["gym-ray", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
            assert not ended.value.code
    assert Path("exports/sums-sft/train.jsonl").read_text().count("\n") == 2, "equal ones once"
