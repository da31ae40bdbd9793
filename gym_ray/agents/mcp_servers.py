"""Connections to MCP servers, one per server and environment replica.

Owned here: connecting, finding the server's tools, calling them, and connecting anew when a
connection is lost. A call whose connection is lost fails the rollout as
`environment_unavailable`, which is retried: what a broken server says must not become
training data. An error the server itself gives is the policy's to read.

The client library binds a connection to the task that opened it, so each connection lives in a
task of its own from start to stop. Rollouts of a replica share it, and with it whatever state
the server keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from gym_ray.agents.toolbox import RemoteTool, ToolError
from gym_ray.config.environment import McpServerConfig
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure, one_line

#: How long a server may take to go away when a replica stops.
_STOP_SECONDS = 10.0


class McpServers:
    """All MCP servers of one environment.

    Args:
        environment: name of the environment's config section, for messages.
        configs: `environments.NAME.mcp_servers`.
    """

    def __init__(self, environment: str, configs: Mapping[str, McpServerConfig]) -> None:
        self._servers = [
            _Server(f"environments.{environment}.mcp_servers.{name}", config)
            for name, config in configs.items()
        ]

    async def start(self) -> dict[str, RemoteTool]:
        """Connect to every server; returns their tools by name.

        Raises:
            ConfigError: a server does not answer, lacks a tool that is to be offered, or has
                one of the same name as another server's.
        """
        tools: dict[str, RemoteTool] = {}
        try:
            for offered in await asyncio.gather(*(server.start() for server in self._servers)):
                for name, tool in offered.items():
                    if name in tools:
                        raise ConfigError(
                            f"two MCP servers have a tool {name!r}; leave it out of the `tools` "
                            "of one"
                        )
                    tools[name] = tool
        except BaseException:
            await self.stop()
            raise
        return tools

    async def stop(self) -> None:
        """Close every connection; programs that were started end."""
        await asyncio.gather(*(server.stop() for server in self._servers))


class _Server:
    def __init__(self, where: str, config: McpServerConfig) -> None:
        self._where = where
        self._config = config
        self._connection: _Connection | None = None
        self._dropped: set[_Connection] = set()
        self._connecting = asyncio.Lock()

    async def start(self) -> dict[str, RemoteTool]:
        connection = await self._connect()
        try:
            async with asyncio.timeout(self._config.startup_timeout_seconds):
                found = await _list_tools(connection.client)
        except Exception as error:
            raise ConfigError(f"{self._where}: gives no tools: {one_line(error)}") from error
        wanted = self._config.tools if self._config.tools is not None else list(found)
        for name in wanted:
            if name not in found:
                raise ConfigError(
                    f"{self._where}.tools: the server has no tool {name!r}; it has "
                    f"{', '.join(sorted(found)) or 'none'}"
                )
        return {name: RemoteTool(found[name], self._caller(name)) for name in wanted}

    async def stop(self) -> None:
        open_ones = [*self._dropped] + ([self._connection] if self._connection else [])
        await asyncio.gather(*(connection.close() for connection in open_ones))

    def _caller(self, name: str) -> Callable[[dict[str, Any]], Any]:
        async def call(arguments: dict[str, Any]) -> str:
            return await self._call(name, arguments)

        return call

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        connection = await self._connected()
        # The connection's task notices a program that ended; an answer may then never come.
        answer = asyncio.ensure_future(connection.client.call_tool(name, arguments))
        try:
            await asyncio.wait([answer, connection.ended], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise self._lost("the connection ended")
            result = answer.result()
        except MCPError as error:
            if error.code != CONNECTION_CLOSED:
                raise ToolError(error.message) from None
            raise self._drop(connection, error) from error
        except RolloutFailure:
            raise
        except Exception as error:  # the transport's own: refused, reset, not HTTP, …
            raise self._drop(connection, error) from error
        finally:
            answer.cancel()
        text = "\n".join(_content_text(part) for part in result.content)
        if result.is_error:
            raise ToolError(text)
        return text

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None or self._connection.ended.done():
                try:
                    await self._connect()
                except ConfigError as error:
                    raise self._lost(str(error)) from error
            assert self._connection is not None
            return self._connection

    async def _connect(self) -> _Connection:
        self._connection = connection = _Connection(self._config)
        try:
            async with asyncio.timeout(self._config.startup_timeout_seconds) as clock:
                await connection.open()
        except Exception as error:
            await connection.close()
            reason = (
                f"no answer within {self._config.startup_timeout_seconds:g} s"
                if clock.expired()
                else one_line(_root_cause(error))
            )
            raise ConfigError(f"{self._where}: cannot be reached: {reason}") from error
        return connection

    def _drop(self, connection: _Connection, error: Exception) -> RolloutFailure:
        """Let go of a broken connection, so that the next call opens another."""
        if self._connection is connection:
            self._connection = None
            self._dropped.add(connection)
            connection.ended.add_done_callback(lambda _: self._dropped.discard(connection))
            connection.end()
        return self._lost(one_line(_root_cause(error)))

    def _lost(self, reason: str) -> RolloutFailure:
        return RolloutFailure(FailureKind.ENVIRONMENT_UNAVAILABLE, f"{self._where}: {reason}")


class _Connection:
    """One connection, in a task of its own.

    Attributes:
        client: the library's, once `open` has returned.
        ended: done when the connection is gone.
    """

    client: Any

    def __init__(self, config: McpServerConfig) -> None:
        self._config = config
        self._wanted = asyncio.Event()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.ensure_future(self._live())

    async def open(self) -> None:
        """Wait until the server answers; raises what is in the way."""
        await asyncio.shield(self._ready)

    def end(self) -> None:
        self._wanted.set()

    async def close(self) -> None:
        self.end()
        if not self._ready.done():
            self.ended.cancel()
        await asyncio.wait([self.ended], timeout=_STOP_SECONDS)
        if not self.ended.done():
            self.ended.cancel()
            await asyncio.wait([self.ended])

    async def _live(self) -> None:
        from mcp import Client

        try:
            async with contextlib.AsyncExitStack() as stack:
                target = await self._target(stack)
                self.client = await stack.enter_async_context(Client(target))
                self._ready.set_result(None)
                await self._wanted.wait()
        except asyncio.CancelledError:
            self._ready.cancel()
            raise
        except Exception as error:
            if not self._ready.done():
                self._ready.set_exception(error)
                self._ready.exception()  # whoever opens may have given up already

    async def _target(self, stack: contextlib.AsyncExitStack) -> Any:
        config = self._config
        if config.command is not None:
            from mcp.client.stdio import StdioServerParameters, stdio_client

            return stdio_client(
                StdioServerParameters(
                    command=config.command, args=config.args, env=config.env or None
                )
            )
        assert config.url is not None
        if not config.header_variables:
            return config.url
        from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

        missing = [name for name in config.header_variables.values() if name not in os.environ]
        if missing:
            raise LookupError(f"environment variables {', '.join(missing)} are not set")
        headers = {
            header: os.environ[variable] for header, variable in config.header_variables.items()
        }
        http = await stack.enter_async_context(create_mcp_http_client(headers=headers))
        return streamable_http_client(config.url, http_client=http)


async def _list_tools(client: Any) -> dict[str, dict[str, Any]]:
    """Definitions of a server's tools, page by page."""
    found: dict[str, dict[str, Any]] = {}
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            found[tool.name] = {
                "type": "function",
                "name": tool.name,
                "description": tool.description or "",
                "parameters": tool.input_schema,
                "strict": False,
            }
        cursor = page.next_cursor
        if cursor is None:
            return found


def _content_text(part: Any) -> str:
    """Text of one part of a result; other media are named, not shown."""
    text = getattr(part, "text", None)
    if text is None:  # an embedded resource holds its text one level deeper
        text = getattr(getattr(part, "resource", None), "text", None)
    return str(text) if text is not None else f"[{part.type}]"


def _root_cause(error: BaseException) -> BaseException:
    """The first error inside the groups the library wraps errors in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
