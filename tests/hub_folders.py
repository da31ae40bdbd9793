"""Folders to publish, and the command that does it, in a process of its own: huggingface_hub reads
its environment when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from gym_ray.collection.summary import summarize
from gym_ray.config.load import load_config
from gym_ray.rollout import Rollout
from gym_ray.store.dataset_files import dataset_files
from gym_ray.store.index import Index
from gym_ray.store.run_directory import RunDirectory
from tests.hub_server import WRITER, HubServer
from tests.stored import arithmetic_config, stored_run, sum_rollout

SHARDS = 4


def finished_run(folder: Path, rollouts: Sequence[Rollout] | None = None) -> Path:
    """A run as `collect` leaves it, in several shards."""
    if rollouts is None:
        rollouts = [sum_rollout(n, reply=str(2 * n)) for n in range(8)]
    stored_run(folder, rollouts)
    config = load_config(arithmetic_config(folder))
    directory = RunDirectory.open(config)
    pq.write_table(pa.table({"rollout_id": ["a"]}), directory.manifest)
    summary = summarize(
        Index.read(dataset_files(folder)),
        {"arithmetic": len(rollouts)},
        directory=directory,
        shards=SHARDS,
        seconds=1,
        collecting_seconds=1,
        interrupted=None,
    )
    directory.summary.write_text(summary.to_json())
    directory.close()
    (whole,) = directory.rollouts.glob("*.parquet")
    table = pq.read_table(whole)
    whole.unlink()
    rows = -(-len(table) // SHARDS)
    for number in range(SHARDS):
        path = directory.rollouts / f"shard-{number:05d}.parquet"
        pq.write_table(table.slice(number * rows, rows), path)
    return folder


def task_files(folder: Path) -> Path:
    """A config and task rows for `gym-ray prepare`; the config's path."""
    config = {key: value for key, value in arithmetic_config(folder).items() if key != "collect"}
    config["environments"]["arithmetic"]["datasets"] = [
        {"name": "sums", "type": "train", "path": str(folder / "t.jsonl"), "license": "MIT"},
        {"name": "held", "type": "validation", "path": str(folder / "v.jsonl"), "license": "TBD"},
    ]
    rows = [sum_rollout(n, reply="").spec.task for n in range(3)]
    (folder / "t.jsonl").write_text("\n".join(rows[:2]) + "\n")
    (folder / "v.jsonl").write_text(rows[2] + "\n")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by name, but those that only this machine is concerned with."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def environment(server: HubServer | None, home: Path, token: str | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    own = {
        "HF_ENDPOINT": "http://127.0.0.1:1" if server is None else server.url,
        "HF_HOME": str(home / "hf-home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return kept | own | ({} if token is None else {"HF_TOKEN": token})


def started(
    server: HubServer | None, home: Path, *arguments: Any, token: str | None = WRITER
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gym_ray", *map(str, arguments)],
        env=environment(server, home, token),
        cwd=home,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(
    server: HubServer | None, home: Path, *arguments: Any, token: str | None = WRITER
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    process = started(server, home, *arguments, token=token)
    output, errors = process.communicate(timeout=120)
    assert token is None or token not in output + errors
    return process.returncode, output, errors


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
