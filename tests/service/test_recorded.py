"""A rollout that is served leaves the row, and the trace, that a collected one leaves."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import gym_ray
from gym_ray.config.load import load_config
from tests.applications import Service
from tests.cluster import SPANS_PORT, scripted_config, serve_port, sums, until, write_rows
from tests.spans import ReceivedSpan, receiver

#: What lies below what in the traces of two rollouts of one turn.
pytestmark = pytest.mark.long(
    "a collection beside the service (50 s of CPU time); what a served rollout records is in "
    "tests/unit/test_recorder.py, its columns in tests/unit/test_environment_client.py"
)

TRACES = Counter(
    {
        "attempt under rollout": 2,
        "policy turn under attempt": 2,
        "verification under attempt": 2,
    }
)


def filled(folder: Path) -> dict[str, set[str]]:
    """Columns that say something, of each stored row, by task."""
    return {
        row["task_id"]: {
            name for name, value in row.items() if value not in (None, "", [], "[]", "{}")
        }
        for row in gym_ray.read_rollouts(folder).to_arrow().to_pylist()
    }


def post(url: str, row: dict[str, Any]) -> int:
    try:
        with urllib.request.urlopen(url, json.dumps(row).encode(), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_served_and_collected_rollouts_fill_the_same_columns_and_both_are_traced(
    service: Service, tmp_path: Path, requests: Path
) -> None:
    from gym_ray.serving.application import Application
    from gym_ray.serving.gateway_application import GatewayApplication
    from gym_ray.serving.recorder import RecordTarget

    service.stop()  # A cluster has one gateway.
    good, bad = sums(2, tmp_path)
    bad["verify"] = "raise"
    config = scripted_config(
        tmp_path,
        write_rows(tmp_path / "tasks.jsonl", [good, bad]),
        requests,
        observability__trace_share=1.0,
        serve__port=serve_port(),
        serve__api_key_env=None,
    )
    with receiver(SPANS_PORT) as spans:
        checked = load_config(config)
        core = Application.deploy(checked, print)
        target = RecordTarget(str(tmp_path / "served"), "served")
        gateway = GatewayApplication.deploy(checked, core, print, target=target)
        try:
            assert [post(f"{gateway.base_url}/run", row) for row in (good, bad)] == [200, 422]
            collected = gym_ray.collect(config, quiet=True)
        finally:
            gateway.close()
            core.close()
        for run in ("served", collected.run_id):
            until(lambda run=run: shape_of(spans, run) == TRACES, 60, f"traces of {run}: {spans}")  # type: ignore[misc]

    assert len(filled(tmp_path / "served")) == 2
    assert filled(tmp_path / "served") == filled(tmp_path / "run")


def shape_of(spans: list[ReceivedSpan], run_id: str) -> Counter[str]:
    """What lies below what in the traces of a run."""
    traces = {s.trace for s in spans if s.attributes.get("gym_ray.run_id") == run_id}
    names = {s.span: s.name for s in spans}
    return Counter(
        f"{s.name} under {names.get(s.parent)}" for s in spans if s.trace in traces and s.parent
    )
