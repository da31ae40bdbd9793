"""Gold answers get the full reward and perturbed ones do not, in every registered environment."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from gym_ray.agents import AGENTS, Toolbox
from gym_ray.authoring import check_environment
from gym_ray.authoring.given import Script, follow, script_of
from gym_ray.config.environment import EnvironmentConfig
from gym_ray.config.load import load_config
from gym_ray.environment import Environment, Outcome
from gym_ray.registry import load_environment, with_agents
from gym_ray.renderers import load_renderer
from gym_ray.reverification.replay import Replayer
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.sampling import Sampling
from gym_ray.task import parse_task, rollout_id_of
from gym_ray.verdict import Verdict
from tests.environments.judging import ENVIRONMENTS, example_rows

ROOT = Path(__file__).parents[2]
REGISTERED: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "entry-points"
]["gym_ray.environments"]

#: Other scripts, made of the one that gets the full reward.
Perturb = Callable[[Any], Sequence[Script]]


def answer_changed(gold: str) -> list[str]:
    r"""Another answer where the gold one is: in `\boxed{}`, in `<answer>`, or at the end."""
    boxed = re.fullmatch(r"\\boxed\{(.*)\}", gold, re.DOTALL)
    if boxed:
        return [f"\\boxed{{{boxed[1]} violet}}", "\\boxed{}", f"\\boxed{{7{boxed[1]}8}}"]
    tagged = re.fullmatch(r"<answer>(.*)</answer>", gold, re.DOTALL)
    if tagged:
        return [f"<answer>{tagged[1]}q</answer>", "<answer></answer>"]
    return [f"{gold} violet", f"{gold}8"]


def formula_changed(gold: str) -> list[str]:
    r"""Another formula: words after one are no part of it."""
    inner = gold.removeprefix("\\boxed{").removesuffix("}").strip("$")
    inner = inner.removeprefix("\\(").removesuffix("\\)")
    return [f"\\boxed{{{inner} + 7}}", f"\\boxed{{7{inner}8}}", "\\boxed{}"]


def letter_changed(gold: str) -> list[str]:
    """Every other letter; of the questions' own ones, that is every wrong one."""
    letter = re.search(r"([A-E])\W*$", gold)
    assert letter is not None
    start, end = letter.span(1)
    return [gold[:start] + other + gold[end:] for other in "ABCDE" if other != letter[1]]


def program_changed(gold: str) -> list[str]:
    code = gold.removeprefix("```python\n").removesuffix("\n```")
    return [
        f"```python\n{other}\n```"
        for other in (f"exit()\n{code}", f"0/0\n{code}", "pass", code.replace("r", "q", 1))
    ]


def structure_changed(gold: str) -> list[str]:
    without_numbers = re.sub(r"\d+", "many", gold)
    return [without_numbers, gold[: len(gold) // 2], "{}"]


def instruction_broken(gold: str) -> list[str]:
    """Half of it, in the middle of a sentence that breaks something in each of the rows."""
    half = gold[: len(gold) // 2]
    return [f"Well, the boat and the ship of those who speak of it: {half}, and nothing more."]


def call_changed(script: tuple[str, ...]) -> list[str]:
    """Another name, an argument too many, and the call as a mere text."""
    (gold,) = script
    return [
        gold.replace('"name": "get', '"name": "forget'),
        gold.replace('"arguments": {', '"arguments": {"x": 1, '),
        f"I call it now. {gold}",
        gold.replace("tool_call>", "call>"),
    ]


def answer_left_out(script: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The call without words, and the words without a call."""
    return [script[:1], script[1:]]


def count_changed(script: tuple[str, ...]) -> list[tuple[str, ...]]:
    added, *rest = script
    return [tuple(rest), (added, *script), (added.replace('"count": ', '"count": 1'), *rest)]


def values_changed(script: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Not handed in, and handed in with one value too many."""
    *lookups, handed_in, words = script
    return [(*lookups, words), (*lookups, handed_in.replace("[", "[1, "), words)]


def last_call_left_out(script: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [(*script[:-2], script[-1])]


PERTURBED: dict[str, Perturb] = {
    "code": program_changed,
    "equivalence": answer_changed,
    "instruction_following": instruction_broken,
    "math": formula_changed,
    "mcqa": letter_changed,
    "multi_step": values_changed,
    "reasoning_gym": answer_changed,
    "session_counter": count_changed,
    "single_tool_call": answer_left_out,
    "string_match": answer_changed,
    "structured_outputs": structure_changed,
    "tool_call_multireward": call_changed,
    "workplace": last_call_left_out,
}

#: Environments whose rows have no gold answer, and why.
WITHOUT_GOLD: dict[str, str] = {
    "blackjack": "a game: what is won depends on the cards",
    "judge": "what a reply is worth is for its judge to say",
}


class InProcess:
    """Verification without processes: these verifiers neither hang nor crash here."""

    timeout_seconds = 60.0

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    async def verify(self, outcome: Outcome) -> Verdict:
        judged = self._environment.verify(outcome)
        return Verdict.of(await judged if inspect.isawaitable(judged) else judged)


class Judge:
    """Rollouts of a policy that follows a script, whatever it is told."""

    def __init__(self, name: str) -> None:
        self.name = name
        config = with_agents(load_config(ENVIRONMENTS / name / "config.yaml"))
        self.section: EnvironmentConfig = config.environments[name]
        self.environment = load_environment(
            name, self.section.model_copy(update={"entrypoint": REGISTERED[name]}), "."
        )

        self.toolbox = Toolbox(self.environment, self.section.agent_options)
        self.replayer = Replayer(self.environment, self.section)

    def gold(self, row: dict[str, Any]) -> Script | None:
        task = parse_task(json.dumps(row), task_index=0, source_file="t", source_line=1)
        gold = self.environment.gold_answer(task)
        return None if gold is None else script_of(gold)

    def reward(self, row: dict[str, Any], script: Script) -> float:
        rollout = self.rollout(row, script)
        assert rollout.reward is not None
        return rollout.reward

    def rollout(self, row: dict[str, Any], script: Script) -> Rollout:
        task = parse_task(json.dumps(row), task_index=0, source_file="t", source_line=1)
        runner = Runner(
            environment=self.environment,
            agent_name=self.section.agent,
            agent=AGENTS[self.section.agent],
            renderer=load_renderer(None),
            model="m",
            generate=follow(script),
            verification=InProcess(self.environment),  # type: ignore[arg-type]
            agent_options=self.section.agent_options,
            toolbox=self.toolbox,
        )
        spec = RolloutSpec(
            rollout_id_of(task.task_id, self.name, 0), task.task_id, 0, 0, self.name, "t", 1,
            json.dumps(row),
        )  # fmt: skip
        settings = RunSettings("gold", Sampling(max_output_tokens=10_000), 60.0)
        rollout = asyncio.run(runner.run(spec, settings, attempt=1))
        assert rollout.error is None
        return rollout


@pytest.fixture(scope="module")
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    judge = Judge(request.param)
    yield judge
    close = getattr(judge.environment, "close", None)
    if close is not None:
        close()


def test_every_registered_environment_is_tested_here_or_says_why_not() -> None:
    assert set(REGISTERED) == set(PERTURBED) | set(WITHOUT_GOLD)
    assert not set(PERTURBED) & set(WITHOUT_GOLD)


@pytest.mark.parametrize("judge", PERTURBED, indirect=True)
def test_gold_gets_full_reward_and_perturbed_gold_does_not(judge: Judge) -> None:
    perturb = PERTURBED[judge.name]
    for row in example_rows(judge.name):
        gold = judge.gold(row)
        if gold is None:  # Only where nothing is to be done, which nothing can beat.
            assert judge.reward(row, "") == 1.0
            continue
        assert judge.reward(row, gold) == 1.0, gold
        for wrong in ("", "I do not know.", *perturb(gold)):
            assert judge.reward(row, wrong) < 1.0, (gold, wrong)


def test_environments_without_gold_have_none() -> None:
    for name in WITHOUT_GOLD:
        judge = Judge(name)
        for row in example_rows(name):
            assert judge.gold(row) is None


@pytest.mark.parametrize("name", REGISTERED)
def test_env_check_passes(name: str, tmp_path: Path) -> None:
    # With the entry point spelled out: an installation may be older than pyproject.toml.
    config = yaml.safe_load((ENVIRONMENTS / name / "config.yaml").read_text())
    config["environments"][name]["entrypoint"] = REGISTERED[name]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    if (scripted := ENVIRONMENTS / name / "check.yaml").exists():
        (tmp_path / "check.yaml").write_text(
            scripted.read_text().replace('".:', f'"{ENVIRONMENTS / name}:')
        )
    (tmp_path / "data").symlink_to(ENVIRONMENTS / name / "data")

    report = check_environment(tmp_path)

    assert report.ok, [finding for finding in report.findings if not finding.ok]
    assert report.rows >= 5


# Reverify starts no model, so verdicts of judges are not computed anew.
@pytest.mark.parametrize("judge", sorted(set(REGISTERED) - {"judge"}), indirect=True)
def test_stored_rollouts_get_the_same_verdict_again(judge: Judge) -> None:
    for row in example_rows(judge.name)[:3]:
        task = parse_task(json.dumps(row), task_index=0, source_file="t", source_line=1)
        tools = judge.toolbox.offer(task)
        calls = [json.dumps({"name": tool["name"], "arguments": {}}) for tool in tools[:4]]
        acting = "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)
        for script in filter(None, (judge.gold(row), acting, "Hit.")):
            rollout = judge.rollout(row, script)

            replayed = asyncio.run(judge.replayer.replay(rollout))
            again = asyncio.run(InProcess(judge.environment).verify(replayed.outcome))

            assert replayed.diverged == 0
            assert again.reward == rollout.reward
            assert again.components == rollout.reward_components
            assert again.metrics == rollout.metrics
