"""`gym env start`: our `serve` of what the configs of NeMo Gym's command name."""

from __future__ import annotations

from collections.abc import Sequence

from gym_ray.compat.arguments import StartArguments, parsed
from gym_ray.compat.configs import read_configs
from gym_ray.config.load import RunConfig


def config_to_serve(texts: Sequence[str]) -> RunConfig:
    """The config that `gym env start` asks to serve.

    Args:
        texts: arguments, `+key=value`.

    Raises:
        ConfigError: an argument or config is wrong.
    """
    arguments, overrides = parsed(StartArguments, texts)
    configs = read_configs(arguments.config_paths)
    configs.require_ours(overrides)
    configs.answer_all()
    return configs.load(overrides)
