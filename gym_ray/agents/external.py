"""Agents nobody here wrote: a rollout that waits while somebody outside makes its policy calls.

Owned here: what drives them. `opened` waits for a client that came over HTTP; `ExternalAgent`
starts a program, or calls a URL, once per rollout, tells it where its session is, and ends it
with the rollout. Not owned here: the calls themselves (session.py) and who may make them
(`Sessions`, the replica's host).

A program's descendants are killed with it. Not covered: one that left its process group and
its parent before the end, and programs whose replica is killed; their calls are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import psutil

from gym_ray.agents.agent import AgentContext, Episode
from gym_ray.agents.session import Session
from gym_ray.config.environment import ExternalAgentConfig
from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.verdict import Verdict

if TYPE_CHECKING:
    import aiohttp

#: Of a program's standard error this much is kept, the end.
_TAIL_BYTES = 2048

#: How long what a killed program wrote last may take to arrive.
_LAST_WORDS_SECONDS = 1.0

#: Of a URL's answer this much is read.
_MAX_REPLY_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """How a session is reached: `base_url` and `key` are all an OpenAI client needs."""

    session_id: str
    key: str
    base_url: str


class Sessions(Protocol):
    """Where sessions can be reached while they are open."""

    def reachable(self, session: Session, gateway_url: str) -> AbstractContextManager[Access]:
        """Let calls reach `session` until the context ends."""
        ...


class ExternalAgent:
    """Drives an agent outside, once per rollout.

    Args:
        config: the program or URL; None where sessions only come over HTTP.
        sessions: where sessions are made reachable.
        directory: where programs start.
    """

    def __init__(
        self, config: ExternalAgentConfig | None, sessions: Sessions, directory: str
    ) -> None:
        self._config = config
        self._sessions = sessions
        self._directory = directory

    async def __call__(self, attempt: AgentContext) -> Episode:
        """Let the agent run to its end, or to the rollout's deadline.

        Raises:
            RolloutFailure: `environment_error` when the agent fails or makes no policy call; the
                policy's own failure when that is what the agent failed of.
        """
        config, gateway_url = self._config, attempt.gateway_url
        if config is None or gateway_url is None:
            raise RolloutFailure(
                FailureKind.ENVIRONMENT_ERROR,
                "agent external runs in collections, with environments.NAME.external.command or "
                ".url; open a session to run it over HTTP",
            )
        session = Session(attempt, closable=False)
        verdict = None
        with self._sessions.reachable(session, gateway_url) as access:
            try:
                async with asyncio.timeout_at(session.deadline):
                    if config.command is not None:
                        await self._run(config.command, attempt, access)
                    else:
                        verdict = await self._post(config, attempt, access)
            except TimeoutError:
                session.expire()
            except RolloutFailure as failure:
                # An agent may give up when its session ends at a limit, or when its history
                # outgrows the context: that is no failure.
                if not session.over and not session.outgrown:
                    raise session.last_failure or failure from None
        if config.reward_from_reply and verdict is None:
            # The verifier's reward would stand among those of replies as if it were one.
            raise RolloutFailure(
                FailureKind.ROLLOUT_TIMEOUT
                if asyncio.get_running_loop().time() >= session.deadline
                else FailureKind.ENVIRONMENT_ERROR,
                "the session ended before the agent's reply told the reward",
            )
        return session.episode(verdict)

    async def _run(self, command: list[str], attempt: AgentContext, access: Access) -> None:
        async with _task_file(attempt) as task:
            environment = {
                "OPENAI_BASE_URL": access.base_url,
                "OPENAI_API_KEY": access.key,
                "GYM_RAY_TASK": task,
                "GYM_RAY_SESSION": access.session_id,
            }
            async with _last_words() as (errors, last_words):
                try:
                    process = await asyncio.create_subprocess_exec(
                        *command,
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=asyncio.subprocess.DEVNULL,
                        stderr=errors,
                        env={**os.environ, **environment},
                        cwd=self._directory,
                        start_new_session=True,
                    )
                except OSError as error:
                    raise _failed(f"cannot start {command[0]!r}: {one_line(error)}") from None
                finally:
                    os.close(errors)
                try:
                    code = await process.wait()
                finally:
                    await _kill_tree(process.pid)
                said = await last_words()
        if code != 0:
            raise _failed(f"exit code {code}: {said}" if said else f"exit code {code}")

    async def _post(
        self, config: ExternalAgentConfig, attempt: AgentContext, access: Access
    ) -> Verdict | None:
        import aiohttp

        url = str(config.url)

        body = {
            "task": attempt.task.row,
            "base_url": access.base_url,
            "api_key": access.key,
            "session_id": access.session_id,
        }
        # The rollout's deadline is the only one: an agent may take its time.
        unhurried = aiohttp.ClientTimeout(total=None)
        try:
            async with (
                aiohttp.ClientSession(timeout=unhurried) as client,
                client.post(url, json=body) as reply,
            ):
                text = await _beginning(reply.content)
                if reply.status >= 300:
                    shown = text[:_TAIL_BYTES].decode("utf-8", "replace")
                    raise _failed(f"{url} answered {reply.status}: {shown}")
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise _failed(f"{url}: {one_line(error)}") from None
        if not config.reward_from_reply:
            return None
        try:
            return Verdict.of(json.loads(text)["reward"])
        except (ValueError, TypeError, LookupError) as error:
            raise _failed(
                f"{url}: no number under 'reward' in its JSON answer ({one_line(error)})"
            ) from None


async def opened(attempt: AgentContext, sessions: Sessions) -> Episode:
    """Wait until a client has closed the session, or its time is up."""
    session = Session(attempt, closable=True)
    with sessions.reachable(session, attempt.gateway_url or ""):
        await session.until_over()
    return session.episode()


@contextlib.asynccontextmanager
async def _task_file(attempt: AgentContext) -> AsyncIterator[str]:
    """Path of a file with the task row, which only this user may read."""

    def write() -> str:
        descriptor, path = tempfile.mkstemp(prefix="gym-ray-task-", suffix=".json")
        with open(descriptor, "w") as file:
            json.dump(attempt.task.row, file)
        return path

    path = await asyncio.to_thread(write)
    try:
        yield path
    finally:
        Path(path).unlink(missing_ok=True)  # noqa: ASYNC240


@contextlib.asynccontextmanager
async def _last_words() -> AsyncIterator[tuple[int, Callable[[], Awaitable[str]]]]:
    """A pipe for a program's standard error, to be closed here once the program has it, and what
    gives the end of what was written. It is read all the time, so that no flood blocks or grows.

    A pipe of asyncio's own would make waiting for the program wait for whoever inherited it.
    """
    loop = asyncio.get_running_loop()
    read_end, write_end = os.pipe()
    stream = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(read_end, "rb")
    )
    end = b""

    async def read() -> None:
        nonlocal end
        while chunk := await stream.read(65536):
            end = (end + chunk)[-_TAIL_BYTES:]

    reading = asyncio.ensure_future(read())

    async def last_words() -> str:
        await asyncio.wait([reading], timeout=_LAST_WORDS_SECONDS)
        return end.decode("utf-8", "replace").strip()

    try:
        yield write_end, last_words
    finally:
        reading.cancel()
        transport.close()


async def _beginning(stream: aiohttp.StreamReader) -> bytes:
    """The first `_MAX_REPLY_BYTES` of an answer."""
    read = b""
    while len(read) < _MAX_REPLY_BYTES and (chunk := await stream.readany()):
        read += chunk
    return read[:_MAX_REPLY_BYTES]


async def _kill_tree(pid: int) -> None:
    """Kill a program's process group, and descendants of a living one that have left it."""

    def kill() -> None:
        strays: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            strays = psutil.Process(pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        for stray in strays:
            with contextlib.suppress(psutil.Error):
                stray.kill()

    await asyncio.to_thread(kill)


def _failed(reason: str) -> RolloutFailure:
    return RolloutFailure(FailureKind.ENVIRONMENT_ERROR, f"the agent failed: {reason}")
