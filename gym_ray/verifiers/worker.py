"""The worker's side of the verifier pool: one process, one built object, one call at a time.

Owned here: answering every call with exactly one value or one failure, whatever it raises, and
dying with the parent. A verifier may fork: a child that comes back from it answers nothing and
ends. Not owned here: deadlines. A process that hangs inside C code
cannot watch itself, so the parent does (pool.py).

Frames on the socket are an 8-byte big-endian length, the 8-byte number of the question, and a
pickle. The parent sends a factory and the function that is called with what it builds, then names
and payloads; the worker answers the first with None once warm, each call with what the function
returns, and either with a `RolloutFailure`. An answer has its question's number.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

from gym_ray.errors import FailureKind, RolloutFailure, one_line

#: Length of the pickle, and number of the question.
FRAME_HEAD = struct.Struct("!QQ")

#: Option of Linux's prctl(2): the signal this process gets when the thread that started it ends.
_PR_SET_PDEATHSIG = 1


def run(descriptor: int, parent_pid: int) -> None:
    """Serve the socket `descriptor` until the parent closes it."""
    die_with(parent_pid)
    # A program that a verifier leaves behind would keep it open, and this process's death unseen.
    os.set_inheritable(descriptor, False)
    faulthandler.enable()  # a segfault in a verifier leaves its stack on stderr
    with socket.socket(fileno=descriptor) as parent, contextlib.suppress(EOFError, OSError):
        # Where a child lives on, the parent has to notice this process's death all the same.
        os.register_at_fork(after_in_child=parent.close)
        questions = _Questions(parent)
        try:
            built, function = _warm(questions.next())
        except Exception as error:
            questions.answer(RolloutFailure(FailureKind.ENVIRONMENT_ERROR, one_line(error)))
            return
        questions.answer(None)
        while True:
            questions.answer(_answer(built, function, questions))


def frame(number: int, payload: bytes) -> bytes:
    """`payload` as it travels on the socket."""
    return FRAME_HEAD.pack(len(payload), number) + payload


class _Questions:
    """The parent's questions, one at a time, and their answers."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._pid = os.getpid()
        self._number = 0

    def next(self) -> bytes:
        length, self._number = FRAME_HEAD.unpack(self._exactly(FRAME_HEAD.size))
        return self._exactly(length)

    def answer(self, answer: Any) -> None:
        self.end_if_child(1)
        payload = answer if isinstance(answer, bytes) else pickle.dumps(answer)
        self._parent.sendall(frame(self._number, payload))

    def end_if_child(self, code: object) -> None:
        """Leave when a fork in the verifier came back here: the process that was asked answers.

        Args:
            code: what the child leaves with, as `sys.exit` takes it.
        """
        if os.getpid() != self._pid:
            os._exit(code & 0xFF if isinstance(code, int) else int(code is not None))

    def _exactly(self, length: int) -> bytes:
        pieces = bytearray()
        while len(pieces) < length:
            piece = self._parent.recv(min(length - len(pieces), 1 << 20))
            if not piece:
                raise EOFError("the parent closed the socket")
            pieces += piece
        return bytes(pieces)


def _warm(payload: bytes) -> tuple[Any, Callable[[Any, str, Any], Any]]:
    factory, function = pickle.loads(payload)
    built = factory()
    warm_up = getattr(built, "warm_up", None)
    if warm_up is not None:
        warm_up()
    return built, function


def _answer(
    built: Any, function: Callable[[Any, str, Any], Any], questions: _Questions
) -> bytes | RolloutFailure:
    """The pickled answer to the next pickled call, or why there is none."""
    payload = questions.next()
    try:
        name, argument = pickle.loads(payload)
        try:
            return pickle.dumps(function(built, name, argument))
        finally:
            # An alarm the verifier left running must not go off in its neighbor.
            signal.setitimer(signal.ITIMER_REAL, 0)
    except RolloutFailure as failure:
        return failure
    except BaseException as error:  # SystemExit as well: it costs this rollout, not the process
        if isinstance(error, SystemExit):
            questions.end_if_child(error.code)
        return RolloutFailure(FailureKind.VERIFIER_ERROR, one_line(error))


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent is gone, even by SIGKILL.

    Linux only. Elsewhere a worker ends when it next reads its socket, so one that hangs in
    `verify` outlives a killed parent.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)
