"""Rows that NeMo RL asks for again: one that runs is waited for, one that finished is told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_ray.errors import FailureKind
from gym_ray.integrations.nemo_rl import GymTerminalEpisodeFailure, GymTransportError
from gym_ray.integrations.nemo_rl.batch import NamedRow
from gym_ray.integrations.nemo_rl.repeats import Repeats
from gym_ray.rollout import Rollout, RolloutSpec, failed_rollout

Told = list[tuple[int, Rollout]]


def row(name: str | None, content: bytes = b"") -> NamedRow:
    identity = None if name is None else (name, 0)
    return NamedRow(0, {"name": name}, "sums", None, identity, content)


def failed(kind: FailureKind) -> Rollout:
    spec = RolloutSpec("r", "t", 0, 0, "sums", "", 0, "{}")
    return failed_rollout(spec, kind, "it broke", run_id="run")


class Engine:
    """What the rollouts run in: each ends when the test says so.

    Attributes:
        started: names, in the order in which they were started.
        running: names of those that run, with where their end is put.
        breaks: what the next call raises, once.
    """

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.running: dict[Any, asyncio.Queue[tuple[int, Rollout]]] = {}
        self.positions: dict[Any, int] = {}
        self.breaks: Exception | None = None

    async def run(
        self, rows: Sequence[Mapping[str, Any]]
    ) -> AsyncGenerator[tuple[int, Rollout], None]:
        names = [own["name"] for own in rows]
        ends: asyncio.Queue[tuple[int, Rollout]] = asyncio.Queue()
        for position, name in enumerate(names):
            assert name not in self.running, f"{name} runs twice"
            self.started.append(name)
            self.running[name] = ends
            self.positions[name] = position
        try:
            if self.breaks is not None:
                error, self.breaks = self.breaks, None
                raise error
            for _ in names:
                yield await ends.get()
        finally:
            for name in names:
                if self.running.get(name) is ends:
                    del self.running[name]

    def end(self, name: Any, rollout: Rollout) -> None:
        self.running.pop(name).put_nowait((self.positions[name], rollout))


async def settle() -> None:
    """Everything that can go on without the engine has."""
    for _ in range(20):
        await asyncio.sleep(0)


def asking(repeats: Repeats, *names: str | None) -> tuple[asyncio.Task[None], Told]:
    """A call for these rows, and what it has been told."""
    told: Told = []

    async def call() -> None:
        async with contextlib.aclosing(repeats.run([row(name) for name in names])) as rollouts:
            async for result in rollouts:
                told.append(result)

    return asyncio.ensure_future(call()), told


@pytest.fixture
def good(make_rollout: Callable[..., Rollout]) -> Rollout:
    return make_rollout()


def test_one_that_runs_is_waited_for_and_one_that_finished_is_told(good: Rollout) -> None:
    async def scene() -> None:
        engine = Engine()
        repeats = Repeats(engine)
        first, first_told = asking(repeats, "a", "b")
        await settle()
        engine.end("a", good)
        await settle()
        again, told = asking(repeats, "b", "a", "c")
        await settle()
        assert [position for position, _ in told] == [1]
        engine.end("c", good)
        engine.end("b", good)
        await asyncio.gather(first, again)

        assert engine.started == ["a", "b", "c"]
        assert sorted(position for position, _ in told) == [0, 1, 2]
        assert sorted(position for position, _ in first_told) == [0, 1]

    asyncio.run(scene())


def test_what_a_call_gave_up_goes_on_for_another_and_else_ends(good: Rollout) -> None:
    async def scene() -> None:
        engine = Engine()
        repeats = Repeats(engine)
        lost, _ = asking(repeats, "a", "b")
        await settle()
        again, told = asking(repeats, "b")
        await settle()
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
        assert set(engine.running) == {"a", "b"}

        again.cancel()
        await asyncio.gather(again, return_exceptions=True)
        assert not engine.running

        last, told = asking(repeats, "b")
        await settle()
        engine.end("b", good)
        await last
        assert engine.started == ["a", "b", "b"]
        assert told == [(0, good)]

    asyncio.run(scene())


def test_rows_without_an_identity_are_each_their_own(good: Rollout) -> None:
    async def scene() -> None:
        engine = Engine()
        repeats = Repeats(engine)
        for _ in range(2):
            call, told = asking(repeats, None)
            await settle()
            engine.end(None, good)
            await call
            assert told == [(0, good)]
        assert engine.started == [None, None]

    asyncio.run(scene())


@pytest.mark.parametrize("kind", list(FailureKind))
def test_only_a_failure_that_is_the_rows_own_is_told_again(kind: FailureKind) -> None:
    async def scene() -> None:
        engine = Engine()
        repeats = Repeats(engine)
        call, _ = asking(repeats, "a")
        await settle()
        engine.end("a", failed(kind))
        await call
        again, _ = asking(repeats, "a")
        await settle()
        runs_again = bool(engine.running)
        if runs_again:
            engine.end("a", failed(kind))
        await again

        assert runs_again == (kind is not FailureKind.TASK_INVALID)

    asyncio.run(scene())


def test_a_call_that_cannot_be_made_is_told_after_what_there_is(good: Rollout) -> None:
    async def scene() -> None:
        engine = Engine()
        repeats = Repeats(engine)
        first, _ = asking(repeats, "a")
        await settle()
        engine.breaks = GymTransportError("gone")
        second, told = asking(repeats, "b", "a")
        await settle()
        assert not second.done()
        engine.end("a", good)
        with pytest.raises(GymTransportError, match="gone"):
            await second
        await first

        assert told == [(1, good)]
        third, _ = asking(repeats, "b")
        await settle()
        engine.end("b", good)
        await third

    asyncio.run(scene())


def test_an_identity_of_another_task_is_refused_before_anything_starts(good: Rollout) -> None:
    async def scene() -> None:
        engine = Engine()
        repeats = Repeats(engine)
        call, _ = asking(repeats, "a")
        await settle()
        engine.end("a", good)
        await call
        rows = [row("b"), row("a", b"other")]
        with pytest.raises(GymTerminalEpisodeFailure, match="given to another task"):
            await anext(repeats.run(rows))
        assert engine.started == ["a"]

    asyncio.run(scene())


def test_the_oldest_results_go_when_there_is_no_room(good: Rollout) -> None:
    async def scene() -> None:
        engine = Engine()
        repeats = Repeats(engine, kept_bytes=2 * good.memory_bytes)
        for name in "abcca":
            call, _ = asking(repeats, name)
            await settle()
            if name in engine.running:
                engine.end(name, good)
            await call
        assert engine.started == ["a", "b", "c", "a"]

    asyncio.run(scene())


def test_closing_ends_what_runs_and_says_so_to_those_who_wait() -> None:
    async def scene() -> None:
        engine = Engine()
        repeats = Repeats(engine)
        calls = [asking(repeats, "a")[0], asking(repeats, None)[0]]
        await settle()
        await repeats.close()
        ends = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(end) for end in ends] == [GymTransportError] * 2
        assert not engine.running

    asyncio.run(scene())


NAMES = "abcd"
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sets(st.sampled_from(NAMES), min_size=1)),
        st.tuples(st.just("end"), st.sampled_from(NAMES)),
        st.tuples(st.just("fail"), st.sampled_from(NAMES)),
        st.tuples(st.just("leave"), st.integers(0, 5)),
        st.tuples(st.just("break"), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_happens_an_identity_is_sampled_once_and_every_call_is_told_all(
    steps: list[tuple[str, Any]],
) -> None:
    good = dataclasses.replace(
        failed(FailureKind.POLICY_ERROR), status="completed", error_kind=None, error=None
    )

    async def scene() -> None:
        engine = Engine()
        repeats = Repeats(engine)
        calls: list[tuple[asyncio.Task[None], Told, int]] = []
        finished: set[str] = set()
        for step, value in steps:
            if step == "ask":
                names = sorted(value)
                calls.append((*asking(repeats, *names), len(names)))
            elif step == "break":
                engine.breaks = GymTransportError("gone")
            elif step == "leave" and value < len(calls):
                calls[value][0].cancel()
            elif step in ("end", "fail") and value in engine.running:
                assert value not in finished, "sampled twice"
                if step == "end":
                    finished.add(value)
                engine.end(value, good if step == "end" else failed(FailureKind.POLICY_ERROR))
            await settle()
            wanted = any(not call.done() for call, _, _ in calls)
            assert wanted or not engine.running, "runs for nobody"
        while engine.running:
            engine.end(next(iter(engine.running)), good)
            await settle()
        for call, told, rows in calls:
            assert call.done()
            assert len({position for position, _ in told}) == len(told)
            if not call.cancelled() and call.exception() is None:
                assert len(told) == rows

    asyncio.run(scene())
