"""`export` by Ray Data: the same files as without."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gym_ray.collection import compaction
from gym_ray.errors import GymRayError
from gym_ray.export.export import export
from gym_ray.export.rl import RlRecipe
from gym_ray.export.source import PART_ROW_GROUPS
from tests.exports import table_of
from tests.stored import stored_run, sum_rollout


def test_ray_tasks_write_what_one_process_writes(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "ROW_GROUP_ROWS", 1)
    monkeypatch.setattr("os.fsync", lambda _: None)
    tasks = range(2 * PART_ROW_GROUPS + 1)
    run = stored_run(
        tmp_path / "run",
        [sum_rollout(n, repeat, reply=str(2 * n + repeat)) for n in tasks for repeat in range(2)],
    )

    one = export(run, tmp_path / "one", "rl", RlRecipe(), format="both", workers=1, quiet=True)
    two = export(run, tmp_path / "two", "rl", RlRecipe(), format="both", workers=2, quiet=True)

    assert len(list((tmp_path / "two").glob("*.parquet"))) == 3
    assert table_of(tmp_path / "one").equals(table_of(tmp_path / "two"))
    texts = [(tmp_path / name / "train.jsonl").read_bytes() for name in ("one", "two")]
    assert texts[0] == texts[1]
    assert (one.rows, one.packing, one.runs) == (two.rows, two.packing, two.runs)


def test_a_part_that_breaks_ends_the_export(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "ROW_GROUP_ROWS", 1)
    monkeypatch.setattr("os.fsync", lambda _: None)
    rollouts = [sum_rollout(n, reply="4") for n in range(PART_ROW_GROUPS + 1)]
    run = stored_run(tmp_path / "run", rollouts)
    (shard,) = (run / "rollouts").glob("*.parquet")
    whole = shard.read_bytes()
    column = pq.read_metadata(shard).row_group(3).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    shard.write_bytes(whole[:start] + b"\0" * 64 + whole[start + 64 :])

    with pytest.raises(GymRayError, match=r"exporting broke: .*; nothing was written"):
        export(run, tmp_path / "out", "rl", RlRecipe(), workers=2, quiet=True)

    assert [path.name for path in tmp_path.iterdir()] == ["run"]
