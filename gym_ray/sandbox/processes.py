"""The processes below one: finding, measuring and killing them, daemons included.

Everything is read from /proc. A process that is a child subreaper (prctl) inherits whatever its
descendants abandon, so nothing leaves the tree below it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = 1.0 / os.sysconf("SC_CLK_TCK")

#: Added to this process's niceness: weight about a ninth of its. A sandboxed program gets what
#: others leave, and, since its limit counts CPU time, is not judged slow for it.
NICENESS = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """What a tree of processes uses at one moment.

    Attributes:
        tasks: processes and threads.
        cpu_seconds: of the living, and of the dead whom the living waited for.
        resident_bytes: the sum over processes; pages that two share count twice.
    """

    tasks: int
    cpu_seconds: float
    resident_bytes: int


def descendants(root: int) -> list[int]:
    """Process ids below `root`, parents first, without it. A snapshot: it may miss newborns."""
    found: list[int] = []
    seen = {root}
    waiting = [root]
    while waiting:
        for child in _children(waiting.pop()):
            if child not in seen:
                seen.add(child)
                found.append(child)
                waiting.append(child)
    return found


def usage(pids: list[int]) -> Usage:
    """What these processes use together; those that have gone count nothing."""
    tasks, ticks, pages = 0, 0, 0
    for pid in pids:
        fields = _stat(pid)
        if fields is None:
            continue
        # Counted from the state, proc(5)'s third field.
        ticks += sum(int(field) for field in fields[11:15])
        if fields[0] not in ("Z", "X"):
            tasks += int(fields[17])
            pages += int(fields[21])
    return Usage(tasks, ticks * _TICK, pages * _PAGE)


def shared_once_bytes(pids: list[int]) -> int:
    """Memory these processes hold, shared pages in proportion. Slower than `usage`."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            fields = _stat(pid)
            total += int(fields[21]) * _PAGE if fields else 0
            continue
        for line in text.splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


@dataclasses.dataclass(frozen=True, slots=True)
class Hidden:
    """What processes hold that neither their sizes nor a folder show.

    Attributes:
        disk_bytes: of files that are deleted and still open, or still mapped.
        socket_bytes: what may wait in their sockets.
    """

    disk_bytes: int
    socket_bytes: int


def hidden(pids: list[int], *, folder: str, most_bytes: int) -> Hidden:
    """What these processes hold out of sight.

    Args:
        pids: of one program.
        folder: where its files are.
        most_bytes: the largest a file of it can be. That much counts of one that is only mapped:
            a mapping of one page keeps all of it.
    """
    blocks: dict[int, int] = {}
    sockets: set[int] = set()
    mapped: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(f"/proc/{pid}/fd/{name}")
                    if stat.S_ISSOCK(status.st_mode):
                        sockets.add(status.st_ino)
                    elif status.st_nlink == 0:
                        blocks[status.st_ino] = 512 * status.st_blocks
        mapped |= _deleted_and_mapped(pid, folder)
    for inode in mapped - blocks.keys():
        blocks[inode] = most_bytes
    return Hidden(sum(blocks.values()), _socket_bytes() * len(sockets))


def _deleted_and_mapped(pid: int, folder: str) -> set[int]:
    """Inodes of files that were in a folder, and that a process has mapped."""
    found = set()
    with (
        contextlib.suppress(OSError, ValueError),
        open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file,
    ):
        for line in file:
            if line.endswith(" (deleted)\n") and f" {folder}/" in line:
                found.add(int(line.split(None, 5)[4]))
    return found


@functools.cache
def _socket_bytes() -> int:
    """What one socket may hold for who does not read it."""
    try:
        return int(Path("/proc/sys/net/core/wmem_max").read_text())
    except (OSError, ValueError):
        return 212_992


def step_back(pids: list[int]) -> None:
    """Let these processes yield to other work, and be the first to go when memory is short."""
    niceness = min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
    for pid in pids:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, niceness)
            Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def kill_below(root: int, *, kept_zombie: int, seconds: float) -> bool:
    """Kill all descendants of `root`, which is this process, and reap them.

    Args:
        kept_zombie: a child that somebody else waits for; killed, not reaped.
        seconds: how long to try.

    Returns:
        Whether none is alive.
    """
    deadline = time.monotonic() + seconds
    while True:
        alive = [pid for pid in descendants(root) if _is_alive(pid)]
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for child in _children(root):
            if child != kept_zombie:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child, os.WNOHANG)
        if not alive:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
                yield from map(int, file.read().split())


def _is_alive(pid: int) -> bool:
    fields = _stat(pid)
    return fields is not None and fields[0] not in ("Z", "X")


def _stat(pid: int) -> list[str] | None:
    """proc(5)'s stat from its third field on; None when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None
