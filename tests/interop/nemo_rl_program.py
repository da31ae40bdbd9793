"""NeMo RL's own code on gym-ray's actor; what it makes of rollouts as JSON.

Run by `test_nemo_rl.py` in the environment of `scripts/nemo_rl.sh`, with NeMo RL's source on the
path:

    python nemo_rl_program.py URL MODEL ROWS.json

NeMo RL's: building and spinning up the actor (its shard set, where it has one), the stream's
accumulator and the post-processing of groups (`run_async_nemo_gym_rollout`), the rows of a prompt
asked for again (`AsyncNemoGymRolloutImpl`), and which failures are infrastructure.
"""

# The exchange goes before NeMo RL's modules.
# ruff: noqa: E402

from __future__ import annotations

import asyncio
import json
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typing_extensions

if sys.version_info < (3, 12):
    # NeMo RL is for 3.13, where pydantic takes the one of `typing`.
    typing.TypedDict = typing_extensions.TypedDict

from gym_ray.integrations import nemo_rl

nemo_rl.exchange_nemo_gym()

import ray
import torch
from nemo_rl.data.llm_message_utils import batched_message_log_to_flat_message
from nemo_rl.distributed.batched_data_dict import BatchedDataDict
from nemo_rl.environments import nemo_gym
from nemo_rl.experience import failures
from nemo_rl.experience.rollout_manager import AsyncNemoGymRolloutImpl, RolloutRetryPolicy
from nemo_rl.experience.rollouts import run_async_nemo_gym_rollout
from transformers import AutoTokenizer, LlamaForCausalLM

GENERATION = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": None,
    "max_new_tokens": 1000,
    "stop_strings": None,
    "stop_token_ids": None,
}
CONTEXT = 4096
IS_SHARDED = hasattr(nemo_gym, "build_nemo_gym_actors")


class Generation:
    """What the rollout code asks the policy for: its config."""

    cfg: typing.ClassVar = {"vllm_cfg": {"max_model_len": CONTEXT}}


def environment_of(section: dict[str, Any], tokenizer: Any) -> Any:
    """What NeMo RL's own builder makes of a config."""
    told: dict[str, Any] = {
        "base_urls": [],
        "model_name": "m",
        "tokenizer": tokenizer,
        "enable_router_replay": False,
        "use_fastokens": False,
    }
    if IS_SHARDED:
        return nemo_gym.build_nemo_gym_actors({"nemo_gym": section}, token_capture=None, **told)
    return nemo_gym.spinup_nemo_gym_actor(
        {"nemo_gym": section}, routed_experts_dtype="int16", **told
    )


def shards_of(services: dict[str, str]) -> dict[str, Any]:
    """The config of a shard for each service, all on one machine."""
    return {
        "placement_strategy": "PACK",
        "shards": [
            {
                "name": name,
                "config_paths": ["none.yaml"],
                "overrides": {"gym_ray": {"service_url": url}},
                "actor_cpus": 0.1,
                "port_range_low": 5100 + 10 * number,
                "port_range_high": 5109 + 10 * number,
            }
            for number, (name, url) in enumerate(services.items())
        ],
    }


async def grouped(environment: Any, tokenizer: Any, rows: list[Any], size: int) -> list[Any]:
    """What NeMo RL makes of a batch, group by group."""
    batch = BatchedDataDict({"extra_env_info": rows, "loss_multiplier": torch.ones(len(rows))})
    groups = [
        group
        async for group in run_async_nemo_gym_rollout(
            policy_generation=Generation(),
            input_batch=batch,
            tokenizer=tokenizer,
            task_to_env={"nemo_gym": environment},
            generation_config=GENERATION,
            num_generations=size,
            log_full_result_tables=False,
        )
    ]
    return [
        {
            "agents": [ref["name"] for ref in group.final_batch["agent_ref"]],
            "rewards": group.final_batch["total_reward"].tolist(),
            "masked": group.final_batch["mask_sample"].tolist(),
            "components": sorted(key for key in group.final_batch if key.startswith("reward/")),
            "samples": [sequence(log) for log in group.final_batch["message_log"]],
        }
        for group in groups
    ]


def sequence(log: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A sample, flattened by NeMo RL as for a training step."""
    for message in log:
        is_sampled = message["role"] == "assistant"
        message["token_loss_mask"] = torch.full_like(message["token_ids"], int(is_sampled))
        if not is_sampled:
            message["generation_logprobs"] = torch.zeros(len(message["token_ids"]))
    flat, _ = batched_message_log_to_flat_message([log], pad_value_dict={"token_ids": 256})
    return {
        "token_ids": flat["token_ids"][0].tolist(),
        "mask": flat["token_loss_mask"][0].tolist(),
        "logprobs": flat["generation_logprobs"][0].tolist(),
    }


@torch.no_grad()
def ratios(model: Any, sample: dict[str, Any], shift: int = 0) -> list[float]:
    """Probability of each sampled token under the model, over that it was sampled with.

    Args:
        model: is trained.
        sample: see `sequence`.
        shift: 0; another one must show in the result.
    """
    ids = torch.tensor([sample["token_ids"]])
    scores = torch.log_softmax(model(input_ids=ids).logits[0].float(), dim=-1)
    own = torch.zeros(ids.shape[1])
    own[1:] = scores[:-1].gather(1, ids[0, 1:, None])[:, 0]
    reported = torch.tensor(sample["logprobs"])
    learned = torch.tensor(sample["mask"]) == 1
    return list(torch.exp(own[learned].roll(shift) - reported[learned]).tolist())


async def prompt(environment: Any, tokenizer: Any, row: Any, size: int) -> dict[str, Any]:
    """One prompt, as the single controller asks for it: rows that did not come once more."""
    manager = AsyncNemoGymRolloutImpl(
        tokenizer=tokenizer,
        task_to_env={"nemo_gym": environment},
        num_generations_per_prompt=size,
        max_seq_len=CONTEXT,
        max_rollout_turns=1,
        generation_config=GENERATION,
        retry_policy=RolloutRetryPolicy.single_attempt(max_gym_row_attempts=3),
    )
    told = {"role": "user", "content": "", "token_ids": torch.tensor([1])}
    sample = {"message_log": [told], "idx": 0, "extra_env_info": row, "loss_multiplier": 1.0}
    try:
        record = await manager.run_rollout(sample)
    except Exception as error:
        terminal = getattr(failures, "is_terminal_gym_episode_failure", lambda _: None)
        return {
            "class": failures.classify_rollout_failure(error).value,
            "terminal": terminal(error),
            "is_theirs": isinstance(error, failures.RolloutFailure),
            "message": str(error).splitlines()[-1],
        }
    return {"rewards": [completion.reward for completion in record.completions]}


async def asked_twice(environment: Any, rows: list[Any]) -> list[list[int]]:
    """Which rows come when they are asked for by two calls at once, and by a third."""
    handle = environment.sole_handle() if IS_SHARDED else environment

    async def call() -> list[int]:
        stream = handle.run_rollouts.options(num_returns="streaming").remote(rows, "timing")
        return sorted([(await told)[0] async for told in stream])

    return [*await asyncio.gather(call(), call()), await call()]


async def main(url: str, folder: str, asked: dict[str, Any]) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    environment = environment_of({"gym_ray": {"service_url": url}}, tokenizer)
    groups = await grouped(environment, tokenizer, asked["groups"], asked["size"])
    for group in groups:
        group["ratios"] = [ratio for own in group["samples"] for ratio in ratios(model, own)]
        group["shifted"] = [ratio for own in group["samples"] for ratio in ratios(model, own, 1)]
    answer = {
        "streams": 4 if nemo_gym.NemoGym is nemo_rl.NemoGym else 3,
        "groups": groups,
        "prompts": {
            name: await prompt(environment, tokenizer, row, asked["size"])
            for name, row in asked["prompts"].items()
        },
        "twice": await asked_twice(environment, asked["twice"]),
    }
    if IS_SHARDED:
        shards = environment_of(shards_of(asked["services"]), tokenizer)
        answer["routes"] = shards.route_to_shard
        answer["sharded"] = await grouped(shards, tokenizer, asked["groups"], asked["size"])
        shards.shutdown()
    return answer


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=True)
    url, model, rows = sys.argv[1:]
    print(json.dumps(asyncio.run(main(url, model, json.loads(Path(rows).read_text())))))
