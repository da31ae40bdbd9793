"""A collection's parts without Ray: the command's side of the process they run in."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gym_ray.collection.deaths import ProcessEnded
from gym_ray.collection.embedded_messages import (
    Ended,
    Failed,
    GiveOrder,
    InFlight,
    RunPass,
    Start,
    Starting,
    Told,
    Up,
)
from gym_ray.collection.hosting import RunningPass, Say
from gym_ray.collection.manifest import Manifest
from gym_ray.collection.monitor import Order
from gym_ray.collection.remaining import Positions
from gym_ray.collection.stage import StageSettings
from gym_ray.collection.start_report import StartReport
from gym_ray.config.load import RunConfig
from gym_ray.errors import GymRayError
from gym_ray.policies.engine import PolicyInfo
from gym_ray.telemetry.progress import Counts

_CHECK_SECONDS = 0.1

#: How long the process may take to end; then it is killed, and everything it started with it.
_CLOSE_SECONDS = 20.0

#: For so long, a process at work may say nothing; then it is killed. It tells how far it is several
#: times a second, but for when something in it, of an environment say, holds its event loop, and
#: with it every deadline. Replicas of Serve have about as long.
_SILENT_SECONDS = 100.0

_PROCESS = (
    "import sys; sys.path[:] = sys.argv[3:]; from gym_ray.collection.embedded_process import main; "
    "main(int(sys.argv[1]), int(sys.argv[2]))"
)


class EmbeddedHosting:
    """See `Hosting`.

    Args:
        config: of the run.
        log: file that takes what the process, and what it starts, writes.
        say: told, in one line each, what is being waited for.
        check: called while waiting; raises to give up.
    """

    application: str | None = None

    def __init__(self, config: RunConfig, log: Path, say: Say, check: Callable[[], None]) -> None:
        self._config = config
        self._log = log
        self._say = say
        self._check = check
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._policy: PolicyInfo | None = None
        self._is_silent = False

    def begin(self) -> None:
        """See `Hosting`."""
        if self._process is None:
            self._spawn()
            self._send(Start(self._config))

    def start(self) -> None:
        """Have policy and environments up.

        Raises:
            GymRayError: they are not up within `policy.startup_timeout_seconds`, or cannot start.
        """
        self.begin()
        policy = self._config.policy
        report = StartReport(f"{policy.engine} {policy.model}", self._log, self._say)
        give_up_at = time.monotonic() + policy.startup_timeout_seconds
        while self._policy is None:
            self._check()
            if time.monotonic() > give_up_at:
                raise GymRayError(
                    f"policy and environments are not up after {policy.startup_timeout_seconds:g} "
                    f"s; what they wrote is in {self._log}"
                )
            if not self._poll(_CHECK_SECONDS):
                report.waits()
                continue
            try:
                message = self._receive()
            except ProcessEnded as ended:
                raise GymRayError(str(ended)) from None
            match message:
                case Starting(what):
                    report.does(what)
                case Failed(error):
                    raise error
                case Up(info):
                    self._policy = info
        report.is_up()

    def facts(self) -> dict[str, Any]:
        """See `Hosting`."""
        assert self._policy is not None
        return {
            "engine": f"{self._policy.engine} {self._policy.engine_version}",
            "engine_seed": self._policy.seed,
            "model": self._policy.model,
            "model_fingerprint": self._policy.fingerprint,
            "weights_version": self._policy.weights_version,
            "gym_ray": importlib.metadata.version("gym-ray"),
            "python": sys.version.split()[0],
        }

    def gateway(self) -> AbstractContextManager[str | None]:
        """See `Hosting`: no agent needs one that could run here."""
        return contextlib.nullcontext()

    def start_pass(
        self, manifest: Manifest, left: Positions, settings: StageSettings
    ) -> RunningPass:
        """See `Hosting`."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._policy = None
            self.start()
        self._send(RunPass(settings, str(manifest.path.resolve()), left))
        return _EmbeddedPass(self)

    def close(self) -> None:
        """End the process and everything it started."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        process, self._process = self._process, None
        if process is None:
            return
        if self._policy is None:
            process.kill()  # It is starting, and has nothing to lose.
        try:
            process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _kill_silent(self) -> None:
        """End a process that does nothing any more."""
        assert self._process is not None
        self._is_silent = True
        self._process.kill()

    def _spawn(self) -> None:
        self._is_silent = False
        ours, theirs = socket.socketpair()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, self._log.open("ab") as log:
            fd = theirs.fileno()
            self._process = subprocess.Popen(
                # Unbuffered: what it wrote last is what a killed one has to say.
                [sys.executable, "-u", "-c", _PROCESS, str(fd), str(os.getpid()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(fd,),
                # Ctrl-C in a terminal is the command's to deal with.
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())

    def _send(self, message: Any) -> None:
        assert self._connection is not None
        with contextlib.suppress(BrokenPipeError):  # Told by the next `_receive`.
            self._connection.send(message)

    def _poll(self, seconds: float) -> bool:
        """Whether there is a message, or will be none any more."""
        assert self._connection is not None
        return self._connection.poll(seconds)

    def _receive(self) -> Any:
        """The next message.

        Raises:
            ProcessEnded: there is none any more.
        """
        assert self._connection is not None
        assert self._process is not None
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            code = self._process.wait()
            how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            if self._is_silent:
                how = f"killed, since it did nothing for {_SILENT_SECONDS:g} s"
            raise ProcessEnded(
                f"the process that runs the rollouts ended ({how}); what it wrote is in {self._log}"
            ) from None


class _EmbeddedPass:
    """See `RunningPass`."""

    def __init__(self, hosting: EmbeddedHosting) -> None:
        self._hosting = hosting
        self._counts = Counts()
        self._is_drained = False
        self._in_flight: set[str] = set()
        self._has_ended = False
        self._silent_seconds = 0.0
        self._error: Exception | None = None

    def running(self) -> bool:
        return not self._has_ended

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        # By what was waited for, not by a clock, which goes on while this process is stopped.
        self._silent_seconds += seconds
        while not self._has_ended and self._hosting._poll(max(0.0, until - time.monotonic())):
            self._silent_seconds = 0.0
            try:
                message = self._hosting._receive()
            except ProcessEnded as ended:
                ended.rollouts = frozenset(self._in_flight)
                message = Ended(self._counts, ended)
            match message:
                case InFlight(rollouts, has_begun):
                    change = (
                        self._in_flight.update if has_begun else self._in_flight.difference_update
                    )
                    change(rollouts)
                case Told(counts, is_drained):
                    self._counts, self._is_drained = counts, is_drained
                case Ended(counts, reason):
                    self._counts, self._error, self._has_ended = counts, reason, True
        if self._silent_seconds > _SILENT_SECONDS:
            self._hosting._kill_silent()

    def counts(self) -> Counts:
        return self._counts

    def stages(self) -> int:
        return 1

    def drained(self) -> bool:
        return self._is_drained

    def order(self, order: Order) -> None:
        self._hosting._send(GiveOrder(order))

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error
