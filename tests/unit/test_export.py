"""The export command: files, card, parts, refusals, and its page. No Ray."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import typing
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from gym_ray.cli.main import app
from gym_ray.collection import compaction
from gym_ray.config.environment import License
from gym_ray.errors import ConfigError, GymRayError
from gym_ray.export import export as export_module
from gym_ray.export import source as source_module
from gym_ray.export.dpo import DpoRecipe
from gym_ray.export.export import export
from gym_ray.export.licenses import front_matter
from gym_ray.export.nemo_gym_rows import NemoGymRecipe
from gym_ray.export.recipe import Recipe
from gym_ray.export.rl import RlRecipe
from gym_ray.export.sft import SftRecipe
from gym_ray.rollout import Branch
from gym_ray.store.rows import to_table
from gym_ray.store.segments import SegmentStore
from tests.exports import Make, failed, lines, preferences, run_command, said, store, table_of, told

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()


# NeMo Gym


def test_nemo_gym_has_rollouts_failures_and_tasks(make_rollout: Make, tmp_path: Path) -> None:
    fields = said("3")
    rollouts = [make_rollout(0, 0, **fields), make_rollout(0, 1, **fields)]
    rollouts += [failed(make_rollout, 1, 0), make_rollout(2, 0, **told("?"))]
    run = store(tmp_path / "run", rollouts)

    report = export(run, tmp_path / "out", "nemo-gym", NemoGymRecipe(), quiet=True)

    good = lines(tmp_path / "out" / "rollouts.jsonl")
    assert [(r["_ng_task_index"], r["_ng_rollout_index"]) for r in good] == [(0, 0), (0, 1)]
    item = good[0]["response"]["output"][-1]
    assert item["prompt_token_ids"] + item["generation_token_ids"] == [1, 2, 3, 0, 0]
    (bad,) = lines(tmp_path / "out" / "rollouts_failures.jsonl")
    assert (bad["_ng_failure_class"], bad["reward"]) == ("verifier_error", None)
    tasks = lines(tmp_path / "out" / "tasks.jsonl")
    assert [task["agent_ref"]["name"] for task in tasks] == ["sums"] * 3
    assert (
        tasks[0]["responses_create_params"]
        == json.loads(rollouts[0].spec.task)["responses_create_params"]
    )
    assert report.rows == {"rollouts": 2, "rollouts_failures": 1, "tasks": 3}
    assert report.dropped == {"items do not fit the turns": 1}


def test_what_an_export_leaves_out_of_a_rollouts_turns_is_noted(
    make_rollout: Make, tmp_path: Path
) -> None:
    branch = Branch(np.array([1, 7], "i4"), np.array([0, 1], "i1"), np.array([0, -1], "f4"))
    aside = {"id": "msg_x-7", "type": "message", "role": "assistant", "content": "Title."}
    left = {"side_branches": (branch,), "left_out": json.dumps([[aside]])}
    run = store(tmp_path / "run", [make_rollout(0, 0, **said("3"), **left)])

    rows = export(run, tmp_path / "gym", "nemo-gym", NemoGymRecipe(), quiet=True)
    conversations = export(run, tmp_path / "sft", "sft", SftRecipe(), quiet=True)

    assert list(rows.noted.values()) == list(conversations.noted.values()) == [1]
    ((name, _),) = conversations.noted.items()
    assert "beside the task's conversation" in name


# The command


def test_parts_make_the_same_files_as_one_pass(
    make_rollout: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [(task, n) for task in range(9) for n in range(3)]
    # Tasks 6 to 8 are the first three once more, under other ids.
    fields = [said(str(p[1])) | told(f"task {p[0] % 6}") for p in places]
    rollouts = [
        make_rollout(*place, **texts, reward=float(place[1]))
        for place, texts in zip(places, fields, strict=True)
    ]
    monkeypatch.setattr(compaction, "ROW_GROUP_ROWS", 4)
    run = store(tmp_path / "run", rollouts)
    export(run, tmp_path / "one", "sft", SftRecipe(), quiet=True)
    monkeypatch.setattr(source_module, "PART_ROW_GROUPS", 2)
    export(run, tmp_path / "many", "sft", SftRecipe(), quiet=True)

    assert len(list((tmp_path / "many").glob("*.parquet"))) > 1
    assert table_of(tmp_path / "one").equals(table_of(tmp_path / "many"))
    texts = [(tmp_path / name / "train.jsonl").read_text() for name in ("one", "many")]
    assert texts[0] == texts[1]


def test_an_unfinished_run_is_exported_in_whole_groups(make_rollout: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    segments = SegmentStore(run / "segments")
    segments.write("a", [make_rollout(0, 0, reward=0.0), make_rollout(1, 0)])
    segments.write("b", [make_rollout(0, 1, reward=1.0)])
    (run / "run.yaml").write_text("run: {id: r1, model_fingerprint: f00}\n")
    (run / "summary.json").write_text('{"pending": 5}')

    report = export(run, tmp_path / "out", "rl", RlRecipe(), quiet=True)

    table = table_of(tmp_path / "out")
    assert table["group_size"].to_pylist() == [2, 2, 1]
    assert (report.pending, report.groups) == (5, 2)


def test_tasks_that_share_an_index_are_groups_of_their_own(
    make_rollout: Make, exported: Any
) -> None:
    rollouts = [make_rollout(0, n, reward=float(n)) for n in range(2)]
    other = [make_rollout(1, n, reward=1.0) for n in range(2)]
    rollouts += [
        dataclasses.replace(r, spec=dataclasses.replace(r.spec, task_index=0)) for r in other
    ]

    rows, report = exported(rollouts, "rl", "--format", "jsonl")

    assert report["groups"] == 2
    assert sorted(row["advantage_rloo"] for row in rows) == [-1.0, 0.0, 0.0, 1.0]


def test_the_card_says_what_the_dataset_is_of(make_rollout: Make, tmp_path: Path) -> None:
    run = store(tmp_path / "run", [make_rollout(0, 0), failed(make_rollout, 0, 1)])
    (run / "run.yaml").write_text("run: {id: r1, model_fingerprint: f00}\n")

    export(run, tmp_path / "out", "rl", RlRecipe(), quiet=True, license="cc-by-4.0")

    card = (tmp_path / "out" / "README.md").read_text()
    for text in (
        "license: cc-by-4.0", "path: train-*.parquet", "| runs | run (2) |",
        "| models | m (2) |", "| environments | sums (2) |", "| run: model_fingerprint | f00 |",
        "| rollouts read | 2 |", "| failed_groups | drop |",
        "| left out: in a group with failed rollouts | 1 |",
    ):  # fmt: skip
        assert text in card, text
    assert json.loads((tmp_path / "out" / "export.json").read_text())["kind"] == "rl"


def licensed(**licenses: str | None) -> str:
    """A `run.yaml` whose environment `sums` declares datasets of these licenses."""
    datasets = [{"name": name, "license": license} for name, license in licenses.items()]
    environments = {"sums": {"datasets": datasets}, "other": {}}
    return json.dumps({"environments": environments, "run": {"id": "r1"}})


@pytest.mark.parametrize(
    ("declared", "asked", "front", "row"),
    [
        (licensed(a="Apache 2.0", b="Apache 2.0"), None, {"license": "apache-2.0"},
         "sums: a (Apache 2.0); sums: b (Apache 2.0)"),
        (licensed(a="MIT", b="CC BY-NC 3.0"), None, {"license": ["mit", "cc-by-nc-3.0"]},
         "sums: a (MIT); sums: b (CC BY-NC 3.0)"),
        (licensed(a="NVIDIA Evaluation Dataset License Agreement"), None,
         {"license": "other", "license_name": "nvidia-evaluation-dataset-license-agreement"},
         "sums: a (NVIDIA Evaluation Dataset License Agreement)"),
        (licensed(a="MIT", b=None), None, {}, "sums: a (MIT); sums: b (not stated)"),
        (licensed(a="MIT"), "cc0-1.0", {"license": "cc0-1.0"}, "sums: a (MIT)"),
        ("run: {id: r1}\n", None, {}, "not declared"),
    ],
)  # fmt: skip
def test_the_card_names_the_licenses_of_the_tasks(
    make_rollout: Make, tmp_path: Path, declared: str, asked: str | None, front: Any, row: str
) -> None:
    run = store(tmp_path / "run", [make_rollout()])
    (run / "run.yaml").write_text(declared)

    export(run, tmp_path / "out", "rl", RlRecipe(), quiet=True, license=asked)

    card = (tmp_path / "out" / "README.md").read_text()
    told = yaml.safe_load(card.split("---")[1])
    assert {key: told[key] for key in told if key.startswith("license")} == front
    assert f"| licenses of the tasks | {row} |" in card


def test_every_license_a_config_may_declare_has_a_name_on_the_hub() -> None:
    for license in typing.get_args(License):
        name = front_matter({"sums": {"a": license}})["license"]
        assert (name == "other") == license.startswith("NVIDIA")


def test_an_output_that_holds_something_is_refused(make_rollout: Make, tmp_path: Path) -> None:
    run = store(tmp_path / "run", [make_rollout()])

    with pytest.raises(ConfigError, match="is not empty; name a new folder"):
        export(run, run, "rl", RlRecipe(), quiet=True)
    with pytest.raises(ConfigError, match="no such folder"):
        export(tmp_path / "none", tmp_path / "out", "rl", RlRecipe(), quiet=True)


def test_an_export_that_breaks_leaves_nothing(
    make_rollout: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store(tmp_path / "run", [make_rollout()])
    monkeypatch.setattr(export_module, "_join", lambda job: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        export(run, tmp_path / "out", "rl", RlRecipe(), quiet=True)

    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_text_that_is_no_text_is_escaped(make_rollout: Make, tmp_path: Path) -> None:
    spec = dataclasses.replace(make_rollout().spec, task='{"note": "caf\\u00e9 \\ud800"}')
    rollout = dataclasses.replace(failed(make_rollout, 0, 0), spec=spec)
    run = store(tmp_path / "run", [rollout])

    export(run, tmp_path / "out", "nemo-gym", NemoGymRecipe(), quiet=True)

    (row,) = lines(tmp_path / "out" / "rollouts_failures.jsonl")
    assert row["note"] == "caf\u00e9 \ud800"


def test_a_broken_file_ends_the_export_in_a_message(make_rollout: Make, tmp_path: Path) -> None:
    run = store(tmp_path / "run", [make_rollout()])
    (shard,) = (run / "rollouts").glob("*.parquet")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:4] + b"\0" * 64 + whole[68:])

    with pytest.raises((GymRayError, OSError)):
        export(run, tmp_path / "out", "rl", RlRecipe(), quiet=True)

    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_shard_that_holds_a_rollout_twice_is_refused(make_rollout: Make, tmp_path: Path) -> None:
    pq.write_table(to_table([make_rollout(), make_rollout()]), tmp_path / "a.parquet")

    with pytest.raises(ConfigError, match="holds a rollout twice"):
        export(tmp_path, tmp_path / "out", "rl", RlRecipe(), quiet=True)


@pytest.mark.parametrize(
    ("kind", "recipe", "rows"),
    [("rl", RlRecipe(), 3), ("sft", SftRecipe(), 3), ("dpo", DpoRecipe(), 1)],
)
def test_hugging_faces_datasets_reads_the_folder(
    make_rollout: Make, tmp_path: Path, kind: Any, recipe: Recipe, rows: int
) -> None:
    run = store(tmp_path / "run", preferences(make_rollout))

    export(run, tmp_path / "out", kind, recipe, quiet=True)

    loaded = datasets.load_dataset(
        str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == rows


# The page


@pytest.fixture
def demo(make_rollout: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`runs/demo`, below the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return store(tmp_path / "runs" / "demo", preferences(make_rollout))


@pytest.mark.usefixtures("demo")
def test_commands_and_code_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    # The sections before that train, which takes a real collection: tests/engine.
    _, _, reading = PAGE.partition("\n## Reading\n")
    (commands,) = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    for command in commands.splitlines():
        program, *arguments = shlex.split(command)
        assert program == "gym-ray"
        assert run_command(*arguments)[0] == 0, command
    for code in re.findall(r"```python\n(.*?)```", reading, re.S):
        exec(code, {})
    assert capsys.readouterr().out.endswith("1\n")


def test_the_page_names_every_option() -> None:
    named = set(re.findall(r"(--[a-z-]+)", PAGE))
    for kind in ("rl", "sft", "dpo", "nemo-gym", "atif"):
        asked = CliRunner().invoke(app, ["export", kind, "--help"], env={"COLUMNS": "200"})
        assert f"gym-ray export {kind} " in asked.output
        options = set(re.findall(r"(--[a-z-]+)", asked.output))
        assert options - named <= {"--help", "--quiet", "--dedup"}
