"""Verifiers that misbehave on request; a module of its own, so that workers can import it."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gym_ray.environment import Environment, Outcome
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.verdict import Verdict
from gym_ray.verifiers.worker import frame


class Zoo(Environment):
    """Does what the reply says: `reward 0.5`, `hang`, `exit`, ..."""

    def verify(self, outcome: Outcome) -> Any:
        deed, _, argument = outcome.text.partition(" ")
        return getattr(self, deed)(argument)

    def reward(self, argument: str) -> float:
        return float(argument)

    def parts(self, argument: str) -> Verdict:
        return Verdict(1.0, components={"form": 0.25, "content": 0.75}, metrics={"length": 3})

    def pid(self, argument: str) -> Verdict:
        return Verdict(1.0, metrics={"pid": os.getpid()})

    def nap(self, argument: str) -> float:
        time.sleep(float(argument))
        return 1.0

    def nap_after_note(self, argument: str) -> float:
        Path(argument).touch()
        time.sleep(0.3)
        return 1.0

    def tell(self, argument: str) -> None:
        """Leave this process's id in a file, then hang."""
        Path(argument).write_text(str(os.getpid()), "utf-8")
        self.hang(argument)

    def hang(self, argument: str) -> None:
        while True:
            time.sleep(1)

    def hang_in_c(self, argument: str) -> int:
        return len(str(7 ** (10**9)))  # holds the interpreter lock throughout

    def exit(self, argument: str) -> None:
        os._exit(3)

    def leave(self, argument: str) -> None:
        sys.exit("done")

    def segfault(self, argument: str) -> None:
        ctypes.string_at(0)

    def fail(self, argument: str) -> None:
        raise KeyError(argument)

    def refuse(self, argument: str) -> None:
        raise RolloutFailure(FailureKind.SANDBOX_ERROR, argument)

    def nothing(self, argument: str) -> None:
        return None

    def chatter(self, argument: str) -> float:
        print("a verifier prints", flush=True)
        return 1.0

    def set_alarm(self, argument: str) -> float:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        return 1.0

    def use_alarm(self, argument: str) -> float:
        """What needs the main thread."""
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        return 1.0

    def fork(self, argument: str) -> float:
        """Fork as the argument says; the child does what nobody meant it to."""
        system, _, rest = argument.partition(" ")
        then, _, reward = rest.partition(" ")
        child = ctypes.CDLL(None).fork() if system == "in_c" else os.fork()
        if child:
            return float(reward)
        if then == "misses":
            os.execvp("no-such-program", ["no-such-program"])
        if then == "leaves":
            sys.exit(0)
        return -1.0

    def fork_and_wait(self, argument: str) -> float:
        """The exit code of a child that ends itself by `sys.exit`."""
        child = os.fork()
        if not child:
            sys.exit(int(argument))
        return float(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    def intrude(self, argument: str) -> float:
        """Answer some question beside the worker, on its own socket."""
        os.write(int(sys.argv[1]), frame(int(argument), pickle.dumps(-1.0)))
        return 1.0

    def start_child(self, argument: str) -> None:
        """Start a process, leave its id in a file, then hang."""
        child = subprocess.Popen(["sleep", "600"])
        Path(argument).write_text(str(child.pid), "utf-8")
        self.hang("")

    def leave_a_program(self, argument: str) -> float:
        """End this process while a program runs that it started in the background."""
        os.system("sleep 60 &")
        os._exit(int(argument))


class SlowToStart(Zoo):
    def warm_up(self) -> None:
        time.sleep(0.3)

    def __init__(self) -> None:
        self.started = time.monotonic()

    def verify(self, outcome: Outcome) -> Verdict:
        return Verdict(1.0, metrics={"warm_seconds": time.monotonic() - self.started})


class Unbuildable(Environment):
    def __init__(self) -> None:
        raise ValueError("no such data file: words.txt")


class Buildable(Zoo):
    """Can be built as long as the file is there."""

    def __init__(self, needed: str) -> None:
        Path(needed).read_text("utf-8")


class Trivial(Environment):
    def verify(self, outcome: Outcome) -> float:
        return float("4" in outcome.text)
