"""MCP servers: a real one as a child process, over stdio and over streamable HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from gym_ray.agents import RemoteTool, Toolbox
from gym_ray.agents.mcp_servers import McpServers
from gym_ray.config.environment import AgentOptions, McpServerConfig
from gym_ray.config.load import load_config
from gym_ray.environment import Environment
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure
from gym_ray.renderers import ToolCall
from gym_ray.task import Task
from tests.cluster import until

Tools = dict[str, RemoteTool]
STDIO = {"command": sys.executable, "args": ["-m", "tests.mcp_server"]}


def connected(
    config: dict[str, Any], use: Callable[[Tools], Awaitable[None]], *more: dict[str, Any]
) -> None:
    """Connect to the servers, use their tools, disconnect."""

    async def run() -> None:
        named = {f"s{i}": McpServerConfig(**each) for i, each in enumerate([config, *more])}
        servers = McpServers("shop", named)
        tools = await servers.start()
        try:
            await use(tools)
        finally:
            await servers.stop()

    asyncio.run(run())


async def answers(tools: Tools, *calls: tuple[str, dict[str, Any]]) -> list[str]:
    """What the policy is told to calls of one turn."""
    options = AgentOptions(tool_timeouts={"wait": 0.1})
    toolbox = Toolbox(Environment(), options, tools)
    offered = toolbox.offer(Task("t", {"responses_create_params": {"input": "?"}}))
    asked = [ToolCall(str(i), name, json.dumps(args)) for i, (name, args) in enumerate(calls)]
    return await toolbox.call_all(asked, offered, None)


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class HttpServer:
    def __init__(self, port: int) -> None:
        self.config = {"url": f"http://127.0.0.1:{port}/mcp"}
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mcp_server", str(self._port)], stderr=subprocess.DEVNULL
        )
        until(self._listens, 30, "the MCP server listens")

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


@pytest.fixture(scope="module")
def http_server(port: int) -> Iterator[HttpServer]:
    server = HttpServer(port)
    server.start()
    yield server
    server.kill()


def test_a_server_over_stdio_offers_its_tools_and_comes_back_when_it_died() -> None:
    async def use(tools: Tools) -> None:
        assert list(tools) == ["shout", "environment_variable", "refuse", "wait", "die"]
        assert tools["shout"].definition["description"] == "Say it louder."
        told = await answers(
            tools,
            ("wait", {}),
            ("shout", {"text": "hey"}),
            ("environment_variable", {"name": "SHOP"}),
            ("refuse", {}),
            ("shout", {}),
        )
        assert told[:3] == ["Error: tool 'wait' took longer than 0.1 s", "HEY", "open"]
        assert told[3].startswith("Error: ")
        assert "not today" in told[3]
        assert told[4].startswith("Error: the arguments do not fit tool 'shout'")

        with pytest.raises(RolloutFailure) as lost:
            await answers(tools, ("die", {}))
        assert lost.value.kind == FailureKind.ENVIRONMENT_UNAVAILABLE
        assert lost.value.message.startswith("environments.shop.mcp_servers.s0: ")
        assert await answers(tools, ("shout", {"text": "again"})) == ["AGAIN"]

    connected({**STDIO, "env": {"SHOP": "open", "PYTHONPATH": os.getcwd()}}, use)


def test_a_server_over_http_offers_its_tools_and_is_found_again(http_server: HttpServer) -> None:
    async def use(tools: Tools) -> None:
        told = await answers(tools, ("shout", {"text": "a"}), ("shout", {"text": "b"}))
        assert told == ["A", "B"]
        await asyncio.to_thread(http_server.kill)
        with pytest.raises(RolloutFailure) as lost:
            await answers(tools, ("shout", {"text": "c"}))
        assert lost.value.kind == FailureKind.ENVIRONMENT_UNAVAILABLE
        await asyncio.to_thread(http_server.start)
        assert await answers(tools, ("shout", {"text": "d"})) == ["D"]

    connected({**http_server.config, "tools": ["shout"]}, use)


def test_headers_come_from_environment_variables(
    http_server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(tools: Tools) -> None:
        assert await answers(tools, ("shout", {"text": "a"})) == ["A"]

    config = {**http_server.config, "header_variables": {"Authorization": "SHOP_KEY"}}
    with pytest.raises(ConfigError, match="environment variables SHOP_KEY are not set"):
        connected(config, use)
    monkeypatch.setenv("SHOP_KEY", "Bearer secret")
    connected(config, use)


def test_a_server_that_does_not_fit_is_refused_with_the_reason(http_server: HttpServer) -> None:
    async def use(tools: Tools) -> None:
        raise AssertionError

    url = http_server.config
    with pytest.raises(ConfigError, match="the server has no tool 'shuot'; it has die, env"):
        connected({**url, "tools": ["shuot"]}, use)
    with pytest.raises(ConfigError, match="two MCP servers have a tool 'shout'"):
        connected(url, use, {**url, "tools": ["shout"]})
    with pytest.raises(ConfigError, match=r"mcp_servers\.s0: cannot be reached: .*no-such-prog"):
        connected({"command": "no-such-program"}, use)
    silent = {"command": "sh", "args": ["-c", "cat > /dev/null"], "startup_timeout_seconds": 0.2}
    with pytest.raises(ConfigError, match=r"cannot be reached: no answer within 0\.2 s"):
        connected(silent, use)


def test_configs_of_servers_are_checked() -> None:
    def config(server: dict[str, Any], agent: str = "tool_calling") -> dict[str, Any]:
        return {"environments": {"e": {"agent": agent, "mcp_servers": {"s": server}}}}

    assert load_config(config(STDIO)).environments["e"].mcp_servers["s"].args == STDIO["args"]
    with pytest.raises(ConfigError, match="set exactly one of command"):
        load_config(config({}))
    with pytest.raises(ConfigError, match="mcp_servers need agent: tool_calling"):
        load_config(config(STDIO, agent="single_turn"))
    with pytest.raises(ConfigError, match=r"mcp_servers\.s\.comand'; did you mean 'command'"):
        load_config(config({"comand": "x"}))
