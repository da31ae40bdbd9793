"""The whole command with its stages run in this process instead of by Ray Data."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gym_ray import read_rollouts
from gym_ray.collection import compaction
from gym_ray.collection.summary import RunSummary
from gym_ray.errors import ConfigError, GymRayError
from gym_ray.reverification import reverify_stage
from gym_ray.reverification.reward_changes import ReverifyReport
from gym_ray.rollout import Rollout
from gym_ray.store import index
from gym_ray.store.run_directory import RunDirectory
from gym_ray.telemetry.progress import Counts
from tests.stored import stored_run, sum_rollout, unplayed

ENVIRONMENT = """
from pathlib import Path
from gym_ray import Environment, FailureKind, Outcome, RolloutFailure

class Lenient(Environment):
    async def verify(self, outcome: Outcome) -> float:
        row = outcome.task.row
        if "log" in row:
            with open(row["log"], "a") as log:
                log.write(outcome.task.task_id + "\\n")
        if Path(row.get("sandbox_gone_while", "/nowhere")).exists():
            raise RolloutFailure(FailureKind.SANDBOX_ERROR, "the sandbox is gone")
        return float(row["expected_answer"] in outcome.text)
"""


class InProcess:
    """A `Pass` whose one stage runs in a thread; stops after so many rollouts, when told to."""

    stop_after: int | None = None

    def __init__(self, dataset: Callable[[Any], Any]) -> None:
        self._order = "run"
        self._counts = Counts()
        self._error: BaseException | None = None
        monitor = SimpleNamespace(started=lambda: 1, report=self._report)
        self._thread = threading.Thread(target=self._run, args=(dataset(monitor),))
        self._thread.start()

    async def _report(self, name: str, counts: Counts, *, obeyed: str) -> str:
        self._counts = counts
        return self._order

    def _run(self, pipeline: tuple[Sequence[pa.Table], type, tuple[Any, ...]]) -> None:
        ranges, stage, args = pipeline

        async def work() -> None:
            actor = stage(*args)
            for range_ in ranges:
                async for _ in actor(range_):
                    pass
                if self.stop_after is not None and self._counts.finished >= self.stop_after:
                    return

        try:
            asyncio.run(work())
        except BaseException as error:
            self._error = error

    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)

    def counts(self) -> Counts:
        return self._counts

    def order(self, order: str) -> None:
        self._order = order

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error


@pytest.fixture
def reverify(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ReverifyReport]:
    """`reverify(source, stop_after=…)` into `new`, by a verifier that takes sentences."""
    import ray

    module = "gym_ray.reverification.reverify"
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr("gym_ray.serving.cluster.connect", lambda config, report: None)
    monkeypatch.setattr("gym_ray.serving.cluster.disconnect", lambda cluster: None)
    monkeypatch.setattr(
        f"{module}.over_ranges", lambda ranges, stage, args, **_: (ranges, stage, args)
    )
    monkeypatch.setattr(f"{module}.Pass", InProcess)
    monkeypatch.setattr(f"{module}._RANGE_ROWS", (6, 6))
    monkeypatch.setattr(compaction, "ROW_GROUP_ROWS", 10)
    monkeypatch.setattr(reverify_stage, "_BACKOFF_SECONDS", 0)
    (tmp_path / "lenient.py").write_text(ENVIRONMENT)
    override = f"environments.arithmetic.entrypoint={tmp_path}/lenient.py:Lenient"

    def run(source: Path, *, stop_after: int | None = None, **arguments: Any) -> ReverifyReport:
        from gym_ray import reverify as command

        monkeypatch.setattr(InProcess, "stop_after", stop_after)
        overrides = arguments.pop("overrides", [override])
        return command(source, tmp_path / "new", overrides=overrides, quiet=True, **arguments)

    return run


def groups(tasks: int, repeats: int = 4, **fields: Any) -> list[Rollout]:
    """Answers in a sentence, which the old verifier gave nothing for."""
    return [
        sum_rollout(task, repeat, reply=f"It is {2 * task}.", **fields)
        for task in range(tasks)
        for repeat in range(repeats)
    ]


def test_every_rollout_is_there_once_in_the_same_order(
    reverify: Callable[..., ReverifyReport], tmp_path: Path
) -> None:
    rollouts = groups(10)
    rollouts[5] = unplayed(1, 1)
    source = stored_run(tmp_path / "run", rollouts)

    report = reverify(source)

    old, new = list(read_rollouts(source)), list(read_rollouts(tmp_path / "new"))
    assert [r.spec.rollout_id for r in new] == [r.spec.rollout_id for r in old]
    assert [r.reward for r in new] == [None if n == 5 else 1.0 for n in range(40)]
    assert (new[5].error_kind, new[5].error) == ("policy_timeout", "no answer")
    assert (report.changes.raised, report.changes.failed_before, report.pending) == (39, 1, 0)
    summary = RunSummary.read(tmp_path / "new" / "summary.json")
    assert (summary.expected, summary.completed, summary.failed) == (40, 39, 1)
    assert {r.run_id for r in new} == {summary.run_id} != {"old"}
    assert summary.run["source"]["path"] == str(source)


def test_a_group_never_spans_two_row_groups(
    reverify: Callable[..., ReverifyReport], tmp_path: Path
) -> None:
    reverify(stored_run(tmp_path / "run", groups(9)))

    seen: list[set[int]] = []
    for path in (tmp_path / "new" / "rollouts").glob("*.parquet"):
        file = pq.ParquetFile(path)
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number, columns=["task_index"])["task_index"]
            seen.append(set(rows.to_pylist()))
    assert len(seen) > 1
    assert sum(map(len, seen)) == 9


def test_what_is_durable_is_not_judged_again(
    reverify: Callable[..., ReverifyReport], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    source = stored_run(tmp_path / "run", groups(10, log=str(log)))

    first = reverify(source, stop_after=12)
    assert 0 < first.changes.judged < 40
    assert first.changes.judged + first.pending == 40
    assert len(list(read_rollouts(tmp_path / "new"))) == first.changes.judged

    second = reverify(source)
    assert (second.changes.judged, second.pending) == (40, 0)
    assert len(log.read_text().splitlines()) == 40
    assert reverify(source) == second
    assert len(log.read_text().splitlines()) == 40


def test_failures_that_may_pass_are_judged_again_by_the_next_command(
    reverify: Callable[..., ReverifyReport], tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.touch()
    rollouts = [
        *groups(2, sandbox_gone_while=str(gone)),
        *[sum_rollout(n, reply=f"{2 * n}") for n in range(2, 9)],
        unplayed(9),
    ]
    source = stored_run(tmp_path / "run", rollouts)

    first = reverify(source)
    assert (first.changes.failed_now, first.failures) == (8, {"sandbox_error": 8})
    gone.unlink()
    second = reverify(source)

    assert (second.changes.judged, second.changes.failed_now) == (15, 0)
    assert second.changes.failed_before == 1
    assert len(list(read_rollouts(tmp_path / "new"))) == 16


def test_a_stage_that_breaks_says_why_and_keeps_what_is_durable(
    reverify: Callable[..., ReverifyReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stored_run(tmp_path / "run", groups(10))
    from gym_ray.store.segments import SegmentStore

    write = SegmentStore.write
    written: list[str] = []

    def full(self: SegmentStore, block: str, rollouts: Sequence[Rollout]) -> None:
        if len(written) == 2:
            raise OSError("no space left")
        written.append(block)
        write(self, block, rollouts)

    monkeypatch.setattr(SegmentStore, "write", full)
    with pytest.raises(GymRayError, match=r"reverifying broke: no space left\. .* re-issue"):
        reverify(source)
    durable = len(list(read_rollouts(tmp_path / "new")))
    monkeypatch.setattr(SegmentStore, "write", write)

    assert 0 < durable < 40
    assert reverify(source).changes.judged == 40


def test_the_source_and_the_config_of_an_output_stay_the_same(
    reverify: Callable[..., ReverifyReport], tmp_path: Path
) -> None:
    source = stored_run(tmp_path / "run", groups(2))
    other = stored_run(tmp_path / "other", groups(3))
    reverify(source)

    with pytest.raises(ConfigError, match="is of other rollouts than"):
        reverify(other)
    with pytest.raises(ConfigError, match="begun with another config"):
        reverify(source, overrides=[])


def test_an_output_that_another_process_has_taken_over_is_not_touched(
    reverify: Callable[..., ReverifyReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stored_run(tmp_path / "run", groups(4))
    reverify(source, stop_after=8)
    before = sorted(path.name for path in (tmp_path / "new").rglob("*.parquet"))

    def lost(_: RunDirectory) -> None:
        raise GymRayError("another gym-ray process has taken it over")

    monkeypatch.setattr(RunDirectory, "check", lost)
    with pytest.raises(GymRayError, match="taken it over"):
        reverify(source)

    assert not list((tmp_path / "new" / "rollouts").iterdir())
    assert set(before) <= {path.name for path in (tmp_path / "new").rglob("*.parquet")}


def test_the_index_of_every_file_is_read_once(
    reverify: Callable[..., ReverifyReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stored_run(tmp_path / "run", groups(4))
    read: Counter[str] = Counter()
    entries = index._entries

    def counting(path: Path) -> pa.Table:
        read[str(path)] += 1
        return entries(path)

    monkeypatch.setattr(index, "_entries", counting)
    reverify(source, stop_after=8)
    assert reverify(source).pending == 0

    assert {str(path) for path in (tmp_path / "new" / "rollouts").iterdir()} < set(read)
    (shard,) = (source / "rollouts").iterdir()
    # Two commands, of which the first left segments to the second.
    assert read.pop(str(shard)) == 2
    left = [name for name, times in read.items() if times == 2]
    assert 0 < len(left) < len(read)
    assert set(read.values()) == {1, 2}
    assert all("/segments/" in name for name in left)
