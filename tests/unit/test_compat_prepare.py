"""`compat ng_prepare_data`: their configs in, their files beside ours."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gym_ray.cli.main import main

Row = dict[str, Any]

SPREAD = {"Total # non-null values", "Average", "Min", "Max", "Standard deviation"}


def row(question: str, **fields: Any) -> Row:
    return {"responses_create_params": {"input": question}, "expected_answer": "2", **fields}


def instance(*datasets: Row, **settings: Any) -> Row:
    server = {"entrypoint": "app.py", "datasets": list(datasets), **settings}
    return {"responses_api_agents": {"simple_agent": server}}


def dataset(name: str, kind: str = "train", **fields: Any) -> Row:
    license = {} if kind == "example" else {"license": "Apache 2.0"}
    return {"name": name, "type": kind, "jsonl_fpath": f"{name}.jsonl", **license, **fields}


class Desk:
    """A working directory with task files and NeMo Gym's config `gym.yaml`."""

    def __init__(self, folder: Path, capsys: Any) -> None:
        self.folder = folder
        self._capsys = capsys

    def rows(self, name: str, *rows: Row) -> None:
        (self.folder / name).write_text("".join(json.dumps(each) + "\n" for each in rows))

    def config(self, **tree: Any) -> None:
        (self.folder / "gym.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))

    def run(self, *arguments: str, mode: str = "train_preparation") -> tuple[int, str]:
        """The command: its exit code and what it said."""
        command = ["gym-ray", "compat", "ng_prepare_data", "+config_paths=[gym.yaml]"]
        command += [f"+mode={mode}", "+output_dirpath=out", *arguments, "--quiet"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", command)
            with pytest.raises(SystemExit) as ended:
                main()
        said = self._capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    def lines(self, name: str) -> list[Row]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def tree(self, name: str) -> Row:
        found: Row = json.loads((self.folder / name).read_text())
        return found


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, capsys)


def test_files_of_both_shapes_are_written(desk: Desk) -> None:
    desk.rows("sums.jsonl", row("1 + 1?"), row("2 + 0?", agent_ref={"name": "math"}))
    desk.rows("held.jsonl", row("0 + 2?"))
    desk.config(
        math_with_judge={
            "resources_servers": {"math_with_judge": {"should_use_judge": False, "domain": "math"}}
        },
        math_with_judge_simple_agent=instance(
            dataset("sums", num_repeats=2), dataset("held", "validation"), dataset("x", "example")
        ),
        policy_model={"responses_api_models": {"openai_model": {"openai_api_key": "${key}"}}},
    )

    code, said = desk.run()

    assert code == 0
    assert "math_with_judge.should_use_judge is not used to prepare" in said
    names = {path.name for path in desk.folder.iterdir()} - {"gym.yaml", "out"}
    assert names == {
        "sums.jsonl", "sums_prepare.jsonl", "sums_metrics.json",
        "held.jsonl", "held_prepare.jsonl", "held_metrics.json",
    }  # fmt: skip
    agents = sorted(line["agent_ref"]["name"] for line in desk.lines("sums_prepare.jsonl"))
    assert agents == ["math", "math", *["math_with_judge_simple_agent"] * 2]
    assert desk.lines("out/train.jsonl") == desk.lines("sums_prepare.jsonl")
    assert desk.lines("out/validation.jsonl") == desk.lines("held_prepare.jsonl")
    beside, collated = desk.tree("sums_metrics.json"), desk.tree("out/train_metrics.json")
    assert beside == collated
    assert list(beside)[:9] == [
        "name", "type", "jsonl_fpath", "num_repeats", "source", "gitlab_identifier",
        "huggingface_identifier", "license", "Number of examples",
    ]  # fmt: skip
    assert (beside["name"], beside["num_repeats"], beside["Number of examples"]) == ("sums", 2, 4)
    assert set(beside["Number of turns"]) == SPREAD


def test_metrics_that_changed_are_an_error_until_they_are_overwritten(desk: Desk) -> None:
    desk.rows("sums.jsonl", row("1 + 1?"))
    desk.config(math=instance(dataset("sums", "example")))
    assert desk.run(mode="example_validation")[0] == 0
    old = desk.tree("sums_metrics.json")
    desk.rows("sums.jsonl", row("1 + 1?"), row("2 + 0?"))

    code, said = desk.run(mode="example_validation")
    assert code == 1
    assert "out/example_metrics.json: Number of examples: 1 -> 2" in said
    assert desk.tree("out/example_metrics_conflict.json")["Number of examples"] == 2
    assert not (desk.folder / "out" / "example.jsonl").exists()
    assert desk.tree("sums_metrics.json") == old

    code, _ = desk.run("+overwrite_metrics_conflicts=true", mode="example_validation")
    assert code == 0
    assert desk.tree("sums_metrics.json")["Number of examples"] == 2
    assert not (desk.folder / "out" / "example_metrics_conflict.json").exists()


def test_metrics_beside_a_task_file_are_compared_too(desk: Desk) -> None:
    desk.rows("sums.jsonl", row("1 + 1?"))
    (desk.folder / "sums_metrics.json").write_text('{"Number of examples": 7}')
    desk.config(math=instance(dataset("sums")))

    code, said = desk.run("--json")

    assert code == 1
    assert '"Number of examples: 7 -> 1"' in said
    assert "sums_metrics_conflict.json" in said
    assert desk.tree("sums_metrics_conflict.json")["Number of examples"] == 1
    assert desk.tree("sums_metrics.json") == {"Number of examples": 7}
    assert not (desk.folder / "out" / "train.jsonl").exists()
    assert not (desk.folder / "sums_prepare.jsonl").exists()
    report = desk.tree("out/report.json")
    assert (report["written"], list(report["metrics_conflicts"].values())) == (
        {}, [["Number of examples: 7 -> 1"]],
    )  # fmt: skip


def test_two_declarations_of_a_file_do_not_overwrite_each_other(desk: Desk) -> None:
    desk.rows("sums.jsonl", row("1 + 1?"))
    again = {**dataset("sums"), "name": "again"}
    desk.config(math=instance(dataset("sums"), again))

    assert desk.run()[0] == 0

    assert len(desk.lines("out/train.jsonl")) == 2
    assert len(desk.lines("sums_prepare.jsonl")) == 1
    assert desk.lines("sums_prepare.math.again.jsonl") == desk.lines("sums_prepare.jsonl")
    assert desk.tree("sums_metrics.math.again.json")["name"] == "again"


def test_datasets_of_gym_ray_configs_do_as_well(desk: Desk) -> None:
    desk.rows("sums.jsonl", row("1 + 1?"))
    declared = {"name": "ours", "type": "train", "path": "sums.jsonl", "license": "MIT"}
    desk.config(environments={"math": {"datasets": [declared]}})

    assert desk.run()[0] == 0

    metrics = desk.tree("sums_metrics.json")
    assert (metrics["name"], metrics["license"], metrics["num_repeats"]) == ("ours", "MIT", 1)
    assert desk.lines("sums_prepare.jsonl")[0]["agent_ref"]["name"] == "math"


def test_rejected_rows_fail_unless_dropped(desk: Desk) -> None:
    desk.rows("sums.jsonl", row("1 + 1?"), {"expected_answer": "2"})
    desk.config(math=instance(dataset("sums")))

    code, said = desk.run()
    assert code == 1
    assert "sums.jsonl:2: row has no 'responses_create_params'" in said
    assert not (desk.folder / "sums_prepare.jsonl").exists()

    assert desk.run("--on-invalid", "drop")[0] == 0
    assert len(desk.lines("sums_prepare.jsonl")) == 1


def test_what_is_missing_or_would_be_lost_is_said_first(desk: Desk) -> None:
    desk.rows("sums.jsonl", row("1 + 1?"))
    desk.config(math=instance(dataset("sums"), dataset("gone", "example")))
    code, said = desk.run(mode="example_validation")
    assert code == 2
    assert "gym.yaml: math.datasets.gone: gone.jsonl: no such file" in said

    assert desk.run()[0] == 0
    desk.rows("gone.jsonl", row("1 + 1?"))
    code, said = desk.run(mode="example_validation")
    assert code == 2
    assert "holds train.jsonl of another mode, which would be lost" in said
