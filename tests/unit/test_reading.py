"""Reading datasets: columns and rows that are asked for, and the readers the docs name."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gym_ray import read_rollouts
from gym_ray.errors import ConfigError
from gym_ray.export.dpo import DpoRecipe
from gym_ray.export.export import Kind, export
from gym_ray.export.features import rollout_features
from gym_ray.export.recipe import Recipe
from gym_ray.export.rl import RlRecipe
from gym_ray.export.sft import SftRecipe
from gym_ray.metrics.metrics import metrics
from gym_ray.store.rows import to_table
from gym_ray.store.schema import SCHEMA
from gym_ray.store.segments import SegmentStore
from tests.stored import stored_run, sum_rollout, unplayed

PAGE = (Path(__file__).parents[2] / "docs" / "dataset.md").read_text()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Five tasks of four rollouts, of which one or two are wrong, and a failed one."""
    rollouts = [
        sum_rollout(
            task,
            repeat,
            reply=str(2 * task if (task + repeat) % 3 else "no"),
            metrics={"length": 3.0},
            prompt=json.dumps([{"role": "user", "content": f"{task} + {task} = ?"}]),
        )
        for task in range(5)
        for repeat in range(4)
    ]
    return stored_run(tmp_path / "runs" / "demo", [*rollouts, unplayed(5)])


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_runs_of_the_same_tasks_in_one_folder_are_refused(tmp_path: Path) -> None:
    """Their rollouts have the same IDs: one would hide the other."""
    folder = tmp_path / "both"
    folder.mkdir()

    def shard(name: str, run_id: str, first: int) -> None:
        rollouts = [
            dataclasses.replace(sum_rollout(first + n, reply="2"), run_id=run_id) for n in range(4)
        ]
        pq.write_table(to_table(rollouts), folder / f"{name}.parquet")

    shard("a", "old", 0)
    shard("b", "new", 4)
    assert len(read_rollouts(folder)) == 8
    shard("c", "new", 0)

    message = "holds 4 rollouts of several runs under one ID"
    with pytest.raises(ConfigError, match=message):
        read_rollouts(folder)
    with pytest.raises(ConfigError, match=message):
        metrics(folder)
    with pytest.raises(ConfigError, match=message):
        export(folder, tmp_path / "out", "sft", SftRecipe(), quiet=True)


def test_only_the_columns_asked_for_are_read(run: Path) -> None:
    table = read_rollouts(run, columns=["reward", "task_id"]).to_arrow()

    assert table.column_names == ["reward", "task_id"]
    assert len(table) == 21
    with pytest.raises(ConfigError, match="a rollout needs all columns"):
        list(read_rollouts(run, columns=["reward"]))


def test_rows_that_pass_a_filter_are_read(run: Path) -> None:
    good = read_rollouts(run, filter=pc.field("reward") >= 0.8)

    assert len(good) == 13
    assert {rollout.reward for rollout in good} == {1.0}
    both = (pc.field("status") == "failed") | (pc.field("rollout_index") == 3)
    assert read_rollouts(run, filter=both, columns=["status"]).to_arrow()["status"].to_pylist() == [
        *["completed"] * 5,
        "failed",
    ]
    nothing = read_rollouts(run, columns=["task"], filter=pc.field("reward") > 7)
    assert (len(nothing), nothing.to_arrow().column_names) == (0, ["task"])
    assert list(read_rollouts(run, filter=pc.field("attempts") > 9)) == []


def test_a_filter_judges_the_copy_that_counts(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "run", [unplayed(1), sum_rollout(2, reply="4")], is_complete=False)
    SegmentStore(run / "segments").write("c", [sum_rollout(1, reply="2")])

    assert len(read_rollouts(run, filter=pc.field("status") == "failed")) == 0
    assert len(read_rollouts(run, filter=pc.field("reward") == 1)) == 2


def test_columns_and_filters_that_fit_no_rollout_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="no column 'rewards'; did you mean 'reward'"):
        read_rollouts(run, columns=["rewards"])
    with pytest.raises(ConfigError, match="no column 'rewards'"):
        read_rollouts(run).to_arrow(["rewards"])
    with pytest.raises(ConfigError, match="filter"):
        read_rollouts(run, filter=pc.field("rewards") > 1)


@pytest.fixture
def page(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What the page reads, `runs/demo` and exports of it, in the current directory."""
    monkeypatch.chdir(tmp_path)
    recipes: dict[Kind, Recipe] = {"rl": RlRecipe(), "sft": SftRecipe(), "dpo": DpoRecipe()}
    for kind, recipe in recipes.items():
        export(run, f"exports/demo-{kind}", kind, recipe, quiet=True)
    return run


def test_python_of_the_dataset_page_works(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    whole, single, tables, frames, by_task, maps, exports, plain, told = blocks("python")
    names: dict[str, Any] = {"__name__": "page"}

    exec(whole, names)
    assert len(names["good"]) == 13
    exec(single, names)
    shown = capsys.readouterr().out
    assert "The best of them:" in shown
    assert shown.endswith("\nno assistant 0\n")
    exec(tables, names)
    assert (len(names["answers"]), names["whole"].column_names) == (20, ["task_id", "response"])

    exec(frames, names)
    assert names["frame"]["reward"].count() == 20
    exec(by_task, names)
    assert names["by_task"]["rollouts"].to_list() == [4] * 5
    exec(maps, names)
    assert names["lengths"]["length"].to_list() == [3.0] * 20
    exec(exports, names)
    assert names["sequences"]["logprob"].to_list() == [-0.5] * 20
    assert set(names["answers"]["answer"].to_list()) == {"no", "0", "2", "4", "6", "8"}
    assert names["pairs"]["better"].to_list() == ["0", "2", "4", "6", "8"]

    exec(plain, names)
    rows = {kind: names[kind].num_rows for kind in ("rl", "sft", "dpo")}
    assert rows == {"rl": 20, "sft": 10, "dpo": 5}
    assert names["rl"][0]["token_ids"] == [1, 2, 0]
    assert names["dpo"][0]["chosen"][0]["role"] == "assistant"
    exec(told, names)
    demo = names["demo"]
    assert (demo.num_rows, demo[0]["token_ids"]) == (21, [1, 2, 0])
    assert demo.column_names == SCHEMA.names
    assert capsys.readouterr().out.splitlines()[-1] == "{'length': 3.0}"
    assert dict(demo[0]["reward_components"]) == {}


def test_shards_are_streamed_by_hugging_faces_datasets(run: Path) -> None:
    import datasets

    rows = datasets.load_dataset(
        "parquet",
        data_files=f"{run}/rollouts/*.parquet",
        features=rollout_features(),
        split="train",
        streaming=True,
    )
    first = next(iter(rows))
    assert (dict(first["metrics"]), first["logprobs"]) == ({"length": 3.0}, [0.0, 0.0, -0.5])


def test_sql_of_the_dataset_page_works(page: Path) -> None:
    import duckdb

    counted, margins, maps, groups, conversations, pairs = (
        duckdb.sql(text).fetchall() for text in blocks("sql")
    )

    assert counted[0][:2] == ("arithmetic", 21)
    assert counted[0][2] == pytest.approx(13 / 20)
    assert [margin for _, margin in margins] == [1.0] * 5
    assert maps == [(3.0, str(2 * task)) for task in range(5) for _ in range(4)]
    assert [tokens for _, _, tokens in groups] == [4] * 5
    assert {answer for _, answer, _ in conversations} == {"no", "0", "2", "4", "6", "8"}
    assert sorted(pairs) == [(str(2 * task), "no", 1.0) for task in range(5)]
