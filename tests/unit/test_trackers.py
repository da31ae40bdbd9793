"""Experiment trackers, each through its own library; the files they write are read back."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from gym_ray.collection import trackers
from gym_ray.collection.summary import Reward, RunSummary
from gym_ray.collection.trackers import Trackers, require_trackers
from gym_ray.config.load import RunConfig, load_config
from gym_ray.errors import ConfigError
from gym_ray.telemetry.progress import Counts
from tests.cluster import until

RUN = "0123456789abcdef"
COUNTS = Counts(finished=6, failed=2, retried=1, running=4, rewarded=6, reward_sum=4.5)
SUMMARY = RunSummary(
    run_id=RUN, output="", expected=20, completed=16, truncated=1, failed=3, pending=0,
    reward=Reward(0.75, 0.25, 0.85), environments={"sums": {"reward": {"mean": 0.75}}},
    failure_kinds={"verifier_error": 3}, invalid_rows=[], retried=1,
    retried_reward_difference=None, sampled_tokens=1234, shards=1, seconds=9.0,
    collecting_seconds=8.0, interrupted=None, run={},
)  # fmt: skip


@pytest.fixture(autouse=True)
def _local_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")


def config_of(*names: str) -> RunConfig:
    return load_config(
        {
            "policy": {"engine": "scripted", "model": "scripted"},
            "environments": {"math": {}},
            "collect": {"report": list(names)},
        }
    )


def report(tmp_path: Path, *names: str) -> list[str]:
    """Tell trackers of a run with one report of progress and a summary; what was said of it."""
    said: list[str] = []
    reports = Trackers(config_of(*names), RUN, tmp_path, said.append)
    reports.progress(COUNTS, before=2)
    reports.progress(COUNTS, before=3)  # Too soon after the first one.
    reports.finish(SUMMARY)
    return said


def test_tensorboard_files_hold_progress_and_summary(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    assert report(tmp_path, "tensorboard") == []

    (path,) = (tmp_path / "tensorboard").iterdir()
    events = [Event.FromString(record) for record in _records(path.read_bytes())]
    values = {
        (value.tag, event.step): value.simple_value
        for event in events
        for value in event.summary.value
    }
    assert values["progress/reward_mean", 10] == 0.75
    assert values["summary/reward_mean", 20] == 0.75
    assert values["summary/failures/verifier_error", 20] == 3
    assert ("progress/finished", 11) not in values


def _records(data: bytes) -> list[bytes]:
    """Records of a TFRecord file: length (8), checksum (4), data, checksum (4)."""
    records, position = [], 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 8], "little")
        records.append(data[position + 12 : position + 12 + length])
        position += 16 + length
    return records


def test_mlflow_has_one_run_and_a_continued_run_goes_on_in_it(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    assert report(tmp_path, "mlflow") == []
    assert report(tmp_path, "mlflow") == []

    client = MlflowClient()
    experiment = client.get_experiment_by_name("gym-ray")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["gym_ray.run_id"] == RUN
    assert run.data.params["environments"] == "math"
    assert run.data.metrics["summary/sampled_tokens"] == 1234
    assert "summary/retried_reward_difference" not in run.data.metrics
    history = client.get_metric_history(run.info.run_id, "progress/reward_mean")
    assert [(metric.step, metric.value) for metric in history] == [(10, 0.75), (10, 0.75)]


def test_wandb_offline_files_hold_progress_and_summary(tmp_path: Path) -> None:
    assert report(tmp_path, "wandb") == []

    (path,) = (tmp_path / "wandb").glob(f"offline-run-*-{RUN}/run-{RUN}.wandb")
    # W&B's own process writes the file, and may end a moment after it has been told to finish.
    until(lambda: len(_wandb_rows(path)) >= 2, 20, "both reports are in the file")
    rows = _wandb_rows(path)
    assert [row["rollouts"] for row in rows] == [10, 20]
    assert rows[0]["progress/reward_mean"] == 0.75
    assert rows[1]["summary/sampled_tokens"] == 1234


def _wandb_rows(path: Path) -> list[dict[str, Any]]:
    from wandb.proto.wandb_internal_pb2 import Record

    records = [Record.FromString(data) for data in _log_records(path.read_bytes())]
    return [
        {
            item.key or item.nested_key[0]: json.loads(item.value_json)
            for item in record.history.item
        }
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


def _log_records(data: bytes) -> list[bytes]:
    """Records of LevelDB's log format after a header of 7 bytes: blocks of 32 KiB, in them parts
    with checksum (4), length (2) and kind (1: whole, 2: first, 3: middle, 4: last)."""
    block, position, records, parts = 32768, 7, [], b""
    while position + 7 <= len(data):
        if block - position % block < 7:
            position += block - position % block
            continue
        length, kind = (
            int.from_bytes(data[position + 4 : position + 6], "little"),
            data[position + 6],
        )
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if position > len(data):
            break
        if kind in (1, 4):
            records.append(parts)
            parts = b""
    return records


def test_mlflow_without_a_server_writes_files_beside_the_rollouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert report(tmp_path, "mlflow") == []

    client = MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("gym-ray")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 1


def test_a_tracker_that_fails_is_said_and_ends_neither_the_run_nor_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")

    said = report(tmp_path, "mlflow", "tensorboard")

    assert len(said) == 1
    assert said[0].startswith("WARNING: reporting to mlflow failed and has ended: ")
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_tracker_that_hangs_holds_up_nothing_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    class Hanging:
        def log(self, scalars: trackers.Scalars, step: int) -> None:
            released.wait(60)

        def close(self, *, complete: bool) -> None:
            """Never reached in time."""

    monkeypatch.setattr(trackers, "_open", lambda *_: Hanging())
    monkeypatch.setattr(trackers, "_CLOSE_SECONDS", 0.2)

    said = report(tmp_path, "wandb")
    released.set()

    assert said == ["WARNING: wandb did not take the last reports in time"]


def test_a_tracker_that_is_not_installed_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"pip install 'gym-ray\[mlflow\]'"):
        require_trackers(config_of("mlflow"))


def test_event_files_are_refused_where_the_output_is_in_an_object_store() -> None:
    config = load_config(config_of("tensorboard"), ["collect.output=s3://bucket/run"])

    with pytest.raises(ConfigError, match="report to mlflow or wandb instead"):
        require_trackers(config)
