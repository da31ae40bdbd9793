"""A program that collects through the client, keeps what it has by index, and may be killed.

    python -m tests.client_program URL TASKS KEPT LEASE_SECONDS

Appends the index of every result to the file KEPT, and hands back what is there at its start.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import gym_ray


def main(url: str, tasks: Path, kept: Path, lease_seconds: float) -> None:
    rows = [json.loads(line) for line in tasks.read_text().splitlines()]
    received = [int(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    file = os.open(kept, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    with gym_ray.RolloutClient(url, max_in_flight=100, lease_seconds=lease_seconds) as client:
        for result in client.run(rows, name=tasks.stem, received=received):
            assert result.reward == 1.0, result.error
            os.write(file, b"%d\n" % result.index)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
