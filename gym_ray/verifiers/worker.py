"""The worker's side of the verifier pool: one process, one built object, one call at a time.

Owned here: answering every call with exactly one value or one failure, whatever it raises, and
dying with the parent. Not owned here: deadlines. A process that hangs inside C code
cannot watch itself, so the parent does (pool.py).

Frames on the socket are an 8-byte big-endian length and a pickle. The parent sends a factory and
the function that is called with what it builds, then names and payloads; the worker answers the
first with None once warm, each call with what the function returns, and either with a
`RolloutFailure`.
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

FRAME_LENGTH = struct.Struct("!Q")

#: Option of Linux's prctl(2): the signal this process gets when the thread that started it ends.
_PR_SET_PDEATHSIG = 1


def run(descriptor: int, parent_pid: int) -> None:
    """Serve the socket `descriptor` until the parent closes it."""
    _die_with(parent_pid)
    faulthandler.enable()  # a segfault in a verifier leaves its stack on stderr
    with socket.socket(fileno=descriptor) as parent, contextlib.suppress(EOFError, OSError):
        try:
            built, function = _warm(_receive(parent))
        except Exception as error:
            _send(parent, RolloutFailure(FailureKind.ENVIRONMENT_ERROR, one_line(error)))
            return
        _send(parent, None)
        while True:
            _send(parent, _answer(built, function, _receive(parent)))


def frame(payload: bytes) -> bytes:
    """`payload` as it travels on the socket."""
    return FRAME_LENGTH.pack(len(payload)) + payload


def _warm(payload: bytes) -> tuple[Any, Callable[[Any, str, Any], Any]]:
    factory, function = pickle.loads(payload)
    built = factory()
    warm_up = getattr(built, "warm_up", None)
    if warm_up is not None:
        warm_up()
    return built, function


def _answer(
    built: Any, function: Callable[[Any, str, Any], Any], payload: bytes
) -> bytes | RolloutFailure:
    """The pickled answer to one pickled call, or why there is none."""
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
        return RolloutFailure(FailureKind.VERIFIER_ERROR, one_line(error))


def _receive(parent: socket.socket) -> bytes:
    (length,) = FRAME_LENGTH.unpack(_receive_exactly(parent, FRAME_LENGTH.size))
    return _receive_exactly(parent, length)


def _receive_exactly(parent: socket.socket, length: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < length:
        piece = parent.recv(min(length - len(pieces), 1 << 20))
        if not piece:
            raise EOFError("the parent closed the socket")
        pieces += piece
    return bytes(pieces)


def _send(parent: socket.socket, answer: Any) -> None:
    parent.sendall(frame(answer if isinstance(answer, bytes) else pickle.dumps(answer)))


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent is gone, even by SIGKILL.

    Linux only. Elsewhere a worker ends when it next reads its socket, so one that hangs in
    `verify` outlives a killed parent.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)
