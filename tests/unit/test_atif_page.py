"""The commands of docs/atif.md do what the page says, and its tables name what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gym_ray import read_rollouts
from gym_ray.cli.main import app
from tests.exports import Make, run_command, store
from tests.unit.test_atif_export import everything
from tests.unit.test_atif_import import row_of

PAGE = (Path(__file__).parents[2] / "docs" / "atif.md").read_text()


def test_every_command_does_what_the_page_says(
    make_rollout: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rollouts = everything(make_rollout)
    store(Path("runs/demo"), rollouts)

    commands = "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.S)).splitlines()
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "gym-ray"
        assert run_command(*arguments)[0] == 0, command

    assert len(commands) == 3
    before, after = (
        [row_of(rollout) for rollout in read_rollouts(f"runs/{name}")]
        for name in ("demo", "demo-again")
    )
    assert after == before
    assert len(list(Path("exports/demo-files/trajectories").glob("*.json"))) == len(rollouts)


@pytest.mark.parametrize("command", ["export", "import"])
def test_the_page_names_every_option(command: str) -> None:
    asked = CliRunner().invoke(app, [command, "atif", "--help"], env={"COLUMNS": "200"})

    assert f"gym-ray {command} atif " in asked.output
    options = set(re.findall(r"(--[a-z-]+)", asked.output))
    assert options - set(re.findall(r"(--[a-z-]+)", PAGE)) <= {
        "--help", "--quiet", "--license", "--workers",
    }  # fmt: skip
