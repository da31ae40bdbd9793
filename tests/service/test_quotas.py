"""Several environments in one collection, on a real local Ray with the scripted policy."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import gym_ray
from tests.applications import Playground
from tests.cluster import sums, until

pytestmark = pytest.mark.long(
    "an application of eight environments (50 s of CPU time); who may start is decided as "
    "tests/unit/test_admission.py has it"
)

PATIENCE = 60


def test_an_environment_with_a_quota_starts_no_more_and_holds_nobody_back(
    playground: Playground, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    rows = [
        row | {"agent_ref": name, "starts": str(tmp_path / name), "reset_waits_while": str(hold)}
        for row in sums(40, tmp_path)
        for name in ("scarce", "plenty")
    ]
    config = playground.config(
        tmp_path, rows, environments__scarce__max_in_flight=3, collect__max_in_flight=32
    )
    summaries: list[gym_ray.RunSummary] = []
    collecting = threading.Thread(
        target=lambda: summaries.append(gym_ray.collect(config, quiet=True)), daemon=True
    )

    def started() -> dict[str, int]:
        logs = {name: tmp_path / name for name in ("scarce", "plenty")}
        return {name: len(log.read_text()) if log.exists() else 0 for name, log in logs.items()}

    collecting.start()
    # Of 32 places 3 are the scarce one's; the others fill with calls of 8.
    until(lambda: started() == {"scarce": 3, "plenty": 24}, PATIENCE, "all places taken")
    hold.unlink()
    collecting.join(PATIENCE)

    (summary,) = summaries
    assert (summary.completed, summary.failed) == (80, 0)
    assert started() == {"scarce": 40, "plenty": 40}
