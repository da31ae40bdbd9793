"""`compat ng_collect_rollouts`: what is refused before anything starts."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gym_ray.compat.collect_rollouts import collect_rollouts
from gym_ray.errors import ConfigError

AGENT = {"responses_api_agents": {"simple_agent": {"entrypoint": "app.py", "max_steps": 3}}}
MODEL = {"responses_api_models": {"vllm_model": {"base_url": "${policy_base_url}"}}}
OURS = {"policy": {"engine": "scripted"}, "environments": {"math": {}}}


def collect(folder: Path, tree: dict[str, Any], *arguments: str) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    (folder / "tasks.jsonl").write_text("{}\n")
    texts = [f"+config_paths=[{folder}/config.yaml]", f"+input_jsonl_fpath={folder}/tasks.jsonl"]
    collect_rollouts([*texts, f"+output_jsonl_fpath={folder}/r.jsonl", *arguments], quiet=True)


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({**OURS, "math": AGENT}, r"simple_agent\.max_steps has no meaning here: write it as env"),
        ({"policy_model": MODEL}, r"policy section \(policy_model is NeMo Gym's own server\); add"),
        ({"environments": {"math": {}}}, "no file of .* has a policy section; add a gym-ray"),
    ],
)
def test_what_would_be_ignored_is_refused(
    tmp_path: Path, tree: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        collect(tmp_path, tree)


def test_rollouts_that_are_there_are_not_taken_away(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"r\.jsonl is there already; add \+resume_from_cache"):
        collect(tmp_path, OURS)
    with pytest.raises(ConfigError, match="was not collected by gym-ray"):
        collect(tmp_path, OURS, "+resume_from_cache=true")


def test_a_missing_input_is_named_by_its_argument(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\+input_jsonl_fpath 'nowhere': no such file"):
        collect(tmp_path, OURS, "+input_jsonl_fpath=nowhere")
