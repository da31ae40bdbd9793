"""Agents: the loop that lets a policy act in an environment until done.

`agent.py` says what an agent is given and what it returns; each other module is one loop.
"""

from gym_ray.agents.agent import Agent, Episode, Sampler
from gym_ray.agents.single_turn import single_turn

AGENTS: dict[str, Agent] = {"single_turn": single_turn}

__all__ = ["AGENTS", "Agent", "Episode", "Sampler"]
