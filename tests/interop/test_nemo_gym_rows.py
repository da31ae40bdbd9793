"""Rows written for NVIDIA NeMo Gym are gym-ray's rows, as they are.

They are read from beside the checkout (`../shared/data/nemo_gym`); `scripts/test.sh` leaves this
folder out, and says so, where they do not exist.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gym_ray.agents import AGENTS
from gym_ray.collection.input import TaskInput
from gym_ray.collection.manifest import write_manifest
from gym_ray.config.load import load_config
from gym_ray.environment import Environment, Outcome
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.registry import load_environment
from gym_ray.renderers import load_renderer, messages_from_items, tools_for_chat
from gym_ray.rollout import RolloutSpec
from gym_ray.routing import Router
from gym_ray.runner import Runner, RunSettings
from gym_ray.sampling import Sampling
from gym_ray.store.rows import from_table, specs_from_table, to_table
from gym_ray.task import parse_task, rollout_id_of
from tests.verification import on_loop

DATA = Path(__file__).parents[3] / "shared" / "data" / "nemo_gym"
FILES = sorted(path.name for path in DATA.glob("*.jsonl"))


def lines_of(name: str) -> list[str]:
    return [line for line in (DATA / name).read_text().splitlines() if line.strip()]


def test_the_rows_are_there() -> None:
    assert len(FILES) >= 15


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_a_legal_task_and_renders(name: str) -> None:
    renderer = load_renderer(None)
    for number, line in enumerate(lines_of(name), start=1):
        task = parse_task(line, task_index=0, source_file=name, source_line=number)
        messages = messages_from_items(task.input_items)
        assert len(renderer.render(messages, tools_for_chat(task.tools))) > 0
        assert task.row == json.loads(line)


@pytest.mark.parametrize(
    ("name", "environment"),
    [("math_with_judge.example.jsonl", "math"), ("reasoning_gym.example.jsonl", "reasoning_gym")],
)
def test_rows_route_by_agent_name_and_reach_the_manifest_untouched(
    name: str, environment: str, tmp_path: Path
) -> None:
    agents = {
        json.loads(line).get("agent_ref", {}).get("name", environment) for line in lines_of(name)
    }
    config = load_config(
        {
            "environments": {environment: {"agent_refs": sorted(agents)}},
            "collect": {"input": str(DATA / name)},
        }
    )
    built = {environment: load_environment(environment, config.environments[environment], ".")}
    manifest = write_manifest(
        tmp_path / "manifest.parquet",
        TaskInput(config, built),
        Router(config.environments, built),
        num_repeats=2,
        limit=None,
    )
    specs = [
        spec
        for batch in manifest.batches()
        for spec in specs_from_table(pa.Table.from_batches([batch]))
    ]
    assert {spec.environment for spec in specs} == {environment}
    assert [spec.error for spec in specs if spec.error] == []
    assert [spec.task for spec in specs[::2]] == lines_of(name)


def test_gold_answers_of_math_rows_get_the_full_reward_and_others_none() -> None:
    config = load_config({"environments": {"math": {}}})
    environment = load_environment("math", config.environments["math"], ".")
    for number, line in enumerate(lines_of("math_with_judge.example.jsonl"), start=1):
        task = parse_task(line, task_index=0, source_file="math", source_line=number)
        for answer, reward in (
            (f"The answer is \\boxed{{{task['expected_answer']}}}.", 1.0),
            ("The answer is \\boxed{-987654321}.", 0.0),
            ("", 0.0),
        ):
            verdict = environment.verify(Outcome(task=task, text=answer, items=[]))
            assert verdict.reward == reward, (number, answer)


class Anything(Environment):
    """Every row is a task; every answer is right."""

    async def verify(self, outcome: Outcome) -> float:
        return 1.0


@pytest.mark.parametrize("name", FILES)
def test_every_row_comes_through_a_whole_rollout_untouched(name: str, tmp_path: Path) -> None:
    engine = ScriptedEngine(model="m", engine_args={"context_length": 1_000_000})
    runner = Runner(
        environment=Anything(),
        agent_name="single_turn",
        agent=AGENTS["single_turn"],
        renderer=load_renderer(None),
        model="m",
        generate=engine.generate,
        verification=on_loop(Anything()),
    )
    settings = RunSettings("run", Sampling(), 60.0)
    lines = lines_of(name)
    rollouts = []
    for number, line in enumerate(lines, start=1):
        task = parse_task(line, task_index=number, source_file=name, source_line=number)
        rollout_id = rollout_id_of(task.task_id, "anything", 0)
        spec = RolloutSpec(rollout_id, task.task_id, number, 0, "anything", name, number, line)
        rollouts.append(asyncio.run(runner.run(spec, settings, attempt=1)))
    pq.write_table(to_table(rollouts), tmp_path / "rollouts.parquet")
    stored = list(from_table(pq.read_table(tmp_path / "rollouts.parquet")))
    assert [rollout.error for rollout in stored if rollout.error] == []
    assert [rollout.spec.task for rollout in stored] == lines
