"""Provider `bubblewrap`: Debian's bubblewrap, which needs unprivileged user namespaces.

The command gets namespaces of its own (user, process, network, mount, IPC, host name), a file
system that holds the readable paths and its directory, and a system-call filter.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess

from gym_ray.errors import one_line
from gym_ray.sandbox import seccomp
from gym_ray.sandbox.interpreter import missing_tool
from gym_ray.sandbox.program import ProviderFault
from gym_ray.sandbox.provider import Launch, RunningProcess, capped

_ALONE = (
    "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
    "--unshare-cgroup-try", "--hostname", "sandbox", "--new-session", "--die-with-parent",
    "--cap-drop", "ALL", "--clearenv",
)  # fmt: skip


def why_not() -> str | None:
    """What is missing to use it, as far as can be told without trying; None when nothing is."""
    tool = missing_tool("bwrap")
    if tool is not None:
        return f"{tool} (apt-get install bubblewrap)"
    return seccomp.why_not()


class Bubblewrap:
    """Starts commands under bwrap."""

    def __init__(self) -> None:
        self._filter = os.memfd_create("filter")
        os.write(self._filter, seccomp.program_filter())

    def start(self, launch: Launch) -> RunningProcess:
        read_end, write_end = os.pipe()
        # A descriptor of its own, since reading moves the position of a shared one.
        filter_copy = os.open(f"/proc/self/fd/{self._filter}", os.O_RDONLY)
        command = ["bwrap", *_ALONE, "--seccomp", str(filter_copy)]
        command += ["--json-status-fd", str(write_end)]
        for name, value in launch.environment.items():
            command += ["--setenv", name, value]
        for path in launch.readable:
            command += ["--ro-bind-try", path, path]
        command += ["--proc", "/proc", "--dev", "/dev", "--bind", launch.folder, launch.folder]
        # What bwrap itself mounted is memory that nobody counts: not writable either.
        command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", launch.folder, "--"]
        # bwrap's own two processes in the namespace count as well.
        command += capped(launch.command, launch.limits, tasks=launch.limits.processes + 2)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(write_end, filter_copy),
            )
        except OSError as error:
            os.close(read_end)
            raise ProviderFault(f"bwrap cannot be started: {one_line(error)}") from error
        finally:
            os.close(write_end)
            os.close(filter_copy)
        return _RunningBubblewrap(process, read_end)


class _RunningBubblewrap(RunningProcess):
    def __init__(self, process: subprocess.Popen[bytes], status: int) -> None:
        super().__init__(process)
        self._status = status

    def wait(self) -> tuple[int | None, int | None]:
        code, own_signal = super().wait()
        with os.fdopen(self._status, "rb") as file:
            report: dict[str, int] = {}
            for line in file.read().splitlines():
                report |= json.loads(line)
        if own_signal is not None:
            return None, own_signal
        if "exit-code" not in report:
            raise ProviderFault(f"bwrap could not set the sandbox up (exit code {code})")
        code = report["exit-code"]
        if code > 128 and code - 128 in signal.valid_signals():
            return None, code - 128
        return code, None
