"""What a provider is: a way to start one command so that it sees and reaches nothing else.

A provider confines; it does not count. Time, memory, disk, output and the end of all processes
are the warden's work (warden.py), the same for all providers.
"""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
from collections.abc import Mapping
from typing import Protocol

from gym_ray.sandbox.program import Limits


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """One command on its way into a sandbox.

    Attributes:
        command: program and arguments.
        folder: its directory, made already; the only one it may write to.
        environment: all its variables.
        readable: paths it may read; those that do not exist are left out.
        limits: of the program.
    """

    command: tuple[str, ...]
    folder: str
    environment: Mapping[str, str]
    readable: tuple[str, ...]
    limits: Limits


class Running(Protocol):
    """A started command.

    Attributes:
        pid: of the process whose end is the end of the command, a child of this one.
        stdin, stdout, stderr: descriptors of the parent's ends of its pipes.
    """

    pid: int
    stdin: int
    stdout: int
    stderr: int

    def wait(self) -> tuple[int | None, int | None]:
        """Reap it once it is dead: exit code and signal, one of them None.

        Raises:
            ProviderFault: the command was never started, for no fault of its own.
        """


class Provider(Protocol):
    """Starts commands. Lives in a warden process."""

    def start(self, launch: Launch) -> Running:
        """Start a command.

        Raises:
            ProviderFault: that failed.
        """


def capped(command: tuple[str, ...], limits: Limits, *, tasks: int | None) -> list[str]:
    """`command` behind a shell that takes the limits upon itself that a kernel keeps per process.

    Not util-linux's prlimit: it names the process, which is refused since it might be another's.

    Args:
        tasks: most processes and threads of the program's user, where that user is its alone.
    """
    caps = [
        "-c 0",
        f"-t {math.ceil(limits.cpu_seconds) + 1}",  # the warden is more exact
        f"-d {math.ceil(limits.memory_bytes / 1024)}",
        f"-f {math.ceil(limits.file_bytes / 512)}",  # in a POSIX shell's blocks
        f"-n {limits.open_files}",
        "-l 64",
    ]
    script = "".join(f"ulimit {cap} && " for cap in caps)
    if tasks is not None:
        # Shells have two names for it, and one of them takes the second for something else.
        script += f"{{ ulimit -u {tasks} || ulimit -p {tasks}; }} 2>/dev/null && "
    return ["/bin/sh", "-c", f'{script}exec "$@"', "sh", *command]


class RunningProcess:
    """A `Running` that is an ordinary child process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.pid = process.pid
        self.stdin = os.dup(process.stdin.fileno())
        self.stdout = os.dup(process.stdout.fileno())
        self.stderr = os.dup(process.stderr.fileno())
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()

    def wait(self) -> tuple[int | None, int | None]:
        code = self._process.wait()
        return (code, None) if code >= 0 else (None, -code)
