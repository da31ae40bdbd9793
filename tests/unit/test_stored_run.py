"""A stored run: parts loaded once, pages, counts, and following one that is being written."""

from __future__ import annotations

import datetime
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gym_ray.collection import collect
from gym_ray.collection.compaction import compact
from gym_ray.config.load import load_config
from gym_ray.errors import ConfigError, FailureKind, FileAbsent
from gym_ray.export.export import export
from gym_ray.export.rl import RlRecipe
from gym_ray.rollout import Rollout
from gym_ray.store import StoredRun, index, stored_config
from gym_ray.store.places import write_table_whole
from gym_ray.store.rollout_page import PLAIN_COLUMNS, RolloutFilter
from gym_ray.store.rows import specs_to_table
from gym_ray.store.segments import SegmentStore
from tests.stored import HERE, arithmetic_config, stored_run, sum_rollout

CUT = {"status": "truncated", "truncation_reason": "max_output_tokens"}
NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file's index columns have been read."""
    counted: Counter[str] = Counter()
    entries = index._entries

    def counting(path: Path) -> pa.Table:
        counted[str(path)] += 1
        return entries(path)

    monkeypatch.setattr(index, "_entries", counting)
    return counted


def failed(task: int, **fields: Any) -> Rollout:
    return sum_rollout(
        task, reply="", status="failed", error_kind=FailureKind.POLICY_TIMEOUT, **fields
    )


def written(run: Path, block: str, *rollouts: Rollout) -> Path:
    SegmentStore(run / "segments").write(block, rollouts)
    return run


def compacted(run: Path) -> Path:
    (run / "rollouts").mkdir(exist_ok=True)
    compact(StoredRun.open(run).index(), run / "rollouts", run / "segments")
    return run


def tasks(table: pa.Table) -> list[int]:
    return table["task_index"].to_pylist()


def test_each_part_is_loaded_once_and_when_it_is_asked_for(
    tmp_path: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored_run(tmp_path / "run", [sum_rollout(n, reply="") for n in range(3)])
    reads.clear()
    texts: list[Path] = []
    text_of = stored_config.stored_text
    monkeypatch.setattr(
        stored_config, "stored_text", lambda file: (texts.append(file), text_of(file))[1]
    )

    run = StoredRun.open(str(path))
    assert (texts, list(reads)) == ([], [])
    assert StoredRun.open(run) is run

    assert run.config.checked().environments.keys() == {"arithmetic"}
    assert run.facts["kind"] == "collect"
    assert run.licenses(["arithmetic"]) == {"arithmetic": {}}
    assert len(run.index().table) == len(run.rollouts()) == len(run.page().table) == 3
    assert texts == [path / "run.yaml"]
    assert list(reads.values()) == [1]


def test_shards_alone_belong_to_the_run_they_are_in(tmp_path: Path) -> None:
    path = stored_run(tmp_path / "run", [sum_rollout(n, reply="") for n in range(3)])

    inside = StoredRun.open(path / "rollouts")
    assert (inside.home, len(inside.rollouts())) == (path, 3)
    assert inside.facts["kind"] == "collect"

    alone = StoredRun.open((path / "rollouts").rename(tmp_path / "rollouts"))
    assert (alone.home, alone.config_if_there()) == (alone.path, None)
    assert alone.pending(3) == 0
    for part in ("config", "facts", "summary", "expected"):
        with pytest.raises(FileAbsent, match=f"{tmp_path}/rollouts/"):
            getattr(alone, part)


def test_a_run_that_has_only_begun_holds_nothing_yet(tmp_path: Path) -> None:
    specs = [sum_rollout(n, reply="").spec for n in range(4)]
    write_table_whole(tmp_path / "manifest.parquet", specs_to_table(specs))
    run = StoredRun.open(tmp_path)

    assert len(run.page().table) == 0
    assert run.counts() == {"completed": 0, "truncated": 0, "failed": 0, "pending": 4}
    with pytest.raises(ConfigError, match="holds no rollouts; name the output of a collection"):
        run.files()


def test_counts_are_by_status_and_say_what_is_pending(tmp_path: Path) -> None:
    specs = [sum_rollout(n, reply="").spec for n in range(5)]
    write_table_whole(tmp_path / "manifest.parquet", specs_to_table(specs))
    written(tmp_path, "a", sum_rollout(0, reply=""), failed(1))
    written(tmp_path, "b", sum_rollout(2, reply="", **CUT))

    run = StoredRun.open(tmp_path)

    assert run.counts() == {"completed": 1, "truncated": 1, "failed": 1, "pending": 2}
    assert run.expected == {"arithmetic": 5}


@pytest.fixture
def many(tmp_path: Path) -> StoredRun:
    """Ten rollouts of rewards 0.0 to 0.9 in several files; the third failed."""
    rollouts = [sum_rollout(n, reply="", reward=n / 10) for n in range(10)]
    rollouts[3] = failed(3)
    for start in (6, 0, 3):
        written(tmp_path, f"{start}", *rollouts[start : start + (4 if start == 6 else 3)])
    return StoredRun.open(tmp_path)


def test_pages_follow_one_another_in_dataset_order(many: StoredRun) -> None:
    seen: list[int] = []
    offset: int | None = 0
    while offset is not None:
        page = many.page(columns=["task_index", "reward"], offset=offset, limit=4)
        assert page.table.column_names == ["task_index", "reward"]
        assert page.total == 10
        seen += tasks(page.table)
        offset = page.next_offset

    assert seen == list(range(10))
    assert len(many.page(offset=10).table) == 0


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        (RolloutFilter(statuses=["failed"]), [3]),
        (RolloutFilter(min_reward=0.7), [7, 8, 9]),
        (RolloutFilter(max_reward=0.4), [0, 1, 2, 4]),
        (RolloutFilter(min_reward=0.2, max_reward=0.5, statuses=["completed"]), [2, 4, 5]),
        (RolloutFilter(environments=["arithmetic", "none"]), list(range(10))),
        (RolloutFilter(environments=["none"]), []),
    ],
)
def test_a_page_holds_what_passes(
    many: StoredRun, filter: RolloutFilter, expected: list[int]
) -> None:
    page = many.page(filter, columns=["task_index"])
    assert (tasks(page.table), page.total) == (expected, len(expected))

    rest = many.page(filter, columns=["task_index"], offset=1, limit=2)
    assert tasks(rest.table) == expected[1:3]


def test_columns_of_tokens_are_read_only_when_asked_for(
    many: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    row_group = pa.parquet.ParquetFile.read_row_group

    def noting(self: Any, number: int, columns: list[str] | None = None) -> pa.Table:
        read.extend(columns or ["all"])
        return row_group(self, number, columns=columns)

    monkeypatch.setattr(pa.parquet.ParquetFile, "read_row_group", noting)

    assert tuple(many.page().table.column_names) == PLAIN_COLUMNS
    assert {"task", "response"} <= set(read)
    assert not {"token_ids", "loss_mask", "logprobs", "side_branches", "all"} & set(read)
    assert many.page(columns=["token_ids"]).table["token_ids"][1].as_py() == [1, 2, 1]
    with pytest.raises(ConfigError, match="no column 'tokens'"):
        many.page(columns=["tokens"])


def test_a_page_opens_only_the_files_it_shows(
    many: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    many.index()
    opened: list[str] = []
    parquet_file = index.parquet_file
    monkeypatch.setattr(
        "gym_ray.store.row_fetcher.parquet_file",
        lambda path: (opened.append(path.parent.name), parquet_file(path))[1],
    )

    many.page(offset=7, limit=2)

    assert set(opened) == {"6"}


def test_a_run_that_is_written_is_followed_and_each_rollout_told_once(tmp_path: Path) -> None:
    written(tmp_path, "a", sum_rollout(1, reply=""), sum_rollout(0, reply=""))
    follower = StoredRun.open(tmp_path).follow(["task_index", "status"])

    assert tasks(follower.updates()) == [0, 1]
    assert len(follower.updates()) == 0
    written(tmp_path, "b", sum_rollout(3, reply=""))
    written(tmp_path, "c", failed(2), sum_rollout(0, reply=""))
    assert tasks(follower.updates()) == [2, 3]
    compacted(tmp_path)
    assert not (tmp_path / "segments").exists()
    assert len(follower.updates()) == 0
    written(tmp_path, "d", sum_rollout(4, reply=""))
    assert tasks(follower.updates()) == [4]
    compacted(tmp_path)
    assert len(follower.updates()) == 0


def test_a_failure_that_was_run_again_is_told_again_once_it_is_none(tmp_path: Path) -> None:
    written(tmp_path, "a", failed(0, started_at=NOON), failed(1, started_at=NOON))
    follower = StoredRun.open(tmp_path).follow(["task_index", "status"])
    assert tasks(follower.updates()) == [0, 1]

    later = NOON + datetime.timedelta(hours=1)
    written(tmp_path, "b", sum_rollout(0, reply="", started_at=later), failed(1, started_at=later))

    assert follower.updates().to_pylist() == [{"task_index": 0, "status": "completed"}]
    assert len(follower.updates()) == 0


def test_what_a_compaction_takes_away_meanwhile_is_read_where_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "a", sum_rollout(0, reply=""))
    written(tmp_path, "b", sum_rollout(1, reply=""))
    run = StoredRun.open(tmp_path)
    follower = run.follow(["task_index"])
    entries = index._entries

    def too_late(path: Path) -> pa.Table:
        monkeypatch.setattr(index, "_entries", entries)
        compacted(tmp_path)
        return entries(path)

    monkeypatch.setattr(index, "_entries", too_late)
    assert tasks(run.page(columns=["task_index"]).table) == [0, 1]

    written(tmp_path, "c", sum_rollout(2, reply=""))
    monkeypatch.setattr(index, "_entries", too_late)
    assert tasks(follower.updates()) == [0, 1, 2]


def test_what_is_read_already_is_not_read_again(tmp_path: Path, reads: Counter[str]) -> None:
    written(tmp_path, "a", sum_rollout(1, reply=""), failed(0, started_at=NOON))
    run = StoredRun.open(tmp_path)
    assert len(run.index().table) == 2
    first = run.index()
    written(tmp_path, "b", sum_rollout(0, reply="", started_at=NOON), sum_rollout(2, reply=""))

    now = run.index()

    assert list(reads.values()) == [1, 1]
    assert run.index() is now is not first
    again = index.Index.read(now.files)
    assert (now.table, now.duplicates) == (again.table, 1)
    assert now.table["status"].to_pylist() == ["completed"] * 3

    now.files[0].unlink()  # The copy in it was left out, and its other row was not.
    assert tasks(run.index().table) == [0, 2]
    assert run.index().duplicates == 0


def test_a_command_reads_the_index_of_a_file_once(tmp_path: Path, reads: Counter[str]) -> None:
    """Of a collection and of one that continues it: segments once, and the shards made of them."""
    config = arithmetic_config(tmp_path / "run", f"{HERE}/arithmetic.py:Arithmetic")
    (tmp_path / "tasks.jsonl").write_text("{broken\n" * 3)
    config["collect"] |= {
        "input": str(tmp_path / "tasks.jsonl"), "num_repeats": 2, "max_failed_share": 1
    }  # fmt: skip

    summary = collect(load_config(config), quiet=True)

    assert (summary.expected, summary.failed, summary.shards) == (6, 6, 1)
    assert set(reads.values()) == {1}
    assert {Path(path).parent.name for path in reads if "shard-" in path} == {"rollouts"}
    assert sum("shard-" in path for path in reads) == 1

    reads.clear()
    assert collect(load_config(config), quiet=True).failed == 6
    assert list(reads.values()) == [1]


@pytest.mark.parametrize("is_complete", [True, False])
def test_an_export_reads_the_index_of_a_file_once_at_most(
    tmp_path: Path, reads: Counter[str], is_complete: bool
) -> None:
    rollouts = [sum_rollout(n, reply="") for n in range(3)]
    run = stored_run(tmp_path / "run", rollouts, is_complete=is_complete)
    if not is_complete:
        written(run, "a", sum_rollout(1, 1, reply=""))
    reads.clear()

    export(run, tmp_path / "out", "rl", RlRecipe(), quiet=True)

    # Whether shards are in order is seen from their statistics.
    assert list(reads.values()) == ([] if is_complete else [1, 1])
