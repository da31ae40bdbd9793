"""Stored runs to export, and what exports of them hold."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gym_ray.cli.main import main
from gym_ray.collection.compaction import compact
from gym_ray.errors import FailureKind
from gym_ray.renderers.items import items_from_message
from gym_ray.renderers.messages import AssistantMessage, ToolCall
from gym_ray.rollout import Rollout
from gym_ray.store.dataset_files import dataset_files
from gym_ray.store.index import Index
from gym_ray.store.segments import SegmentStore

Make = Callable[..., Rollout]
Row = dict[str, Any]

ADD = [{"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}]


def store(run: Path, rollouts: Sequence[Rollout], *, compacted: bool = True) -> Path:
    (run / "rollouts").mkdir(parents=True, exist_ok=True)
    SegmentStore(run / "segments").write("b", rollouts)
    if compacted:
        compact(Index.read(dataset_files(run)), run / "rollouts", run / "segments")
    return run


def run_command(*arguments: Any) -> tuple[int, str]:
    """A command line without progress: its exit code and what it printed."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gym-ray", *map(str, arguments), "--quiet"])
        patch.setattr("typer.echo", lambda text, **_: said.append(text))
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0), "".join(said)


def export_rows(
    folder: Path, rollouts: Sequence[Rollout], kind: str, *arguments: str
) -> tuple[list[Row], Row]:
    """Export rollouts by the command; rows of the JSONL, and the report."""
    number = len(list(folder.iterdir()))
    source = store(folder / f"run{number}", rollouts)
    output = folder / f"out{number}"
    code, report = run_command("export", kind, source, "--output", output, "--json", *arguments)
    assert code == 0
    names = sorted(path.name for path in output.glob("*.jsonl"))
    return [row for name in names for row in lines(output / name)], json.loads(report)


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def table_of(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))


def failed(make_rollout: Make, *place: int) -> Rollout:
    return make_rollout(
        *place, status="failed", error_kind=FailureKind.VERIFIER_ERROR, error="gone"
    )


def told(text: str) -> dict[str, Any]:
    return {"prompt": json.dumps([{"role": "user", "content": text}])}


def said(text: str, **message: Any) -> dict[str, Any]:
    """Fields of a rollout in which the policy says this."""
    items = items_from_message(AssistantMessage(text, **message), item_id_prefix="a-0")
    return {**told("1 + 2 = ?"), "response": json.dumps(items)}


def with_a_call(**fields: Any) -> dict[str, Any]:
    """A turn that thinks and calls, the call's result, and an answer."""
    calls = (ToolCall("c1", "add", '{"a": 1, "b": 2}'),)
    items = items_from_message(AssistantMessage("", "hm", calls), item_id_prefix="a-0")
    items.append({"type": "function_call_output", "call_id": "c1", "output": "3"})
    items += items_from_message(AssistantMessage("It is 3."), item_id_prefix="a-1")
    system = {"role": "system", "content": "Add."}
    prompt = [system, {"role": "user", "content": "1 + 2 = ?"}]
    return {
        "prompt": json.dumps(prompt),
        "response": json.dumps(items),
        "tools": json.dumps(ADD),
        **fields,
    }


def tokenless(make_rollout: Make, *place: int, **fields: Any) -> Rollout:
    nothing = {
        "token_ids": np.zeros(0, dtype=np.int32),
        "loss_mask": np.zeros(0, dtype=np.int8),
        "logprobs": np.zeros(0, dtype=np.float32),
    }
    return make_rollout(*place, **nothing, **fields)


def preferences(make_rollout: Make) -> list[Rollout]:
    rewards = [0.0, 1.0, 0.5]
    return [make_rollout(0, n, **said(str(n)), reward=r) for n, r in enumerate(rewards)]
