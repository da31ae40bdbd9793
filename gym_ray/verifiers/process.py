"""The parent's side of one verifier process: start it, ask it, kill it.

Owned here: the deadline of one call and the end of one process. Which call goes to which
process is the pool's (pool.py); what happens inside is the worker's (worker.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.verifiers.worker import FRAME_HEAD, frame

#: What a process answers: a value, a failure, or None (it is warm, or there is no answer).
Answer = Any

#: Importing a heavy environment on a busy machine takes tens of seconds; more is a hang.
START_TIMEOUT_SECONDS = 180.0
#: An idle process leaves by itself when its socket closes; after this it is killed.
LEAVE_SECONDS = 2.0
#: How often a deadline is looked at again while an answer lies unread in the socket.
UNREAD_ANSWER_SECONDS = 0.1

# The worker takes over the parent's import path, and never runs the parent's `__main__`, as
# multiprocessing's spawn would (inside a Ray worker that means importing Ray).
_WORKER = (
    "import sys; sys.path[:] = sys.argv[3:]; from gym_ray.verifiers.worker import run; "
    "run(int(sys.argv[1]), int(sys.argv[2]))"
)


class VerifierProcess(asyncio.Protocol):
    """One process, in a process group of its own, that answers one question at a time.

    Attributes:
        has_gone: it is dead or about to be; ask it nothing more.
        when_gone: called when it dies on its own accord.
    """

    def __init__(self) -> None:
        self.has_gone = False
        self.when_gone: Callable[[], None] | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._question = 0  # number of the current one, or of the last
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, factory: bytes) -> RolloutFailure | None:
        """Start it and build what is called, from its pickled factory and function.

        Returns:
            None once that is warm, else why there is none.
        """
        loop = asyncio.get_running_loop()
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _spawn(theirs)
            except OSError as error:  # out of memory, processes or descriptors
                self._socket.close()
                return RolloutFailure(FailureKind.ENVIRONMENT_ERROR, one_line(error))
        await loop.create_unix_connection(lambda: self, sock=self._socket)
        answer = await self._ask(factory, START_TIMEOUT_SECONDS)
        if self.has_gone and answer is None:
            return RolloutFailure(FailureKind.ENVIRONMENT_ERROR, "the process died at its start")
        return answer if isinstance(answer, RolloutFailure) else None

    async def call(self, payload: bytes, timeout_seconds: float) -> Answer:
        """Have a pickled name and argument answered.

        The deadline counts from when the process has been given the whole payload; giving it one
        too large for the socket's buffer may take as long again.

        Returns:
            The answer or why there is none; None when the process died, for whatever reason,
            before it had the payload.
        """
        return await self._ask(payload, timeout_seconds)

    async def end(self) -> int | None:
        """Make sure the process is dead and reaped.

        Returns:
            Its exit code, negative for a signal; None when it was never started.
        """
        is_idle = self._answer is None and not self.has_gone
        self.has_gone = True
        if self._process is None:
            return None
        if self._transport is not None:
            self._transport.abort()  # which closes the socket
        else:
            self._socket.close()
        if not is_idle:
            self._kill()
        return await asyncio.get_running_loop().run_in_executor(None, _reap, self._process)

    async def _ask(self, payload: bytes, timeout_seconds: float) -> Answer:
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._question += 1
        self._timeout = timeout_seconds
        self._watch(timeout_seconds)
        self._transport.write(frame(self._question, payload))
        try:
            answer = await self._answer
        except _Died as death:
            self._deadline.cancel()
            how = _how_it_ended(await self.end())
            if not death.had_the_question:
                return None
            return RolloutFailure(FailureKind.VERIFIER_ERROR, f"verifier process died: {how}")
        finally:
            self._deadline.cancel()
        self._answer = None
        return answer

    def _watch(self, delay: float) -> None:
        self._deadline = asyncio.get_running_loop().call_later(delay, self._overdue)

    def _overdue(self) -> None:
        if self._has_unread_answer():  # not the verifier was late, but this event loop
            self._watch(UNREAD_ANSWER_SECONDS)
            return
        self.has_gone = True
        self._kill()
        if self._answer is not None and not self._answer.done():
            message = f"verify() ran longer than {self._timeout:g} s and was killed"
            self._answer.set_result(RolloutFailure(FailureKind.VERIFIER_TIMEOUT, message))

    def _has_unread_answer(self) -> bool:
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _kill(self) -> None:
        if self._process is not None:
            _kill_group(self._process)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self._transport.set_write_buffer_limits(high=0)  # so that resume_writing means: all sent

    def resume_writing(self) -> None:
        if self._answer is not None and not self._answer.done() and not self.has_gone:
            self._deadline.cancel()
            self._watch(self._timeout)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= FRAME_HEAD.size:
            length, question = FRAME_HEAD.unpack_from(self._received)
            end = FRAME_HEAD.size + length
            if len(self._received) < end:
                return
            payload = bytes(self._received[FRAME_HEAD.size : end])
            del self._received[:end]
            self._answered(question, payload)

    def _answered(self, question: int, payload: bytes) -> None:
        is_asked = self._answer is not None and not self._answer.done()
        if self.has_gone:
            return
        if not is_asked or question != self._question:
            # Two processes answer here, and which verdict is whose can no longer be told.
            self.has_gone = True
            self._kill()
            message = "the verifier's process gave an answer nobody had asked for and was killed"
            if is_asked:
                self._settle(RolloutFailure(FailureKind.VERIFIER_ERROR, message))
            return
        try:
            self._settle(pickle.loads(payload))
        except Exception as error:
            message = f"the verdict does not unpickle: {one_line(error)}"
            self._settle(RolloutFailure(FailureKind.VERIFIER_ERROR, message))

    def _settle(self, answer: Answer) -> None:
        assert self._answer is not None
        self._answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self.has_gone = True
        if self._answer is not None and not self._answer.done():
            # A socket closed with data still unread is reset; one read to its end just closes.
            self._answer.set_exception(_Died(had_the_question=error is None))
        if self.when_gone is not None:
            self.when_gone()


class _Died(Exception):
    def __init__(self, *, had_the_question: bool) -> None:
        self.had_the_question = had_the_question


def _spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start a worker on its end of the socket.

    Called on the event loop's thread, since Linux kills the worker when the thread that started
    it ends.
    """
    path = [entry or os.getcwd() for entry in sys.path]
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(theirs.fileno()), str(os.getpid()), *path],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=2,  # a verifier's prints must not mix with a command's output
        start_new_session=True,  # killed with whatever it started, and deaf to Ctrl-C
    )


def _reap(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        return process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # else its id may be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
