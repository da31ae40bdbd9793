"""Tool-calling rollouts of the real model: guided turns, free turns, and every token's logprob.

The small model calls no tools by itself, so it is guided to (`tool_choice: required`) until
`max_tool_calls` are made; the turn after that is sampled freely.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import Field

from gym_ray import Environment, Outcome, Task, tool
from gym_ray.agents import AGENTS
from gym_ray.config.environment import AgentOptions
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.vllm import VllmEngine
from gym_ray.renderers import load_renderer
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.sampling import Sampling, turn_samplings
from gym_ray.store.rows import broken_invariants
from gym_ray.task import rollout_id_of, task_id_of
from gym_ray.turn import Generation
from tests.engine.conftest import CALL_SECONDS
from tests.forward_pass import TOLERANCE, ForwardPass
from tests.verification import on_loop

TURNS = 5

Number = Annotated[int, Field(ge=0, le=99)]


class Pantry(Environment):
    """Reward: how many calls were carried out."""

    async def reset(self, task: Task) -> dict[str, int]:
        return {"calls": 0}

    @tool
    async def add(self, state: dict[str, int], first: Number, second: Number) -> int:
        """Add two numbers."""
        state["calls"] += 1
        return first + second

    @tool
    async def stock(self, state: dict[str, int], fruit: Literal["apple", "pear", "plum"]) -> str:
        """How many of a fruit there are."""
        state["calls"] += 1
        return f"There are {len(fruit) * 7} of {fruit}."

    @tool
    async def note(self, state: dict[str, int], text: Annotated[str, Field(max_length=24)]) -> str:
        """Write a note."""
        state["calls"] += 1
        return f"Noted: {text}"

    async def verify(self, outcome: Outcome) -> float:
        return float(outcome.state["calls"])


def _call_item(fruit: str) -> dict[str, Any]:
    arguments = json.dumps({"fruit": fruit})
    return {"type": "function_call", "call_id": fruit, "name": "stock", "arguments": arguments}


def _result_item(fruit: str) -> dict[str, Any]:
    output = f"There are {len(fruit) * 7} of {fruit}."
    return {"type": "function_call_output", "call_id": fruit, "output": output}


ONE_CALL = {"tool_choice": "required", "parallel_tool_calls": False, "max_tool_calls": 4}
QUESTIONS = (
    "How many apples and plums are there together?",
    "Add 17 and 25, and note the sum.",
)
ROWS: dict[str, dict[str, Any]] = {
    **{question: {"input": question, **ONE_CALL} for question in QUESTIONS},
    "several calls in a turn": {
        "input": [
            {"role": "user", "content": "How many apples and pears are there?"},
            *(_call_item(fruit) for fruit in ("apple", "pear")),
            *(_result_item(fruit) for fruit in ("apple", "pear")),
            {"role": "assistant", "content": "35 apples and 28 pears."},
            {"role": "user", "content": "How many pears and plums are there?"},
        ],
        "tool_choice": "required",
        "max_tool_calls": 4,
    },
    "one tool by name": {
        "input": "How many pears are there?",
        **ONE_CALL,
        "tool_choice": {"type": "function", "name": "stock"},
        "max_tool_calls": 1,
        "temperature": 0.7,
    },
}

Calls = dict[str, list[tuple[GenerationRequest, Generation]]]


@dataclasses.dataclass(frozen=True)
class Played:
    """A finished rollout, and what was asked of the engine for it."""

    rollout: Rollout
    calls: list[tuple[GenerationRequest, Generation]]

    def samplings(self) -> list[Sampling]:
        return turn_samplings(self.rollout.sampling, len(self.rollout.turns))

    def items(self, kind: str, turn: int | None = None) -> list[dict[str, Any]]:
        """Items of one kind; those the policy produced can be asked for by turn."""
        name = f"-{turn}_" if turn is not None else ""
        found = [item for item in json.loads(self.rollout.response) if item["type"] == kind]
        return [item for item in found if name in item["id"]]


@pytest.fixture(scope="module")
def renderer(bundled_checkpoint: Any) -> RolloutRenderer:
    return load_renderer(str(bundled_checkpoint), "chatml")


@pytest.fixture(scope="module")
def forward_pass(reference: Any, tokenizer: Any) -> ForwardPass:
    return ForwardPass(reference, tokenizer)


@pytest.fixture(scope="module")
def played(bundled: VllmEngine, renderer: RolloutRenderer, run: Any) -> dict[str, Played]:
    """All of `ROWS`, played at the same time through the runner."""
    return run(_play_together(bundled, renderer))


async def _play_together(engine: VllmEngine, renderer: RolloutRenderer) -> dict[str, Played]:
    calls: Calls = {}

    async def generate(request: GenerationRequest) -> Generation:
        generation = await engine.generate(request)
        rollout_id = request.call.request_id.partition("/")[0]
        calls.setdefault(rollout_id, []).append((request, generation))
        return generation

    runner = Runner(
        environment=Pantry(),
        agent_name="tool_calling",
        agent=AGENTS["tool_calling"],
        renderer=renderer,
        model="m",
        generate=generate,
        verification=on_loop(Pantry()),
        agent_options=AgentOptions(max_turns=TURNS),
    )
    settings = RunSettings(
        "run", Sampling(max_output_tokens=96, seed=1), timeout_seconds=CALL_SECONDS
    )
    specs = [_spec(params) for params in ROWS.values()]
    rollouts = await asyncio.gather(*[runner.run(spec, settings, attempt=1) for spec in specs])
    return {
        name: Played(rollout, calls[rollout.spec.rollout_id])
        for name, rollout in zip(ROWS, rollouts, strict=True)
    }


def _spec(params: dict[str, Any]) -> RolloutSpec:
    row = {"responses_create_params": params}
    task_id = task_id_of(row)
    return RolloutSpec(
        rollout_id=rollout_id_of(task_id, "pantry", 0),
        task_id=task_id,
        task_index=0,
        rollout_index=0,
        environment="pantry",
        source_file="tasks.jsonl",
        source_line=1,
        task=json.dumps(row),
    )


@pytest.mark.parametrize("question", QUESTIONS)
def test_four_guided_turns_call_one_tool_each_and_the_fifth_is_free(
    played: dict[str, Played], question: str
) -> None:
    one = played[question]

    assert one.rollout.error is None
    assert len(one.rollout.turns) == TURNS
    assert [sampling.structural_tag is not None for sampling in one.samplings()] == [True] * 4 + [
        False
    ]
    results = [item["output"] for item in one.items("function_call_output")][:4]
    assert not [result for result in results if result.startswith("Error")]
    assert one.rollout.reward == 4.0
    for turn in range(4):
        (call,) = one.items("function_call", turn)
        assert call["status"] == "completed"
        assert call["name"] in ("add", "stock", "note")
        assert isinstance(json.loads(call["arguments"]), dict)
        assert one.items("message", turn) == []
    assert one.rollout.turns[4].generation_length > 0


@pytest.mark.parametrize("name", ROWS)
def test_every_prompt_continues_the_tokens_before_it(played: dict[str, Played], name: str) -> None:
    rollout, calls = played[name].rollout, played[name].calls

    assert broken_invariants([rollout]) == []
    assert len(calls) == len(rollout.turns)
    history = np.zeros(0, dtype=np.int32)
    for turn, (request, generation) in zip(rollout.turns, calls, strict=True):
        assert np.array_equal(request.prompt_token_ids[: len(history)], history)
        history = np.concatenate([request.prompt_token_ids, generation.token_ids])
        assert turn.prompt_length == len(request.prompt_token_ids)
        start = turn.prompt_length
        assert np.array_equal(rollout.logprobs[start : len(history)], generation.logprobs)
        assert np.array_equal(rollout.token_ids[: len(history)], history)
    assert np.array_equal(rollout.token_ids, history)


@pytest.mark.parametrize("name", ROWS)
def test_logprobs_of_a_row_are_reproduced_from_the_row_and_shifted_tokens_are_not(
    played: dict[str, Played], renderer: RolloutRenderer, forward_pass: ForwardPass, name: str
) -> None:
    rollout = played[name].rollout

    errors = forward_pass.errors(rollout, renderer.stop_token_ids)

    worst = {kind: f"{some.max():.1e} of {len(some)}" for kind, some in errors.items() if len(some)}
    print(f"worst logprob errors: {worst}")
    assert sum(map(len, errors.values())) == rollout.loss_mask.sum()
    assert len(errors["guided"]) > 20
    shifted = dataclasses.replace(rollout, token_ids=np.roll(rollout.token_ids, -1))
    for kind, wrong in forward_pass.errors(shifted, renderer.stop_token_ids).items():
        assert not len(errors[kind]) or errors[kind].max() < TOLERANCE < wrong.max()


def test_guided_positions_do_not_agree_without_their_mask(
    played: dict[str, Played], renderer: RolloutRenderer, forward_pass: ForwardPass
) -> None:
    rollout = played[QUESTIONS[0]].rollout
    unguided = dataclasses.replace(rollout, sampling=Sampling().to_json())

    assert forward_pass.errors(unguided, renderer.stop_token_ids)["free"].max() > TOLERANCE


def test_a_guided_turn_may_make_several_calls(played: dict[str, Played]) -> None:
    several = played["several calls in a turn"]

    results = several.items("function_call_output")
    assert several.rollout.error is None
    assert max(len(several.items("function_call", turn)) for turn in range(TURNS)) > 1
    assert len(results) == len(several.items("function_call"))
    assert several.rollout.reward == min(len(results), 4)


def test_a_tool_chosen_by_name_is_the_one_that_is_called(played: dict[str, Played]) -> None:
    one = played["one tool by name"]

    (call,) = one.items("function_call", turn=0)
    assert call["name"] == "stock"
    assert one.rollout.reward == 1.0
    guided = [sampling.structural_tag is not None for sampling in one.samplings()]
    assert guided[:2] == [True, False]
