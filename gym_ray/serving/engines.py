"""Which engine a config names, what of the config it is made of, and what can be said of that
before it is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Iterator

from gym_ray.config.load import RunConfig
from gym_ray.config.policy import PolicyConfig
from gym_ray.errors import ConfigError
from gym_ray.policies.engine import STARTING, Engine
from gym_ray.sampling import Sampling

#: Of each line, a checkpoint that vLLM is to load has at least one.
_CHECKPOINT = (("config.json", "params.json"), ("*.safetensors", "*.bin", "*.pt"))

#: Of which a tokenizer has at least one.
_TOKENIZER = (("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tekken.json"),)


def build_engine(config: RunConfig) -> Engine:
    """The engine `policy.engine` names, not started yet."""
    policy = config.policy
    if policy.engine == "scripted":
        from gym_ray.policies.scripted import ScriptedEngine

        return ScriptedEngine(model=policy.model, engine_args=dict(policy.engine_args))
    if policy.engine == "openai":
        from gym_ray.policies.openai import OpenAIEngine

        return OpenAIEngine(
            model=policy.model,
            engine_args=policy.engine_args,
            sampling=Sampling(**config.sampling.model_dump()),
        )
    from gym_ray.policies.vllm import VllmEngine

    arguments = dict(policy.engine_args)
    gpus = policy.resources.num_gpus
    if policy.resources.bundles is not None:
        gpus = sum(bundle.get("GPU", 0) for bundle in policy.resources.bundles)
        arguments.setdefault("distributed_executor_backend", "ray")
    if config.has_priorities:
        arguments.setdefault("scheduling_policy", "priority")
    return VllmEngine(model=policy.model, engine_args=arguments, num_gpus=math.ceil(gpus))


async def import_engine(engine: str) -> None:
    """Import what an engine needs, off the event loop: of vLLM that takes from 5 to 30 seconds."""
    if engine == "vllm":
        STARTING.info("importing vLLM")
        await asyncio.to_thread(importlib.import_module, "gym_ray.policies.vllm")


def check_engine(policy: PolicyConfig, *, section: str, here: bool) -> None:
    """Refuse a policy that could not start, as far as that is known without its engine.

    Args:
        policy: the policy, or a judge.
        section: of the config that it is, for the message: `policy`, or `judges.NAME`.
        here: its replicas will run on this machine, so that what is missing here is missing there.

    Raises:
        ConfigError: an argument is wrong, the model cannot be had, or a library or key is missing.
    """
    if policy.engine == "scripted":
        _check_scripted(policy, section, here=here)
    elif policy.engine == "openai":
        _check_openai(policy, section, here=here)
    else:
        _check_vllm(policy, section, here=here)


def _check_scripted(policy: PolicyConfig, section: str, *, here: bool) -> None:
    from gym_ray.policies.scripted import ScriptedArgs, load_reply

    arguments = ScriptedArgs.parse(policy.engine_args, section=section)
    _check_renderer(policy, section)
    if here:
        with working_directory_in_path():
            load_reply(arguments.reply, section=section)


@contextlib.contextmanager
def working_directory_in_path() -> Iterator[None]:
    """Modules are found as in replicas, which look into the driver's working directory as well."""
    before = list(sys.path)
    sys.path.append(os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


def _check_openai(policy: PolicyConfig, section: str, *, here: bool) -> None:
    from gym_ray.policies.openai import OpenAIArgs

    arguments = OpenAIArgs.parse(policy.engine_args, section=section)
    if arguments.api == "completions":
        _check_renderer(policy, section)
        _check_model(policy, section, _TOKENIZER, here=here)
    if here:
        from gym_ray.policies.openai.listening import require_server

        arguments.api_key(section=section)
        require_server(arguments, section=section)


def _check_vllm(policy: PolicyConfig, section: str, *, here: bool) -> None:
    from gym_ray.policies.vllm_arguments import check_engine_args

    check_engine_args(policy.engine_args, section=section)
    _check_renderer(policy, section)
    if here and importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            f"{section}.engine is vllm, which is not installed: pip install 'gym-ray[vllm]', or "
            "'gym-ray[cpu]' on a machine without GPUs"
        )
    # What is loaded in other ways may lie elsewhere.
    is_usual = not policy.engine_args.keys() & {"load_format", "hf_config_path", "config_format"}
    _check_model(policy, section, _CHECKPOINT if is_usual else (), here=here)


def _check_renderer(policy: PolicyConfig, section: str) -> None:
    if policy.renderer != "auto":
        from gym_ray.renderers.renderer import check_family

        check_family(policy.renderer, key=f"{section}.renderer")


def _check_model(
    policy: PolicyConfig, section: str, needs: tuple[tuple[str, ...], ...], *, here: bool
) -> None:
    from gym_ray.policies.bundled import PREFIX, require_bundled
    from gym_ray.renderers.model_files import require_model

    key = f"{section}.model"
    if policy.model.startswith(PREFIX):
        require_bundled(policy.model, key=key, here=here)
    elif here:
        revision = policy.engine_args.get("revision")
        require_model(policy.model, key=key, needs=needs, revision=revision)
