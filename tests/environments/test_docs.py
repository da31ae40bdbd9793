"""Every block of docs/environments.md that needs no Ray does what the page says."""

import asyncio
import functools
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gym_ray.authoring import Sampled, Subject, create_environment, try_environment
from gym_ray.cli.main import main
from gym_ray.config.load import load_config
from gym_ray.environment import Outcome
from gym_ray.registry import environment_factory, load_environment
from gym_ray.serving.engines import build_engine
from gym_ray.serving.policy_renderer import load_policy_renderer
from gym_ray.task import parse_task
from gym_ray.tools import method_tools
from gym_ray.verdict import Verdict
from gym_ray.verifiers.verification import Verification
from tests.pages import blocks, write_files

Gym = Callable[..., tuple[int, str]]

#: Run by tests/service/test_environments_page.py.
NEEDS_RAY = ("gym-ray collect", "gym-ray reverify")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader stands who made the first environment and copied every file."""
    monkeypatch.chdir(tmp_path)
    create_environment("capitals", Path("."))
    write_files(tmp_path)
    return tmp_path


@pytest.fixture
def gym_ray(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Gym:
    def run(command: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out + output.err

    return run


def test_commands_without_ray_succeed(
    gym_ray: Gym, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    own = [line for line in commands if not line.startswith(NEEDS_RAY)]
    assert len(own) == 9
    for command in own:
        code, output = gym_ray(command)
        assert code == 0, output
        if command == "gym-ray env new capitals":
            write_files(tmp_path)
            page = {f"capitals/{name}" for name in ("__init__.py", "config.yaml", "README.md")}
            assert page < {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}


def test_the_table_of_composed_rewards_is_what_comes_out(folder: Path) -> None:
    page = re.findall(r"^\| `(.*)` \|.*\| ([\d.]+) \|$", "\n".join(blocks(None)), re.M)
    assert len(page) == 3
    row = (folder / "capitals" / "data" / "example.jsonl").read_text().splitlines()[0]

    rewards = asyncio.run(composed(folder, row, [reply for reply, _ in page]))

    assert rewards == pytest.approx([float(reward) for _, reward in page])


async def composed(folder: Path, row: str, replies: list[str]) -> list[float]:
    config = load_config(folder / "capitals" / "composed.yaml")
    section = config.environments["capitals"]
    build = functools.partial(load_environment, "capitals", section, config.base_directory)
    task = parse_task(row, task_index=0, source_file="t", source_line=1)
    factory = environment_factory("capitals", section, config.base_directory)
    async with Verification(build(), factory, processes=1, timeout_seconds=60) as verification:
        verdicts = [
            await verification.verify(Outcome(task=task, text=reply, items=[])) for reply in replies
        ]
    return [verdict.reward for verdict in verdicts]


def test_the_pantry_rewards_the_state_that_was_asked_for(folder: Path) -> None:
    config = load_config(folder / "pantry" / "config.yaml")
    pantry = load_environment("pantry", config.environments["pantry"], config.base_directory)
    rows = (folder / "pantry" / "data" / "example.jsonl").read_text().splitlines()

    async def reward(row: str, *calls: tuple[str, dict[str, Any]]) -> float:
        task = parse_task(row, task_index=0, source_file="t", source_line=1)
        pantry.check_task(task.row)
        state = await pantry.reset(task)
        tools = method_tools(pantry)
        for name, arguments in calls:
            await tools[name].method(**tools[name].bind(arguments, state))
        return Verdict.of(pantry.verify(Outcome(task, "", [], state))).reward

    jar = ("put", {"item": "jars"})
    assert asyncio.run(reward(rows[0], jar, jar)) == 1.0
    assert asyncio.run(reward(rows[0], ("put", {"item": "jars", "count": 2}))) == 1.0
    assert asyncio.run(reward(rows[1], ("take", {"item": "eggs"}))) == 1.0
    for row in rows:
        assert asyncio.run(reward(row)) == 0.0
        assert asyncio.run(reward(row, ("put", {"item": "salt"}))) == 0.0
    with pytest.raises(ValueError, match="there is no jars"):
        asyncio.run(reward(rows[1], ("take", {"item": "jars"})))


def test_the_replies_of_the_page_put_two_jars_into_the_pantry(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    file = folder / "pantry" / "scripted.yaml"
    for override in ([], ["policy.engine_args.reply=pantry.replies:reply"]):
        for row, reward in ((1, 1.0), (2, 0.0)):
            subject = Subject.find(file, override)
            policy = Sampled(build_engine(subject.config), load_policy_renderer(subject.config))

            rollout = try_environment(subject, row, policy, lambda line: None)

            assert rollout.reward == reward


def test_the_page_names_every_reason_to_keep_a_verdict() -> None:
    from typing import get_args

    from gym_ray.reverification.replay import Obstacle

    page = "\n".join(blocks(None))
    assert [name for name in get_args(Obstacle) if f"`{name}`" not in page] == []
    assert json.loads(blocks("json")[0].splitlines()[0])["goal"] == {"jars": 2}
