"""The renderer a config asks for, loaded and checked for what the run's agents need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gym_ray.agents.bridging import MULTI_TURN, require_bridge
from gym_ray.config.load import RunConfig
from gym_ray.errors import ConfigError

if TYPE_CHECKING:
    from gym_ray.renderers.renderer import RolloutRenderer


def check_renderer(config: RunConfig) -> None:
    """Refuse, before anything starts, an agent that the policy's renderer cannot carry.

    Raises:
        ConfigError: see `require_bridge`; or an outside agent's calls could not be recorded, since
            the policy takes messages only. Single-turn configs load nothing and always pass.
    """
    if takes_messages_only(config):
        _refuse_outside_agents(config)
        return
    agents = {
        name: section.agent
        for name, section in config.environments.items()
        if section.agent in MULTI_TURN
    }
    if not agents:
        return
    renderer = load_policy_renderer(config)
    assert renderer is not None
    for name, agent in agents.items():
        require_bridge(name, agent, renderer)


def _refuse_outside_agents(config: RunConfig) -> None:
    for name, section in config.environments.items():
        if section.agent == "external":
            raise ConfigError(
                f"environments.{name}.agent external needs a policy that takes tokens, and this "
                "one takes messages only; set policy.engine_args.api=completions, or another agent"
            )


def takes_messages_only(config: RunConfig) -> bool:
    """Whether the policy speaks chat completions and nothing else, so that no renderer is needed.

    Raises:
        ConfigError: the arguments of a remote policy are wrong.
    """
    if config.policy.engine != "openai":
        return False
    from gym_ray.policies.openai import OpenAIArgs

    return OpenAIArgs.parse(config.policy.engine_args).api == "chat"


def load_policy_renderer(config: RunConfig) -> RolloutRenderer | None:
    """The renderer of the policy's model; None for a policy that takes messages only."""
    if takes_messages_only(config):
        return None
    from gym_ray.renderers.renderer import load_renderer

    policy = config.policy
    return load_renderer(model_path_of(config), policy.renderer, policy.thinking_retention)


def model_path_of(config: RunConfig) -> str | None:
    """Where the policy's tokenizer is; None for the scripted policy, which needs no files."""
    if config.policy.engine == "scripted":
        return None
    from gym_ray.policies.bundled import resolve_model

    return resolve_model(config.policy.model)
