"""Agents: the loop that lets a policy act in an environment until done.

`agent.py` says what an agent is given and what it returns; `single_turn`, `tool_calling` and
`gymnasium` are one loop each; `dialogue.py` is how they talk to the policy, in tokens or in
messages; `turn_taking.py` is what the multi-turn ones share.
"""

from gym_ray.agents.agent import (
    Agent,
    AgentContext,
    AgentLimits,
    Episode,
    Sampler,
    Watch,
    unwatched,
)
from gym_ray.agents.gymnasium import gymnasium
from gym_ray.agents.single_turn import single_turn
from gym_ray.agents.tool_calling import tool_calling
from gym_ray.agents.toolbox import RemoteTool, Toolbox, ToolError

AGENTS: dict[str, Agent] = {
    "single_turn": single_turn,
    "tool_calling": tool_calling,
    "gymnasium": gymnasium,
}

__all__ = [
    "AGENTS",
    "Agent",
    "AgentContext",
    "AgentLimits",
    "Episode",
    "RemoteTool",
    "Sampler",
    "ToolError",
    "Toolbox",
    "Watch",
    "unwatched",
]
