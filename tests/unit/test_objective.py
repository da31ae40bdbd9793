"""Presets: below the config, below the command line, told and kept."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gym_ray.cli.main import main
from gym_ray.config.load import load_config
from gym_ray.config.objectives import OBJECTIVES
from gym_ray.errors import ConfigError

PAGE = (Path(__file__).parents[2] / "docs" / "sampling.md").read_text()


def config(**sections: Any) -> dict[str, Any]:
    return {"environments": {"math": {}}, **sections}


def test_an_objective_sets_what_is_left_open() -> None:
    found = load_config(config(), ["collect.objective=sft"])

    assert (found.sampling.temperature, found.collect.num_repeats) == (0.2, 2)
    assert found.from_objective == {"sampling.temperature": 0.2, "collect.num_repeats": 2}
    assert load_config(config()).from_objective == {}


def test_the_config_file_and_the_command_line_win() -> None:
    tree = config(sampling={"temperature": 0.0}, collect={"objective": "rl"})

    found = load_config(tree, ["collect.num_repeats=1"])

    assert (found.sampling.temperature, found.collect.num_repeats) == (0.0, 1)
    assert found.from_objective == {}


def test_a_config_made_already_remembers_what_was_set() -> None:
    once = load_config(config(), ["collect.objective=dpo"])
    again = load_config(once)

    assert again.from_objective == once.from_objective
    assert load_config(again, ["collect.num_repeats=3"]).collect.num_repeats == 3


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"collect\.objective: Input should be 'rl', 'sft' or"):
        load_config(config(), ["collect.objective=ppo"])


def test_what_was_set_is_told_and_kept_in_run_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "tasks.jsonl").write_text("{broken\n")
    path = tmp_path / "run.yaml"
    tree = config(
        policy={"engine": "scripted"},
        collect={
            "input": str(tmp_path / "tasks.jsonl"),
            "output": str(tmp_path / "out"),
            "num_repeats": 3,
            "max_failed_share": 1,
        },
    )
    path.write_text(yaml.safe_dump(tree))
    monkeypatch.setattr(sys, "argv", ["gym-ray", "collect", str(path), "--objective", "sft"])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 0
    told = capsys.readouterr().err
    assert "objective sft sets sampling.temperature=0.2; when exporting: min_reward=0.8" in told
    saved = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert saved["collect"]["objective"] == "sft"
    assert saved["collect"]["num_repeats"] == 3
    assert saved["sampling"]["temperature"] == 0.2
    assert saved["run"]["objective"] == {
        "set": {"sampling.temperature": 0.2},
        "filters": {"min_reward": 0.8, "include_truncated": False},
    }


def test_the_sampling_page_says_what_the_presets_do() -> None:
    for name, objective in OBJECTIVES.items():
        (row,) = re.findall(rf"^\| `{name}` .*$", PAGE, re.M)
        cells = [cell.strip() for cell in row.split("|")]
        values = [
            objective.defaults[key] for key in ("sampling.temperature", "collect.num_repeats")
        ]
        assert [float(cells[2]), int(cells[4])] == values
        for cell, value in zip((cells[3], cells[5]), values, strict=True):
            low, high = map(float, cell.split(" to "))
            assert low <= value <= high
        assert all(f"`{key}`" in cells[6] for key in objective.filters)


def test_the_command_of_the_sampling_page_is_one_of_a_valid_config() -> None:
    root = Path(__file__).parents[2]
    ((path, objective, override),) = re.findall(
        r"^gym-ray collect (\S+) --objective (\w+) (\S+)$", PAGE, re.M
    )

    found = load_config(root / path, [f"collect.objective={objective}", override])

    assert found.collect.objective == "sft"
    assert found.collect.output == "runs/sft"
