"""What tests of sessions share: a replica's host in this process, and calls made by hand."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from gym_ray.agents import AGENTS, Agent, Toolbox
from gym_ray.agents.sessions import Closing, OpenedSession, SessionState
from gym_ray.config.environment import AgentOptions
from gym_ray.environment import Environment
from gym_ray.policies.call import Call
from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.renderers import RolloutRenderer, load_renderer
from gym_ray.renderers.items import tools_for_chat
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.sampling import Sampling
from gym_ray.serving.recorder import RecordTarget
from gym_ray.serving.session_host import SessionHost
from gym_ray.store.rows import broken_invariants
from gym_ray.store.stored_run import read_rollouts
from gym_ray.task import task_id_of
from gym_ray.turn import Generation
from tests.replies import row_of
from tests.verification import on_loop
from tests.workshop import ADD_TOOL, RowTools

RENDERER = load_renderer(None)


def sum_row(*replies: str, answer: str = "3", **fields: object) -> dict[str, Any]:
    """A row of `RowTools` to which the policy says `replies`, turn by turn."""
    row = row_of(list(replies), answer=answer, **fields)
    params: dict[str, Any] = row["responses_create_params"]  # type: ignore[assignment]
    params["tools"] = [ADD_TOOL]
    return row


def spec_of(row: dict[str, Any], environment: str = "sums") -> RolloutSpec:
    return RolloutSpec(
        rollout_id=uuid.uuid4().hex,
        task_id=task_id_of(row),
        task_index=0,
        rollout_index=0,
        environment=environment,
        source_file="test",
        source_line=0,
        task=json.dumps(row),
    )


class Replica:
    """An environment replica's runner and host, without Serve.

    Args:
        owner: its name.
        generate: reaches the policy; a scripted one when None.
        options: of the agents.
        max_sessions: of the host.
        sampling, timeout_seconds: of every rollout.
        renderer: of the policy's model.
    """

    def __init__(
        self,
        owner: str = "replica",
        *,
        environment: Environment | None = None,
        generate: Callable[[GenerationRequest], Awaitable[Generation]] | None = None,
        options: dict[str, Any] | None = None,
        max_sessions: int = 8,
        sampling: Sampling | None = None,
        timeout_seconds: float = 60.0,
        renderer: RolloutRenderer = RENDERER,
    ) -> None:
        engine = ScriptedEngine(
            model="m", engine_args={"reply": "tests.replies:turns_in_the_prompt"}
        )
        self._environment = environment or RowTools()
        self._renderer = renderer
        self._generate = generate or engine.generate
        self._options = AgentOptions(**(options or {}))
        self.settings = RunSettings(
            "run",
            sampling or Sampling(max_output_tokens=2000),
            timeout_seconds,
            gateway_url="http://gateway",
        )
        self.host = SessionHost(
            "sums", owner, lambda agent: self.runner("external", agent), max_sessions=max_sessions
        )

    def runner(self, name: str, agent: Agent) -> Runner:
        return Runner(
            environment=self._environment,
            agent_name=name,
            agent=agent,
            renderer=self._renderer,
            model="m",
            generate=self._generate,
            verification=on_loop(self._environment),
            agent_options=self._options,
            toolbox=Toolbox(self._environment, self._options),
        )

    async def built_in(self, row: dict[str, Any], agent: str = "tool_calling") -> Rollout:
        """The rollout of an agent of ours."""
        return await self.runner(agent, AGENTS[agent]).run(spec_of(row), self.settings, attempt=1)

    @contextlib.asynccontextmanager
    async def session(
        self, row: dict[str, Any], target: RecordTarget | None = None
    ) -> AsyncIterator[tuple[OpenedSession, Caller]]:
        opened = await self.host.open(spec_of(row), self.settings, target)
        yield opened, Caller(self.host, opened, row)


def saying(*replies: str) -> Callable[[GenerationRequest], Awaitable[Generation]]:
    """A policy that says these, call by call, whatever it is asked; the last one for ever."""
    left = list(replies)

    async def generate(request: GenerationRequest) -> Generation:
        reply = left.pop(0) if len(left) > 1 else left[0]
        return await ScriptedEngine(model="m", engine_args={"reply": reply}).generate(request)

    return generate


@dataclasses.dataclass(frozen=True)
class Caller:
    """Makes the policy calls of one session."""

    host: SessionHost
    opened: OpenedSession
    row: dict[str, Any]

    @property
    def question(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": self.row["responses_create_params"]["input"]}]

    def request(self, messages: list[dict[str, Any]], **fields: Any) -> ChatRequest:
        of_call = {name: fields.pop(name) for name in Call.__slots__ if name in fields}
        usual = {"request_id": uuid.uuid4().hex, "sampling": Sampling(max_output_tokens=2000)}
        call = Call(**{**usual, **of_call})
        tools = tuple(tools_for_chat(self.row["responses_create_params"]["tools"]))
        return ChatRequest(call, tuple(messages), tools, **fields)

    async def chat(self, messages: list[dict[str, Any]], **fields: Any) -> ChatAnswer:
        request = self.request(messages, **fields)
        return await self.host.chat(self.opened.session_id, self.opened.key, request)

    async def play(self) -> list[dict[str, Any]]:
        """What `tool_calling` does, from outside; returns the whole conversation."""
        messages = self.question
        while True:
            answer = (await self.chat(messages)).message
            messages.append(answer.as_message())
            if not answer.tool_calls:
                return messages
            for call in answer.tool_calls:
                arguments = json.loads(call.arguments)
                result = str(arguments["a"] + arguments["b"])
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


Scenario = Callable[[Caller], Awaitable[SessionState]]

VERIFY = Closing("verify")


def recorded(
    tmp_path: Path, row: dict[str, Any], scenario: Scenario, **replica: Any
) -> tuple[SessionState, Rollout]:
    """The final state of one session, and its row as it was recorded."""

    async def run() -> SessionState:
        target = RecordTarget(str(tmp_path), "run")
        async with Replica(**replica).session(row, target) as (_, caller):
            return await scenario(caller)

    state = asyncio.run(run())
    (rollout,) = read_rollouts(tmp_path)
    assert broken_invariants([rollout]) == []
    return state, rollout


async def closed(caller: Caller, closing: Closing = VERIFY) -> SessionState:
    return await caller.host.close(caller.opened.session_id, caller.opened.key, closing)


async def played(caller: Caller) -> SessionState:
    await caller.play()
    return await closed(caller)


async def until_ended(caller: Caller) -> SessionState:
    async with asyncio.timeout(10):
        while True:
            state = await caller.host.state(caller.opened.session_id, caller.opened.key)
            if state.status is not None:
                return state
            await asyncio.sleep(0.01)
