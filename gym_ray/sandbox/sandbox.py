"""The sandbox a caller holds: a few wardens, and a line of programs waiting for one.

Owned here: choosing a provider that works on this host, how many programs run at once, and what
becomes of a warden that fails. Not owned here: running a program (warden.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from gym_ray.errors import ConfigError, FailureKind, RolloutFailure, one_line
from gym_ray.sandbox import self_check
from gym_ray.sandbox.config import SandboxConfig
from gym_ray.sandbox.folder import remove_folder
from gym_ray.sandbox.interpreter import SYSTEM_PATHS, find_interpreter
from gym_ray.sandbox.program import Limits, Program, SandboxResult

#: Importing on a busy machine takes seconds; more is a hang.
START_SECONDS = 60.0
#: What a warden may take beside the program's own time, before it is taken for dead.
GRACE_SECONDS = 30.0
#: What a warden that is told to leave has for killing and removing.
LEAVE_SECONDS = 10.0

# As the verifier pool's: this process's import path, and never its `__main__`.
_WARDEN = (
    "import sys; count = int(sys.argv[1]); sys.path[:] = sys.argv[2:2 + count]; "
    "from gym_ray.sandbox.warden import run; rest = sys.argv[2 + count:]; "
    "run(int(rest[0]), rest[1], rest[2], rest[3], rest[4:])"
)


class Sandbox:
    """Runs untrusted programs, `config.concurrency` at a time.

    Call `run` from any threads, `run_async` from any event loop. Wardens start when first needed
    and stay until `close`; they also leave, and clean up, when this process is killed.

    Args:
        config: which provider.

    Raises:
        ConfigError: no provider works on this host; says what each one lacks.

    Attributes:
        provider: name of the provider in use.
        python: an interpreter that programs can start.
    """

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self._config = config or SandboxConfig()
        self.python, needed = find_interpreter()
        self._readable = (*SYSTEM_PATHS, *needed, *self._config.readable)
        self._idle: queue.LifoQueue[_WardenHandle | None] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._busy: set[_WardenHandle] = set()
        self._threads: ThreadPoolExecutor | None = None
        self._is_closed = False
        for _ in range(self._config.concurrency):
            self._idle.put(None)
        self.provider = ""
        self.provider = self._choose()

    def run(self, program: Program, limits: Limits | None = None) -> SandboxResult:
        """Run a program to its end or to a limit; waits for its turn.

        Raises:
            RolloutFailure: `sandbox_error` when the sandbox failed, which says nothing about the
                program.
        """
        return self._run(program, limits or Limits(), None)

    async def run_async(self, program: Program, limits: Limits | None = None) -> SandboxResult:
        """`run` without blocking the event loop. Cancelling it ends the program."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(
                    self._config.concurrency, thread_name_prefix="sandbox"
                )
        gone = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._run, program, limits or Limits(), gone
            )
        except asyncio.CancelledError:
            gone.set()
            raise

    def close(self) -> None:
        """End all wardens and what they run; programs that wait or run fail."""
        with self._lock:
            self._is_closed = True
            busy = list(self._busy)
        for warden in busy:
            warden.end()
        with contextlib.suppress(queue.Empty):
            while True:
                idle = self._idle.get_nowait()
                if idle is not None:
                    idle.end()
        for _ in range(self._config.concurrency):
            self._idle.put(None)  # so that who waits finds the sandbox closed
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _choose(self) -> str:
        config = self._config
        if config.provider == "unsafe" and not config.allow_unsafe:
            raise ConfigError(
                "sandbox.provider unsafe is no sandbox: programs could do whatever this user can; "
                "set sandbox.allow_unsafe: true if you trust every one of them"
            )
        candidates = ["sandlock", "bubblewrap"] if config.provider == "auto" else [config.provider]
        if config.provider == "auto" and config.allow_unsafe:
            candidates.append("unsafe")
        reasons = []
        for name in candidates:
            self.provider = name
            reason = self_check.missing(name) or self_check.failing(self)
            if reason is None:
                return name
            reasons.append(f"{name}: {reason}")
            self._drop_idle()
        self.close()
        raise ConfigError(
            "no sandbox works on this host. " + ". ".join(reasons) + ". Install one that can "
            "(`python -m gym_ray.sandbox` shows the check), or, for programs that you trust, set "
            "sandbox.allow_unsafe: true"
        )

    def _run(self, program: Program, limits: Limits, gone: threading.Event | None) -> SandboxResult:
        """Twice where the warden dies under the program: it may have been the program's doing. Two
        that die under one program were: else one that ends its warden would be tried for ever.
        """
        try:
            return self._run_once(program, limits, gone)
        except _WardenDied:
            pass
        try:
            return self._run_once(program, limits, gone)
        except _WardenDied:
            return _killed(limits)

    def _run_once(
        self, program: Program, limits: Limits, gone: threading.Event | None
    ) -> SandboxResult:
        warden = self._idle.get()
        kept: _WardenHandle | None = None
        try:
            if gone is not None and gone.is_set():
                raise _failure("nobody waits for it any more")
            if self._is_closed:
                raise _failure("the sandbox is closed")
            if warden is None:
                warden = _WardenHandle(self.provider, self._config.directory, self._readable)
            with self._lock:
                self._busy.add(warden)
            try:
                result = warden.run(program, limits, gone)
                kept = warden
            finally:
                with self._lock:
                    self._busy.discard(warden)
            return result
        finally:
            if kept is None and warden is not None:
                warden.end()
            elif kept is not None and self._is_closed:
                kept.end()
                kept = None
            self._idle.put(kept)

    def _drop_idle(self) -> None:
        """End the wardens of a provider that did not stand its check."""
        for _ in range(self._idle.qsize()):
            warden = self._idle.get()
            if warden is not None:
                warden.end()
        for _ in range(self._config.concurrency):
            self._idle.put(None)


class _WardenHandle:
    """The parent's side of one warden process."""

    def __init__(self, provider: str, directory: str, readable: tuple[str, ...]) -> None:
        ours, theirs = socket.socketpair()
        path = [entry or os.getcwd() for entry in sys.path]
        self._home: str | None = None
        self._is_ended = False
        self._is_closed = False
        self._lock = threading.Lock()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [
                        sys.executable, "-c", _WARDEN, str(len(path)), *path,
                        str(theirs.fileno()), provider, directory, _PROGRAM_PATH, *readable,
                    ],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    # Not this process's variables: other processes of the user can read them.
                    env={"PATH": os.environ.get("PATH", _PROGRAM_PATH), "LANG": "C.UTF-8"},
                    start_new_session=True,  # cleans up after its parent is killed with its group
                )  # fmt: skip
        except OSError as error:
            ours.close()
            raise _failure(f"no warden can be started: {one_line(error)}") from error
        self._connection = Connection(ours.detach())
        try:
            self._home, problem = self._receive(START_SECONDS, None)
        except RolloutFailure:
            self.end()
            raise
        if problem is not None:
            self.end()
            raise _failure(f"provider {provider} cannot be set up: {problem}")

    def run(self, program: Program, limits: Limits, gone: threading.Event | None) -> SandboxResult:
        try:
            self._connection.send((program, limits))
        except OSError as error:
            raise _failure(f"the warden has gone: {one_line(error)}") from error
        self._receive(GRACE_SECONDS, gone)  # that it has begun
        try:
            answer = self._receive(limits.wall_seconds + GRACE_SECONDS, gone)
        except RolloutFailure:
            if self._is_ended or not self._has_died():
                raise
            raise _WardenDied from None
        if isinstance(answer, SandboxResult):
            return answer
        raise _failure(str(answer))

    def end(self) -> None:
        """Have it kill and remove what there is, and leave."""
        with self._lock:
            if self._is_ended:
                return
            self._is_ended = True
            # Not close: another thread may be reading.
            with (
                contextlib.suppress(OSError),
                socket.socket(fileno=os.dup(self._connection.fileno())) as ours,
            ):
                ours.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._home is not None:
            remove_folder(self._home)  # in case it was killed itself

    def _has_died(self) -> bool:
        """Whether the process is gone. What it had open is closed a moment before it is."""
        if not self._is_closed:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_SECONDS)
        return self._process.poll() is not None

    def _receive(self, seconds: float, gone: threading.Event | None) -> Any:
        waited = 0.0
        step = seconds if gone is None else 0.05
        try:
            while not self._connection.poll(step):
                waited += step
                if gone is not None and gone.is_set():
                    raise _failure("nobody waits for it any more")
                if waited >= seconds:
                    raise _failure(f"the warden did not answer within {seconds:g} s")
            return self._connection.recv()
        except (EOFError, OSError) as error:
            self._is_closed = True
            raise _failure(f"the warden has gone: {one_line(error)}") from error


class _WardenDied(Exception):
    """A warden that nobody told to leave is dead, and it had a program to run."""


def _killed(limits: Limits) -> SandboxResult:
    """A program that ended with what looked after it, by whichever means."""
    return SandboxResult(
        exit_code=None,
        signal=signal.SIGKILL,
        limit=None,
        stdout=b"",
        stderr=b"",
        stdout_truncated=False,
        stderr_truncated=False,
        wall_seconds=limits.wall_seconds,
        cpu_seconds=limits.cpu_seconds,
        memory_peak_bytes=0,
    )


_PROGRAM_PATH = "/usr/local/bin:/usr/bin:/bin"


def _failure(message: str) -> RolloutFailure:
    return RolloutFailure(FailureKind.SANDBOX_ERROR, message)
