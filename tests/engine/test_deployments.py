"""Arguments of vLLM in deployments/ are vLLM's."""

from pathlib import Path

import pytest
import yaml

from gym_ray.policies.vllm_arguments import check_engine_args

FOLDER = Path(__file__).parents[2] / "deployments"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_engine_arguments_are_ones_vllm_knows(name: str) -> None:
    tree = yaml.safe_load((FOLDER / name).read_text())
    if "applications" in tree:
        tree = tree["applications"][0]["args"]["config"]

    if tree["policy"]["engine"] == "vllm":
        check_engine_args(tree["policy"]["engine_args"])
