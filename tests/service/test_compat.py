"""`compat ng_collect_rollouts` on a real local Ray with the scripted policy, and its page."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gym_ray.cli.main import main
from tests.cluster import scripted_config, sums, write_rows

pytestmark = pytest.mark.long(
    "two collections for NeMo Gym's commands (50 s of CPU time); their arguments and files "
    "are in tests/unit/test_compat_*.py"
)

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text()

Row = dict[str, Any]


def run(command: list[str], capsys: Any) -> tuple[int, str, str]:
    """A command: its exit code, what it printed and what it complained of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*command, "--quiet"])
        with pytest.raises(SystemExit) as ended:
            main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def collect_command(folder: Path, requests: Path, rows: list[Row], *arguments: str) -> list[str]:
    config = scripted_config(folder, write_rows(folder / "tasks.jsonl", rows), requests)
    del config["collect"]
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return [
        "gym-ray", "compat", "ng_collect_rollouts", f"+config_paths=[{folder}/run.yaml]",
        f"+input_jsonl_fpath={folder}/tasks.jsonl", f"+output_jsonl_fpath={folder}/out/r.jsonl",
        *arguments,
    ]  # fmt: skip


def test_rollouts_are_collected_into_nemo_gyms_files(
    tmp_path: Path, requests: Path, capsys: Any
) -> None:
    rows = sums(3, tmp_path)
    rows[0]["responses_create_params"]["temperature"] = 0.1
    rows[1]["agent_ref"] = {"name": "of_the_row"}
    rows.append({"responses_create_params": {"input": []}, "expected_answer": "0"})
    arguments = ["+agent_name=arithmetic", "+num_repeats=2", "+limit=4"]
    arguments += ["+responses_create_params.temperature=0.7", "+num_samples_in_parallel=4"]
    command = collect_command(tmp_path, requests, rows, *arguments)

    code, out, err = run([*command, "--json"], capsys)

    assert code == 3
    assert "2 of 8 rollouts failed" in err
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} == {
        "r.jsonl", "r_failures.jsonl", "r_materialized_inputs.jsonl", "r_aggregate_metrics.json",
        "r_run", "r_run_inputs.jsonl",
    }  # fmt: skip
    good, bad = lines(folder / "r.jsonl"), lines(folder / "r_failures.jsonl")
    places = [(row["_ng_task_index"], row["_ng_rollout_index"]) for row in good]
    assert places == [(task, repeat) for task in range(3) for repeat in range(2)]
    for row in good:
        assert row["reward"] == 1.0
        assert row["agent_ref"]["name"] == "arithmetic"
        assert row["responses_create_params"]["temperature"] == 0.7
        assert row["response"]["temperature"] == 0.7
        assert row["response"]["object"] == "response"
        item = row["response"]["output"][-1]
        assert len(item["generation_log_probs"]) == len(item["generation_token_ids"]) > 0
        assert {"input_tokens", "output_tokens", "total_tokens"} <= row["response"]["usage"].keys()
    assert [(row["_ng_failure_class"], row["reward"]) for row in bad] == [
        ("task_invalid", None)
    ] * 2
    inputs = lines(folder / "r_materialized_inputs.jsonl")
    assert [(row["_ng_task_index"], row["_ng_rollout_index"]) for row in inputs] == [
        (task, repeat) for task in range(4) for repeat in range(2)
    ]
    (entry,) = json.loads((folder / "r_aggregate_metrics.json").read_text())
    assert entry["agent_ref"] == {"name": "arithmetic"}
    assert entry["key_metrics"]["mean/reward"] == 1.0
    assert entry["key_metrics"]["coverage/missing"] == 2
    assert len(entry["group_level_metrics"]) == 3
    report = json.loads(out)
    assert report["expected"] == 8
    assert list(report["files"].values()) == [6, 2, 8]

    code, _, err = run(command, capsys)
    assert code == 2
    assert "add +resume_from_cache=true to continue it" in err
    command += ["collect.max_failed_share=0.5", "+resume_from_cache=true"]
    code, out, _ = run(command, capsys)
    assert code == 0
    assert f"{folder}/r.jsonl: 6 rows" in out
    assert lines(folder / "r.jsonl") == good


def test_rows_stay_as_they_are_when_no_argument_changes_them(
    tmp_path: Path, requests: Path, capsys: Any
) -> None:
    rows = sums(1, tmp_path)
    command = collect_command(tmp_path, requests, rows, "+disable_aggregation=true")

    code, _, _ = run(command, capsys)

    assert code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "r.jsonl", "r_failures.jsonl", "r_materialized_inputs.jsonl", "r_run",
    }  # fmt: skip
    (row,) = lines(tmp_path / "out" / "r.jsonl")
    assert row["responses_create_params"] == rows[0]["responses_create_params"]


def test_every_command_of_the_migration_page_works(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tasks,) = re.findall(r"```json\n(.*?)```", PAGE, re.S)
    (tmp_path / "tasks.jsonl").write_text(tasks)
    for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S):
        (tmp_path / text.split("\n")[0].removeprefix("# ")).write_text(text)

    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S):
        for command in block.splitlines():
            code, _, err = run(shlex.split(command), capsys)
            assert (code, err) == (0, "")

    named = {"tasks_prepare.jsonl", "tasks_metrics.json", "data/math/example_metrics.json"}
    assert all((tmp_path / name).exists() for name in named)
    rewards = [row["reward"] for row in lines(tmp_path / "results" / "rollouts.jsonl")]
    assert rewards == [1.0, 1.0, 0.0, 0.0]
