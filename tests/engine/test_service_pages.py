"""Programs and commands of docs/client.md and docs/trainers.md against what they have served."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import free_port, until
from tests.suite import PATIENCE

ROOT = Path(__file__).parents[2]
CLIENT, TRAINERS = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("client", "trainers"))
KEY, ADMIN_KEY = "the-key-of-the-pages", "the-admins-key-of-the-pages"

pytestmark = [
    pytest.mark.long(
        "a service of its own, and a training by TRL; that the pages' rows fit what they have "
        "served is in tests/unit/test_served_pages.py, their programs over a scripted policy in "
        "tests/gateway/test_client_page.py and test_trainers_page.py"
    ),
    pytest.mark.timeout(600),
]


def served() -> str:
    """The config that both pages have served."""
    (config,) = set(re.findall(r"gym-ray serve\s+(\S+\.yaml)", CLIENT + TRAINERS))
    return config


@pytest.fixture(scope="module")
def url(brief_checkpoint: Path) -> Iterator[str]:
    """The service of the pages, with a model that costs nothing in the place of theirs."""
    overrides = [f"policy.model={brief_checkpoint}", f"serve.port={free_port()}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gym_ray", "serve", served(), *overrides],
        cwd=ROOT,
        env={**os.environ, "GYM_RAY_API_KEY": KEY, "GYM_RAY_ADMIN_KEY": ADMIN_KEY},
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        until(
            lambda: any("ready at" in line for line in lines) or process.poll() is not None,
            300 * PATIENCE,
            "the service is ready",
        )
        assert process.poll() is None, lines
        (ready,) = (line for line in lines if "ready at" in line)
        yield ready.split("ready at ")[1].split()[0].rstrip(";")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=100) == 0, lines
        reader.join(timeout=10)


@pytest.fixture(autouse=True)
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where and with what a reader of the pages works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GYM_RAY_API_KEY", KEY)
    monkeypatch.setenv("GYM_RAY_ADMIN_KEY", ADMIN_KEY)


def blocks(page: str, language: str, url: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", page, re.S)
    return [block.replace("http://127.0.0.1:8000", url) for block in found]


def test_every_program_of_the_client_page_gets_rewards(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, groups, asynchronous, kept = blocks(CLIENT, "python", url)
    names: dict[str, Any] = {}
    for program in (first, groups, asynchronous):
        exec(program, names)
        printed = capsys.readouterr().out.replace("\n ", " ").splitlines()
        assert sorted(line.split()[0] for line in printed) == ["0", "1"], printed
        assert all(0 <= float(line.split()[1]) <= 1 for line in printed), printed
        if program is groups:
            assert [line.split()[2] for line in printed] == ["0", "0"], "none has failed"
    exec(kept, names)
    results = [json.loads(line) for line in Path("kept.jsonl").read_text().splitlines()]
    assert sorted(result["index"] for result in results) == [0, 1]
    assert all(isinstance(result["reward"], float) for result in results)


def test_the_commands_of_the_client_page_get_a_verdict(url: str) -> None:
    (command,) = blocks(CLIENT, "bash", url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert '"reward"' in done.stdout
    assert '"error":' not in done.stdout.replace('"error":null', "")


def test_the_training_of_the_trainers_page_refits_the_service(
    url: str, brief_checkpoint: Path
) -> None:
    trl = blocks(TRAINERS, "python", url)[0]

    exec(trl.replace("bundled:smollm2-135m", str(brief_checkpoint)), {})

    asked = urllib.request.Request(
        f"{url}/weights", headers={"Authorization": f"Bearer {ADMIN_KEY}"}
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert json.load(answer)["version"] == 2
