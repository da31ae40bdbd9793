"""Commands of chaos tests, and the processes they start."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil

from tests.cluster import HERE

ROLLOUTS = 240
IN_FLIGHT = 8

#: In flight and unwritten at one kill, at most: 8 running and a block of 4 not durable yet.
LOST_PER_KILL = 12


def start_collect(
    config: Path, log: Path, address: str | None, *overrides: str, command: str = "collect"
) -> subprocess.Popen[bytes]:
    """`gym-ray collect` in a process group of its own, on a joined or on its own cluster."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    environment.pop("RAY_ADDRESS", None)
    if address is not None:
        environment["RAY_ADDRESS"] = address
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "gym_ray", command, str(config), *overrides],
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )


def children_of(process: subprocess.Popen[bytes] | psutil.Process) -> list[psutil.Process]:
    """Everything a process started, but for two agents of Ray's that outlive a killed raylet.

    They are `ray::DashboardAgent` and `ray::RuntimeEnvAgent`, hold no resources, and are Ray's
    own to end.
    """
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if not {"ray::DashboardAgent", "ray::RuntimeEnvAgent"} & set(child.cmdline())
    ]


def is_gone(process: psutil.Process) -> bool:
    """Whether a process runs no more."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def raylet_of(process: psutil.Process) -> psutil.Process:
    """The raylet that a process started."""
    (raylet,) = (one for one in process.children(recursive=True) if one.name() == "raylet")
    return raylet
