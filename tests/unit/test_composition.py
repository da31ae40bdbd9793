"""A composed verdict: its arithmetic, and the parts a config names."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_ray.config.load import load_config
from gym_ray.environment import Environment, Outcome
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure
from gym_ray.registry import code_digest, load_environment
from gym_ray.task import Task
from gym_ray.verdict import Verdict, VerifierPart, compose
from gym_ray.verifiers.verification import Verification

PARTS_FILE = """
import asyncio

def polite(outcome, *, word="please"):
    return word in outcome.text

async def per_turn(outcome):
    from gym_ray import Verdict
    return Verdict(0.5, turn_rewards=(0.25, 0.75), metrics={"seen": 2})

async def hangs(outcome):
    await asyncio.Event().wait()

async def huge(outcome):
    return 1.7e308
"""

ENVIRONMENT_FILE = """
from gym_ray import Environment, Verdict

class Echo(Environment):
    async def verify(self, outcome):
        return Verdict(0.75, {"a": 0.5, "b": 0.25}, {"length": len(outcome.text)})
"""


def part(weight: float = 1.0, gate: float | None = None, prefix: str = "") -> VerifierPart:
    return VerifierPart(lambda environment, outcome: 0, False, weight, gate, prefix)


def test_the_reward_is_the_weighted_sum_and_its_summands_are_the_components() -> None:
    verdict = compose(
        {"correct": part(), "format": part(0.5)},
        {"correct": Verdict(1.0), "format": Verdict(0.5)},
    )

    assert verdict.reward == 1.25
    assert verdict.components == {"correct": 1.0, "format": 0.25}
    assert verdict.metrics == {"score/correct": 1.0, "score/format": 0.5}


def test_a_closed_gate_leaves_only_what_the_gates_give() -> None:
    parts = {"correct": part(), "format": part(0.1, gate=1.0)}

    closed = compose(parts, {"correct": Verdict(1.0), "format": Verdict(0.5)})
    opened = compose(parts, {"correct": Verdict(1.0), "format": Verdict(1.0)})

    assert closed.components == {"correct": 0.0, "format": 0.05}
    assert closed.metrics["gates_open"] == 0.0
    assert closed.metrics["score/correct"] == 1.0
    assert opened.reward == pytest.approx(1.1)
    assert opened.metrics["gates_open"] == 1.0


def test_components_and_metrics_of_a_part_keep_their_names_apart() -> None:
    inner = Verdict(0.75, {"a": 0.5, "b": 0.25}, {"length": 9})

    verdict = compose({"x": part(2.0, prefix="x/"), "y": part()}, {"x": inner, "y": Verdict(1.0)})

    assert verdict.components == {"x/a": 1.0, "x/b": 0.5, "y": 1.0}
    assert verdict.metrics == {"score/x": 0.75, "score/y": 1.0, "x/length": 9.0}


def test_rewards_per_turn_are_summed_by_turn_and_gated_too() -> None:
    verdicts = {
        "x": Verdict(0, turn_rewards=(1.0, 2.0)),
        "y": Verdict(0, turn_rewards=(1.0,)),
        "gate": Verdict(0),
    }

    assert compose({"x": part(0.5), "y": part()}, verdicts).turn_rewards == (1.5, 1.0)
    closed = {"x": part(0.5), "y": part(), "gate": part(gate=1.0)}
    assert compose(closed, verdicts).turn_rewards == (0.0, 0.0)


@given(
    st.lists(
        st.tuples(
            st.floats(-10, 10), st.floats(-3, 3), st.none() | st.floats(-10, 10), st.booleans()
        ),
        min_size=1,
        max_size=6,
    )
)
def test_components_always_sum_to_the_reward(
    drawn: list[tuple[float, float, float | None, bool]],
) -> None:
    parts = {str(n): part(weight, gate) for n, (_, weight, gate, _) in enumerate(drawn)}
    verdicts = {
        str(n): Verdict(score, {"half": score / 2, "rest": score / 2} if split else {})
        for n, (score, _, _, split) in enumerate(drawn)
    }

    verdict = compose(parts, verdicts)

    assert sum(verdict.components.values()) == pytest.approx(verdict.reward, rel=1e-5, abs=1e-6)


def environment(folder: Path, **verifiers: dict[str, Any]) -> Environment:
    """`Echo`, with these parts."""
    (folder / "echo.py").write_text(ENVIRONMENT_FILE)
    (folder / "parts.py").write_text(PARTS_FILE)
    config = load_config(
        {"environments": {"echo": {"entrypoint": f"{folder}/echo:Echo", "verifiers": verifiers}}}
    )
    return load_environment("echo", config.environments["echo"], str(folder))


def verdict_of(subject: Environment, text: str, timeout_seconds: float = 10) -> Verdict:
    outcome = Outcome(task=Task("id", {}), text=text, items=[])
    verification = Verification(
        subject, type(subject), processes=1, timeout_seconds=timeout_seconds
    )
    return asyncio.run(verification.verify(outcome))


def test_a_config_composes_the_environments_own_verifier_with_functions(tmp_path: Path) -> None:
    subject = environment(
        tmp_path,
        own={"use": "environment", "weight": 2},
        process={"use": f"{tmp_path}/parts:per_turn"},
    )

    verdict = verdict_of(subject, "12345")

    assert verdict.components == {"own/a": 1.0, "own/b": 0.5, "process": 0.5}
    assert verdict.metrics == {
        "score/own": 0.75, "score/process": 0.5, "length": 5.0, "process/seen": 2.0
    }  # fmt: skip
    assert verdict.turn_rewards == (0.25, 0.75)


def test_a_plain_function_is_one_for_the_processes(tmp_path: Path) -> None:
    subject = environment(
        tmp_path, polite={"use": f"{tmp_path}/parts:polite", "params": {"word": "hi"}}
    )

    assert not subject.parts["polite"].on_loop
    assert subject.parts["polite"].score(subject, Outcome(Task("id", {}), "oh hi", [])) is True


@pytest.mark.parametrize(
    ("function", "kind"), [("hangs", "verifier_timeout"), ("huge", "verifier_error")]
)
def test_a_part_that_fails_fails_the_verdict(function: str, kind: str, tmp_path: Path) -> None:
    target = f"{tmp_path}/parts:{function}"
    subject = environment(tmp_path, one={"use": target}, two={"use": target})

    with pytest.raises(RolloutFailure) as caught:
        verdict_of(subject, "", timeout_seconds=0.05)

    assert caught.value.kind == FailureKind(kind)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"use": "nowhere"}, "write environment, package.module:function"),
        ({"use": "nowhere.at_all:part"}, "cannot be imported"),
        ({"use": "gym_ray.verifiers.builtin_parts:match"}, "cannot be imported"),
        (
            {"use": "gym_ray.verifiers.builtin_parts:matches", "params": {"patern": "x"}},
            "refuses them",
        ),
        ({"use": "environment", "params": {"x": 1}}, "takes none"),
    ],
)
def test_a_part_that_cannot_be_had_is_a_config_error(
    section: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        environment(tmp_path, wrong=section)

    assert "environments.echo.verifiers.wrong" in str(caught.value)


def test_the_code_of_a_part_counts_as_the_environments_code(tmp_path: Path) -> None:
    environment(tmp_path)
    config = load_config(
        {
            "environments": {
                "echo": {
                    "entrypoint": f"{tmp_path}/echo:Echo",
                    "verifiers": {"polite": {"use": f"{tmp_path}/parts:polite"}},
                }
            }
        }
    ).environments["echo"]

    before = code_digest("echo", config, str(tmp_path))
    (tmp_path / "parts.py").write_text(PARTS_FILE + "# mended\n")

    assert code_digest("echo", config, str(tmp_path)) != before
