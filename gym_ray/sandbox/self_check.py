"""Whether a provider does on this host what it is for: tried, not assumed.

A provider that lets one of these attempts through is refused with the attempt's name. The
attempts are few and quick, since every process that opens a sandbox makes them; tests/sandbox
has the whole kit.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from typing import Protocol

from gym_ray.errors import RolloutFailure
from gym_ray.sandbox import bubblewrap, sandlock, unsafe
from gym_ray.sandbox.program import MEBIBYTE, Limits, Program, SandboxResult

PROVIDERS = ("sandlock", "bubblewrap", "unsafe")

_WHY_NOT = {
    "sandlock": sandlock.why_not,
    "bubblewrap": bubblewrap.why_not,
    "unsafe": unsafe.why_not,
}

_LIMITS = Limits(
    wall_seconds=20, cpu_seconds=10, memory_bytes=128 * MEBIBYTE, processes=8, files=64
)

_ESCAPES = """
import json, os, resource, signal, socket, sys
where = json.loads(sys.stdin.read())
escaped = []

def attempt(name, action):
    try:
        action()
    except (OSError, ValueError):
        return
    escaped.append(name)

def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        client.connect(address)

attempt("read a file outside its directory", lambda: open(where["secret"]).read())
attempt("write a file outside its directory", lambda: open(where["secret"] + ".new", "x"))
attempt("list a directory outside its own", lambda: os.listdir(os.path.dirname(where["secret"])))
attempt("connect to a TCP port of this host", lambda: connect(socket.AF_INET, tuple(where["tcp"])))
attempt("connect to a unix socket", lambda: connect(socket.AF_UNIX, where["unix"]))
attempt("connect to an abstract socket", lambda: connect(socket.AF_UNIX, "\\0" + where["abstract"]))
attempt("signal a process outside", lambda: os.kill(where["pid"], 0) if where["pid"] != os.getpid()
        else socket.socket())
attempt("read another process's environment",
        lambda: open(f"/proc/{where['pid']}/environ").read())
if where["pid"] != os.getpid():
    attempt("limit a process outside",
            lambda: resource.prlimit(where["pid"], resource.RLIMIT_CORE))
attempt("change modes of a file outside its directory", lambda: os.chmod(where["secret"], 0o644))
leaked = set(os.environ) - {"PATH", "HOME", "TMPDIR", "LANG", "PWD", "LC_CTYPE", "OLDPWD", "SHLVL"}
leaked = sorted(name for name in leaked if "SANDLOCK" not in name)
if leaked:
    escaped.append("see environment variables: " + ", ".join(leaked))
open("allowed", "w").write("its own directory must be writable")
print(json.dumps(escaped))
"""

_CROWD = """
import os, time
for _ in range(40):
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
"""


class TriedSandbox(Protocol):
    """A sandbox whose provider is being tried."""

    provider: str
    python: str

    def run(self, program: Program, limits: Limits | None = None) -> SandboxResult: ...


def missing(name: str) -> str | None:
    """What a provider lacks, as far as can be told without starting it; None when nothing."""
    return _WHY_NOT[name]()


def failing(sandbox: TriedSandbox) -> str | None:
    """What the sandbox's provider lets happen that it must not; None when it stands the check.

    The provider `unsafe` confines nothing, so it is only asked whether it runs a program.
    """
    try:
        greeting = sandbox.run(Program((sandbox.python, "-I", "-c", "print('hello')")), _LIMITS)
        if not greeting.is_success or greeting.stdout != b"hello\n":
            return f"a program that prints a line ended as {_shown(greeting)}"
        if sandbox.provider == "unsafe":
            return None
        escaped = _escapes(sandbox)
        if escaped:
            return "a program could " + "; ".join(escaped)
        crowd = sandbox.run(Program((sandbox.python, "-I", "-c", _CROWD)), _LIMITS)
        if crowd.is_success:
            return f"a program could start 40 processes, and {_LIMITS.processes} were allowed"
    except RolloutFailure as failure:
        return failure.message
    return None


def _escapes(sandbox: TriedSandbox) -> list[str]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        os.chmod(folder, 0o755)
        secret, path = os.path.join(folder, "secret"), os.path.join(folder, "socket")
        with open(secret, "w") as file:
            file.write("a secret")
        os.chmod(secret, 0o644)
        abstract = f"gym-ray-self-check-{os.getpid()}-{id(stack)}"
        servers = []
        for family, address in (
            (socket.AF_INET, ("127.0.0.1", 0)),
            (socket.AF_UNIX, path),
            (socket.AF_UNIX, f"\0{abstract}"),
        ):
            server = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            server.bind(address)
            server.listen()
            servers.append(server)
        os.chmod(path, 0o777)
        where = {
            "secret": secret,
            "tcp": servers[0].getsockname(),
            "unix": path,
            "abstract": abstract,
            "pid": os.getpid(),
        }
        program = Program((sandbox.python, "-I", "-c", _ESCAPES), stdin=json.dumps(where).encode())
        result = sandbox.run(program, _LIMITS)
    if not result.is_success:
        return [f"not even be tried out: {_shown(result)}"]
    found: list[str] = json.loads(result.stdout)
    return found


def _shown(result: SandboxResult) -> str:
    error = result.stderr.decode("utf-8", "replace").strip()[-300:]
    return f"exit code {result.exit_code}, signal {result.signal}, limit {result.limit}: {error}"
