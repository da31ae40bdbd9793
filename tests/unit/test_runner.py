"""One whole rollout: a real renderer and the scripted engine, an environment that misbehaves."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from gym_ray.agents import AGENTS, AgentContext, Episode
from gym_ray.environment import Environment, Outcome, TaskFields
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.renderers import load_renderer
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.sampling import Sampling, turn_seed
from gym_ray.store.rows import broken_invariants
from gym_ray.task import Task
from gym_ray.transcript import Transcript
from gym_ray.turn import Generation
from gym_ray.verdict import Verdict
from tests.verification import on_loop

SHORT = Sampling(max_output_tokens=50)


class Sums(Environment):
    """Reward 1 when the answer is right; the row's `reset` and `verify` say what goes wrong."""

    class Fields(TaskFields):
        expected_answer: str

    async def reset(self, task: Task) -> dict[str, Any]:
        await misbehave(task.row.get("reset"))
        return {"asked": task.task_id}

    async def verify(self, outcome: Outcome) -> Any:
        how = outcome.task.row.get("verify")
        await misbehave(how)
        if how == "text":
            return "1.0"
        if how == "nan":
            return float("nan")
        assert outcome.state == {"asked": outcome.task.task_id}
        right = float(outcome.text == outcome.task["expected_answer"])
        return Verdict(right, {"right": right}, {"characters": len(outcome.text)})


async def misbehave(how: Any) -> None:
    match how:
        case "raise":
            raise ValueError("two\nlines")
        case "timeout":
            raise TimeoutError("my own clock")
        case "fail":
            raise RolloutFailure(FailureKind.SANDBOX_ERROR, "the sandbox is gone")
        case "hang":
            await asyncio.Event().wait()


class PlainSums(Sums):
    """The same, with a verifier that belongs into a process."""

    def verify(self, outcome: Outcome) -> float:  # type: ignore[override]
        return float(outcome.text == outcome.task["expected_answer"])


@pytest.fixture(scope="module")
def renderer() -> RolloutRenderer:
    return load_renderer(None)


Rows = Callable[..., dict[str, Any]]
RunOne = Callable[..., Rollout]


@pytest.fixture
def run(renderer: RolloutRenderer, make_row: Rows, make_spec: Callable[..., RolloutSpec]) -> RunOne:
    """Run one rollout of the row `1 + 1 = ?` with these fields, on a policy that says `reply`."""

    def run_one(
        environment: Environment | None = None,
        *,
        reply: str = "2",
        engine_args: dict[str, Any] | None = None,
        generate: Callable[[GenerationRequest], Awaitable[Generation]] | None = None,
        agent: Any = AGENTS["single_turn"],
        verification: Any = None,
        timeout_seconds: float = 60.0,
        verifier_timeout_seconds: float = 60.0,
        sampling: Sampling = SHORT,
        attempt: int = 1,
        **fields: Any,
    ) -> Rollout:
        environment = environment or Sums()
        row = {"expected_answer": "2", **make_row("1 + 1 = ?"), **fields}
        spec = dataclasses.replace(make_spec(), task=json.dumps(row))
        engine = ScriptedEngine(model="m", engine_args={"reply": reply, **(engine_args or {})})
        runner = Runner(
            environment=environment,
            agent_name="single_turn",
            agent=agent,
            renderer=renderer,
            model="m",
            generate=generate or engine.generate,
            verification=verification or on_loop(environment, verifier_timeout_seconds),
        )
        settings = RunSettings("run", sampling, timeout_seconds)
        rollout = asyncio.run(runner.run(spec, settings, attempt=attempt))
        assert rollout.spec == spec
        assert (rollout.run_id, rollout.agent, rollout.model) == ("run", "single_turn", "m")
        assert (rollout.attempts, rollout.seconds >= 0) == (attempt, True)
        assert broken_invariants([rollout]) == []
        return rollout

    return run_one


def test_a_rollout_is_the_prompt_the_answer_and_the_verdict(
    run: RunOne, renderer: RolloutRenderer
) -> None:
    rollout = run(attempt=2)

    assert (rollout.status, rollout.reward, rollout.error_kind) == ("completed", 1.0, None)
    assert rollout.reward_components == {"right": 1.0}
    assert rollout.metrics == {"characters": 1.0}
    (turn,) = rollout.turns
    prompt = renderer.render([{"role": "user", "content": "1 + 1 = ?"}])
    assert np.array_equal(rollout.token_ids[: turn.prompt_length], prompt)
    assert renderer.decode(rollout.token_ids[turn.prompt_length :]).startswith("2")
    assert rollout.sampled_tokens == turn.generation_length == 2
    assert json.loads(rollout.prompt) == [{"role": "user", "content": "1 + 1 = ?"}]
    assert json.loads(rollout.response)[0]["content"][0]["text"] == "2"
    assert json.loads(rollout.tools) == []
    assert Sampling.from_json(rollout.sampling) == Sampling(max_output_tokens=50)


def test_a_wrong_answer_has_reward_zero(run: RunOne) -> None:
    assert run(reply="3").reward == 0.0


def test_an_answer_cut_at_the_token_limit_is_truncated_and_verified_all_the_same(
    run: RunOne,
) -> None:
    rollout = run(reply="2 and so on", sampling=Sampling(max_output_tokens=1))

    assert (rollout.status, rollout.truncation_reason) == ("truncated", "length")
    assert rollout.reward == 1.0


def test_tools_of_the_row_are_offered_and_recorded(run: RunOne, renderer: RolloutRenderer) -> None:
    tool = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}
    params = {"input": "1 + 1 = ?", "tools": [tool]}

    rollout = run(responses_create_params=params)

    assert json.loads(rollout.tools) == [tool]
    assert '"add"' in renderer.decode(rollout.token_ids)


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"reset": "raise"}, "environment_error", "reset: ValueError: two lines"),
        ({"reset": "timeout"}, "environment_error", "reset: TimeoutError: my own clock"),
        ({"reset": "fail"}, "sandbox_error", "the sandbox is gone"),
        ({"verify": "raise"}, "verifier_error", "ValueError: two lines"),
        ({"verify": "timeout"}, "verifier_error", "TimeoutError: my own clock"),
        ({"verify": "fail"}, "sandbox_error", "the sandbox is gone"),
        ({"verify": "text"}, "verifier_error", "verify() must return a number, a bool or a Verd"),
        ({"verify": "nan"}, "verifier_error", "not a finite number"),
        ({"engine_args": {"failure_rate": 1}}, "policy_error", "scripted failure"),
        ({"engine_args": {"context_length": 10}}, "policy_rejected", "shorten the prompt or raise"),
        ({"expected_answer": None}, "task_invalid", "field 'expected_answer'"),
        ({"responses_create_params": {"input": []}}, "task_invalid", "input is empty"),
        (
            {"responses_create_params": {"input": "?", "temperature": "hot"}},
            "task_invalid",
            "temperature must be a number from 0 to 2, got 'hot'",
        ),
    ],
)
def test_every_failure_becomes_a_row_that_says_where_it_happened(
    run: RunOne, fields: dict[str, Any], kind: str, says: str
) -> None:
    rollout = run(**fields)

    assert (rollout.status, rollout.error_kind, rollout.reward) == ("failed", kind, None)
    assert rollout.error is not None
    assert says in rollout.error
    # What was paid for is kept where only the verdict is missing.
    assert rollout.has_tokens == ("verify" in fields)


@pytest.mark.parametrize("fields", [{"reset": "hang"}, {"verify": "hang"}])
def test_the_deadline_ends_a_rollout_wherever_it_hangs(run: RunOne, fields: dict[str, Any]) -> None:
    rollout = run(timeout_seconds=0.05, **fields)

    assert rollout.error_kind == FailureKind.ROLLOUT_TIMEOUT
    assert rollout.error == (
        "not finished after 0.05 s; raise collect.rollout_timeout_seconds if that is too short"
    )
    assert rollout.seconds >= 0.05


def test_the_deadline_aborts_the_generation(run: RunOne) -> None:
    aborted = []

    async def never(request: GenerationRequest) -> Generation:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            aborted.append(request.call.request_id)
            raise
        raise AssertionError

    rollout = run(generate=never, timeout_seconds=0.05)

    assert rollout.error_kind == FailureKind.ROLLOUT_TIMEOUT
    assert aborted == [f"{rollout.spec.rollout_id}/1/0"]


def test_a_coroutine_verifier_has_a_deadline_of_its_own(run: RunOne) -> None:
    rollout = run(verify="hang", verifier_timeout_seconds=0.05)

    assert rollout.error_kind == FailureKind.VERIFIER_TIMEOUT
    assert rollout.error == "not finished after 0.05 s"


class InThread:
    """Verification in another process as far as the runner can tell."""

    timeout_seconds = 10.0

    async def verify(self, outcome: Outcome) -> Verdict:
        return Verdict.of(await asyncio.to_thread(PlainSums().verify, outcome))


class Broken:
    timeout_seconds = 10.0

    async def verify(self, outcome: Outcome) -> Verdict:
        raise RolloutFailure(FailureKind.VERIFIER_ERROR, "verifier process died: exit code 1")


def test_a_plain_verifier_is_handed_to_the_pool(run: RunOne) -> None:
    assert run(PlainSums(), verification=InThread()).reward == 1.0
    assert run(PlainSums(), verification=InThread(), reply="3").reward == 0.0
    assert run(PlainSums(), verification=Broken()).error == "verifier process died: exit code 1"


def test_a_history_that_was_rewritten_never_becomes_a_row(
    run: RunOne, renderer: RolloutRenderer
) -> None:
    async def forgetful(attempt: AgentContext) -> Episode:
        transcript = Transcript()
        for question in ("first", "second"):
            prompt = renderer.render([{"role": "user", "content": question}])
            transcript.append(prompt, await attempt.sample(prompt))
        return Episode(transcript, [], "", [])

    rollout = run(agent=forgetful)

    assert rollout.error_kind == FailureKind.ENVIRONMENT_ERROR
    assert rollout.error is not None
    assert "does not continue the" in rollout.error


def test_every_turn_of_a_seeded_run_has_its_own_request_and_seed(
    run: RunOne, renderer: RolloutRenderer
) -> None:
    requests: list[GenerationRequest] = []
    engine = ScriptedEngine(model="m", engine_args={})

    async def generate(request: GenerationRequest) -> Generation:
        requests.append(request)
        return await engine.generate(request)

    async def two_turns(attempt: AgentContext) -> Episode:
        transcript = Transcript()
        prompt = renderer.render([{"role": "user", "content": "hi"}])
        for _turn in range(2):
            generation = await attempt.sample(prompt)
            transcript.append(prompt, generation)
            more = [{"role": "user", "content": "again"}]
            prompt = renderer.bridge(prompt, generation.token_ids, more)
        return Episode(transcript, [], "", [])

    rollout = run(generate=generate, agent=two_turns, sampling=Sampling(seed=5), attempt=3)
    identity = rollout.spec.rollout_id

    assert [request.call.request_id for request in requests] == [
        f"{identity}/3/0",
        f"{identity}/3/1",
    ]
    assert [request.call.seed for request in requests] == [
        turn_seed(5, identity, 0, 3),
        turn_seed(5, identity, 1, 3),
    ]
    assert {request.call.stop_token_ids for request in requests} == {renderer.stop_token_ids}
    assert len(rollout.turns) == 2

    requests.clear()
    run(generate=generate)
    assert [request.call.seed for request in requests] == [None]


def test_a_cancelled_rollout_is_no_row(
    renderer: RolloutRenderer, make_row: Rows, make_spec: Callable[..., RolloutSpec]
) -> None:
    row = {**make_row("?"), "expected_answer": "2", "reset": "hang"}
    spec = dataclasses.replace(make_spec(), task=json.dumps(row))
    runner = Runner(
        environment=Sums(),
        agent_name="single_turn",
        agent=AGENTS["single_turn"],
        renderer=renderer,
        model="m",
        generate=ScriptedEngine(model="m", engine_args={}).generate,
        verification=on_loop(Sums(), 60),
    )

    async def cancel_it() -> None:
        running = asyncio.ensure_future(
            runner.run(spec, RunSettings("run", Sampling(), 60), attempt=1)
        )
        await asyncio.sleep(0)
        running.cancel()
        await running

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel_it())


def test_histories_that_were_left_are_side_branches_of_the_row(run: RunOne) -> None:
    async def compacting(attempt: AgentContext) -> Episode:
        transcript = Transcript()
        for prompt in ([1, 2], [3]):
            tokens = np.asarray(prompt, dtype=np.int32)
            transcript.insert(tokens, await attempt.sample(tokens))
        return Episode(transcript=transcript, items=[], text="2", tools=[])

    rollout = run(agent=compacting)

    (side,) = rollout.side_branches
    assert (rollout.token_ids[:1].tolist(), side.token_ids[:2].tolist()) == ([3], [1, 2])
    assert (side.loss_mask.sum(), rollout.loss_mask.sum(), len(rollout.turns)) == (2, 2, 1)


class Ended(Sums):
    """Keeps the states it is told are done with."""

    def __init__(self, how: str | None = None) -> None:
        self.how = how
        self.states: list[Any] = []

    async def end(self, state: Any) -> None:
        self.states.append(state)
        await misbehave(self.how)


def test_a_state_is_ended_once_however_the_agent_ends(run: RunOne) -> None:
    async def fail(attempt: AgentContext) -> Episode:
        raise RolloutFailure(FailureKind.POLICY_ERROR, "no more")

    finished, failed = Ended(), Ended("raise")
    assert run(finished).reward == 1.0
    assert len(finished.states) == 1
    assert run(failed, agent=fail).error_kind == FailureKind.POLICY_ERROR
    assert len(failed.states) == 1


def test_an_end_that_goes_wrong_fails_the_rollout(run: RunOne) -> None:
    rollout = run(Ended("raise"))
    assert (rollout.error_kind, rollout.reward) == (FailureKind.ENVIRONMENT_ERROR, None)
