"""Storage: the same promises on a disk and in an object store."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import gym_ray
from gym_ray.config.load import load_config
from gym_ray.errors import ConfigError, GymRayError
from gym_ray.export.export import export
from gym_ray.export.rl import RlRecipe
from gym_ray.store import places as storage
from gym_ray.store.places import Hold, InUse, open_path, written_whole
from gym_ray.store.rows import broken_invariants
from gym_ray.store.run_directory import RunDirectory
from gym_ray.store.stored_run import read_rollouts
from tests.cluster import logged_requests, scripted_config, sums, until, write_rows
from tests.exports import run_command, table_of
from tests.stored import arithmetic_config, stored_run, sum_rollout

Folder = Callable[[str], Path]


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """Makes folders, of either kind."""

    def make(name: str) -> Path:
        if request.param == "store":
            url = request.getfixturevalue("bucket")
            return open_path(f"{url}/{tmp_path.name}/{name}")
        found = tmp_path / name
        found.mkdir()
        return found

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    return make


def test_a_file_is_seen_whole_or_not_at_all(folder: Folder) -> None:
    path = folder("files") / "a.txt"

    with written_whole(path) as file:
        file.write(b"first")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), written_whole(path) as file:
        file.write(b"second" * (1 // 0))

    assert path.read_text() == "first"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("rows", [3, 2_000_000])
def test_parquet_reads_back_from_files_of_any_size(folder: Folder, rows: int) -> None:
    path = folder("tables") / "t.parquet"
    table = pa.table({"number": range(rows)})
    storage.write_table_whole(path, table)

    with storage.parquet_file(path) as file:
        assert file.read(columns=["number"]).equals(table)
    assert rows == 3 or path.stat().st_size > 2**20


def test_a_tag_changes_with_the_content_and_only_with_it(folder: Folder) -> None:
    path = folder("tagged") / "tasks.jsonl"
    storage.write_text_whole(path, "one")
    before = storage.content_tag(path)
    storage.write_text_whole(path, "one")
    assert storage.content_tag(path) == before

    storage.write_text_whole(path, "two")

    assert storage.content_tag(path) != before


def test_a_folder_is_held_by_one_process_at_a_time(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(storage, "_SILENCE_SECONDS", 3.0)
    held = folder("held")
    first = Hold.take(held)

    with pytest.raises(InUse):
        Hold.take(held)
    with pytest.raises(InUse), storage.unwritten(held):
        pass
    first.check()
    first.release()
    first.release()

    with storage.unwritten(held):
        pass
    Hold.take(held).release()


def test_a_folder_whose_holder_has_died_is_taken_over(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_SILENCE_SECONDS", 0.0)
    held = open_path(f"{bucket}/{tmp_path.name}/dead")
    dead = Hold.take(held)  # Beats after five seconds; to the next it is dead already.
    monkeypatch.setattr(storage, "_BEAT_SECONDS", 0.05)

    living = Hold.take(held)

    living.check()
    assert storage.is_remote(held)
    living.release()
    dead.release()


def test_who_lost_a_folder_is_told(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_BEAT_SECONDS", 0.05)
    held = open_path(f"{bucket}/{tmp_path.name}/lost")
    hold = Hold.take(held)
    storage.write_text_whole(held / ".lock", '{"owner": "another", "beat": ""}')

    def told() -> bool:
        try:
            hold.check()
        except GymRayError:
            return True
        return False

    until(told, 10, "the holder notices")
    with pytest.raises(GymRayError, match="another gym-ray process has taken it over"):
        hold.check()
    hold.release()
    assert (held / ".lock").exists()


def test_a_run_in_a_bucket_reads_and_exports_like_one_on_disk(bucket: str, tmp_path: Path) -> None:
    rollouts = [sum_rollout(n, k, reply=str(2 * n + k)) for n in range(5) for k in range(2)]
    local = stored_run(tmp_path / "run", rollouts)
    remote = stored_run(open_path(f"{bucket}/{tmp_path.name}/run"), rollouts)

    assert read_rollouts(str(remote)).to_arrow().equals(read_rollouts(local).to_arrow())
    out = open_path(f"{bucket}/{tmp_path.name}/out")
    for source, target in ((local, tmp_path / "out"), (str(remote), str(out))):
        export(source, target, "rl", RlRecipe(), quiet=True)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {path.name for path in out.iterdir()} == names
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in out.glob("*"):
        (copy / path.name).write_bytes(path.read_bytes())
    assert table_of(copy).equals(table_of(tmp_path / "out"))
    assert (copy / "train.jsonl").read_text() == (tmp_path / "out" / "train.jsonl").read_text()
    with pytest.raises(ConfigError, match="is not empty"):
        export(local, str(out), "rl", RlRecipe(), quiet=True)


def test_a_run_in_a_bucket_continues(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/{tmp_path.name}/again"
    config = load_config({**arithmetic_config(tmp_path), "collect": {"output": url}})
    first = RunDirectory.open(config)
    first.save_config(config)
    first.close()

    second = RunDirectory.open(config)

    assert (second.id, second.resumed) == (first.id, True)
    second.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://no-such-bucket-here/run", "no such bucket"),
        ("nosuch://place/run", "nosuch:// cannot be read here"),
        ("hf://datasets/me/run", "`gym-ray hub push` it"),
    ],
)
def test_places_that_cannot_be_written_are_refused_with_the_reason(
    bucket: str, tmp_path: Path, url: str, said: str
) -> None:
    config = load_config({**arithmetic_config(tmp_path), "collect": {"output": url}})

    with pytest.raises(ConfigError, match=said):
        RunDirectory.open(config)


def test_collect_reads_tasks_from_a_bucket_and_writes_rollouts_to_one(
    bucket: str, tmp_path: Path, requests: Path
) -> None:
    home = f"{bucket}/{tmp_path.name}"
    rows = sums(40, tmp_path)
    text = write_rows(tmp_path / "a.jsonl", rows[:20]).read_text()
    storage.write_text_whole(open_path(f"{home}/tasks/a.jsonl"), text)
    more = [{**row, "responses_create_params": json.dumps(row["responses_create_params"])}
            for row in rows[20:]]  # fmt: skip
    storage.write_table_whole(open_path(f"{home}/tasks/b.parquet"), pa.Table.from_pylist(more))
    config = scripted_config(tmp_path, Path("none"), requests, collect__num_repeats=2)
    config["collect"] |= {"input": f"{home}/tasks/*", "output": f"{home}/run"}

    summary = gym_ray.collect(config, quiet=True)

    assert (summary.expected, summary.completed, summary.reward.mean) == (80, 80, 1.0)
    rollouts = list(gym_ray.read_rollouts(f"{home}/run"))
    assert len({rollout.spec.rollout_id for rollout in rollouts}) == 80
    assert broken_invariants(rollouts) == []
    assert {rollout.spec.source_file for rollout in rollouts} == {
        f"{home}/tasks/a.jsonl",
        f"{home}/tasks/b.parquet",
    }
    left = {path.name for path in open_path(f"{home}/run").iterdir()}
    assert left == {"rollouts", "manifest.parquet", "run.yaml", "summary.json"}
    again = gym_ray.collect(config, quiet=True)
    ids = {rollout.spec.rollout_id for rollout in rollouts}
    assert (again.completed, len(logged_requests(requests, ids))) == (80, 80)


def test_the_commands_of_the_page_work(bucket: str, tmp_path: Path, requests: Path) -> None:
    home = f"{bucket}/{tmp_path.name}"
    tasks = write_rows(tmp_path / "tasks.jsonl", sums(4, tmp_path)).read_text()
    storage.write_text_whole(open_path(f"{home}/tasks/a.jsonl"), tasks)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(scripted_config(tmp_path, Path("none"), requests)))
    page = (Path(__file__).parents[2] / "docs" / "storage.md").read_text()
    (block,) = re.findall(r"```bash\n(.*?)```", page, re.S)

    for line in block.replace("s3://rollouts", home).splitlines():
        command = shlex.split(line.replace("config.yaml", str(config)))
        code, said = run_command(*command[1:])
        assert code == 0, said

    assert (open_path(f"{home}/demo-rl") / "export.json").exists()
