"""Provider `sandlock`: PyPI's sandlock, on Landlock and seccomp. Needs Linux 6.12, no privileges.

The command sees the host's names (a file that exists can be told from one that does not) but can
open nothing outside its paths. Sandlock decides itself about network calls; `socket` is taken
away from the warden before that, so that none can be made at all. Programs of a root process run
as a user who owns nothing but their folder. Those of any other process run as its own user, whose
files have attributes that Landlock does not guard: they may change none, not of their own files
either.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gym_ray.errors import one_line
from gym_ray.sandbox import seccomp
from gym_ray.sandbox.program import ProviderFault
from gym_ray.sandbox.provider import Launch, capped

_READABLE_DEVICES = ("/dev/zero", "/dev/random", "/dev/urandom")


def why_not() -> str | None:
    """What is missing to use it, as far as can be told without trying; None when nothing is."""
    if importlib.util.find_spec("sandlock") is None:
        return "the package sandlock is not installed (pip install 'sandlock>=0.9,<0.10')"
    try:
        library = importlib.import_module("sandlock")
        has, needs = library.landlock_abi_version(), library.min_landlock_abi()
    except Exception as error:
        return f"the package sandlock does not load: {one_line(error)}"
    if has < needs:
        return f"this kernel has Landlock ABI {has}, and sandlock needs {needs} (Linux 6.12)"
    return seccomp.why_not()


class Sandlock:
    """Starts commands under sandlock; making one takes `socket` away from this process for good.

    Args:
        own_user: this process runs as a user of its own, whose tasks the kernel can count.
    """

    def __init__(self, *, own_user: bool) -> None:
        self._library = importlib.import_module("sandlock")
        self._own_user = own_user
        self._refused = (
            *seccomp.REFUSED,
            *seccomp.WRITERS_ATTRIBUTES,
            *(() if own_user else seccomp.OWNERS_ATTRIBUTES),
        )
        seccomp.refuse_sockets()
        # Programs are started from a thread that has lost what they may not do; this one measures
        # and ends them.
        self._thread = ThreadPoolExecutor(1, initializer=seccomp.refuse_others)
        # It complains, at every program, that it cannot make a control socket. What goes wrong
        # in a warden is told on the warden's own socket.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        os.close(nothing)

    def start(self, launch: Launch) -> _RunningSandlock:
        limits = launch.limits
        tasks = limits.processes + 2 if self._own_user else None  # and the warden's
        readable = [path for path in (*launch.readable, *_READABLE_DEVICES) if os.path.exists(path)]
        piped = self._library.StdioMode.PIPED
        sandbox = self._library.Sandbox(
            fs_readable=readable,
            fs_writable=[launch.folder, "/dev/null"],
            extra_deny_syscalls=self._refused,
            max_processes=limits.processes,
            no_coredump=True,
            cwd=launch.folder,
            # It adds a variable that counts the sandboxes; the rest is as given.
            clean_env=True,
            env=dict(launch.environment),
        )
        try:
            process = self._thread.submit(
                sandbox.popen,
                capped(launch.command, limits, tasks=tasks),
                stdin=piped,
                stdout=piped,
                stderr=piped,
            ).result()
        except Exception as error:
            raise ProviderFault(f"sandlock cannot start it: {one_line(error)}") from error
        return _RunningSandlock(process)


class _RunningSandlock:
    def __init__(self, process: Any) -> None:
        self._process = process
        self.pid: int = process.pid
        self.stdin = os.dup(process.stdin.fileno())
        self.stdout = os.dup(process.stdout.fileno())
        self.stderr = os.dup(process.stderr.fileno())
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()

    def wait(self) -> tuple[int | None, int | None]:
        result = self._process.wait(10)
        if result.error is not None:
            raise ProviderFault(f"sandlock lost the program: {result.error}")
        if result.exit_code >= 0:
            return result.exit_code, None
        return None, result.signal if result.signal > 0 else 9
