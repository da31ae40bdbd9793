"""The sessions of one environment replica: who may call them, and what becomes of them.

A session is a rollout of the replica's own `Runner`, in the background, whose agent waits
(`agents.external`), so it is reset, verified, timed and failed like every other. Its ID names
the environment and the replica, `{environment}.{replica}.{random}`: calls find their way back
by it, and a replica that is gone took its sessions with it.

Owned here: keys, the number of sessions, and the results of those that ended, for a while. Not
owned here: HTTP (gateway) and routing (owner_router.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import hmac
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from gym_ray.agents import Agent, AgentContext, Episode
from gym_ray.agents.external import Access, opened
from gym_ray.agents.session import Session
from gym_ray.agents.sessions import Closing, OpenedSession, SessionError, SessionState, owner_of
from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.engine import GenerationRequest
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.serving.attempts import run_attempt
from gym_ray.serving.recorder import Recorder, RecordTarget
from gym_ray.telemetry.observer import RolloutObserver
from gym_ray.telemetry.traces import root_span
from gym_ray.turn import Generation

logger = logging.getLogger("ray.serve")

#: Sessions of one replica at once; each holds its transcript in memory.
MAX_SESSIONS = 1024

#: Results of ended sessions that are kept, newest first, for clients that ask again.
_KEPT_RESULTS = 1024


class SessionHost:
    """Opens sessions, lets calls reach them, and records what they leave.

    Args:
        environment: name of the environment.
        owner: name of this replica, unique among replicas, without dots.
        make_runner: the replica's runner, for an agent of this host's.
        max_sessions: more are refused.
    """

    def __init__(
        self,
        environment: str,
        owner: str,
        make_runner: Callable[[Agent], Runner],
        *,
        max_sessions: int = MAX_SESSIONS,
    ) -> None:
        self._environment = environment
        self._owner = owner
        self._runner = make_runner(self._wait_outside)
        self._max_sessions = max_sessions
        self._open: dict[str, _Open] = {}
        self._opened: dict[str, _Open] = {}
        self._results: OrderedDict[str, _Result] = OrderedDict()
        self._starting: dict[str, asyncio.Future[_Open]] = {}
        self._rollouts: dict[str, asyncio.Task[Rollout]] = {}
        self._recorders: dict[str, Recorder] = {}
        self._stopping = False
        self._observer = RolloutObserver()

    async def open(
        self,
        spec: RolloutSpec,
        settings: RunSettings,
        target: RecordTarget | None,
        *,
        traced: bool = False,
    ) -> OpenedSession:
        """Begin a rollout that waits for policy calls.

        Args:
            spec: a rollout ID of its own, and the task.
            settings: of the rollout; its timeout is the session's.
            target: where the rollout is recorded; None to keep nothing.
            traced: whether it becomes a trace.

        Raises:
            SessionError: `full`.
            RolloutFailure: the task is not legal, or the environment cannot be reset for it.
        """
        if len(self._rollouts) >= self._max_sessions:
            raise SessionError(
                "full", f"this replica has {self._max_sessions} sessions open; close some, or "
                "raise the environment's autoscaling.max_replicas",
            )  # fmt: skip
        started: asyncio.Future[_Open] = asyncio.get_running_loop().create_future()
        self._starting[spec.rollout_id] = started
        rollout = asyncio.ensure_future(self._run(spec, settings, target, traced=traced))
        self._rollouts[spec.rollout_id] = rollout
        rollout.add_done_callback(lambda _: self._rollouts.pop(spec.rollout_id, None))
        try:
            waiting: list[asyncio.Future[Any]] = [started, rollout]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            rollout.cancel()  # Nobody has its key.
            raise
        finally:
            del self._starting[spec.rollout_id]
        if not started.done():
            failed = await rollout
            raise RolloutFailure(
                failed.error_kind or FailureKind.ENVIRONMENT_ERROR, failed.error or ""
            )
        entry = started.result()
        return OpenedSession(
            session_id=entry.session_id,
            key=entry.key,
            rollout_id=spec.rollout_id,
            expires_at=_utc(entry.session.deadline),
        )

    async def chat(self, session_id: str, key: str, request: ChatRequest) -> ChatAnswer:
        """A policy call; raises as `Session.chat`, and `unknown` or `gone`."""
        return await self._live(session_id, key).session.chat(request)

    async def generate(self, session_id: str, key: str, request: GenerationRequest) -> Generation:
        """A policy call in tokens; raises as `Session.generate`, and `unknown` or `gone`."""
        return await self._live(session_id, key).session.generate(request)

    async def close(self, session_id: str, key: str, closing: Closing) -> SessionState:
        """End a session and wait for what becomes of it: verified, and durable.

        Ending it again gives the same result, except that a reward cannot be given any more.

        Raises:
            SessionError: `unknown`, `gone`, `conflict`; `ended` for a reward that comes too
                late; `unrecorded`.
        """
        entry = self._find(session_id, key)
        if closing.how == "reward" and (isinstance(entry, _Result) or entry.session.over):
            raise SessionError("ended", "the session has ended; its reward is settled")
        if isinstance(entry, _Open):
            rollout = self._rollouts.get(entry.session.rollout_id)
            if closing.how == "abandon":
                entry.session.abandon()
            elif not entry.session.over or not entry.session.closable:
                entry.session.close(closing.verdict, closing.answer)
            assert rollout is not None  # Others are not closable.
            # Waited for, not awaited: a client that goes away does not unmake the end.
            await asyncio.wait([rollout])
            entry = self._results[session_id]
        if entry.problem is not None:
            raise SessionError("unrecorded", entry.problem)
        return entry.state

    async def state(self, session_id: str, key: str) -> SessionState:
        """How a session stands; raises `SessionError` (`unknown`, `gone`)."""
        entry = self._find(session_id, key)
        return entry.state if isinstance(entry, _Result) else entry.state()

    def count(self) -> int:
        """Sessions whose rollouts have not ended."""
        return len(self._rollouts)

    async def stop(self) -> None:
        """End all sessions, also those that are being opened; what they have is verified and
        recorded.
        """
        self._stopping = True
        for entry in list(self._open.values()):
            entry.session.expire()
        if self._rollouts:
            await asyncio.wait(list(self._rollouts.values()))

    @contextlib.contextmanager
    def reachable(self, session: Session, gateway_url: str) -> Iterator[Access]:
        """Let calls with its key reach `session` until the context ends."""
        session_id = f"{self._environment}.{self._owner}.{secrets.token_hex(8)}"
        entry = _Open(session_id, secrets.token_urlsafe(32), session)
        self._open[session_id] = entry
        started = self._starting.get(session.rollout_id)
        if started is not None:
            self._opened[session.rollout_id] = entry
            started.set_result(entry)
        if self._stopping:
            session.expire()
        try:
            base_url = f"{gateway_url}/sessions/{quote(session_id, safe='')}/v1"
            yield Access(session_id, entry.key, base_url)
        finally:
            if started is None:  # Else it goes on being known, by its result.
                del self._open[session_id]

    async def _wait_outside(self, attempt: AgentContext) -> Episode:
        return await opened(attempt, self)

    async def _run(
        self,
        spec: RolloutSpec,
        settings: RunSettings,
        target: RecordTarget | None,
        *,
        traced: bool,
    ) -> Rollout:
        """The rollout of one session, from reset to the durable row."""
        problem = None
        span = root_span(spec, settings.run_id) if traced else None
        traceparent = None if span is None else span.traceparent
        try:
            rollout = await run_attempt(self._runner, spec, settings, 1, traceparent)
        except asyncio.CancelledError:
            if span is not None:
                span.end({}, error="cancelled")
            if (entry := self._opened.pop(spec.rollout_id, None)) is not None:
                del self._open[entry.session_id]
            raise
        if span is not None:
            span.end_rollout(rollout)
        self._observer.finished([rollout])
        if target is not None:
            try:
                await self._recorder(target).record(rollout)
            except Exception as error:
                logger.exception("rollout %s is not recorded", spec.rollout_id)
                problem = f"the rollout could not be recorded: {one_line(error)}"
        if (entry := self._opened.pop(spec.rollout_id, None)) is not None:
            self._keep(entry, rollout, problem)
        return rollout

    def _keep(self, entry: _Open, rollout: Rollout, problem: str | None) -> None:
        del self._open[entry.session_id]
        state = dataclasses.replace(
            entry.state(),
            open=False,
            status=rollout.status,
            truncation_reason=rollout.truncation_reason,
            reward=rollout.reward,
            reward_components=dict(rollout.reward_components),
            metrics=dict(rollout.metrics),
            error_kind=rollout.error_kind,
            error=rollout.error,
            turns_left_out=entry.session.turns_left_out,
        )
        self._results[entry.session_id] = _Result(entry.key, state, problem)
        while len(self._results) > _KEPT_RESULTS:
            self._results.popitem(last=False)

    def _recorder(self, target: RecordTarget) -> Recorder:
        if target.directory not in self._recorders:
            self._recorders[target.directory] = Recorder(target)
        return self._recorders[target.directory]

    def _live(self, session_id: str, key: str) -> _Open:
        entry = self._find(session_id, key)
        if isinstance(entry, _Result):
            reason = entry.state.truncation_reason
            raise SessionError(
                "ended", "the session has ended" + (f" (truncated: {reason})" if reason else "")
            )
        return entry

    def _find(self, session_id: str, key: str) -> _Open | _Result:
        if owner_of(session_id) != (self._environment, self._owner):
            raise SessionError("gone", "the replica that held this session is gone, and it too")
        entry = self._open.get(session_id) or self._results.get(session_id)
        # The same time and answer whether there is no such session or the key is wrong.
        expected = entry.key if entry is not None else ""
        if not hmac.compare_digest(key.encode(), expected.encode()) or entry is None:
            raise SessionError("unknown", "there is no session of this id with this key")
        return entry


@dataclasses.dataclass(frozen=True, slots=True)
class _Open:
    """A session that can be called."""

    session_id: str
    key: str
    session: Session

    def state(self) -> SessionState:
        return SessionState(
            session_id=self.session_id,
            rollout_id=self.session.rollout_id,
            open=not self.session.over,
            turns=self.session.turns,
            expires_at=_utc(self.session.deadline),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Result:
    """What became of a session; `problem` says why its rollout is not durable."""

    key: str
    state: SessionState
    problem: str | None


def _utc(deadline: float) -> datetime.datetime:
    """A time of the running event loop's clock as a date."""
    seconds = deadline - asyncio.get_running_loop().time()
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
