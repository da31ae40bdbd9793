"""The commands and programs of docs/weights.md, with scripted weights instead of a model's."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gym_ray.config.load import load_config
from gym_ray.policies.weights import WeightsUpdate
from tests.applications import Service
from tests.cluster import scripted_config, serve_port, sums, write_rows

PAGE = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
ADMIN_KEY = "the-key-of-the-page"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


@pytest.fixture
def url(
    cluster: str, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A gateway over the config the page names, and the checkpoints it names."""
    service.stop()
    from gym_ray.serving.application import Application
    from gym_ray.serving.gateway_application import GatewayApplication

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GYM_RAY_ADMIN_KEY", ADMIN_KEY)
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    config = scripted_config(
        tmp_path, write_rows(tmp_path / "tasks.jsonl", sums(1, tmp_path)), tmp_path / "requests"
    )
    config["serve"] = {"port": serve_port(), "api_key_env": None}
    Path("deployments").mkdir()
    Path("deployments/laptop-cpu.yaml").write_text(yaml.safe_dump(config))
    for step in range(100, 600, 100):
        directory = tmp_path / "checkpoints" / f"step-{step}"
        directory.mkdir(parents=True)
        (directory / "script.json").write_text(json.dumps({"reply": f"at step {step}"}))
    checked = load_config("deployments/laptop-cpu.yaml")
    core = Application.deploy(checked, print)
    gateway = GatewayApplication.deploy(checked, core, print)
    yield gateway.base_url
    gateway.close()
    core.close()


@pytest.mark.long(
    "a gateway of its own and eight commands, each a process that imports Ray (70 s of CPU time); "
    "an update through a gateway is in test_serve.py, the client's in tests/gateway/test_weights.py"
)
@pytest.mark.timeout(300)
def test_every_command_and_program_of_the_page_does_what_it_says(
    url: str, cluster: str, tmp_path: Path
) -> None:
    def here(text: str) -> str:
        text = text.replace("http://127.0.0.1:8000", url).replace("/shared", str(tmp_path))
        return text.replace("gym-ray ", f"{sys.executable} -m gym_ray ")

    def run(*command: str) -> str:
        return subprocess.run(
            command, env=os.environ, capture_output=True, check=True, text=True, timeout=120
        ).stdout

    lines = [line for block in blocks("bash") for line in block.splitlines()]
    shown, first, second, before, third = [
        run("bash", "-euo", "pipefail", "-c", here(line)) for line in lines
    ]
    assert shown.startswith("version 0\n")
    assert first.startswith(f"version 1 of {tmp_path}/checkpoints/step-100\n")
    assert json.loads(second)["version"] == json.loads(before)["version"] == 2
    assert [replica["version"] for replica in json.loads(third)["replicas"]] == [3]
    for program in blocks("python"):
        run(sys.executable, "-c", here(program))


def test_the_transfer_of_the_page_is_an_update() -> None:
    (transfer,) = blocks("json")
    update = WeightsUpdate.model_validate_json(transfer)
    assert update.checkpoint == "/shared/checkpoints/step-400"
    (policy,) = blocks("yaml")
    load_config({**yaml.safe_load(policy), "environments": {"math": {}}})
