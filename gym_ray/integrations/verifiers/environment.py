"""The gym-ray environment in which a verifiers environment runs."""

from __future__ import annotations

import asyncio
import dataclasses
import types
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic
import verifiers.v1 as vf
from verifiers.v1.utils.decorators import invoke

from gym_ray.environment import GymnasiumEnvironment, Outcome, Step, TaskFields
from gym_ray.errors import ConfigError
from gym_ray.integrations.verifiers.exchange import Exchange
from gym_ray.integrations.verifiers.loading import load, role_of, trace_stops
from gym_ray.integrations.verifiers.toolsets import Tools, definitions_of
from gym_ray.integrations.verifiers.trace import (
    add_outcome,
    conclude,
    new_trace,
    typed_messages,
    verdict_of,
)
from gym_ray.task import Task, invalid
from gym_ray.tools import UnknownTool
from gym_ray.verdict import Verdict

#: Fields of a task that ask for a sandbox.
_SANDBOX_FIELDS = ("image", "agent_user", "skills", "artifacts")


@dataclasses.dataclass(slots=True)
class State:
    """One rollout. Only the trace goes along to the process that scores it."""

    trace: vf.Trace
    tools: Tools | None = None
    exchange: Exchange | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return State, (self.trace,)


class VerifiersEnvironment(GymnasiumEnvironment):
    """An environment of the library verifiers.

    Tasks without tools are for `agent: single_turn`, tasks with tools for `tool_calling`, and
    an environment with a `run()` of its own (a game, a user) for `gymnasium`.

    Args:
        env_id: the taskset's, as in `vf-eval ENV_ID`; its package must be installed.
        env_args: keys of verifiers' `env` block: `taskset: {…}`, `id: …`, the agent's role.
        select: which tasks are generated: keys of verifiers' `select` (`limit`, `shuffle`, …).
    """

    default_agent = "single_turn"

    class Fields(TaskFields):
        task_data: dict[str, Any]

    def __init__(
        self,
        env_id: str,
        env_args: Mapping[str, Any] | None = None,
        select: Mapping[str, Any] | None = None,
    ) -> None:
        self._env = load(env_id, env_args or {})
        self._role, self._agent_config = role_of(self._env)
        self._stops = trace_stops(self._env)
        self._task_class = type(self._env.taskset).task_type()
        self._task_config = self._env.config.taskset.task
        self._plays = type(self._env).run is not vf.SingleAgentEnv.run
        self._shared_tools: Tools | None = None
        self._sharing = asyncio.Lock()
        try:
            self._select = vf.SelectConfig(**(select or {}))
        except pydantic.ValidationError as error:
            raise ConfigError(f"select: {error.errors()[0]['msg']}") from None
        for hook in ("start", "stop"):
            if getattr(type(self._env), hook) is not getattr(vf.Env, hook):
                raise ConfigError(
                    f"{type(self._env).__name__} has a {hook}() hook, not called here"
                )

    def check_agent(self, agent: str) -> None:
        name = type(self._env).__name__
        if self._plays and agent != "gymnasium":
            raise ConfigError(f"{name} has a run() of its own; set agent: gymnasium")
        if self._plays and self._toolsets():
            raise ConfigError(f"{name} has both a run() of its own and tools; one of them can run")
        if not self._plays and agent == "gymnasium":
            raise ConfigError(f"{name} has no run() of its own; set agent: single_turn")
        if self._toolsets() and agent != "tool_calling":
            raise ConfigError(f"its {self._task_class.__name__} has tools; set agent: tool_calling")
        if self._stops and agent == "tool_calling":
            raise ConfigError(
                f"{self._task_class.__name__}.{self._stops[0].__name__} is a @stop hook, which "
                "only agent gymnasium calls"
            )

    def tasks(self) -> Iterator[Mapping[str, Any]]:
        selected = self._env.taskset.select(self._select)
        if not selected.bounded:
            raise ConfigError(
                f"{type(selected).__name__} never ends; say how many tasks with params: "
                "{select: {limit: 100}}"
            )
        tools = definitions_of(self._toolsets())
        for task in selected:
            params: dict[str, Any] = {"input": _input(task.data)}
            yield {
                "responses_create_params": {**params, "tools": tools} if tools else params,
                "task_data": task.data.model_dump(mode="json", exclude_defaults=True),
            }

    def check_task(self, row: Mapping[str, Any]) -> None:
        super().check_task(row)
        try:
            data = self._task(row).data
        except pydantic.ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(map(str, ("task_data", *problem["loc"])))
            raise invalid(f"field {where!r}: {problem['msg']}") from None
        for field in _SANDBOX_FIELDS:
            if getattr(data, field):
                raise invalid(f"field 'task_data.{field}' asks for a sandbox, and none is started")

    async def reset(self, task: Task) -> State:
        await self._start_shared_tools()
        own = self._task(task.row)
        state = State(new_trace(own, self._role, self._agent_config))
        if type(own).setup is not vf.Task.setup:
            await invoke(own.setup, {"trace": state.trace})
        if toolsets := self._task_class.toolsets(self._task_config):
            state.tools = Tools(toolsets)
            await state.tools.start(own.data)
        return state

    async def call_tool(self, name: str, arguments: dict[str, Any], state: State) -> str:
        for tools in (state.tools, self._shared_tools):
            if tools is not None:
                try:
                    return await tools.call(name, arguments, state.trace.state)
                except UnknownTool:
                    continue
        raise UnknownTool(name)

    async def observe(self, task: Task, state: State) -> str | None:
        own = self._task(task.row)
        state.exchange = Exchange(state.trace, typed_messages(task.input_items), self._stops)
        state.exchange.begin(self._play(own, state.exchange))
        asked = await state.exchange.asked()
        if asked is None:
            raise RuntimeError(f"{type(self._env).__name__}.run() ended without asking its agent")
        return asked.text

    async def step(self, state: State, action: str) -> Step:
        assert state.exchange is not None
        await state.exchange.reply(action)
        asked = await state.exchange.asked()
        return Step("", done=True) if asked is None else Step(asked.text or "")

    async def end(self, state: State) -> None:
        try:
            if state.exchange is not None:
                await state.exchange.close()
        finally:
            if state.tools is not None:
                await state.tools.close()

    def verify(self, outcome: Outcome) -> Verdict:  # type: ignore[override]
        # A plain function although rewards are coroutines: nothing says that they do not burn
        # CPU, and here, in a process of its own, they block no other rollout.
        return asyncio.run(self._score(outcome))

    async def _score(self, outcome: Outcome) -> Verdict:
        task, trace = self._task(outcome.task.row), outcome.state.trace
        if not self._plays:
            add_outcome(trace, outcome)
        conclude(trace, outcome.truncation_reason)
        if type(task).finalize is not vf.Task.finalize:
            await invoke(task.finalize, {"trace": trace})
        await task.score(trace)
        episode = vf.Episode(
            env=vf.EnvInfo(id=self._env.config.env_id), task=trace.task, traces=[trace], ok=True
        )
        await self._env.finalize(task, episode)
        return verdict_of(trace)

    async def _play(self, task: vf.Task, exchange: Exchange) -> None:
        agents = types.SimpleNamespace(**{self._role: exchange})
        await self._env.setup(agents)
        await self._env.run(task, agents)

    async def _start_shared_tools(self) -> None:
        async with self._sharing:
            if self._shared_tools is None:
                tools = Tools(self._env.taskset.toolsets(self._env.taskset.config))
                await tools.start()
                self._shared_tools = tools

    def _toolsets(self) -> list[vf.Toolset]:
        return [
            *self._task_class.toolsets(self._task_config),
            *self._env.taskset.toolsets(self._env.taskset.config),
        ]

    def _task(self, row: Mapping[str, Any]) -> vf.Task:
        data = self._task_class.data_type().model_validate(row["task_data"])
        return self._task_class(data, self._task_config)


def _input(data: vf.TaskData) -> list[dict[str, Any]]:
    """A task's prompt as Responses-API items.

    Raises:
        ConfigError: it has no text to begin with.
    """
    prompt = data.prompt
    items: list[dict[str, Any]] = []
    if data.system_prompt is not None:
        items.append({"role": "system", "content": data.system_prompt})
    if isinstance(prompt, str):
        items.append({"role": "user", "content": prompt})
    for message in prompt if isinstance(prompt, list) else ():
        items += _items(message)
    if not items:
        raise ConfigError(
            f"task {data.idx} has neither prompt nor system prompt; set env_args: "
            "{taskset: {system_prompt: FILE}}"
        )
    return items


def _items(message: Any) -> list[dict[str, Any]]:
    content = message.content or ""
    if not isinstance(content, str):
        if any(part.type != "text" for part in content):
            raise ConfigError("a task's prompt has images; only text can be rendered")
        content = "".join(part.text for part in content)
    if message.role == "tool":
        call_id = message.tool_call_id
        return [{"type": "function_call_output", "call_id": call_id, "output": content}]
    items: list[dict[str, Any]] = []
    calls = getattr(message, "tool_calls", None) or []
    if content or not calls:
        items.append({"role": message.role, "content": content})
    items += [
        {
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }
        for call in calls
    ]
    return items
