"""Index, segments, compaction and reading: each rollout exactly once, in order, at any moment."""

import dataclasses
import datetime
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gym_ray import read_rollouts
from gym_ray.collection import compaction
from gym_ray.collection.compaction import compact
from gym_ray.errors import RETRYABLE, ConfigError, FailureKind
from gym_ray.rollout import Rollout
from gym_ray.store.dataset_files import dataset_files
from gym_ray.store.index import Index, contains
from gym_ray.store.schema import SCHEMA
from gym_ray.store.segments import SegmentStore

Make = Callable[..., Rollout]
LATER = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here, and a sync takes milliseconds."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "rollouts").mkdir()
    return tmp_path


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "ROW_GROUP_ROWS", 5)
    monkeypatch.setattr(compaction, "SHARD_ROWS", 12)


def store(run: Path, rollouts: Sequence[Rollout], *, size: int = 3, prefix: str = "b") -> None:
    """Write rollouts as segments of `size`, as a stage would."""
    segments = SegmentStore(run / "segments")
    for number, start in enumerate(range(0, len(rollouts), size)):
        segments.write(f"{prefix}{number // 3}", rollouts[start : start + size])


def compacted(run: Path) -> int:
    return compact(Index.read(dataset_files(run)), run / "rollouts", run / "segments")


def failed(make_rollout: Make, *place: int, kind: FailureKind) -> Rollout:
    return make_rollout(*place, status="failed", error_kind=kind, error="gone")


def places(run: Path) -> list[tuple[int, int]]:
    return [(r.spec.task_index, r.spec.rollout_index) for r in read_rollouts(run)]


def row_groups(run: Path) -> list[list[tuple[int, int]]]:
    groups = []
    for path in sorted((run / "rollouts").glob("*.parquet")):
        file = pq.ParquetFile(path)
        for number in range(file.metadata.num_row_groups):
            table = file.read_row_group(number, columns=["task_index", "rollout_index"])
            groups.append(list(zip(*table.to_pydict().values(), strict=True)))
    return groups


@pytest.mark.usefixtures("small_shards")
@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(
    tasks=st.integers(1, 7),
    repeats=st.integers(1, 5),
    copies=st.integers(0, 10),
    seed=st.integers(0, 1000),
)
def test_any_pile_of_segments_becomes_ordered_shards_with_whole_groups(
    tmp_path_factory: pytest.TempPathFactory,
    make_rollout: Make,
    tasks: int,
    repeats: int,
    copies: int,
    seed: int,
) -> None:
    run = tmp_path_factory.mktemp("run")
    (run / "rollouts").mkdir()
    wanted = [(task, repeat) for task in range(tasks) for repeat in range(repeats)]
    shuffled = random.Random(seed).sample(wanted, len(wanted))
    store(run, [make_rollout(*place) for place in shuffled])
    store(run, [make_rollout(*place) for place in shuffled[:copies]], prefix="again")
    before = places(run)

    shards = compacted(run)

    assert before == places(run) == wanted
    assert not (run / "segments").exists()
    groups = row_groups(run)
    assert [place for group in groups for place in group] == wanted
    assert all(len(group) % repeats == 0 for group in groups)
    assert len(list((run / "rollouts").iterdir())) == shards
    assert compacted(run) == shards
    for rollout in read_rollouts(run):
        own = [rollout.spec.task_index, rollout.spec.rollout_index]
        assert rollout.token_ids.tolist() == [1, 2, 3, *own]


@pytest.mark.usefixtures("small_shards")
def test_a_kill_at_any_moment_of_compaction_loses_and_doubles_nothing(
    run: Path, make_rollout: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [(task, repeat) for task in range(6) for repeat in range(4)]
    store(run, [make_rollout(*place) for place in wanted[:14]], size=7)
    compacted(run)
    store(run, [make_rollout(*place) for place in reversed(wanted[8:])], size=8)
    pristine = run.with_name("pristine")
    shutil.copytree(run, pristine)

    class Killed(BaseException):
        pass

    def killed_at(step: int) -> bool:
        """Compact until so many files were put in place or removed; whether it was cut short."""
        left = step

        def counted(original: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object, **kwargs: object) -> object:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return original(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            patch.setattr("os.replace", counted(os.replace))
            patch.setattr(Path, "unlink", counted(Path.unlink))
            patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
            try:
                compacted(run)
            except Killed:
                return True
            return False

    steps = 0
    while killed_at(steps):
        assert places(run) == wanted, f"after {steps} steps"
        compacted(run)
        assert places(run) == wanted
        assert Index.read(dataset_files(run)).duplicates == 0
        shutil.rmtree(run)
        shutil.copytree(pristine, run)
        steps += 1
    assert steps >= 4  # a shard in place, what was there before deleted, segments removed


def test_the_copy_that_is_not_failed_counts_then_the_later_one(
    run: Path, make_rollout: Make
) -> None:
    kind = FailureKind.POLICY_ERROR
    good = make_rollout(0)
    bad = dataclasses.replace(failed(make_rollout, 0, kind=kind), started_at=LATER)
    early, late = make_rollout(1, reward=0.0), make_rollout(1, reward=0.5, started_at=LATER)
    store(run, [late, good], prefix="a")
    store(run, [bad, early], prefix="b")

    index = Index.read(dataset_files(run))

    assert index.duplicates == 2
    assert [r.reward for r in read_rollouts(run)] == [1.0, 0.5]
    compacted(run)
    assert [r.reward for r in read_rollouts(run)] == [1.0, 0.5]


@pytest.mark.parametrize("kind", FailureKind)
def test_done_are_all_but_the_failures_worth_another_try(
    run: Path, make_rollout: Make, kind: FailureKind
) -> None:
    done, other = make_rollout(0), make_rollout(5)
    in_question = failed(make_rollout, 1, kind=kind)
    store(run, [in_question, done])

    ids = pa.array([r.spec.rollout_id for r in (done, in_question, other)])
    found = contains(Index.read(dataset_files(run)).done(), ids)

    assert found.tolist() == [True, kind not in RETRYABLE, False]


def test_nothing_stored_means_nothing_done(run: Path, make_rollout: Make) -> None:
    index = Index.read(dataset_files(run))

    assert len(index.table) == index.duplicates == 0
    assert contains(index.done(), pa.array(["x"])).tolist() == [False]
    assert contains(index.done(), pa.array([], pa.string())).tolist() == []
    assert compacted(run) == 0


def test_the_index_counts_sampled_tokens(run: Path, make_rollout: Make) -> None:
    turn = make_rollout().turns[0]
    longer = make_rollout(1, turns=(turn, dataclasses.replace(turn, generation_length=40)))
    nothing = failed(make_rollout, 2, kind=FailureKind.CANCELLED)
    store(run, [nothing, make_rollout(0), longer])

    table = Index.read(dataset_files(run)).table

    assert table["sampled_tokens"].to_pylist() == [2, 42, 0]
    assert table.schema.names == Index.read([]).table.schema.names


def test_a_segment_is_durable_once_written_and_a_block_knows_its_own(
    run: Path, make_rollout: Make
) -> None:
    segments = SegmentStore(run / "segments")
    segments.write("one", [make_rollout(0), make_rollout(1)])
    segments.write("one", [make_rollout(2)])
    segments.write("two", [make_rollout(3)])

    assert segments.durable("one") == {make_rollout(n).spec.rollout_id for n in range(3)}
    assert segments.durable("none") == set()
    assert len(list(segments.files())) == 3


def test_a_failed_write_leaves_no_file(
    run: Path, make_rollout: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store(run, [make_rollout()])

    assert [path for path in (run / "segments").rglob("*") if path.is_file()] == []


def test_reading_gives_values_arrow_and_chosen_columns(run: Path, make_rollout: Make) -> None:
    store(run, [make_rollout(task, repeat) for task in (1, 0) for repeat in (1, 0)])

    rollouts = read_rollouts(str(run))

    assert len(rollouts) == 4
    assert rollouts.to_arrow().schema.equals(SCHEMA)
    columns = rollouts.to_arrow(["task_index", "reward"]).to_pydict()
    assert columns == {"task_index": [0, 0, 1, 1], "reward": [1.0] * 4}
    assert [r.spec.task_index for r in rollouts] == [0, 0, 1, 1]
    assert [r.spec.task_index for r in rollouts] == [0, 0, 1, 1]


def test_reading_crosses_row_groups_shards_and_segments(
    run: Path, make_rollout: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "ROW_GROUP_ROWS", 300)
    wanted = [(task, repeat) for task in range(180) for repeat in range(8)]
    store(run, [make_rollout(*place) for place in wanted[:1200]], size=1000)
    compacted(run)
    store(run, [make_rollout(*place) for place in wanted[1200:]], size=300)

    assert places(run) == wanted


def test_a_folder_of_shards_alone_can_be_read(run: Path, make_rollout: Make) -> None:
    store(run, [make_rollout(0)])
    compacted(run)

    assert len(read_rollouts(run / "rollouts")) == 1


def test_a_run_without_rollouts_yet_reads_as_empty(run: Path) -> None:
    (run / "run.yaml").touch()

    assert list(read_rollouts(run)) == []
    assert read_rollouts(run).to_arrow().schema.equals(SCHEMA)
    assert read_rollouts(run).to_arrow(["reward"]).schema.names == ["reward"]


def test_what_is_no_dataset_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder; name the output of a collection"):
        read_rollouts(run / "none")
    with pytest.raises(ConfigError, match="holds no rollouts; name the output of a collection"):
        read_rollouts(run)
    pq.write_table(pa.table({"x": np.zeros(1)}), run / "other.parquet")
    with pytest.raises(ConfigError, match="is not a file of rollouts"):
        read_rollouts(run)


def test_a_rollout_that_comes_again_takes_nothing_away_that_was_beside_it(
    run: Path, make_rollout: Make
) -> None:
    """Of a served batch, or of a stage that was thought dead."""
    segments = SegmentStore(run / "segments")
    segments.write("b", [make_rollout(0, n) for n in range(5)])
    segments.write("b", [make_rollout(0, 0)])

    assert places(run) == [(0, n) for n in range(5)]
    assert len(segments.durable("b")) == 5


def test_compaction_removes_no_segment_it_has_not_read(run: Path, make_rollout: Make) -> None:
    """Its folder was taken over while it was at work."""
    segments = SegmentStore(run / "segments")
    segments.write("b", [make_rollout(0, 0)])
    index = Index.read(dataset_files(run))
    segments.write("b", [make_rollout(0, 1)])

    compact(index, run / "rollouts", run / "segments")

    assert places(run) == [(0, 0), (0, 1)]

    class Lost(Exception):
        pass

    def check() -> None:
        raise Lost

    with pytest.raises(Lost):
        compact(Index.read(dataset_files(run)), run / "rollouts", run / "segments", check=check)
    assert places(run) == [(0, 0), (0, 1)]
