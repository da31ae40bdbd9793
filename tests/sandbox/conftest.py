"""The providers of this host, and a host for programs to attack.

A provider that cannot be used here is named in pytest's header with the reason; at least one
must work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import resource
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gym_ray.errors import ConfigError
from gym_ray.sandbox import Sandbox, SandboxConfig
from tests.suite import tell_unchecked

REAL = ("sandlock", "bubblewrap")


@functools.cache
def absences() -> dict[str, str]:
    """Providers that do not work here, and why."""
    reasons = {}
    for name in REAL:
        try:
            Sandbox(SandboxConfig(provider=name, concurrency=1)).close()  # type: ignore[arg-type]
        except ConfigError as error:
            reasons[name] = str(error)
    return reasons


def available() -> list[str]:
    found = [name for name in REAL if name not in absences()]
    assert found, f"no provider works on this host: {absences()}"
    return found


def pytest_report_header() -> list[str]:
    who = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    lines = [f"sandbox: as {who}; {', '.join(available())} checked"]
    unchecked = [f"sandbox: {name}, as {who}: {why}" for name, why in absences().items()]
    tell_unchecked(unchecked)
    return lines + [f"NOT CHECKED: {text}" for text in unchecked]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "provider" in metafunc.fixturenames:
        metafunc.parametrize("provider", available(), scope="session")


@pytest.fixture(scope="session")
def sandbox_directory() -> Iterator[str]:
    """Where the sandboxes' files lie: empty again after every program."""
    folder = tempfile.mkdtemp(prefix="kit-")
    os.chmod(folder, 0o1777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def sandbox(provider: str, sandbox_directory: str) -> Iterator[Sandbox]:
    config = SandboxConfig(provider=provider, concurrency=2, directory=sandbox_directory)  # type: ignore[arg-type]
    with Sandbox(config) as opened:
        yield opened


@dataclasses.dataclass(frozen=True)
class Host:
    """What an attack aims at.

    Attributes:
        folder: outside the sandbox, readable by all.
        secret: a file in it, readable and writable by all.
        tcp, udp: ports on 127.0.0.1 that are listened to.
        unix: path of a listening socket that all may use; abstract: name of another.
        victim: id of a process of the same user.
    """

    folder: str
    secret: str
    tcp: int
    udp: int
    unix: str
    abstract: str
    victim: int


def _state(pid: int, secret: Path) -> tuple[object, ...]:
    """What a program may change of neither: told by the host, as a refusal may come too late."""
    kinds = (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)
    entries = [secret.stat(), secret.parent.stat()]
    return (
        *(resource.prlimit(pid, kind) for kind in kinds),
        os.getpriority(os.PRIO_PROCESS, pid),
        os.sched_getaffinity(pid),
        os.sched_getscheduler(pid),
        *((entry.st_mode, entry.st_uid, entry.st_gid) for entry in entries),
        secret.stat().st_mtime_ns,
        os.listxattr(secret),
    )


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="host-")))
        folder.chmod(0o777)
        secret = folder / "secret"
        secret.write_text("the secret of the host")
        secret.chmod(0o666)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(folder / "socket"))
        unix.listen()
        (folder / "socket").chmod(0o777)
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        name = f"gym-ray-kit-{os.getpid()}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        victim = subprocess.Popen(["sleep", "86400"], env={"VICTIM_SECRET": "hidden"})
        before = _state(victim.pid, secret)
        yield Host(
            str(folder),
            str(secret),
            tcp.getsockname()[1],
            udp.getsockname()[1],
            str(folder / "socket"),
            name,
            victim.pid,
        )
        assert victim.poll() is None, "a program killed a process outside its sandbox"
        assert _state(victim.pid, secret) == before
        victim.kill()
        victim.wait()
        assert secret.read_text() == "the secret of the host"
        assert sorted(path.name for path in folder.iterdir()) == ["secret", "socket"]
