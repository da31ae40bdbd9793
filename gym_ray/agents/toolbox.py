"""The tools of one environment, and carrying out what the policy asks of them.

Owned here: which tools a task offers, and that whatever goes wrong in a call becomes a result
the policy can read: unreadable call, unknown tool, arguments that do not fit, an exception,
a timeout, too much output. Only a `RolloutFailure` (an author's "the sandbox is gone", a lost
MCP server) is no result: it fails the rollout.

Not owned here: the loop (tool_calling), connections to MCP servers (mcp_servers).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pydantic

from gym_ray.agents.author_code import call_author_code
from gym_ray.config.environment import AgentOptions
from gym_ray.environment import Environment
from gym_ray.errors import ConfigError, RolloutFailure, one_line
from gym_ray.renderers.messages import ToolCall
from gym_ray.task import Task, invalid
from gym_ray.tools import UnknownTool, method_tools
from gym_ray.verifiers.schema_checks import SchemaChecks

#: Characters of an error the policy is shown; more is rarely read and costs context.
_ERROR_CHARACTERS = 2000


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteTool:
    """A tool of an MCP server.

    Attributes:
        definition: as in a task row's `tools`.
        call: carries it out; raises `ToolError`, or `RolloutFailure` when the server is gone.
    """

    definition: dict[str, Any]
    call: Callable[[dict[str, Any]], Awaitable[Any]]


class ToolError(Exception):
    """A tool says that it failed; the policy is told the message as it is."""


class Toolbox:
    """Tools of one environment. One instance serves many rollouts at once.

    Args:
        environment: whose `@tool` methods and `call_tool` are used.
        options: timeouts and size limits.
        remote: tools of MCP servers by name.

    Raises:
        ConfigError: two tools have one name, or a method cannot be offered.
    """

    def __init__(
        self,
        environment: Environment,
        options: AgentOptions,
        remote: Mapping[str, RemoteTool] | None = None,
    ) -> None:
        self._environment = environment
        self._options = options
        self._methods = method_tools(environment)
        self._remote = dict(remote or {})
        self._checks = SchemaChecks()
        for name in self._methods.keys() & self._remote.keys():
            raise ConfigError(
                f"tool {name!r} is a method of {type(environment).__name__} and of an MCP server; "
                "leave it out of the server's `tools`"
            )

    async def require_legal(self, task: Task) -> None:
        """See that the tools a row brings have legal schemas.

        Raises:
            RolloutFailure: `task_invalid`, one has not.
        """
        for tool in task.tools:
            if error := await self._checks.problem(_schema_of(tool)):
                raise invalid(f"offers tool {tool['name']!r} with an illegal schema: {error}")

    def offer(self, task: Task) -> list[dict[str, Any]]:
        """Tool definitions of a task: the row's own, then those it does not name."""
        tools = task.tools
        named = {tool["name"] for tool in tools}
        own = [tool.definition for tool in self._methods.values()]
        own += [tool.definition for tool in self._remote.values()]
        return tools + [definition for definition in own if definition["name"] not in named]

    async def call_all(
        self, calls: Sequence[ToolCall], offered: Sequence[dict[str, Any]], state: Any
    ) -> list[str]:
        """Results of the calls of one turn, carried out at the same time, in the calls' order.

        Raises:
            RolloutFailure: a tool says that the rollout cannot go on.
        """
        by_name = {tool["name"]: tool for tool in offered}
        running = [asyncio.ensure_future(self._result(call, by_name, state)) for call in calls]
        try:
            return await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()

    async def _result(
        self, call: ToolCall, offered: Mapping[str, dict[str, Any]], state: Any
    ) -> str:
        if call.error is not None:
            return _error(call.error)
        if call.name not in offered:
            return _unknown(call.name, offered)
        arguments, problem = await self._read_arguments(call.arguments, offered[call.name])
        if problem is not None:
            return _error(f"the arguments do not fit tool {call.name!r}: {problem}")
        seconds = self._options.tool_timeouts.get(call.name, self._options.tool_timeout_seconds)
        try:
            async with asyncio.timeout(seconds) as clock:
                text = _text(await self._call(call.name, arguments, state))
        except RolloutFailure:
            raise
        except UnknownTool:
            return _unknown(call.name, offered)
        except ToolError as error:
            return self._cut(_error(str(error)))
        except pydantic.ValidationError as error:
            return _error(f"the arguments do not fit tool {call.name!r}: {_problems(error)}")
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            return _error(f"tool {call.name!r} gave up")
        except (Exception, SystemExit) as error:
            if clock.expired():
                return _error(f"tool {call.name!r} took longer than {seconds:g} s")
            return _error(one_line(error, _ERROR_CHARACTERS))
        return self._cut(text)

    async def stop(self) -> None:
        """End what checks schemas; the tools themselves are others'."""
        await self._checks.stop()

    async def _read_arguments(
        self, text: str, tool: Mapping[str, Any]
    ) -> tuple[dict[str, Any], str | None]:
        """Arguments of a call, and what is wrong with them."""
        try:
            arguments = json.loads(text)
        except (ValueError, RecursionError) as error:
            return {}, f"not JSON ({error})"
        if not isinstance(arguments, dict):
            return {}, "not a JSON object"
        try:
            problem = await self._checks.misfit(arguments, _schema_of(tool))
        except RolloutFailure:
            raise
        except Exception as error:  # a `$ref` that leads nowhere shows only when it is followed
            return {}, f"the tool's schema cannot be applied ({one_line(error, 200)})"
        return ({}, problem) if problem is not None else (arguments, None)

    async def _call(self, name: str, arguments: dict[str, Any], state: Any) -> Any:
        if name in self._remote:
            return await self._remote[name].call(arguments)
        method = self._methods.get(name)
        if method is None:
            return await call_author_code(self._environment.call_tool, name, arguments, state)
        return await call_author_code(method.method, **method.bind(arguments, state))

    def _cut(self, text: str) -> str:
        limit = self._options.max_tool_output_characters
        if len(text) <= limit:
            return text
        return _error(
            f"the output has {len(text)} characters, of which only the first {limit} follow\n"
            f"{text[:limit]}"
        )


def _is_cancelled() -> bool:
    """Whether somebody cancels this very task, rather than the tool something of its own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _error(message: str) -> str:
    return f"Error: {message}"


def _unknown(name: str, offered: Mapping[str, Any]) -> str:
    return _error(f"there is no tool {name!r}; tools: {', '.join(offered) or 'none'}")


def _problems(error: pydantic.ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        for problem in error.errors(include_url=False)
    )


def _text(value: Any) -> str:
    """What the policy reads of a tool's result."""
    from pydantic_core import to_json

    text = value if isinstance(value, str) else to_json(value).decode()
    # Half of a surrogate pair is no text: neither a tokenizer nor a row could hold it.
    return text.encode("utf-8", "replace").decode()


def _schema_of(tool: Mapping[str, Any]) -> dict[str, Any]:
    return tool.get("parameters") or {"type": "object"}
