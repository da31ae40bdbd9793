"""`gym-ray env try`: one rollout in the terminal, told as it goes."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gym_ray.agents.mcp_servers import McpServers
from gym_ray.authoring.conversation import item_lines, plain_line, verdict_lines
from gym_ray.authoring.given import Script, follow, script_of
from gym_ray.authoring.person import Person, Read, help_lines, turn_of
from gym_ray.authoring.rehearsal import Rehearsal, byte_renderer
from gym_ray.authoring.subject import Subject
from gym_ray.errors import ConfigError, GymRayError, Interrupted
from gym_ray.policies.engine import ChatEngine, Engine
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.rollout import Rollout
from gym_ray.sampling import Sampling
from gym_ray.task import Task

Say = Callable[[str], None]

#: A person may think as long as they like.
_NO_HURRY_SECONDS = 1e9


@dataclasses.dataclass(frozen=True, slots=True)
class Typed:
    """The policy is a person.

    Attributes:
        read: reads a line of theirs; see `Person`.
        echo: tell their turns too, which a terminal has shown already.
    """

    read: Read
    echo: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Scripted:
    """The policy says what it is given.

    Attributes:
        replies: one for each turn, in the form a person types; the row's gold answer when empty.
    """

    replies: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Sampled:
    """The policy is the config's own.

    Attributes:
        engine: the same, not started yet.
        renderer: of its model; None where it takes messages.
    """

    engine: Engine
    renderer: RolloutRenderer | None


def try_environment(
    subject: Subject, row: int, policy: Typed | Scripted | Sampled, say: Say
) -> Rollout:
    """Play one rollout and tell what happens.

    Args:
        subject: the environment.
        row: which task, from 1; see `Subject.task`.
        policy: who acts.
        say: told a line.

    Raises:
        ConfigError: there is no such row, or no gold answer to play.
        Interrupted: the person ended it with Ctrl-C.
        GymRayError: it failed, or ended without a verdict.
    """
    try:
        return asyncio.run(_try(subject, row, policy, say))
    except KeyboardInterrupt:
        raise Interrupted("ended; there is no verdict") from None


async def _try(subject: Subject, row: int, policy: Typed | Scripted | Sampled, say: Say) -> Rollout:
    subject.give_judges(byte_renderer())
    task = subject.task(row)
    name, calls = ("you", "call") if isinstance(policy, Typed) else ("policy", "calls")

    def watch(item: Mapping[str, Any]) -> None:
        is_theirs = item.get("role") == "assistant" or item.get("type") == "function_call"
        if not (isinstance(policy, Typed) and is_theirs and not policy.echo):
            _tell(item_lines(item, policy=name, calls=calls), say)

    servers = McpServers(subject.name, subject.section.mcp_servers)
    remote = await servers.start()
    try:
        async with Rehearsal(subject, processes=1, watch=watch, remote=remote) as rehearsal:
            tools = rehearsal.offered(task)
            _introduce(subject, task, tools, say)
            rollout = await _play(rehearsal, subject, task, tools, policy, say)
    finally:
        await servers.stop()
    _tell(verdict_lines(rollout), say)
    if rollout.status == "failed":
        raise GymRayError("the rollout has no verdict")
    return rollout


async def _play(
    rehearsal: Rehearsal,
    subject: Subject,
    task: Task,
    tools: Sequence[Mapping[str, Any]],
    policy: Typed | Scripted | Sampled,
    say: Say,
) -> Rollout:
    names = [str(tool["name"]) for tool in tools]
    if isinstance(policy, Sampled):
        _tell([f"starting the policy, {subject.config.policy.model}"], say)
        return await _sample(rehearsal, subject, task, policy)
    if isinstance(policy, Scripted):
        return await rehearsal.play(task, follow(_script(subject, task, policy, names)))
    _tell(help_lines(names), say)
    person = Person(policy.read, say, names)
    rollout = await rehearsal.play(task, person.generate, seconds=_NO_HURRY_SECONDS)
    if person.ended is not None:
        say("")
    if person.ended is KeyboardInterrupt:
        raise Interrupted("ended; there is no verdict")
    if person.ended is not None:
        raise GymRayError(
            f"the input ended before turn {person.turns + 1} of yours; there is no verdict"
        )
    return rollout


async def _sample(rehearsal: Rehearsal, subject: Subject, task: Task, policy: Sampled) -> Rollout:
    engine = policy.engine
    chat = engine.chat if policy.renderer is None and isinstance(engine, ChatEngine) else None
    try:
        await engine.start()
        return await rehearsal.play(
            task,
            engine.generate,
            renderer=policy.renderer,
            chat=chat,
            sampling=Sampling(**subject.config.sampling.model_dump()),
        )
    finally:
        await engine.stop()


def _script(subject: Subject, task: Task, policy: Scripted, tools: Sequence[str]) -> Script:
    if policy.replies:
        try:
            return tuple(turn_of(reply.split("\n"), tools) for reply in policy.replies)
        except ValueError as error:
            raise ConfigError(f"--reply: {error}") from None
        except EOFError:
            raise ConfigError("--reply: /quit is no reply") from None
    gold = subject.environment.gold_answer(task)
    if gold is None:
        raise ConfigError(
            f"line {task.source_line} has no gold answer; give --reply TEXT, once for each turn"
        )
    try:
        return script_of(gold)
    except ValueError as error:
        raise ConfigError(f"line {task.source_line}: gold answer: {error}") from None


def _introduce(subject: Subject, task: Task, tools: Sequence[Mapping[str, Any]], say: Say) -> None:
    played = "" if subject.agent == subject.section.agent else f", played as {subject.agent}"
    say(
        f"{subject.name}, agent {subject.section.agent}{played}: "
        f"{plain_line(task.source_file)}:{task.source_line}"
    )
    for item in task.input_items:
        _tell(item_lines(item, policy="assistant"), say)
    if tools:
        _tell(["tools", *(f"  {_signature(tool)}" for tool in tools)], say)


def _signature(tool: Mapping[str, Any]) -> str:
    """A tool in a line: its arguments, those that may be left out in brackets."""
    parameters = tool.get("parameters") or {}
    required = parameters.get("required") or ()
    arguments = [
        (f"{name}" if name in required else f"[{name}]")
        + (f": {kind}" if isinstance(kind := _kind(schema), str) else "")
        for name, schema in (parameters.get("properties") or {}).items()
    ]
    return plain_line(f"{tool['name']}({', '.join(arguments)}) {tool.get('description') or ''}")


def _kind(schema: object) -> object:
    return schema.get("type") if isinstance(schema, Mapping) else None


def _tell(lines: Any, say: Say) -> None:
    """Lines with an empty one before them."""
    say("")
    for line in lines:
        say(line)
