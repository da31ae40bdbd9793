"""Settings: what stands under `env.nemo_gym.gym_ray` in NeMo RL's config.

Owned here: keys, defaults, and the gym-ray config of a service whose policy is NeMo RL's own
servers. Other keys of `env.nemo_gym` are NeMo RL's or NeMo Gym's and mean nothing here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
from pydantic import Field

from gym_ray.config.section import Section
from gym_ray.errors import ConfigError
from gym_ray.integrations.nemo_rl.hosted import refuse_cut_sampling
from gym_ray.rollout import TruncationReason

if TYPE_CHECKING:
    from gym_ray.config.load import RunConfig

KEY = "env.nemo_gym.gym_ray"

#: Rows from NeMo RL always bring their own limit, which can only lower the config's.
_MAX_OUTPUT_TOKENS = 1_000_000

_EXAMPLE = '{config: environments.yaml} or {service_url: "http://HOST:8000"}'


class NemoRlSettings(Section):
    """Where rollouts run, and how results are marked. Exactly one of the first two is set."""

    config: str | dict[str, Any] | None = None
    """gym-ray config, a file or the sections themselves, of a service that the actor starts in
    NeMo RL's cluster and that samples from NeMo RL's own servers. Its `policy` section is
    generated: give only what differs, never `engine`."""
    service_url: str | None = None
    """Base URL of a service that runs already (`gym-ray serve`), with its own policy."""
    api_key_env: str = "GYM_RAY_API_KEY"
    """Environment variable of the actor's process with the service's key; not set, none is sent."""
    max_in_flight: int = Field(4096, ge=1)
    """With `service_url`: rollouts of one call at once; with `config` it is
    `collect.max_in_flight`."""
    startup_timeout_seconds: float = Field(900, gt=0)
    """How long `_spinup` waits for the service of `service_url`."""
    mask_truncated: tuple[TruncationReason, ...] = ("deadline",)
    """Truncated rollouts that `mask_sample` keeps out of the loss, by reason; by default those
    that ran out of time, which is not only the policy's doing."""
    tensors: bool = False
    """Token IDs and logprobs as torch tensors instead of lists: NeMo RL 0.5 needs it."""

    @pydantic.model_validator(mode="after")
    def _one_service(self) -> NemoRlSettings:
        if (self.config is None) == (self.service_url is None):
            raise ValueError(f"set exactly one of config and service_url, e.g. {_EXAMPLE}")
        return self


def settings_of(nemo_gym: Mapping[str, Any]) -> NemoRlSettings:
    """The settings in NeMo RL's `env.nemo_gym`.

    Raises:
        ConfigError: none, an unknown key, or a wrong value; names the key.
    """
    section = nemo_gym.get("gym_ray")
    if not isinstance(section, Mapping):
        raise ConfigError(f"{KEY} is missing; write {_EXAMPLE}")
    try:
        return NemoRlSettings.model_validate(dict(section))
    except pydantic.ValidationError as error:
        problems = "; ".join(_explain(dict(problem)) for problem in error.errors())
        raise ConfigError(problems) from None


def config_of(
    settings: NemoRlSettings, *, base_urls: Sequence[str | None], model_name: str
) -> RunConfig:
    """The config of a service that samples from NeMo RL's servers.

    Args:
        settings: with `config`.
        base_urls: of the servers, each ending in `/v1`; None for ranks without one.
        model_name: the servers know the model by.

    Raises:
        ConfigError: the config is wrong, names an engine or cuts the sampling, or there are no
            servers.
    """
    from gym_ray.config.load import load_config

    urls = [url for url in base_urls if url]
    if not urls:
        raise ConfigError(
            f"{KEY}.config needs NeMo RL's own servers and none was handed in; set "
            "policy.generation.vllm_cfg.expose_http_server=true and async_engine=true"
        )
    tree, origin = _as_written(settings.config or {})
    policy = dict(tree.get("policy") or {})
    for key in ("engine", "model"):
        if key in policy:
            raise ConfigError(
                f"{KEY}.config: leave policy.{key} out: the policy is NeMo RL's own servers. A "
                "policy that gym-ray hosts runs in a service of its own (service_url)"
            )
    arguments = {"api": "chat", **(policy.get("engine_args") or {}), "base_urls": urls}
    tree["policy"] = {**policy, "engine": "openai", "model": model_name, "engine_args": arguments}
    sampling = dict(tree.get("sampling") or {})
    refuse_cut_sampling(sampling, f"{KEY}.config")
    tree["sampling"] = {"max_output_tokens": _MAX_OUTPUT_TOKENS, **sampling}
    return load_config(tree, origin=origin)


def _as_written(config: str | Mapping[str, Any]) -> tuple[dict[str, Any], Path | None]:
    """The sections of a config without their defaults, and the file they are from."""
    if not isinstance(config, str):
        return dict(config), None
    from omegaconf import OmegaConf

    from gym_ray.config.load import read_yaml

    path = Path(config)
    sections: Any = OmegaConf.to_container(read_yaml(path), resolve=False)
    if not isinstance(sections, dict):
        raise ConfigError(f"{path}: must hold sections such as environments:")
    return sections, path


def _explain(problem: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    where = f"{KEY}.{key}" if key else KEY
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg']}"
    known = list(NemoRlSettings.model_fields)
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"valid keys: {', '.join(known)}"
    return f"{where}: unknown key; {hint}"
