"""Choosing a provider, waiting for a turn, and the end of wardens and their parents."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gym_ray.errors import ConfigError, FailureKind, RolloutFailure
from gym_ray.sandbox import Limits, Program, Sandbox, SandboxConfig, self_check
from tests.sandbox.programs import processes_marked

REPOSITORY = Path(__file__).parents[2]


def python(sandbox: Sandbox, code: str) -> Program:
    return Program((sandbox.python, "-I", "-c", code))


def wait_until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_unsafe_must_be_allowed() -> None:
    with pytest.raises(ConfigError, match=r"is no sandbox.*allow_unsafe: true"):
        Sandbox(SandboxConfig(provider="unsafe"))


def test_unsafe_runs_under_limits_when_allowed() -> None:
    with Sandbox(SandboxConfig(provider="unsafe", allow_unsafe=True)) as sandbox:
        assert sandbox.provider == "unsafe"
        result = sandbox.run(python(sandbox, "while True: pass"), Limits(cpu_seconds=0.3))
        assert result.limit == "cpu"


def test_auto_takes_sandlock_then_bubblewrap_and_else_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reasons: dict[str, str] = {}
    monkeypatch.setattr(self_check, "missing", reasons.get)
    monkeypatch.setattr(self_check, "failing", lambda sandbox: None)
    assert Sandbox().provider == "sandlock"
    reasons["sandlock"] = "no Landlock here"
    assert Sandbox().provider == "bubblewrap"
    reasons["bubblewrap"] = "apt-get install bubblewrap"
    assert Sandbox(SandboxConfig(allow_unsafe=True)).provider == "unsafe"
    with pytest.raises(ConfigError) as caught:
        Sandbox()
    for part in ("no Landlock here", "apt-get install bubblewrap", "allow_unsafe: true"):
        assert part in str(caught.value)


def test_a_provider_that_lets_something_through_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A provider that pretends: every program is just started.
    monkeypatch.setattr("gym_ray.sandbox.sandbox._WARDEN", _PRETENDER)
    monkeypatch.setattr(self_check, "missing", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        Sandbox(SandboxConfig(provider="bubblewrap"))
    for escape in ("read a file outside", "TCP port", "unix socket", "signal a process"):
        assert escape in str(caught.value)


_PRETENDER = (
    "import sys; count = int(sys.argv[1]); sys.path[:] = sys.argv[2:2 + count]; "
    "from gym_ray.sandbox import warden; rest = sys.argv[2 + count:]; "
    "warden.run(int(rest[0]), 'unsafe', rest[2], rest[3], rest[4:])"
)


def test_programs_wait_for_their_turn(provider: str) -> None:
    config = SandboxConfig.model_validate({"provider": provider, "concurrency": 2})

    async def scenario(sandbox: Sandbox) -> float:
        started = time.monotonic()
        nap = python(sandbox, "import time; time.sleep(0.5)")
        results = await asyncio.gather(*(sandbox.run_async(nap) for _ in range(6)))
        assert all(result.is_success for result in results)
        return time.monotonic() - started

    with Sandbox(config) as sandbox:
        assert asyncio.run(scenario(sandbox)) >= 1.5


def test_cancelling_ends_the_program(provider: str) -> None:
    async def scenario(sandbox: Sandbox) -> None:
        code = "import time; time.sleep(600)  # cancelled-mark"
        running = asyncio.create_task(
            sandbox.run_async(python(sandbox, code), Limits(wall_seconds=600))
        )
        await asyncio.to_thread(wait_until, lambda: processes_marked("cancelled-mark") != [])
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with Sandbox(SandboxConfig.model_validate({"provider": provider})) as sandbox:
        asyncio.run(scenario(sandbox))
        wait_until(lambda: processes_marked("cancelled-mark") == [])
        assert sandbox.run(python(sandbox, "print(1)")).stdout == b"1\n"


def test_a_killed_warden_is_a_sandbox_error_and_is_replaced(provider: str) -> None:
    config = SandboxConfig.model_validate({"provider": provider, "concurrency": 1})
    before = psutil.Process().children()
    with Sandbox(config) as sandbox:
        (warden,) = [child for child in psutil.Process().children() if child not in before]
        warden.kill()
        with pytest.raises(RolloutFailure) as caught:
            sandbox.run(python(sandbox, "print(1)"))
        assert caught.value.kind is FailureKind.SANDBOX_ERROR
        assert sandbox.run(python(sandbox, "print(1)")).stdout == b"1\n"


def test_a_warden_that_dies_of_every_try_of_a_program_is_the_programs_failure(
    provider: str,
) -> None:
    config = SandboxConfig.model_validate({"provider": provider, "concurrency": 1})
    before = psutil.Process().children()
    ended: list[int] = []

    def end_wardens(while_running: threading.Event) -> None:
        """As a program would that got at its warden."""
        while not while_running.is_set():
            for pid in processes_marked("deadly-mark"):
                with contextlib.suppress(psutil.NoSuchProcess):
                    parents = psutil.Process(pid).parents()
                    wardens = [one for one in parents if one.ppid() == os.getpid()]
                    for warden in wardens:
                        warden.kill()
                        ended.append(warden.pid)
            time.sleep(0.01)

    with Sandbox(config) as sandbox:
        done = threading.Event()
        thread = threading.Thread(target=end_wardens, args=(done,))
        thread.start()
        try:
            result = sandbox.run(python(sandbox, "import time; time.sleep(60)  # deadly-mark"))
        finally:
            done.set()
            thread.join()
        assert (result.exit_code, result.signal) == (None, signal.SIGKILL)
        assert len(set(ended)) == 2
        assert sandbox.run(python(sandbox, "print(1)")).stdout == b"1\n"
    assert [child for child in psutil.Process().children() if child not in before] == []


def test_a_directory_that_cannot_be_used_is_named() -> None:
    with pytest.raises(ConfigError, match="no sandbox works"):
        Sandbox(SandboxConfig(directory="/no/such/directory", concurrency=1))


def test_nothing_outlives_a_killed_parent(provider: str, sandbox_directory: str) -> None:
    directory = Path(sandbox_directory, "of-the-killed")
    directory.mkdir()
    directory.chmod(0o777)
    code = f"""
        from gym_ray.sandbox import *
        config = SandboxConfig(provider={provider!r}, concurrency=1, directory={str(directory)!r})
        sandbox = Sandbox(config)
        hostile = "import os, time; os.fork() or os.setsid(); time.sleep(600)  # orphan-mark"
        sandbox.run(Program((sandbox.python, "-c", hostile)), Limits(wall_seconds=600))
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    # Besides the two, the parent's own command line has the mark, and under bubblewrap bwrap's.
    wait_until(lambda: len(processes_marked("orphan-mark")) >= 3)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_until(lambda: processes_marked("orphan-mark") == [])
    wait_until(lambda: not list(directory.iterdir()))
    directory.rmdir()


def test_the_check_of_a_host_prints_a_line_per_provider() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gym_ray.sandbox"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    names = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert names == ["sandlock", "bubblewrap", "unsafe"]
    assert "NOT A SANDBOX" in done.stdout
