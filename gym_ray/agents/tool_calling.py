"""The policy calls tools until it gives an answer without a call."""

from __future__ import annotations

import time

from gym_ray.agents.agent import AgentContext, Episode
from gym_ray.agents.tool_use import ToolUse
from gym_ray.agents.turn_taking import TurnTaking
from gym_ray.renderers.items import messages_from_items
from gym_ray.renderers.messages import Message


async def tool_calling(attempt: AgentContext) -> Episode:
    """Sample, carry out the calls of the turn at the same time, tell the results, repeat.

    The calls of the last turn `max_turns` allows are carried out too, since the verifier may
    judge the state they leave; a turn cut by its token limit ends the loop before its calls.
    """
    toolbox = attempt.toolbox
    await toolbox.require_legal(attempt.task)
    use = ToolUse(attempt.task, attempt.renderer, toolbox.offer(attempt.task))
    turns = TurnTaking(attempt, tools=use.tools)

    async def loop() -> None:
        messages = messages_from_items(attempt.task.input_items)
        seconds = 0.0
        while True:
            answer = await turns.turn(messages, tool_seconds=seconds, use=use)
            if not answer.tool_calls:
                return
            calls = use.admit(answer.tool_calls)
            started = time.perf_counter()
            results = await toolbox.call_all(calls, use.tools, attempt.state)
            seconds = time.perf_counter() - started
            messages = []
            for call, result in zip(calls, results, strict=True):
                turns.add(
                    {
                        "id": f"fco_{call.id}",
                        "type": "function_call_output",
                        "call_id": call.id,
                        "output": result,
                        "status": "completed",
                    }
                )
                messages.append(_tool_message(call.id, call.name, result))

    return await turns.play(loop())


def _tool_message(call_id: str, name: str, result: str) -> Message:
    message: Message = {"role": "tool", "tool_call_id": call_id, "content": result}
    return {**message, "name": name} if name else message
