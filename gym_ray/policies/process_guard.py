"""No process a policy engine starts outlives the process that started it.

An engine's child processes hold GPUs. A replica that is stopped ends them itself; one that is
killed cannot, and vLLM's engine core then waits for requests for ever (seen with 0.32.0). So a
small watcher process waits for its parent's death, whatever the cause, and kills what is left.

The processes are known by a variable in their environment rather than by number: it reaches
everything started below, at any time and depth, it survives the death of a parent in between,
and it cannot be mistaken after a number has been reused. What is not covered: processes on
other nodes (Ray's executor has Ray for that), and Linux only, like vLLM.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

# psutil is imported where it is used: the watcher runs this file without site packages.
if TYPE_CHECKING:
    import psutil

logger = logging.getLogger(__name__)

OWNER_VARIABLE = "GYM_RAY_ENGINE_OWNER"

POLL_SECONDS = 0.5

#: A dying process may just have started another, so look again until nothing is found.
SWEEPS = 40
SWEEP_SECONDS = 0.25

#: One mark per process, shared by its engines, so that starting two at once cannot mix them up.
_MARK = secrets.token_hex(16)


class ProcessGuard:
    """Watches over every process started from here until `close`.

    Must be made before the processes to watch are started: they inherit the mark.
    """

    def __init__(self) -> None:
        owner = f"{os.getpid()}-{_MARK}"  # a forked copy of this process is another owner
        os.environ[OWNER_VARIABLE] = owner
        # vLLM names its processes; without this, naming one wipes its visible environment.
        os.environ["SPT_NOENV"] = "1"
        self._watcher = subprocess.Popen(
            # Isolated and without site packages: 10 MB, and nothing to break it.
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), owner],
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a signal to our process group must not reach it
        )

    def close(self) -> None:
        """Stop watching; to be called when the watched processes have ended."""
        self._watcher.kill()
        self._watcher.wait()


def wait_and_kill(parent: int, owner: str) -> None:
    """Wait until process `parent`, whose child we are, has ended; then kill what it owned."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    for _ in range(SWEEPS):
        orphans = owned_processes(owner)
        if not orphans:
            return
        for pid in orphans:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(SWEEP_SECONDS)


def owned_processes(owner: str) -> list[int]:
    """Numbers of the processes whose environment carries the mark `owner`."""
    mark = f"{OWNER_VARIABLE}={owner}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


def with_descendants(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those of `processes` that still exist, each followed by its children at any depth."""
    import psutil

    found = []
    for process in processes:
        try:
            found += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def end_processes(processes: list[psutil.Process], seconds: float) -> None:
    """Wait `seconds` for `processes` to end, then kill those that have not."""
    import psutil

    _, alive = psutil.wait_procs(processes, timeout=seconds)
    for process in alive:
        logger.warning("process %d did not end by itself; killing it", process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=seconds)


if __name__ == "__main__":
    wait_and_kill(int(sys.argv[1]), sys.argv[2])
