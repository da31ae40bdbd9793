"""New weights for a running vLLM: pause, load, number, resume.

Owned here: the order of vLLM's calls and why it makes every recorded log-probability that of the
version it is labelled with. Not owned here: vLLM itself (vllm), whether a checkpoint fits
(checkpoints), other replicas (serving).

While vLLM is paused it computes nothing, and pausing with `clear_cache` throws away the prefix
cache *and* preempts what runs (`reset_running_requests`), so no key or value computed by the old
weights is left when the new ones come. A generation that was frozen (`keep`) is prefilled again
from its first token on resuming: from there on its log-probabilities are those of the new weights
on the whole prefix, and those recorded before stay those of the old. vLLM labels tokens with the
version that was set when they came out of the engine, which is set while nothing can come out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from gym_ray.errors import ConfigError
from gym_ray.policies.weights import Place, Transfer, WeightsUpdate

_PAUSE_MODES = {"keep": "keep", "drain": "wait"}


async def update_weights(
    llm: Any, update: WeightsUpdate, place: Place, verify: Callable[[], Awaitable[None]]
) -> str:
    """Load an update into a running `AsyncLLM`.

    Any failure, cancelling included, leaves it paused with unknown weights: end it then.

    Returns:
        Digest of every weight in memory, of all its workers.
    """
    await llm.pause_generation(mode=_PAUSE_MODES[update.mode], clear_cache=True)
    if isinstance(update.source, Transfer):
        await _receive(llm, update.source, place)
    else:
        await llm.collective_rpc("reload_weights", kwargs={"weights_path": update.source})
    await llm.collective_rpc("repack_weights")
    await verify()
    await llm.update_weight_version(str(update.version))
    loaded = _digest(await llm.compute_weight_checksums())
    await llm.resume_generation()
    return loaded


def check_transfer(llm: Any, transfer: Transfer, place: Place) -> None:
    """Refuse a transfer this engine cannot take part in.

    Raises:
        ConfigError: what has to be configured or sent instead.
    """
    config = llm.vllm_config.weight_transfer_config
    if config is None or config.backend != transfer.backend:
        raise ConfigError(
            f"the policy takes no weights over {transfer.backend}: set "
            f"policy.engine_args.weight_transfer_config={{backend: {transfer.backend}}}"
        )
    if transfer.backend == "nccl" and transfer.init is not None:
        needed = _rank_offset(transfer.init) + place.replicas * _workers(llm)
        if transfer.init.get("world_size") != needed:
            raise ConfigError(
                f"init.world_size is {transfer.init.get('world_size')}, and the trainer with "
                f"{place.replicas} replicas of {_workers(llm)} workers makes {needed}"
            )


async def _receive(llm: Any, transfer: Transfer, place: Place) -> None:
    if transfer.init is not None:
        init = dict(transfer.init)
        if transfer.backend == "nccl":
            init["rank_offset"] = _rank_offset(init) + place.position * _workers(llm)
        await llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": init})
    await llm.start_weight_update()
    for chunk in transfer.updates:
        await llm.collective_rpc("update_weights", kwargs={"update_info": chunk})
    await llm.finish_weight_update()


def _rank_offset(init: dict[str, Any]) -> int:
    """Rank of the first worker; the trainer's sender is rank 0."""
    return int(init.get("rank_offset", 1))


def _workers(llm: Any) -> int:
    """Workers of one replica: tensor times pipeline times data parallel."""
    parallel = llm.vllm_config.parallel_config
    return int(parallel.world_size * parallel.data_parallel_size)


def _digest(checksums: list[dict[str, str]]) -> str:
    text = json.dumps(checksums, sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
