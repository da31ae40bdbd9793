"""Rows larger than the transport takes by itself, and one that ends its replica."""

from __future__ import annotations

from pathlib import Path

import pytest

import gym_ray
from tests.cluster import scripted_config, sums, write_rows

pytestmark = pytest.mark.long(
    "a replica that dies and starts again until its rollout is given up (110 s); who is suspected, "
    "and how calls are split by bytes, is in tests/unit/test_suspects.py"
)

LARGE = "x" * 6_000_000
ROWS = 60


def test_large_rows_complete_and_a_deadly_one_takes_nobody_with_it(
    tmp_path: Path, requests: Path
) -> None:
    rows = sums(ROWS, tmp_path, reset_seconds=0.2)
    for row in rows[10:13]:
        row["padding"] = LARGE
    rows[5]["reset_exits"] = True
    config = scripted_config(
        tmp_path,
        write_rows(tmp_path / "tasks.jsonl", rows),
        requests,
        collect__max_attempts=1,
        collect__max_failed_share=1.0,
    )

    summary = gym_ray.collect(config, quiet=True)

    assert (summary.expected, summary.completed, summary.failed) == (ROWS, ROWS - 1, 1)
    for rollout in gym_ray.read_rollouts(summary.output):
        is_deadly = rollout.spec.task_index == 5
        assert rollout.error_kind == ("environment_unavailable" if is_deadly else None)
        assert rollout.attempts == 1
        assert rollout.reward == (None if is_deadly else 1.0)
