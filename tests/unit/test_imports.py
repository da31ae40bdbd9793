"""Importing gym-ray is quick and brings along neither Ray nor an engine."""

import json
import subprocess
import sys

import pytest

import gym_ray

HEAVY = [
    "ray", "torch", "vllm", "transformers", "pyarrow", "renderers", "huggingface_hub", "fastapi",
]  # fmt: skip


def measured(statement: str) -> tuple[float, list[str]]:
    """CPU seconds of a statement in a fresh interpreter, and the heavy modules it loaded.

    CPU time rather than the clock's, because machines that run tests are busy; on very busy ones
    even that grows, hence the `attempts` of the test.
    """
    program = (
        f"import json, sys, time; started = time.process_time(); {statement}; "
        "print(json.dumps([time.process_time() - started, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    seconds, modules = json.loads(done.stdout)
    return seconds, [name for name in HEAVY if name in modules]


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import gym_ray", HEAVY),
        ("from gym_ray import Environment", HEAVY),
        ("import gym_ray.cli.main, gym_ray.config.load", HEAVY),
        ("from gym_ray import RolloutClient", ["ray", "torch", "vllm", "transformers", "fastapi"]),
        ("import gym_ray.collection", ["ray", "torch", "vllm", "transformers"]),
        ("import gym_ray.policies.scripted, gym_ray.runner", ["ray", "torch", "vllm"]),
    ],
)
def test_importing_is_light(statement: str, heavy: list[str]) -> None:
    seconds, loaded = measured(statement)

    assert [name for name in loaded if name in heavy] == []
    if heavy == HEAVY:
        attempts = [seconds]
        while min(attempts) >= 0.5 and len(attempts) < 5:
            attempts.append(measured(statement)[0])
        assert min(attempts) < 0.5


def test_every_public_name_is_there() -> None:
    for name in gym_ray.__all__:
        found = getattr(gym_ray, name)
        assert getattr(found, "__name__", name) == name  # A name of a union has none itself.
    assert set(gym_ray.__all__) <= set(dir(gym_ray))


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'colect'"):
        gym_ray.colect  # noqa: B018
