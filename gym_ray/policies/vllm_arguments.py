"""`policy.engine_args` of vLLM: which are refused, and why."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import vllm
from vllm.engine.arg_utils import AsyncEngineArgs

from gym_ray.errors import ConfigError

#: The one right value: anything else records another distribution than was sampled from.
LOGPROBS_MODE = "processed_logprobs"

#: Arguments of vLLM that change what is sampled or promised in ways no row tells, and why not.
_UNRECORDED = {
    "return_sampling_mask": "rows have no place for the sampling masks vLLM would return",
    "enable_return_routed_experts": "rows have no place for the routed experts vLLM would return",
    "aux_output_config": "rows have no place for what vLLM would return beside tokens",
    "enable_lora": "no turn asks for an adapter; serve merged weights as policy.model",
    "logits_processors": "rows say which distribution tokens were drawn from, and not what a "
    "processor makes of it; use sampling.* or guided decoding",
    "watermark_config": "watermarked tokens are not drawn from the distribution rows tell",
    "diffusion_config": "tokens of a diffusion model have no log-probability given those before",
    "reasoning_parser": "guided decoding would begin only after the thinking, which no row tells; "
    "gym-ray reads thinking by policy.renderer",
    "override_generation_config": "set sampling.temperature and the like, which rows record",
}


def _refusal(name: str, value: Any) -> str | None:
    """Why an argument of vLLM may not have this value; None when it may."""
    if not value:
        return None
    if name in _UNRECORDED:
        return _UNRECORDED[name]
    if name == "generation_config" and value not in ("auto", "vllm"):
        return "it would change which tokens end a turn; put the file into the model's own folder"
    if not isinstance(value, Mapping):
        return None
    if name == "speculative_config" and value.get("rejection_sample_method") == "synthetic":
        return "with rejection_sample_method synthetic tokens are not the policy's"
    if name == "structured_outputs_config":
        if value.get("reasoning_parser"):
            return f"reasoning_parser: {_UNRECORDED['reasoning_parser']}"
        if value.get("backend") != "xgrammar":
            return (
                "backend must be xgrammar (the default): another one's masks are not those of "
                "the grammar in the row"
            )
    return None


def check_engine_args(engine_args: Mapping[str, Any]) -> None:
    """Refuse engine arguments vLLM does not have, or that would falsify what is recorded.

    Args:
        engine_args: `policy.engine_args` of the config: fields of vLLM's `AsyncEngineArgs`.

    Raises:
        ConfigError: naming the argument, and the nearest one that exists.
    """
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name, value in engine_args.items():
        if name == "model":
            raise ConfigError("policy.engine_args.model: set policy.model instead")
        if name == "logprobs_mode" and value != LOGPROBS_MODE:
            raise ConfigError(
                f"policy.engine_args.logprobs_mode must be {LOGPROBS_MODE!r} (the default): rows "
                f"record the distribution tokens were drawn from; got {value!r}"
            )
        if name == "worker_extension_cls" and value:
            raise ConfigError("policy.engine_args.worker_extension_cls: gym-ray sets its own")
        if (reason := _refusal(name, value)) is not None:
            raise ConfigError(f"policy.engine_args.{name}: {reason}; leave it out")
        if name in known:
            continue
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "see vllm.AsyncEngineArgs"
        raise ConfigError(
            f"policy.engine_args.{name}: vLLM {vllm.__version__} has no such argument; {hint}"
        )
