"""The agent of an environment that names none: the one that fits it, and everywhere the same."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from gym_ray.config.load import RunConfig, load_config
from gym_ray.errors import ConfigError
from gym_ray.registry import idle_tools, load_environments, with_agents
from gym_ray.serving.application import application_name
from gym_ray.serving.environment_client import producer_of
from gym_ray.store.run_directory import RunDirectory

SOURCE = """
from gym_ray import Environment, GymnasiumEnvironment, tool

class Plain(Environment):
    pass

class Tools(Environment):
    @tool
    def look(self, where: str) -> str:
        return where

class ToolsOfItsBase(Tools):
    pass

class ToolsOfRows(Environment):
    async def call_tool(self, name, arguments, state):
        return name

class Game(GymnasiumEnvironment):
    pass

class GameWithTools(Tools, GymnasiumEnvironment):
    pass

class OwnWish(Tools):
    default_agent = "single_turn"

class Refusing(Tools):
    def check_agent(self, agent):
        from gym_ray.errors import ConfigError
        if agent == "single_turn":
            raise ConfigError("not this one")
"""
MCP = {"mcp_servers": {"files": {"url": "http://localhost/mcp"}}}


def config_of(tmp_path: Path, name: str, **section: Any) -> RunConfig:
    (tmp_path / "envs.py").write_text(SOURCE)
    section = {"entrypoint": f"./envs:{name}", **section}
    file = tmp_path / "config.yaml"
    output = str(tmp_path / "run")
    tree = {"environments": {"one": section}, "collect": {"output": output}}
    file.write_text(yaml.safe_dump(tree))
    return load_config(file)


@pytest.mark.parametrize(
    ("name", "section", "agent"),
    [
        ("Plain", {}, "single_turn"),
        ("Tools", {}, "tool_calling"),
        ("ToolsOfItsBase", {}, "tool_calling"),
        ("ToolsOfRows", {}, "tool_calling"),
        ("Game", {}, "gymnasium"),
        ("GameWithTools", {}, "gymnasium"),
        ("OwnWish", {}, "single_turn"),
        ("Plain", MCP, "tool_calling"),
        ("Tools", {"external": {"url": "http://localhost"}}, "external"),
        ("Tools", {"agent": "auto"}, "tool_calling"),
        ("Tools", {"agent": "single_turn"}, "single_turn"),
        ("Plain", {"agent": "tool_calling"}, "tool_calling"),
    ],
)
def test_an_environment_has_the_agent_that_fits_unless_it_names_one(
    name: str, section: dict[str, Any], agent: str, tmp_path: Path
) -> None:
    config = with_agents(config_of(tmp_path, name, **section))

    assert config.environments["one"].agent == agent
    assert with_agents(config) == config


def test_whoever_names_the_chosen_agent_gets_the_same_run(tmp_path: Path) -> None:
    chosen = with_agents(config_of(tmp_path, "Tools"))
    with contextlib.closing(RunDirectory.open(chosen)) as directory:
        directory.save_config(chosen)
    saved = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert saved["environments"]["one"]["agent"] == "tool_calling"
    assert producer_of(chosen, "run").agents == {"one": "tool_calling"}

    named = with_agents(config_of(tmp_path, "Tools", agent="tool_calling"))
    unresolved = config_of(tmp_path, "Tools")

    assert application_name(unresolved) == application_name(chosen) == application_name(named)
    with contextlib.closing(RunDirectory.open(named)) as directory:
        assert directory.resumed


def test_a_config_that_was_read_is_still_open_to_the_choice(tmp_path: Path) -> None:
    read_twice = load_config(config_of(tmp_path, "Tools"))

    assert with_agents(read_twice).environments["one"].agent == "tool_calling"


@pytest.mark.parametrize(
    ("name", "section", "tools"),
    [
        ("Plain", {}, False),
        ("Tools", {}, False),
        ("Tools", {"agent": "single_turn"}, True),
        ("ToolsOfItsBase", {"agent": "single_turn"}, True),
        ("ToolsOfRows", {"agent": "single_turn"}, False),
        ("GameWithTools", {}, True),
        ("OwnWish", {}, True),
    ],
)
def test_methods_that_are_never_offered_are_told(
    name: str, section: dict[str, Any], tools: bool, tmp_path: Path
) -> None:
    config = with_agents(config_of(tmp_path, name, **section))

    told = idle_tools(config)

    assert list(told) == (["one"] if tools else [])
    if tools:
        assert f"look: agent {config.environments['one'].agent} never offers them" in told["one"]


def test_the_chosen_agent_is_the_one_that_is_checked(tmp_path: Path) -> None:
    load_environments(config_of(tmp_path, "Refusing"))
    with pytest.raises(ConfigError, match=r"environments\.one\.agent single_turn: not this one"):
        load_environments(config_of(tmp_path, "Refusing", agent="single_turn"))


def test_mcp_servers_and_an_agent_outside_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave one out"):
        config_of(tmp_path, "Plain", external={"url": "http://localhost"}, **MCP)
