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
    "print(grpo.made_by(), sys.argv, ACTOR_ENVIRONMENT_REGISTRY)\n"
)
GRPO = (
    "from nemo_rl.environments.nemo_gym import build_nemo_gym_actors\n"
    "def made_by():\n"
    "    return build_nemo_gym_actors()\n"
)
#: Every version makes its actors with the name of its own module, when it is asked for them.
THEIRS = (
    "from collections.abc import AsyncGenerator\n"
    "import ray\n"
    "@ray.remote\n"
    "class NemoGym:\n"
    "    async def run_rollouts(self, rows, prefix){returns}:\n"
    "        {body}\n"
    "def build_nemo_gym_actors():\n"
    "    return NemoGym.__ray_metadata__.class_name\n"
)
RELEASE = THEIRS.format(returns=" -> list[dict]", body="return []")
AUGUST = THEIRS.format(
    returns=" -> AsyncGenerator[tuple[int, dict, dict | None], None]", body="yield"
)
CURRENT = THEIRS.format(
    returns=" -> AsyncGenerator[tuple[int, dict, dict, dict | None], None]", body="yield"
)
NEWER = THEIRS.format(
    returns=" -> AsyncGenerator[tuple[int, dict, dict, dict, None], None]", body="yield"
)
SILENT = THEIRS.format(returns="", body="yield")


def blocks(language: str, name: str | None = None) -> list[str]:
    """Fenced blocks of a language, those whose first line is a comment with a file's name."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return [block for block in found if name is None or block.startswith(f"# {name}")]


@pytest.mark.parametrize("block", blocks("yaml", "grpo.yaml"))
def test_settings_of_every_recipe_are_valid(block: str) -> None:
    env: dict[str, Any] = yaml.safe_load(block)["env"]

    assert env["should_use_nemo_gym"]
    for shard in env["nemo_gym"].get("shards", [{"overrides": env["nemo_gym"]}]):
        settings_of(shard["overrides"])


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


def run_program(folder: Path, theirs: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The page's program, over stand-ins for NeMo RL's modules."""
    files = {
        "train.py": before + blocks("python")[0],
        "examples/nemo_gym/run_grpo_nemo_gym.py": SCRIPT,
        "nemo_rl/__init__.py": "",
        "nemo_rl/grpo.py": GRPO,
        "nemo_rl/distillation.py": "from nemo_rl.environments.nemo_gym import NemoGym\n",
        "nemo_rl/environments/__init__.py": "",
        "nemo_rl/environments/nemo_gym.py": theirs,
        "nemo_rl/distributed/__init__.py": "",
        "nemo_rl/distributed/ray_actor_environment_registry.py": REGISTRY,
    }
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (command,) = blocks("bash")
    program, *arguments = command.split()
    assert program == "python"
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{REPOSITORY}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        pytest.param(RELEASE, "_NemoGymOfReleases", id="0.5 to 0.7"),
        pytest.param(AUGUST, "_NemoGymOfAugust", id="August 2026"),
        pytest.param(CURRENT, "_NemoGym", id="0.8"),
    ],
)
def test_the_program_exchanges_the_actor_and_runs_the_script(
    tmp_path: Path, theirs: str, ours: str
) -> None:
    done = run_program(tmp_path, theirs)

    assert done.returncode == 0, done.stderr
    script = "['examples/nemo_gym/run_grpo_nemo_gym.py', '--config', 'grpo.yaml']"
    registry = {"nemo_rl.environments.nemo_gym.NemoGym": sys.executable}
    assert done.stdout == f"{ours} {script} {registry}\n"


@pytest.mark.parametrize(
    ("theirs", "before", "message"),
    [
        pytest.param(NEWER, "", "streams 5 parts a row, and gym-ray knows 3", id="newer"),
        pytest.param(SILENT, "", "run_rollouts does not say what it returns", id="unknown"),
        pytest.param(
            CURRENT,
            "import nemo_rl.distillation\n",
            "nemo_rl.distillation has taken NeMo RL's own NemoGym already",
            id="too late",
        ),
    ],
)
def test_the_program_does_not_train_with_an_actor_that_does_not_fit(
    tmp_path: Path, theirs: str, before: str, message: str
) -> None:
    done = run_program(tmp_path, theirs, before)

    assert done.returncode != 0
    assert message in done.stderr
    assert not done.stdout
