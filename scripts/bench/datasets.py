"""What `prepare`, `export` and `metrics` take as datasets grow: CPU seconds and peak memory.

Writes synthetic tasks and finished rollouts (groups of four, about a hundred tokens, rewards of
many values, which is what costs `metrics` most) and runs each command on them in a process of its
own. Memory should hardly depend on the size.

    python scripts/bench/datasets.py --rollouts 100000 1000000
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq

from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.store.row_fetcher import ROW_GROUP_ROWS
from gym_ray.store.rows import to_table
from gym_ray.store.schema import SCHEMA
from gym_ray.task import rollout_id_of
from gym_ray.turn import Turn, VersionSpan

GROUP = 4
SHARD_ROWS = 64 * ROW_GROUP_ROWS
PROMPT, SAMPLED = 60, 40
NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)

ENVIRONMENT = """
from gym_ray import Environment, Outcome


class Boxed(Environment):
    async def verify(self, outcome: Outcome) -> float:
        return float("4" in outcome.text)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[100_000, 1_000_000])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.rollouts:
            measure(Path(folder), size)


def measure(folder: Path, size: int) -> None:
    tasks, run = folder / "tasks.jsonl", folder / "run"
    (folder / "boxed.py").write_text(ENVIRONMENT)
    with tasks.open("w") as file:
        for number in range(size):
            file.write(json.dumps(task_row(number)) + "\n")
    (folder / "run.yaml").write_text(
        "environments:\n  boxed:\n    entrypoint: boxed.py:Boxed\n"
        f"    datasets:\n    - {{name: bench, type: train, license: MIT, path: {tasks}}}\n"
    )
    write_rollouts(run, size)
    print(f"\n{size:,} rollouts and as many task rows", flush=True)
    commands: dict[str, list[str]] = {
        "prepare": ["prepare", "run.yaml", "--output", "prepared", "--deduplicate"],
        **{
            f"export {kind}": ["export", kind, "run", "--output", kind, "--workers", "1", *options]
            for kind, options in {
                "rl": [],
                "sft": ["--min-reward", "0.5"],
                "dpo": ["--margin", "0.1"],
                "nemo-gym": [],
            }.items()
        },
        "metrics": ["metrics", "run"],
        "metrics A B": ["metrics", "run", "run"],
    }
    for name, command in commands.items():
        wall, cpu, peak = watched(folder, command)
        print(f"{name:16} {wall:7.1f} s  CPU {cpu:7.1f} s  peak {peak / 1e6:5.0f} MB", flush=True)
    for path in ("prepared", "rl", "sft", "dpo", "nemo-gym", "run"):
        shutil.rmtree(folder / path)


def task_row(number: int) -> dict[str, Any]:
    prompt = f"What is {number} plus {number // 7}? Think step by step, and put it into a box."
    return {
        "responses_create_params": {"input": [{"role": "user", "content": prompt}]},
        "expected_answer": str(number + number // 7),
        "subject": f"sums-{number % 50}",
    }


def write_rollouts(run: Path, size: int) -> None:
    """A run directory's shards, as `compact` leaves them."""
    rng = np.random.default_rng(0)
    (run / "rollouts").mkdir(parents=True)
    for shard, start in enumerate(range(0, size, SHARD_ROWS)):
        with pq.ParquetWriter(
            run / "rollouts" / f"rollouts-{shard:05d}.parquet", SCHEMA, compression="zstd"
        ) as writer:
            for low in range(start, min(start + SHARD_ROWS, size), ROW_GROUP_ROWS):
                numbers = range(low, min(low + ROW_GROUP_ROWS, size))
                table = to_table([rollout(number, rng) for number in numbers])
                writer.write_table(table, row_group_size=ROW_GROUP_ROWS)


def rollout(number: int, rng: np.random.Generator) -> Rollout:
    task, repeat = divmod(number, GROUP)
    row, task_id = task_row(task), f"{task:032x}"
    total = PROMPT + SAMPLED
    mask = np.zeros(total, dtype=np.int8)
    mask[PROMPT:] = 1
    logprobs = np.zeros(total, dtype=np.float32)
    logprobs[PROMPT:] = -rng.random(SAMPLED, dtype=np.float32)
    said = f"{task} and {task // 7} make {rng.integers(2_000_000)}, which I boxed."
    return Rollout(
        spec=RolloutSpec(
            rollout_id=rollout_id_of(task_id, "boxed", repeat),
            task_id=task_id,
            task_index=task,
            rollout_index=repeat,
            environment="boxed",
            source_file="tasks.jsonl",
            source_line=task + 1,
            task=json.dumps(row),
        ),
        run_id="bench",
        agent="single_turn",
        model="none",
        status="completed",
        reward=float(rng.random()),
        token_ids=rng.integers(0, 49_152, total, dtype=np.int32),
        loss_mask=mask,
        logprobs=logprobs,
        turns=(Turn(PROMPT, SAMPLED, "stop", (VersionSpan(0, 0, SAMPLED),), 0.0, 0.5),),
        prompt=json.dumps(row["responses_create_params"]["input"]),
        response=json.dumps(
            [
                {
                    "type": "message",
                    "role": "assistant",
                    "id": "m",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": said, "annotations": []}],
                }
            ]
        ),
        started_at=NOON,
        seconds=1.0,
    )


def watched(folder: Path, command: Sequence[str]) -> tuple[float, float, float]:
    """Wall and CPU seconds of a command of gym-ray, and its peak resident bytes."""
    began = time.monotonic()
    process = psutil.Popen(
        [sys.executable, "-m", "gym_ray", *command, "--quiet"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    status = Path(f"/proc/{process.pid}/status")
    cpu = peak = 0.0
    while process.poll() is None:
        # A process that has ended and was not waited for has no memory to tell.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak = max(peak, int(line.split()[1]) * 1024.0)
        times = process.cpu_times()
        cpu = max(cpu, times.user + times.system)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"gym-ray {' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - began, cpu, peak


if __name__ == "__main__":
    main()
