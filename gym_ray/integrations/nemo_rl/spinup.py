"""The driver's side: an actor, ready for rollouts, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from gym_ray.integrations.nemo_rl.actor import NemoGym
from gym_ray.integrations.nemo_rl.settings import settings_of

#: Keys of `env.nemo_gym` that NeMo RL's actor takes at the top level of its config.
_TOP_LEVEL = ("invalid_tool_call_patterns", "thinking_tags", "tokenizer_config")


def spinup_nemo_gym_actor(
    env_configs: Mapping[str, Any],
    base_urls: Sequence[str | None],
    model_name: str,
    *,
    tokenizer: Any,
    enable_router_replay: bool = False,
    routed_experts_dtype: str = "int16",
    use_fastokens: bool = False,
) -> Any:
    """Start a `NemoGym` actor; takes the place of NeMo RL's function of the same name.

    Args:
        env_configs: NeMo RL's `env` section; `env_configs["nemo_gym"]["gym_ray"]` is ours.
        base_urls: of NeMo RL's own servers, each ending in `/v1`; None for ranks without one.
        model_name: the servers know the model by.
        tokenizer: results are decoded with.
        enable_router_replay: must be False.
        routed_experts_dtype, use_fastokens: as NeMo RL passes them; they change nothing here.

    Returns:
        The actor's handle, spun up.

    Raises:
        ConfigError: the settings are wrong.
    """
    nemo_gym = dict(env_configs["nemo_gym"])
    settings = settings_of(nemo_gym)
    cfg = {
        "model_name": model_name,
        "base_urls": list(base_urls),
        **{key: nemo_gym.pop(key, None) for key in _TOP_LEVEL},
        "require_routed_experts": enable_router_replay,
        "routed_experts_dtype": routed_experts_dtype,
        "use_fastokens": use_fastokens,
        "initial_global_config_dict": nemo_gym,
    }
    environment: dict[str, Any] = {}
    if settings.python is not None:
        environment["py_executable"] = settings.python
    if settings.config is not None:
        from gym_ray.serving import SERVE_ENVIRONMENT

        # Inherited by Serve and by all replicas, which must agree in it.
        environment["env_vars"] = SERVE_ENVIRONMENT
    actor = NemoGym.options(runtime_env=environment).remote(cfg)
    ray.get(actor._spinup.remote())
    ray.get(actor.set_tokenizer.remote(tokenizer))
    return actor
