"""A process that runs sandboxed programs, one at a time, and answers for their end.

Owned here: every limit that is counted rather than kept by the kernel, and that after each
program no process of it is alive and no file of it is left. Not owned here: confinement
(provider.py and its implementations) and how many programs run at once (sandbox.py).

Why a process of its own: it adopts what programs abandon (a child subreaper gets all orphans
below it); forking from it is cheap, from a large process it is not; it can give up root for good;
and it cleans up after its parent is killed, which it learns from its closed socket.

What travels on the socket is pickled. First out: the warden's own directory, and why it cannot
serve or None. Then (Program, Limits) in; None, which says that it has begun, and a SandboxResult,
or what is wrong with the sandbox as a string, out.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import itertools
import os
import secrets
import selectors
import signal
import tempfile
import time
from multiprocessing.connection import Connection

from gym_ray.errors import one_line
from gym_ray.sandbox.bubblewrap import Bubblewrap
from gym_ray.sandbox.folder import make_folder, measure_folder, remove_folder
from gym_ray.sandbox.processes import (
    descendants,
    hidden,
    kill_below,
    shared_once_bytes,
    step_back,
    usage,
)
from gym_ray.sandbox.program import LimitName, Limits, Program, ProviderFault, SandboxResult
from gym_ray.sandbox.provider import Launch, Provider, Running
from gym_ray.sandbox.sandlock import Sandlock
from gym_ray.sandbox.unsafe import Unsafe

#: A short program is looked at often; a long one is not worth it.
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS, LOOK_GROWTH = 0.004, 0.02, 1.2
#: The directory is walked only every so many looks.
LOOKS_PER_WALK = 3
#: How long killing may take; a process that is stuck in the kernel cannot be killed.
KILL_SECONDS = 5.0

_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
#: Users made up for the wardens of root: far above what systems hand out.
_FIRST_USER, _USERS = 0x60000000, 0x10000000


def run(
    descriptor: int, provider_name: str, directory: str, path: str, readable: list[str]
) -> None:
    """Serve the socket `descriptor` until the parent closes it.

    Args:
        provider_name: of one that can be used here.
        directory: where programs' directories are made.
        path: PATH of the programs.
        readable: what they may read.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = Connection(descriptor)
    home = tempfile.mkdtemp(prefix="gym-ray-sandbox-", dir=directory)
    try:
        try:
            provider = _settle(provider_name, home)
        except Exception as error:
            parent.send((home, one_line(error)))
            return
        parent.send((home, None))
        warden = _Warden(provider, parent, home, path, tuple(readable))
        while True:
            program, limits = parent.recv()
            parent.send(None)
            parent.send(warden.answer(program, limits))
    except (EOFError, OSError):
        pass  # the parent has gone
    finally:
        kill_below(os.getpid(), kept_zombie=0, seconds=KILL_SECONDS)
        remove_folder(home)


def _settle(provider_name: str, home: str) -> Provider:
    """Adopt orphans, give up root, and get the provider ready, in this order."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot adopt orphans")
    is_root = os.geteuid() == 0
    if provider_name == "sandlock":
        importlib.import_module("sandlock._sdk")  # while its files can be read
    if is_root and provider_name != "unsafe":
        user = _FIRST_USER + secrets.randbelow(_USERS)
        os.chown(home, user, user)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        # Else its /proc entries, and those of the children it makes, belong to root.
        libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        if not os.access(home, os.X_OK):
            raise ProviderFault(
                f"{os.path.dirname(home)} cannot be entered by the user programs run as, who has "
                "no rights; set sandbox.directory to one that can"
            )
    match provider_name:
        case "sandlock":
            return Sandlock(own_user=is_root)
        case "bubblewrap":
            return Bubblewrap()
        case _:
            return Unsafe()


class _Warden:
    def __init__(
        self,
        provider: Provider,
        parent: Connection,
        home: str,
        path: str,
        readable: tuple[str, ...],
    ) -> None:
        self._provider = provider
        self._parent = parent
        self._home = home
        self._path = path
        self._readable = readable
        self._numbers = itertools.count(1)

    def answer(self, program: Program, limits: Limits) -> SandboxResult | str:
        folder = os.path.join(self._home, str(next(self._numbers)))
        try:
            try:
                make_folder(folder, program.files)
                return self._run(program, limits, folder)
            finally:
                if not remove_folder(folder):
                    raise ProviderFault(f"{folder} cannot be removed")
        except ProviderFault as fault:
            return str(fault)
        except EOFError:
            raise
        except Exception as error:
            return one_line(error)

    def _run(self, program: Program, limits: Limits, folder: str) -> SandboxResult:
        environment = {
            "PATH": self._path,
            "HOME": folder,
            "TMPDIR": folder,
            "LANG": "C.UTF-8",
            **program.environment,
        }
        started, cpu_before = time.monotonic(), _cpu_of_reaped()
        running = self._provider.start(
            Launch(program.command, folder, environment, self._readable, limits)
        )
        streams = _Streams(running, program.stdin, limits.output_bytes)
        watch = _Watch(running.pid, folder, limits, started, cpu_before)
        try:
            self._until_over(running, streams, watch)
        finally:
            if not kill_below(os.getpid(), kept_zombie=running.pid, seconds=KILL_SECONDS):
                raise ProviderFault("a process of the program cannot be killed")
            streams.drain()
            exit_code, ended_by = running.wait()
            # Orphans of a process that was itself an orphan arrive late.
            kill_below(os.getpid(), kept_zombie=0, seconds=KILL_SECONDS)
        limit = watch.limit or ("output" if streams.is_over else None)
        if limit is not None:
            exit_code, ended_by = None, signal.SIGKILL
        return SandboxResult(
            exit_code=exit_code,
            signal=ended_by,
            limit=limit,
            stdout=bytes(streams.kept[running.stdout]),
            stderr=bytes(streams.kept[running.stderr]),
            stdout_truncated=running.stdout in streams.truncated,
            stderr_truncated=running.stderr in streams.truncated,
            wall_seconds=time.monotonic() - started,
            cpu_seconds=max(watch.cpu_seconds, _cpu_of_reaped() - cpu_before),
            memory_peak_bytes=watch.memory_peak,
        )

    def _until_over(self, running: Running, streams: _Streams, watch: _Watch) -> None:
        """Pump bytes and look at the limits until the command has ended or must."""
        end = os.pidfd_open(running.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(end, selectors.EVENT_READ)
                selector.register(self._parent.fileno(), selectors.EVENT_READ)
                streams.register(selector)
                pause = FIRST_LOOK_SECONDS
                next_look = time.monotonic()
                while True:
                    now = time.monotonic()
                    if now >= next_look:
                        if watch.look(now):
                            return
                        next_look = now + pause
                        pause = min(pause * LOOK_GROWTH, LAST_LOOK_SECONDS)
                    for key, _ in selector.select(max(0.0, next_look - time.monotonic())):
                        if key.fd == end:
                            return
                        if key.fd == self._parent.fileno():
                            raise EOFError("the parent has gone")
                        streams.serve(key.fd, selector)
                    if streams.is_over:
                        return
        finally:
            os.close(end)


class _Streams:
    """The three pipes of a command. Attributes: what was kept, by descriptor; what was cut."""

    def __init__(self, running: Running, stdin: bytes, most: int) -> None:
        self._stdin = running.stdin
        self._unsent = memoryview(stdin)
        self._most = most
        self.kept = {running.stdout: bytearray(), running.stderr: bytearray()}
        self.truncated: set[int] = set()
        self._open = {running.stdin, running.stdout, running.stderr}
        for descriptor in self._open:
            os.set_blocking(descriptor, False)

    @property
    def is_over(self) -> bool:
        return bool(self.truncated)

    def register(self, selector: selectors.BaseSelector) -> None:
        if self._unsent:
            selector.register(self._stdin, selectors.EVENT_WRITE)
        else:
            self._close(self._stdin)
        for descriptor in self.kept:
            selector.register(descriptor, selectors.EVENT_READ)

    def serve(self, descriptor: int, selector: selectors.BaseSelector) -> None:
        with contextlib.suppress(BlockingIOError):
            if self._send() if descriptor == self._stdin else self._receive(descriptor):
                selector.unregister(descriptor)
                self._close(descriptor)

    def drain(self) -> None:
        """Take what is left in the pipes, whose writers are dead, and close them."""
        for descriptor in self.kept:
            with contextlib.suppress(BlockingIOError):
                while descriptor in self._open and not self._receive(descriptor):
                    pass
        for descriptor in list(self._open):
            self._close(descriptor)

    def _send(self) -> bool:
        """Whether nothing more is to be sent."""
        try:
            self._unsent = self._unsent[os.write(self._stdin, self._unsent) :]
        except BrokenPipeError:  # it closed its standard input
            return True
        return not self._unsent

    def _receive(self, descriptor: int) -> bool:
        """Whether nothing more will come, or is wanted.

        Raises:
            BlockingIOError: nothing has come yet.
        """
        data = os.read(descriptor, 65536)
        kept = self.kept[descriptor]
        room = self._most - len(kept)
        kept += data[:room]
        if len(data) > room:
            self.truncated.add(descriptor)
        return not data or len(data) > room

    def _close(self, descriptor: int) -> None:
        self._open.discard(descriptor)
        os.close(descriptor)


class _Watch:
    """Compares what a command uses with its limits. Attributes: the limit it met, peaks."""

    def __init__(
        self, pid: int, folder: str, limits: Limits, started: float, cpu_before: float
    ) -> None:
        self._pid = pid
        self._folder = folder
        self._limits = limits
        self._started = started
        self._cpu_before = cpu_before
        self._looks = itertools.count()
        self._tamed: set[int] = set()
        self.limit: LimitName | None = None
        self.memory_peak = 0
        # Processes that die with their namespace are waited for by nobody, and leave no times.
        self.cpu_seconds = 0.0

    def look(self, now: float) -> bool:
        """Whether it must end."""
        self.limit = self._exceeded(now)
        return self.limit is not None

    def _exceeded(self, now: float) -> LimitName | None:
        limits = self._limits
        pids = descendants(os.getpid())
        newcomers = [pid for pid in pids if pid not in self._tamed]
        step_back(newcomers)
        self._tamed.update(newcomers)
        used = usage(pids)
        out_of_sight = hidden(pids, folder=self._folder, most_bytes=limits.file_bytes)
        memory = used.resident_bytes + out_of_sight.socket_bytes
        if memory > limits.memory_bytes:
            memory = shared_once_bytes(pids) + out_of_sight.socket_bytes
        self.memory_peak = max(self.memory_peak, memory)
        if memory > limits.memory_bytes:
            return "memory"
        if now - self._started > limits.wall_seconds:
            return "wall"
        self.cpu_seconds = max(
            self.cpu_seconds, used.cpu_seconds + _cpu_of_reaped() - self._cpu_before
        )
        if self.cpu_seconds > limits.cpu_seconds:
            return "cpu"
        # A provider's own processes are no more than these.
        if used.tasks > limits.processes + 3:
            return "processes"
        if next(self._looks) % LOOKS_PER_WALK:
            return None
        lying = measure_folder(self._folder, most_files=limits.files, most_bytes=limits.disk_bytes)
        if lying.files > limits.files:
            return "files"
        if lying.bytes + out_of_sight.disk_bytes > limits.disk_bytes:
            return "disk"
        return None


def _cpu_of_reaped() -> float:
    times = os.times()
    return times.children_user + times.children_system
