"""One prompt, one answer."""

from __future__ import annotations

from typing import Any

from gym_ray.agents.agent import Episode, Limits, Sampler, render_prompt
from gym_ray.agents.toolbox import Toolbox
from gym_ray.environment import Environment
from gym_ray.renderers.items import (
    items_from_message,
    messages_from_items,
    text_of_items,
    tools_for_chat,
)
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.task import Task
from gym_ray.transcript import Transcript


async def single_turn(
    *,
    task: Task,
    environment: Environment,
    state: Any,
    renderer: RolloutRenderer,
    sample: Sampler,
    rollout_id: str,
    limits: Limits,
    toolbox: Toolbox,
) -> Episode:
    """Sample one answer to the task's prompt. Tools of the row are shown, calls not executed."""
    tools = task.tools
    chat_tools = tools_for_chat(tools)
    prompt = await render_prompt(renderer, messages_from_items(task.input_items), chat_tools)
    generation = await sample(prompt)
    transcript = Transcript()
    transcript.append(prompt, generation)
    answer = renderer.parse(generation.token_ids, prompt, chat_tools)
    items = items_from_message(answer, item_id_prefix=f"{rollout_id}-0")
    return Episode(
        transcript=transcript,
        items=items,
        text=text_of_items(items),
        tools=tools,
        truncation_reason="length" if generation.stop_reason == "length" else None,
    )
