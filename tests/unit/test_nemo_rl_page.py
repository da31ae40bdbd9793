"""docs/nemo-rl.md: its configs are valid, its table complete, its program exchanges the actor."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gym_ray.config.load import load_config
from gym_ray.integrations.nemo_rl.settings import NemoRlSettings, config_of, settings_of

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "nemo-rl.md").read_text()

#: What the page's program finds of NeMo RL: names bound where NeMo RL binds them.
REGISTRY = "ACTOR_ENVIRONMENT_REGISTRY = {}\n"
SCRIPT = (
    "import sys\n"
    "from nemo_rl import grpo\n"
    "from nemo_rl.distributed.ray_actor_environment_registry import ACTOR_ENVIRONMENT_REGISTRY\n"
    "print(grpo.spun_up_by, sys.argv, ACTOR_ENVIRONMENT_REGISTRY)\n"
)
CURRENT = "class NemoGym: pass\ndef spinup_nemo_gym_actor(): pass\n"
RELEASE = "class NemoGym: pass\n"


def blocks(language: str, name: str | None = None) -> list[str]:
    """Fenced blocks of a language, those whose first line is a comment with a file's name."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return [block for block in found if name is None or block.startswith(f"# {name}")]


@pytest.mark.parametrize("block", blocks("yaml", "grpo.yaml"))
def test_settings_of_every_recipe_are_valid(block: str) -> None:
    env: dict[str, Any] = yaml.safe_load(block)["env"]

    assert env["should_use_nemo_gym"]
    settings_of(env["nemo_gym"])


def test_the_environments_of_the_recipe_make_a_config(tmp_path: Path) -> None:
    (block,) = blocks("yaml", "environments.yaml")
    path = tmp_path / "environments.yaml"
    path.write_text(block)

    settings = settings_of({"gym_ray": {"config": str(path)}})
    config = config_of(settings, base_urls=["http://10.0.0.1:4000/v1"], model_name="m")

    assert set(config.environments) == {"math", "workplace"}


def test_the_service_of_the_recipe_is_a_config() -> None:
    (block,) = blocks("yaml", "service.yaml")
    assert load_config(yaml.safe_load(block)).policy.engine == "vllm"


def test_the_table_names_every_setting() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| .* \|$", PAGE, re.M)
    assert [name for name in rows if name in NemoRlSettings.model_fields] == list(
        NemoRlSettings.model_fields
    )


@pytest.mark.parametrize(
    ("theirs", "name", "ours", "registered"),
    [
        (CURRENT, "spinup_nemo_gym_actor.__module__", "gym_ray.integrations.nemo_rl.spinup", False),
        (RELEASE, "NemoGym.__ray_metadata__.class_name", "_NemoGymOfReleases", True),
    ],
)
def test_the_program_exchanges_the_actor_and_runs_the_script(
    tmp_path: Path, theirs: str, name: str, ours: str, registered: bool
) -> None:
    imported, _, attribute = name.partition(".")
    files = {
        "train.py": blocks("python")[0],
        "examples/nemo_gym/run_grpo_nemo_gym.py": SCRIPT,
        "nemo_rl/__init__.py": "",
        "nemo_rl/grpo.py": (
            f"from nemo_rl.environments.nemo_gym import {imported}\n"
            f"spun_up_by = {imported}.{attribute}\n"
        ),
        "nemo_rl/environments/__init__.py": "",
        "nemo_rl/environments/nemo_gym.py": theirs,
        "nemo_rl/distributed/__init__.py": "",
        "nemo_rl/distributed/ray_actor_environment_registry.py": REGISTRY,
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (command,) = blocks("bash")
    program, *arguments = command.split()
    assert program == "python"

    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )

    script = "['examples/nemo_gym/run_grpo_nemo_gym.py', '--config', 'grpo.yaml']"
    assert done.stdout.startswith(f"{ours} {script}")
    assert ("nemo_rl.environments.nemo_gym.NemoGym" in done.stdout) == registered
