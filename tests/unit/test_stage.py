"""The rollout stage: exactly once, stop and drain, and what rows say. Environments are played."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gym_ray.collection.input import TaskInput
from gym_ray.collection.manifest import Manifest, ManifestRows, write_manifest
from gym_ray.collection.monitor import LocalLink, Monitor
from gym_ray.collection.remaining import as_range, remaining
from gym_ray.collection.stage import RolloutStage, StageSettings
from gym_ray.collection.stage_link import CollectionStopped
from gym_ray.config.load import RunConfig, load_config
from gym_ray.environment import Environment
from gym_ray.errors import GymRayError
from gym_ray.policies.engine import PolicyInfo
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.routing import Router
from gym_ray.runner import RunSettings
from gym_ray.sampling import Sampling
from gym_ray.serving import environment_client
from gym_ray.serving.environment_client import client_settings, producer_of
from gym_ray.serving.gateway import GatewayPlan
from gym_ray.serving.gateway import environment_client as served_client
from gym_ray.serving.recorder import Recorder, RecordTarget
from gym_ray.store.run_directory import RunDirectory
from gym_ray.store.stored_run import read_rollouts
from tests.calls import Handle, Scripted, eventually, sums_runner
from tests.cluster import sums

MakeRollout = Callable[..., Rollout]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_client, "_BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr("gym_ray.collection.stage_link._HEARTBEAT_SECONDS", 0.01)


class Run:
    """A run directory with a manifest, and the stages that work on it.

    Args:
        folder: of the run and its input.
        rows: of the input.
        handle: the environment's.
    """

    def __init__(self, folder: Path, rows: list[Any], handle: Handle) -> None:
        path = folder / "tasks.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines))
        self.config = config_of(folder, path)
        self.directory = RunDirectory.open(self.config)
        environments = {"sums": Environment()}
        self.manifest: Manifest = write_manifest(
            self.directory.manifest,
            TaskInput(self.config, environments),
            Router(self.config.environments, environments),
            num_repeats=1,
            limit=None,
        )
        self.handle = handle
        self.monitor = Monitor()

    def remaining(self) -> list[int]:
        producer = producer_of(self.config, self.directory.id)
        found: list[int] = remaining(self.directory, self.manifest, producer).tolist()
        return found

    def stage(self, pass_id: str = "pass", *, max_in_flight: int = 8) -> RolloutStage:
        run = RunSettings(self.directory.id, Sampling(), 30.0)
        settings = StageSettings(
            client=client_settings(self.config, run),
            max_in_flight=max_in_flight,
            quotas={},
            pass_id=pass_id,
            store=self.directory.segments,
            handle_of=lambda environment: self.handle,
        )
        link = LocalLink(self.monitor)
        return RolloutStage(settings, str(self.manifest.path), link, max_starts=3)

    def stored(self) -> list[Rollout]:
        return list(read_rollouts(self.directory.path))

    def segments(self) -> list[Path]:
        return list(self.directory.segments.files())


def config_of(folder: Path, path: Path) -> RunConfig:
    return load_config(
        {
            "policy": {"engine": "scripted", "model": "m"},
            "environments": {"sums": {"agent": "single_turn"}},
            "collect": {"input": str(path), "output": str(folder / "run"), "max_attempts": 2},
        }
    )


@pytest.fixture
def told(make_rollout: MakeRollout) -> Scripted:
    return Scripted(lambda spec: make_rollout(spec=spec))


@pytest.fixture
def begin(
    tmp_path: Path,
) -> Iterator[Callable[[Sequence[Any], Handle], Run]]:
    runs: list[Run] = []

    def one(rows: Sequence[Any], handle: Handle) -> Run:
        runs.append(Run(tmp_path, list(rows), handle))
        return runs[-1]

    yield one
    for run in runs:
        run.directory.close()


async def through(stage: RolloutStage, positions: Sequence[int]) -> int:
    """What a range of these positions made durable."""
    rows: AsyncIterator[pa.Table] = stage(as_range(np.asarray(positions, dtype=np.int64)))
    (table,) = [table async for table in rows]
    durable: int = table["durable"][0].as_py()
    return durable


Begin = Callable[[Sequence[Any], Handle], Run]


def test_the_positions_of_a_range_run_and_no_others(
    begin: Begin, told: Scripted, tmp_path: Path
) -> None:
    run = begin(sums(700, tmp_path), Handle(told))
    wanted = [0, 5, 255, 256, 511, 512, 699]

    assert asyncio.run(through(run.stage(), wanted)) == 7

    lines = sorted(rollout.spec.source_line - 1 for rollout in run.stored())
    assert lines == wanted
    assert run.remaining() == [n for n in range(700) if n not in wanted]
    rows = ManifestRows(run.manifest.path).read(np.asarray(wanted))
    assert [spec.source_line - 1 for spec in rows] == wanted
    by_id = {spec.rollout_id: spec for spec in rows}
    assert all(rollout.spec == by_id[rollout.spec.rollout_id] for rollout in run.stored())


def test_rows_that_are_no_legal_task_are_settled_and_never_run(
    begin: Begin, told: Scripted, tmp_path: Path
) -> None:
    rows: list[Any] = sums(5, tmp_path)
    rows[1:1] = ["{broken"]
    rows[4:4] = ["[]"]
    run = begin(rows, Handle(told))

    assert run.remaining() == [0, 2, 3, 5, 6]
    assert [rollout.error_kind for rollout in run.stored()] == ["task_invalid"] * 2
    assert {rollout.model for rollout in run.stored()} == {"m"}
    assert run.remaining() == [0, 2, 3, 5, 6]
    assert len(run.stored()) == 2


def test_a_range_of_a_stage_that_died_runs_only_what_is_not_durable(
    begin: Begin, told: Scripted, tmp_path: Path
) -> None:
    run = begin(sums(20, tmp_path), Handle(told))
    specs = ManifestRows(run.manifest.path).read(np.arange(20))
    held = {spec.rollout_id for spec in specs[12:]}
    told.held = set(held)

    async def die() -> None:
        stage = run.stage(max_in_flight=64)
        working = asyncio.ensure_future(through(stage, range(20)))
        await eventually(lambda: any(run.segments()) and len(run.stored()) == 12)
        working.cancel()  # And nothing of it is told to anybody.
        await asyncio.wait({working})

    async def again() -> None:
        told.held = set()
        assert await through(run.stage(max_in_flight=64), range(20)) == 8

    asyncio.run(die())
    asyncio.run(again())
    ids = [rollout.spec.rollout_id for rollout in run.stored()]
    assert sorted(ids) == sorted(spec.rollout_id for spec in specs)
    attempts = [rollout for rollout, _ in run.handle.attempts]
    assert sorted(attempts) == sorted([*ids, *held])


def test_stragglers_hold_back_nothing_but_themselves(
    begin: Begin, told: Scripted, tmp_path: Path
) -> None:
    run = begin(sums(1200, tmp_path), Handle(told))
    specs = ManifestRows(run.manifest.path).read(np.arange(1200))
    told.held = {spec.rollout_id for spec in specs[::300]}

    async def scenario() -> None:
        stage = run.stage(max_in_flight=16)
        ranges = [range(512), range(512, 1024), range(1024, 1200)]
        working = [asyncio.ensure_future(through(stage, positions)) for positions in ranges]
        await eventually(lambda: run.monitor.total().finished == 1196)
        told.release()
        assert await asyncio.gather(*working) == [512, 512, 176]

    asyncio.run(scenario())
    assert run.remaining() == []
    assert len(run.handle.attempts) == 1200


def test_an_order_to_stop_keeps_what_has_finished_and_gives_the_rest_up(
    begin: Begin, told: Scripted, tmp_path: Path
) -> None:
    run = begin(sums(10, tmp_path), Handle(told))
    specs = ManifestRows(run.manifest.path).read(np.arange(10))
    told.held = {spec.rollout_id for spec in specs[3:]}

    async def scenario() -> None:
        stage = run.stage(max_in_flight=64)
        working = asyncio.ensure_future(through(stage, range(10)))
        await eventually(lambda: run.monitor.total().unwritten == 3)
        run.monitor.set_order("stop")
        with pytest.raises(CollectionStopped):
            await working
        with pytest.raises(CollectionStopped):
            await through(stage, [9])

    asyncio.run(scenario())
    assert len(run.stored()) == 3
    assert run.handle.cancelled == 1
    assert run.remaining() == list(range(3, 10))


def test_an_order_to_drain_starts_nothing_and_writes_what_runs(
    begin: Begin, told: Scripted, tmp_path: Path
) -> None:
    run = begin(sums(40, tmp_path), Handle(told))
    specs = ManifestRows(run.manifest.path).read(np.arange(40))
    told.held = {spec.rollout_id for spec in specs}

    async def scenario() -> None:
        working = asyncio.ensure_future(through(run.stage(max_in_flight=8), range(40)))
        await eventually(lambda: run.monitor.total().running == 8)
        run.monitor.set_order("drain")
        await eventually(lambda: any(order == "drain" for order in run.monitor._obeyed.values()))
        assert not run.monitor.drained()
        told.release()
        await eventually(run.monitor.drained)
        assert len(run.stored()) == 8
        run.monitor.set_order("stop")
        with pytest.raises(CollectionStopped):
            await working

    asyncio.run(scenario())
    assert len(run.handle.attempts) == 8


def test_a_store_that_breaks_ends_the_pass_with_its_error(
    begin: Begin, told: Scripted, tmp_path: Path
) -> None:
    run = begin(sums(5, tmp_path), Handle(told))
    (run.directory.path / "segments").write_text("in the way")

    with pytest.raises(OSError, match="segments"):
        asyncio.run(through(run.stage(), range(5)))


def test_stages_that_keep_dying_end_the_pass(begin: Begin, told: Scripted, tmp_path: Path) -> None:
    run = begin(sums(1, tmp_path), Handle(told))
    for _ in range(3):
        run.stage()

    with pytest.raises(GymRayError, match=r"keep dying \(3 starts\)"):
        run.stage()


def test_a_work_list_of_an_earlier_version_is_cleared_away(tmp_path: Path) -> None:
    config = config_of(tmp_path, tmp_path / "tasks.jsonl")
    first = RunDirectory.open(config)
    first.save_config(config)
    (first.path / "remaining.parquet").write_bytes(b"left by a command that was cut short")
    first.close()

    RunDirectory.open(config).close()

    assert not (first.path / "remaining.parquet").exists()


def filled(folder: Path) -> list[set[str]]:
    """Columns that say something, of each stored row."""
    table = read_rollouts(folder).to_arrow()
    return [
        {name for name, value in row.items() if value not in (None, "", [], "[]", "{}")}
        for row in table.to_pylist()
    ]


@pytest.mark.parametrize(
    ("fields", "lost"),
    [({}, 0), ({"verify": "raise"}, 0), ({"reset_error": "no level"}, 0), ({}, 2)],
    ids=["success", "verifier failure", "environment failure", "never reached"],
)
def test_a_served_and_a_collected_rollout_of_a_task_fill_the_same_columns(
    begin: Begin, tmp_path: Path, fields: dict[str, Any], lost: int
) -> None:
    row = {**sums(1, tmp_path)[0], **fields}
    run = begin([row], Handle(sums_runner(), lost=lost))
    asyncio.run(through(run.stage(), [0]))
    (collected,) = run.stored()

    async def serve(spec: RolloutSpec) -> None:
        plan = GatewayPlan(run.config, "app", PolicyInfo("scripted", "1", "m", "f", 100, 0), "run")
        recorder = Recorder(RecordTarget(str(tmp_path / "served"), "run"))
        environments = {"sums": Handle(sums_runner(), lost=lost)}
        await served_client(plan, environments, recorder).run(spec)

    asyncio.run(serve(collected.spec))
    (served,) = read_rollouts(tmp_path / "served")

    assert filled(tmp_path / "served") == filled(run.directory.path)
    assert (served.agent, served.model) == (collected.agent, collected.model)
    assert (served.agent, served.model) == ("single_turn", "m")
    for name in ("spec", "status", "error_kind", "error", "reward", "attempts", "response"):
        assert getattr(served, name) == getattr(collected, name)
    assert served.token_ids.tolist() == collected.token_ids.tolist()
    assert collected.status == ("failed" if fields or lost else "completed")
