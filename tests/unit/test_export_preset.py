"""Exports of a run that was collected for an objective take its filters, and say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from gym_ray.config.objectives import OBJECTIVES
from tests.exports import Make, lines, run_command, said, store


def run_of(folder: Path, make_rollout: Make, objective: str | None) -> Path:
    rewards = [0.0, 0.5, 0.9, 1.0]
    rollouts = [make_rollout(0, n, **said(str(n)), reward=r) for n, r in enumerate(rewards)]
    rollouts += [make_rollout(1, n, **said(f"again {n}"), reward=1.0) for n in range(2)]
    run = store(folder / "run", rollouts)
    tree = {"collect": {"objective": objective}, "run": {"id": "r1"}}
    (run / "run.yaml").write_text(yaml.safe_dump(tree))
    return run


def test_sft_of_a_run_for_sft_keeps_what_the_objective_asks(
    make_rollout: Make, tmp_path: Path
) -> None:
    run = run_of(tmp_path, make_rollout, "sft")

    code, told = run_command("export", "sft", run, "--output", tmp_path / "out")

    assert code == 0
    assert "as the run's objective sft asks: min_reward=0.8, include_truncated=false" in told
    assert sorted(row["reward"] for row in lines(tmp_path / "out" / "train.jsonl")) == [
        0.9, 1.0, 1.0, 1.0,
    ]  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text()
    assert "By the run's objective `sft`: min_reward=0.8, include_truncated=false." in card


def test_what_the_command_line_says_goes_before(make_rollout: Make, tmp_path: Path) -> None:
    run = run_of(tmp_path, make_rollout, "sft")

    code, told = run_command(
        "export", "sft", run, "--output", tmp_path / "out", "--min-reward", "0.5", "--json"
    )

    report = json.loads(told)
    assert (code, report["rows"]) == (0, {"train": 5})
    assert report["options"]["min_reward"] == 0.5
    assert report["preset"] == {"include_truncated": False}


@pytest.mark.parametrize(
    ("command", "rewards", "says"),
    [
        (
            ["sft", "--min-reward", "0.8"],
            [[0.0, 0.1], [0.05]],
            "the highest reward is 0.1, and rewards from 0.8 on were asked for",
        ),
        (
            ["dpo", "--margin", "0.5"],
            [[0.0, 0.25], [1.0, 1.0]],
            "rewards of one task differ by 0.25 at most, and pairs of a margin of 0.5 were asked",
        ),
        (
            ["dpo", "--margin", "0"],
            [[0.5, 0.5], [1.0, 1.0]],
            "rewards of one task differ by 0 at most, and pairs of a margin of 0 were asked for",
        ),
        (
            ["rl", "--drop-zero-variance"],
            [[0.25, 0.25], [0.125]],
            "the rewards of every task are equal, and such groups were to be left out; the highest "
            "reward is 0.25",
        ),
        (["sft", "--min-reward", "0"], [[None, None]], "no rollout has a reward"),
        (["sft", "--max-tokens", "1"], [[1.0, 0.5]], "the highest reward is 1; `gym-ray metrics"),
    ],
)
def test_an_export_without_rows_says_the_number_that_explains_it(
    make_rollout: Make,
    tmp_path: Path,
    command: list[str],
    rewards: list[list[float | None]],
    says: str,
) -> None:
    rollouts = [
        make_rollout(task, n, **said(f"{task} {n}"), reward=reward)
        for task, group in enumerate(rewards)
        for n, reward in enumerate(group)
    ]
    run = store(tmp_path / "run", rollouts)

    kind, *options = command
    code, told = run_command("export", kind, run, "--output", tmp_path / "out", *options)

    assert code == 0
    assert f"WARNING: nothing was exported: {says}" in told


@pytest.mark.parametrize(
    ("kind", "objective", "rows"),
    [("rl", "rl", 4), ("rl", None, 6), ("dpo", "dpo", 1), ("sft", "rl", 6)],
)
def test_only_the_objective_of_the_same_name_counts(
    make_rollout: Make, tmp_path: Path, kind: str, objective: str | None, rows: int
) -> None:
    run = run_of(tmp_path, make_rollout, objective)

    code, told = run_command("export", kind, run, "--output", tmp_path / "out", "--json")

    report = json.loads(told)
    assert (code, report["rows"]["train"]) == (0, rows)
    expected = dict(OBJECTIVES[kind].filters) if kind == objective else {}
    assert report["preset"] == expected


def test_groups_without_signal_can_be_kept_all_the_same(make_rollout: Make, tmp_path: Path) -> None:
    run = run_of(tmp_path, make_rollout, "rl")

    code, told = run_command(
        "export", "rl", run, "--output", tmp_path / "out", "--keep-zero-variance", "--json"
    )

    assert (code, json.loads(told)["rows"]) == (0, {"train": 6})
