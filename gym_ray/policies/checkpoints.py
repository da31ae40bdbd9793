"""Whether a checkpoint directory can take the place of the one a policy was started with.

Owned here: the comparison, by safetensors headers and the config's keys that change what weights
mean. An engine loads what it is given and warns of what is missing; a policy of half-new weights
must not come to be. Not owned here: loading.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gym_ray.errors import ConfigError, one_line

#: Keys of config.json that change what the same tensors compute.
MEANING = (
    "architectures",
    "head_dim",
    "hidden_act",
    "model_type",
    "num_attention_heads",
    "num_experts_per_tok",
    "num_key_value_heads",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
)

#: Written by some trainers though the embedding is the head as well; engines ignore it then.
_TIED_HEAD = "lm_head.weight"


def check_checkpoint(directory: str, *, like: str) -> None:
    """Refuse a checkpoint that is not one of the same model.

    Args:
        directory: the new weights.
        like: the checkpoint directory, or hub id in the local cache, that the policy serves.

    Raises:
        ConfigError: what differs.
    """
    new, old = _opened(Path(directory)), _opened(_local(like))
    for key in MEANING:
        if key in new[0] and key in old[0] and new[0][key] != old[0][key]:
            raise ConfigError(
                f"{directory}/config.json: {key} is {new[0][key]!r}, and the policy was started "
                f"with {old[0][key]!r}; weights of another model need another application"
            )
    ignored = {_TIED_HEAD} if new[0].get("tie_word_embeddings", False) else set()
    for name in sorted((set(new[1]) | set(old[1])) - ignored):
        if name not in new[1]:
            raise ConfigError(f"{directory}: tensor {name} is missing; save the whole model")
        if name not in old[1]:
            raise ConfigError(f"{directory}: tensor {name} is none of the policy's")
        if new[1][name] != old[1][name]:
            raise ConfigError(
                f"{directory}: tensor {name} has shape {new[1][name]}, and the policy's has "
                f"{old[1][name]}"
            )


def _opened(directory: Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """A checkpoint's config, and the shape of every tensor."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, list[int]] = {}
    try:
        config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        for file in sorted(directory.glob("*.safetensors")):
            with safe_open(file, framework="numpy") as tensors:
                shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{directory} is no whole checkpoint: {one_line(error)}") from error
    if not shapes:
        raise ConfigError(
            f"{directory} has no *.safetensors file; live updates need that format "
            "(save_pretrained writes it)"
        )
    return config, shapes


def _local(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except Exception as error:
        raise ConfigError(f"{model} is not in the local hub cache: {one_line(error)}") from error
