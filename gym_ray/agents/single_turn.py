"""One prompt, one answer."""

from __future__ import annotations

from gym_ray.agents.agent import AgentContext, Episode
from gym_ray.agents.tool_use import ToolUse
from gym_ray.agents.turn_taking import TurnTaking
from gym_ray.renderers.items import messages_from_items


async def single_turn(attempt: AgentContext) -> Episode:
    """Sample one answer to the task's prompt. Tools of the row are shown, calls not executed."""
    use = ToolUse(attempt.task, attempt.renderer, attempt.task.tools)
    turns = TurnTaking(attempt, tools=use.tools)

    async def one() -> None:
        await turns.turn(messages_from_items(attempt.task.input_items), use=use)

    return await turns.play(one())
