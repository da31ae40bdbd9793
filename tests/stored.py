"""Runs made by hand: rollouts of the arithmetic test environment, as `collect` leaves them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gym_ray.collection.compaction import compact
from gym_ray.config.load import load_config
from gym_ray.errors import FailureKind
from gym_ray.rollout import Rollout, RolloutSpec, failed_rollout
from gym_ray.store.dataset_files import dataset_files
from gym_ray.store.index import Index
from gym_ray.store.run_directory import RunDirectory
from gym_ray.task import rollout_id_of, task_id_of
from gym_ray.turn import Turn, VersionSpan

HERE = Path(__file__).parent


def sum_rollout(number: int, repeat: int = 0, *, reply: str, **fields: Any) -> Rollout:
    """A rollout of `number + number = ?`, answered by `reply`; verified unless `fields` differ.

    Keys that are none of a rollout's go into the task row.
    """
    own = {field.name for field in dataclasses.fields(Rollout)}
    row = {
        "responses_create_params": {
            "input": [{"role": "user", "content": f"{number} + {number} = ?"}]
        },
        "expected_answer": str(2 * number),
        **{key: value for key, value in fields.items() if key not in own},
    }
    task_id = task_id_of(row)
    spec = RolloutSpec(
        rollout_id=rollout_id_of(task_id, "arithmetic", repeat),
        task_id=task_id,
        task_index=number,
        rollout_index=repeat,
        environment="arithmetic",
        source_file="tasks.jsonl",
        source_line=number + 1,
        task=json.dumps(row),
    )
    message = {"type": "message", "role": "assistant", "content": [{"text": reply}]}
    given: dict[str, Any] = {
        "status": "completed",
        "reward": float(reply == row["expected_answer"]),
        "token_ids": np.array([1, 2, number], dtype=np.int32),
        "loss_mask": np.array([0, 0, 1], dtype=np.int8),
        "logprobs": np.array([0, 0, -0.5], dtype=np.float32),
        "turns": (Turn(2, 1, "stop", (VersionSpan(0, 0, 1),), 0.0, 0.5),),
        "response": json.dumps([message]),
        **{key: value for key, value in fields.items() if key in own},
    }
    if given["status"] == "failed":
        given["reward"] = None
    return Rollout(spec=spec, run_id="old", agent="single_turn", model="m", **given)


def unplayed(number: int, repeat: int = 0) -> Rollout:
    """A rollout that failed before there was anything to verify."""
    spec = sum_rollout(number, repeat, reply="").spec
    return failed_rollout(
        spec, FailureKind.POLICY_TIMEOUT, "no answer", run_id="old", agent="single_turn"
    )


def arithmetic_config(output: Path, entrypoint: str = "") -> dict[str, Any]:
    """A config of the arithmetic environment."""
    return {
        "policy": {"engine": "scripted", "engine_args": {"reply": "4"}},
        "environments": {
            "arithmetic": {"entrypoint": entrypoint or f"{HERE}/arithmetic.py:Arithmetic"}
        },
        "verification": {"timeout_seconds": 2, "processes": 1},
        "collect": {"output": str(output)},
    }


def stored_run(
    folder: Path, rollouts: Sequence[Rollout], *, is_complete: bool = True, entrypoint: str = ""
) -> Path:
    """Write a run directory that holds these rollouts."""
    config = load_config(arithmetic_config(folder, entrypoint))
    directory = RunDirectory.open(config)
    directory.save_config(config)
    directory.segments.write("b", rollouts)
    if is_complete:
        compact(Index.read(dataset_files(folder)), directory.rollouts, folder / "segments")
    directory.close()
    return folder
