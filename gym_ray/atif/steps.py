"""Items of a rollout as steps of a trajectory, and back.

A turn of the policy is one step of the agent, and what its calls gave back is that step's
observation. What the policy said in the prompt (an earlier conversation, an example), or on another
branch of the rollout, was not sampled in this sequence, so it is copied context, which the format
keeps out of training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atif import ObservationResult

from gym_ray.atif.format import Content, TrajectoryRefused, TrajectoryStep
from gym_ray.nemo_gym import turn_of_item
from gym_ray.renderers.items import (
    Item,
    items_from_message,
    items_from_told,
    messages_from_items,
)
from gym_ray.renderers.messages import AssistantMessage, Message, ToolCall
from gym_ray.strict_json import refuse_constant

#: Items the policy produces; a message only where its role is the assistant's.
_SAID = ("reasoning", "message", "function_call")

_SAMPLED = {"llm_call_count": 1}


def steps_of(prompt: Sequence[Item], response: Sequence[Item]) -> list[dict[str, Any]]:
    """Steps without numbers and metrics; those the policy took have `llm_call_count` 1.

    Raises:
        ValueError: an item's type has no chat form.
    """
    steps: list[dict[str, Any]] = []
    # Items of a prompt come from anywhere, so their IDs say nothing about turns.
    for is_said, group in _grouped([{**item, "id": None} for item in prompt]):
        _add(steps, is_said, group, {"is_copied_context": True})
    has_turns = any(turn_of_item(item) is not None for item in response)
    for is_said, group in _grouped(response):
        copied = has_turns and turn_of_item(group[0]) is None
        _add(steps, is_said, group, {"is_copied_context": True} if copied else _SAMPLED)
    return steps


def items_of(step: TrajectoryStep, number: int) -> list[Item]:
    """Items of a step another tool wrote.

    A result that answers no call is what the agent was told, as by a user.

    Args:
        step: of the trajectory.
        number: of the step, from 0.

    Raises:
        Refused: a part is no text.
    """
    return list(_items(step, number))


def tools_of(definitions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tool definitions in the flat shape of rows; the format has chat completions' nested one."""
    return [{"type": "function", **(tool.get("function") or tool)} for tool in definitions]


def _grouped(items: Sequence[Item]) -> Iterator[tuple[bool, list[Item]]]:
    """The items of a turn of the policy together, everything else alone; True for turns."""
    turn: list[Item] = []
    for item in items:
        if turn and (not _is_said(item) or _begins_a_turn(item, turn[-1])):
            yield True, turn
            turn = []
        if _is_said(item):
            turn.append(item)
        else:
            yield False, [item]
    if turn:
        yield True, turn


def _is_said(item: Item) -> bool:
    kind = item.get("type", "message")
    return kind in _SAID and (kind != "message" or item.get("role") == "assistant")


def _begins_a_turn(item: Item, previous: Item) -> bool:
    """By IDs where there are any, else within a turn: reasoning, text, calls."""
    now, before = turn_of_item(item), turn_of_item(previous)
    if now is not None or before is not None:
        return now != before
    return item.get("type", "message") != "function_call" and previous.get("type") != "reasoning"


def _add(
    steps: list[dict[str, Any]], is_said: bool, group: list[Item], marks: dict[str, Any]
) -> None:
    messages = messages_from_items(group)
    if is_said:
        steps.append({"source": "agent", **_said(messages), **marks})
        return
    message = messages[0]
    if message["role"] != "tool":
        steps.append({"source": message["role"], "message": message["content"]})
        return
    call_id, content = message["tool_call_id"], message["content"]
    caller = _caller(steps, call_id)
    if caller is not None:
        observation = caller.setdefault("observation", {"results": []})
        observation["results"].append({"source_call_id": call_id, "content": content})
        return
    result = {"content": content, "extra": {"call_id": call_id}}
    steps.append({"source": "system", "message": "", "observation": {"results": [result]}})


def _said(messages: Sequence[Message]) -> dict[str, Any]:
    """Fields of an agent's step; the messages are one, unless its items are not our own."""
    fields: dict[str, Any] = {"message": "".join(message["content"] for message in messages)}
    reasoning = [m["reasoning_content"] for m in messages if "reasoning_content" in m]
    if reasoning:
        fields["reasoning_content"] = "\n".join(reasoning)
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    if calls:
        fields["tool_calls"] = [_call(call) for call in calls]
    return fields


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    name, text = call["function"]["name"], call["function"]["arguments"]
    fields = {"tool_call_id": call["id"], "function_name": name}
    try:
        arguments = json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        arguments = None
    if isinstance(arguments, dict):
        return {**fields, "arguments": arguments}
    # Arguments are an object in the format; what was sampled instead is not thrown away.
    return {**fields, "arguments": {}, "extra": {"malformed_arguments": text}}


def _caller(steps: Sequence[dict[str, Any]], call_id: str) -> dict[str, Any] | None:
    for step in steps[::-1]:
        calls: Sequence[dict[str, Any]] = step.get("tool_calls") or ()
        if any(call["tool_call_id"] == call_id for call in calls):
            return step
    return None


def _items(step: TrajectoryStep, number: int) -> Iterator[Item]:
    where = f"steps[{number}]"
    text = _text(step.message, f"{where}.message")
    if step.source == "agent":
        calls = tuple(
            ToolCall(call.tool_call_id, call.function_name, json.dumps(call.arguments))
            for call in step.tool_calls or ()
        )
        said = AssistantMessage(text, step.reasoning_content, calls)
        yield from items_from_message(said, item_id_prefix=f"atif-{number}")
    elif text or step.observation is None:
        yield from items_from_told([{"role": step.source, "content": text}])
    for index, result in enumerate(step.observation.results if step.observation else ()):
        yield from items_from_told([_told(result, f"{where}.observation.results[{index}].content")])


def _told(result: ObservationResult, where: str) -> Message:
    content = _text(result.content or "", where)
    if result.source_call_id is None:
        return {"role": "user", "content": content}
    return {"role": "tool", "tool_call_id": result.source_call_id, "content": content}


def _text(content: Content, where: str) -> str:
    if isinstance(content, str):
        return content
    for index, part in enumerate(content):
        if part.type != "text":
            raise TrajectoryRefused(
                f"{where}[{index}]", f"is {part.type}, and rollouts hold text only"
            )
    return "".join(part.text or "" for part in content)
