"""Sessions of a replica: opening, ending, keys, limits, and what a stopping replica does."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gym_ray.agents.session import MAX_CONCURRENT_CALLS
from gym_ray.agents.sessions import Closing, SessionError, SessionState
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.serving.recorder import RecordTarget
from gym_ray.store.stored_run import read_rollouts
from gym_ray.task import Task
from gym_ray.turn import Generation
from gym_ray.verdict import Verdict
from tests.sessions import (
    Caller,
    Replica,
    closed,
    recorded,
    spec_of,
    sum_row,
    until_ended,
)
from tests.workshop import RowTools


def test_a_stopping_replica_ends_its_sessions_with_what_they_have(tmp_path: Path) -> None:
    async def stop(caller: Caller) -> SessionState:
        await caller.chat(caller.question)
        await caller.host.stop()
        return await until_ended(caller)

    state, _ = recorded(tmp_path, sum_row("3"), stop)

    assert (state.truncation_reason, state.reward) == ("deadline", 1.0)


class SlowToReset(RowTools):
    """An environment whose `reset` waits to be let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def reset(self, task: Task) -> Any:
        self.reached.set()
        await self.go_on.wait()
        return await super().reset(task)


def test_a_stopping_replica_does_not_wait_for_a_session_that_is_being_opened() -> None:
    async def scenario() -> None:
        environment = SlowToReset()
        replica = Replica(environment=environment)
        opening = asyncio.ensure_future(
            replica.host.open(spec_of(sum_row("3")), replica.settings, None)
        )
        await environment.reached.wait()
        stopping = asyncio.ensure_future(replica.host.stop())
        await asyncio.sleep(0)
        environment.go_on.set()
        async with asyncio.timeout(10):  # The session's own time is a minute.
            await stopping
        opened = await opening
        state = await replica.host.state(opened.session_id, opened.key)
        assert state.error_kind == FailureKind.ROLLOUT_TIMEOUT

    asyncio.run(scenario())


def test_a_session_whose_client_left_while_it_was_opened_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        environment = SlowToReset()
        replica = Replica(environment=environment, max_sessions=1)
        spec = spec_of(sum_row("3"))
        opening = asyncio.ensure_future(replica.host.open(spec, replica.settings, None))
        await environment.reached.wait()
        started = replica.host._starting[spec.rollout_id]
        started.add_done_callback(lambda _: opening.cancel())
        environment.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await asyncio.wait(list(replica.host._rollouts.values()))
        assert (replica.host._open, replica.host._opened) == ({}, {})

    asyncio.run(scenario())


def test_ending_a_session_again_gives_the_same_result_and_no_other_reward() -> None:
    async def scenario() -> None:
        async with Replica().session(sum_row("3")) as (_, caller):
            await caller.chat(caller.question)
            first, second = await asyncio.gather(closed(caller), closed(caller))
            assert first == second == await closed(caller, Closing("abandon"))
            with pytest.raises(SessionError, match="settled"):
                await closed(caller, Closing("reward", Verdict(1.0)))
            with pytest.raises(SessionError, match="has ended"):
                await caller.chat(caller.question)

    asyncio.run(scenario())


def test_a_session_without_calls_cannot_be_verified_yet() -> None:
    async def scenario() -> None:
        async with Replica().session(sum_row("3")) as (_, caller):
            with pytest.raises(SessionError, match="no policy call yet"):
                await closed(caller)
            await caller.chat(caller.question)
            assert (await closed(caller)).reward == 1.0

    asyncio.run(scenario())


def test_a_wrong_key_and_an_unknown_session_are_told_apart_by_nobody() -> None:
    async def refusal(session_id: str, key: str, replica: Replica) -> tuple[str, str]:
        with pytest.raises(SessionError) as caught:
            await replica.host.state(session_id, key)
        return caught.value.refusal, caught.value.message

    async def scenario() -> None:
        replica = Replica()
        async with replica.session(sum_row("3")) as (opened, _):
            wrong_key = await refusal(opened.session_id, "wrong", replica)
            unknown = await refusal("sums.replica.0000", opened.key, replica)
            assert wrong_key == unknown
            assert wrong_key[0] == "unknown"
            assert (await refusal("sums.other.0000", opened.key, replica))[0] == "gone"

    asyncio.run(scenario())


def test_a_replica_holds_so_many_sessions_and_a_session_so_many_calls() -> None:
    async def scenario() -> None:
        never = asyncio.Event()

        async def generate(request: GenerationRequest) -> Generation:
            await never.wait()
            raise AssertionError

        replica = Replica(generate=generate, max_sessions=1, options={"max_turns": 1000})
        async with replica.session(sum_row("3")) as (_, caller):
            with pytest.raises(SessionError, match="1 sessions open") as full:
                await replica.host.open(spec_of(caller.row), replica.settings, None)
            assert full.value.refusal == "full"
            calls = [
                asyncio.ensure_future(caller.chat(caller.question))
                for _ in range(MAX_CONCURRENT_CALLS)
            ]
            await asyncio.sleep(0)
            with pytest.raises(SessionError, match="fewer at once"):
                await caller.chat(caller.question)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            await closed(caller, Closing("abandon"))

    asyncio.run(scenario())


def test_a_cancelled_call_reaches_the_policy_and_is_not_recorded(tmp_path: Path) -> None:
    aborted = []
    engine = ScriptedEngine(model="m", engine_args={"reply": "3"})

    async def generate(request: GenerationRequest) -> Generation:
        if not aborted:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                aborted.append(request.call.request_id)
                raise
        return await engine.generate(request)

    async def give_up(caller: Caller) -> SessionState:
        call = asyncio.ensure_future(caller.chat(caller.question))
        await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.wait([call])
        await caller.chat(caller.question)
        return await closed(caller)

    state, _ = recorded(tmp_path, sum_row(), give_up, generate=generate)

    assert (len(aborted), state.turns) == (1, 1)


def test_a_task_the_environment_refuses_opens_nothing_and_is_recorded(tmp_path: Path) -> None:
    async def scenario() -> None:
        replica, spec = Replica(), spec_of({"responses_create_params": {"input": ""}})
        with pytest.raises(RolloutFailure, match="task_invalid"):
            await replica.host.open(spec, replica.settings, RecordTarget(str(tmp_path), "run"))

    asyncio.run(scenario())
    (rollout,) = read_rollouts(tmp_path)
    assert rollout.error_kind == FailureKind.TASK_INVALID


def test_messages_no_template_can_render_are_refused() -> None:
    async def scenario() -> None:
        async with Replica().session(sum_row("3")) as (_, caller):
            with pytest.raises(RolloutFailure, match="cannot be made a prompt"):
                await caller.chat([{"role": "nobody", "content": "?"}])

    asyncio.run(scenario())
