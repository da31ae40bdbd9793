"""Environments of the library verifiers, run whole: our agents, their tasks, tools and rewards."""

import asyncio
import json
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gym_ray.agents import AGENTS, Toolbox
from gym_ray.config.environment import AgentOptions, EnvironmentConfig
from gym_ray.config.load import load_config
from gym_ray.environment import Environment, Outcome
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.registry import environment_factory, load_environment
from gym_ray.renderers import load_renderer
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.sampling import Sampling
from gym_ray.store.rows import broken_invariants
from gym_ray.turn import Generation
from gym_ray.verdict import Verdict
from gym_ray.verifiers.verification import Verification
from tests.replies import tool_calls

TASKSETS = str(Path(__file__).parent / "tasksets")
RENDERER = load_renderer(None)


@pytest.fixture(autouse=True, scope="module")
def installed() -> Iterator[None]:
    """The tasksets are found as installed packages are, by name."""
    sys.path.insert(0, TASKSETS)
    yield
    sys.path.remove(TASKSETS)


def config_of(env_id: str, agent: str, **params: Any) -> EnvironmentConfig:
    return EnvironmentConfig(
        entrypoint="gym_ray.integrations.verifiers:VerifiersEnvironment",
        agent=agent,
        params={"env_id": env_id, **params},
    )


def load(env_id: str, agent: str, **params: Any) -> Environment:
    return load_environment("theirs", config_of(env_id, agent, **params), ".")


class Scoring:
    """Scores as the process pool does, from pickled bytes and off the event loop."""

    timeout_seconds = 30.0

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    async def verify(self, outcome: Outcome) -> Verdict:
        received = pickle.loads(pickle.dumps(outcome))
        return await asyncio.to_thread(self._environment.verify, received)


async def play(
    environment: Environment,
    agent: str,
    *replies: str,
    task: int = 0,
    max_turns: int = 8,
    verification: Any = None,
) -> tuple[Rollout, list[Generation]]:
    """Run one rollout in which the policy says these replies; also what the engine sampled."""
    rows = environment.tasks()
    row = [next(rows) for _ in range(task + 1)][task]
    engine = ScriptedEngine(model="m", engine_args={"reply": "tests.replies:right_sum"})
    said = iter(replies)
    engine._reply = lambda prompt, request: next(said)
    sampled: list[Generation] = []

    async def generate(request: GenerationRequest) -> Generation:
        sampled.append(await engine.generate(request))
        return sampled[-1]

    options = AgentOptions(max_turns=max_turns)
    runner = Runner(
        environment=environment,
        agent_name=agent,
        agent=AGENTS[agent],
        renderer=RENDERER,
        model="m",
        generate=generate,
        verification=verification or Scoring(environment),
        agent_options=options,
        toolbox=Toolbox(environment, options),
    )
    spec = RolloutSpec("r" * 32, "t" * 64, 0, 0, "theirs", "f", 1, json.dumps(row))
    settings = RunSettings("run", Sampling(max_output_tokens=500), 60.0)
    rollout = await runner.run(spec, settings, attempt=1)
    assert broken_invariants([rollout]) == []
    return rollout, sampled


def run(*args: Any, **kwargs: Any) -> Rollout:
    """`play`, with the tokens of the row checked against those the engine sampled."""
    rollout, sampled = asyncio.run(play(*args, **kwargs))
    if rollout.status != "failed":
        tokens = [token for generation in sampled for token in generation.token_ids.tolist()]
        logprobs = [value for generation in sampled for value in generation.logprobs.tolist()]
        assert rollout.token_ids[rollout.loss_mask == 1].tolist() == tokens
        assert rollout.logprobs[rollout.loss_mask == 1].tolist() == logprobs
    return rollout


def test_tasks_become_rows_with_their_data() -> None:
    rows = list(load("vf-sums", "single_turn", env_args={"taskset": {"count": 2}}).tasks())
    assert rows == [
        {
            "responses_create_params": {
                "input": [
                    {"role": "system", "content": "Add."},
                    {"role": "user", "content": f"What is {number} + 1?"},
                ]
            },
            "task_data": {
                "idx": number,
                "prompt": f"What is {number} + 1?",
                "system_prompt": "Add.",
                "answer": number + 1,
            },
        }
        for number in range(2)
    ]


def test_the_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "verifiers.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (config,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (tmp_path / "sums.py").write_text(code)
    (tmp_path / "sums.yaml").write_text(config)
    monkeypatch.syspath_prepend(tmp_path)
    section = load_config(tmp_path / "sums.yaml").environments["sums"]
    environment = load_environment("sums", section, ".")
    assert len(list(environment.tasks())) == 16
    assert run(environment, section.agent, "That is 3.", task=2).reward == 1.0


def test_weighted_rewards_are_components_and_scores_are_metrics() -> None:
    rollout = run(load("vf-sums", "single_turn"), "single_turn", "It is 2", task=1)
    # 2.0 x right + 0.25 x (polite 0 and brief 1), each key of a reward weighted by itself.
    assert rollout.reward == 2.25
    assert rollout.reward_components == {"right": 2.0, "polite": 0.0, "brief": 0.25}
    assert rollout.metrics == {"right": 1.0, "polite": 0.0, "brief": 1.0, "characters": 7.0}
    assert run(load("vf-sums", "single_turn"), "single_turn", "9, please").reward == 0.5


def test_rewards_are_scored_in_a_process_of_their_own() -> None:
    async def scored() -> Rollout:
        environment = load("vf-sums", "single_turn")
        factory = environment_factory("theirs", config_of("vf-sums", "single_turn"), ".")
        async with Verification(
            environment, factory, processes=1, timeout_seconds=60
        ) as verification:
            rollout, _ = await play(environment, "single_turn", "1", verification=verification)
        return rollout

    assert asyncio.run(scored()).reward == 2.25


def test_tools_act_on_the_state_that_rewards_read() -> None:
    environment = load("vf-shop", "tool_calling")
    rollout = run(
        environment,
        "tool_calling",
        tool_calls(("counter_put", {"item": "pear"}), ("time", {})),
        tool_calls(("counter_put", {"item": "pear"}), ("counter_put", {"item": "plum"})),
        tool_calls(("counter_where", {}), ("counter_put", {"item": 3})),
        "Done.",
    )
    outputs = [item["output"] for item in json.loads(rollout.response) if "output" in item]
    assert outputs[:3] == ["1 pear", "noon", "2 pear"]
    assert outputs[3].startswith("Error: ")
    assert "no plum in stock" in outputs[3]
    assert outputs[4] == "thread"
    assert outputs[5].startswith("Error: the arguments do not fit tool 'counter_put'")
    assert rollout.reward == 1.0
    assert rollout.metrics == {"basket": 1.0, "tool_results": 6.0, "tools_offered": 3.0}
    assert len(rollout.turns) == 4


def test_rollouts_do_not_share_a_basket() -> None:
    environment = load("vf-shop", "tool_calling")

    async def both() -> list[float | None]:
        replies = [tool_calls(("counter_put", {"item": "pear", "count": 2})), "Done."]
        played = await asyncio.gather(
            play(environment, "tool_calling", *replies), play(environment, "tool_calling", *replies)
        )
        return [rollout.reward for rollout, _ in played]

    assert asyncio.run(both()) == [1.0, 1.0]


def test_a_run_of_its_own_is_played_step_by_step() -> None:
    rollout = run(load("vf-guess", "gymnasium", select={"limit": 1}), "gymnasium", "5", "9", "7")
    told = [
        item["content"][0]["text"]
        for item in json.loads(rollout.response)
        if item.get("role") == "user"
    ]
    assert told[:2] == ["Higher.", "Lower."]
    assert rollout.status == "completed"
    assert rollout.reward_components == {"won": 1.0, "short": pytest.approx(0.5 / 3)}
    assert rollout.metrics["exchanges"] == 3.0


@pytest.mark.parametrize(
    ("replies", "max_turns", "ended", "turns"),
    [
        (["5", "6", "7"], 2, ("truncated", "max_turns"), 2),
        (["5", "I give up", "7"], 8, ("completed", None), 2),
    ],
)
def test_an_exchange_cut_short_is_concluded_and_scored(
    replies: list[str], max_turns: int, ended: tuple[str, str | None], turns: int
) -> None:
    environment = load("vf-guess", "gymnasium", select={"limit": 1})
    rollout = run(environment, "gymnasium", *replies, max_turns=max_turns)
    assert (rollout.status, rollout.truncation_reason) == ended
    assert rollout.reward_components == {"won": 0.0, "short": 0.5 / turns}


@pytest.mark.parametrize(
    ("misuse", "message"),
    [("twice", "several times in one episode"), ("raise", "ValueError: the board is broken")],
)
def test_what_goes_wrong_in_run_fails_the_rollout(misuse: str, message: str) -> None:
    environment = load("vf-guess", "gymnasium", select={"limit": 1}, env_args={"misuse": misuse})
    rollout = run(environment, "gymnasium", "7")
    assert rollout.error_kind == FailureKind.ENVIRONMENT_ERROR
    assert message in str(rollout.error)


@pytest.mark.parametrize(
    ("env_id", "agent", "params", "message"),
    [
        ("vf-nowhere", "single_turn", {}, "'vf-nowhere'.*not found"),
        ("vf-sums", "gymnasium", {}, "set agent: single_turn"),
        ("vf-shop", "single_turn", {}, "has tools; set agent: tool_calling"),
        ("vf-guess", "single_turn", {}, "set agent: gymnasium"),
        ("vf-sums", "single_turn", {"env_args": {"taskset": {"cuont": 1}}}, "taskset.cuont"),
        ("vf-sums", "single_turn", {"env_args": {"agent": {"max_turns": 3}}}, "max_turns: null"),
        ("vf-sums", "single_turn", {"env_args": {"id": "user-sim"}}, "agents assistant, user"),
        ("vf-sums", "single_turn", {"env_args": {"agent": {"harness": {"id": "codex"}}}}, "codex"),
        ("vf-sums", "single_turn", {"select": {"limti": 1}}, "select"),
        ("vf-boxed", "single_turn", {}, r"checked\(\) needs a runtime"),
        ("vf-policed", "single_turn", {}, "watch is an @intercept hook"),
    ],
)
def test_what_cannot_run_here_is_refused_at_start(
    env_id: str, agent: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(env_id, agent, **params)


def test_a_taskset_without_end_needs_a_limit() -> None:
    with pytest.raises(ConfigError, match=r"select: \{limit: 100\}"):
        next(load("vf-guess", "gymnasium").tasks())


@pytest.mark.parametrize(
    ("change", "field"),
    [({"answer": "two"}, "task_data.answer"), ({"image": "ubuntu"}, "task_data.image")],
)
def test_a_row_that_does_not_fit_is_refused_before_any_token(
    change: dict[str, Any], field: str
) -> None:
    environment = load("vf-sums", "single_turn")
    row = dict(next(environment.tasks()))
    environment.check_task(row)
    with pytest.raises(RolloutFailure, match=field) as refused:
        environment.check_task({**row, "task_data": {**row["task_data"], **change}})
    assert refused.value.kind == FailureKind.TASK_INVALID
