"""The commands of docs/environments.md that need Ray, with a scripted policy instead of a model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gym_ray import read_rollouts
from gym_ray.authoring import create_environment
from tests.pages import blocks, write_files


@pytest.mark.long(
    "two commands with an application of their own (47 s of CPU time); collecting is in "
    "test_collect.py, reverifying in test_reverify.py"
)
@pytest.mark.timeout(300)
def test_what_is_collected_can_be_judged_by_another_verifier(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create_environment("capitals", Path("."))
    write_files(tmp_path)
    file = tmp_path / "capitals" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["policy"] = {
        "engine": "scripted",
        "engine_args": {"reply": "The answer is Paris.", "context_length": 4096},
        "resources": {"num_cpus": 0.2},
    }
    config["environments"]["capitals"]["resources"] = {"num_cpus": 0.2}
    file.write_text(yaml.safe_dump(config))
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith(("gym-ray collect", "gym-ray reverify"))]
    assert len(commands) == 2

    for command in commands:
        subprocess.run(
            [sys.executable, "-m", "gym_ray", *command.split()[1:]],
            env={**os.environ, "RAY_ADDRESS": cluster},
            check=True,
            timeout=300,
        )

    # One country in eight is France. The other replies still are stated, short and calm.
    before = sorted(rollout.reward or 0.0 for rollout in read_rollouts("runs/capitals"))
    after = sorted(rollout.reward or 0.0 for rollout in read_rollouts("runs/composed"))
    assert before == [0.0] * 28 + [1.0] * 4
    assert after == pytest.approx([0.4] * 28 + [1.4] * 4)
    report = json.loads(Path("runs/composed/reverify.json").read_text())
    assert report["changes"]["raised"] == 32
