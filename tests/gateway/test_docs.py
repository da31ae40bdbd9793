"""Every command and every program of docs/gateway.md runs, and all pages' commands get in."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from gym_ray.gateway.app import GatewaySettings, create_app
from tests.gateway.conftest import KEY, serving
from tests.gateway.policies import token_policy

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gateway.md").read_text()
#: Commands that send something to a gateway without a key.
KEYLESS = {
    f"{page.name}: {command}": command
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for command in re.findall(
        r"^(?:.*[|\\]\n)*.*curl http://127\.0\.0\.1:8000/.* -d .*$", page.read_text(), re.M
    )
    if "Authorization" not in command
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize("command", blocks("bash"))
def test_commands_get_answers(command: str, url: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.replace("http://127.0.0.1:8000", url)],
        env={"GYM_RAY_API_KEY": KEY, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "error" not in json.loads(done.stdout)


@pytest.mark.parametrize("program", blocks("python"))
def test_programs_do_what_they_show(
    program: str, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GYM_RAY_API_KEY", KEY)
    exec(program.replace("http://127.0.0.1:8000", url), {})
    assert capsys.readouterr().out == "Hello.\n"


@pytest.mark.parametrize("command", KEYLESS.values(), ids=KEYLESS)
def test_commands_without_a_key_get_into_a_gateway_without_one(command: str) -> None:
    policy, _ = token_policy()
    app = create_app(policy=policy, settings=GatewaySettings(loopback_only=True))
    with serving(app) as url:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command.replace("http://127.0.0.1:8000", url)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert "there is no such route" in json.loads(done.stdout)["error"]["message"]
