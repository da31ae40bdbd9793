"""A rollout as NeMo RL trains on it: `message_log`, `input_message_log`, `full_result`.

NeMo RL knows two roles: `assistant` for tokens that were sampled, `user` for all others. The log
alternates between them, one pair per turn, and read from end to end it is the rollout's sequence.
Owned here: that shape, the marks beside it, and refusing what could not be trained on. Not owned
here: the row in `full_result`, which is NeMo Gym's (`gym_ray.nemo_gym`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gym_ray.integrations.nemo_rl.row_flags import RowFlags
from gym_ray.nemo_gym import last_items, output_row
from gym_ray.rollout import NO_LOGPROBS, NO_MASK, NO_TOKENS, Rollout

#: How far components may be from the reward: NeMo RL's own tolerance.
_RELATIVE, _ABSOLUTE = 1e-5, 1e-6

#: Keys of an output row that NeMo RL gives, or does without.
_INDICES = ("_ng_task_index", "_ng_rollout_index")


class Untrainable(ValueError):
    """A finished rollout that NeMo RL could not train on; the message says why."""


def result_of(
    task: Mapping[str, Any], rollout: Rollout, tokenizer: Any, flags: RowFlags, *, tensors: bool
) -> dict[str, Any]:
    """The result of one row.

    `full_result` is NeMo Gym's output row without token fields; the last item of each turn has
    `prompt_str` and `generation_str` instead. It has `mask_sample` where NeMo RL reads it
    (`instance_config`) and where NeMo Gym writes it (top level).

    Args:
        task: the row NeMo RL gave.
        rollout: not a failed one.
        tokenizer: decodes; has `batch_decode`.
        marks: what marks turns and rollouts.
        tensors: tokens and logprobs as torch tensors rather than lists.

    Raises:
        Untrainable: no tokens, no finite logprobs, several branches, which are several sequences
            with one reward, or a reward its components do not sum to.
    """
    _require_trainable(rollout)
    bare = dataclasses.replace(
        rollout, token_ids=NO_TOKENS, loss_mask=NO_MASK, logprobs=NO_LOGPROBS
    )
    row = output_row(bare)
    for index in _INDICES:
        if index not in task:
            # The service's own count, which NeMo RL would take for a metric.
            del row[index]
    last = list(last_items(row["response"]["output"]))
    if len(last) != len(rollout.turns):
        raise Untrainable(
            f"its items are those of {len(last)} turns and {len(rollout.turns)} were sampled"
        )
    log: list[dict[str, Any]] = []
    decoded: list[tuple[dict[str, Any], list[int], list[int]]] = []
    seen = 0
    for item, turn in zip(last, rollout.turns, strict=True):
        if not turn.generation_length:
            continue
        start, end = turn.prompt_length, turn.prompt_length + turn.generation_length
        prompt, generation = (rollout.token_ids[:start].tolist(), rollout.token_ids[start:end])
        log.append({"role": "user", "content": "", "token_ids": prompt[seen:]})
        log.append(
            {
                "role": "assistant",
                "content": "",
                "token_ids": generation.tolist(),
                "generation_logprobs": rollout.logprobs[start:end].tolist(),
                **flags.of_item(item),
            }
        )
        decoded.append((item, prompt, log[-1]["token_ids"]))
        seen = end
    _add_texts(decoded, tokenizer)
    _mask(row, masked=flags.masks(rollout, row))
    if tensors:
        _to_tensors(log)
    return {"message_log": log, "input_message_log": log[:1], "full_result": row}


def _require_trainable(rollout: Rollout) -> None:
    if not rollout.has_tokens:
        raise Untrainable("the policy's server returns no token IDs of what it sampled")
    if not rollout.sampled_tokens:
        raise Untrainable("no token was sampled; the prompt may fill the model's context")
    if rollout.side_branches:
        raise Untrainable(
            f"it has {len(rollout.side_branches)} side branches, since its agent edited its "
            "history or held conversations beside the task's, and NeMo RL trains on one sequence a "
            "rollout; train on `gym-ray export rl`, which has a row for each"
        )
    if not np.isfinite(rollout.logprobs).all():
        raise Untrainable("logprobs are not finite numbers (NaN or infinite)")
    reward = rollout.reward
    if reward is None or not math.isfinite(reward):
        raise Untrainable(f"its reward is {reward}, not a finite number")
    total = sum(rollout.reward_components.values())
    if rollout.reward_components and not math.isclose(
        reward, total, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE
    ):
        raise Untrainable(f"its reward is {reward} and its components sum to {total}")


def _add_texts(
    decoded: Sequence[tuple[dict[str, Any], list[int], list[int]]], tokenizer: Any
) -> None:
    prompts = tokenizer.batch_decode([prompt for _, prompt, _ in decoded])
    generations = tokenizer.batch_decode([generation for _, _, generation in decoded])
    for (item, _, _), prompt, generation in zip(decoded, prompts, generations, strict=True):
        item["prompt_str"], item["generation_str"] = prompt, generation


def _mask(row: dict[str, Any], *, masked: bool) -> None:
    given = row.get("instance_config")
    if given is not None and not isinstance(given, dict):
        raise Untrainable("field 'instance_config' must be an object: NeMo RL reads it")
    row["mask_sample"] = masked
    row["instance_config"] = {**(given or {}), "mask_sample": masked}


def _to_tensors(log: Sequence[dict[str, Any]]) -> None:
    import torch

    for message in log:
        message["token_ids"] = torch.tensor(message["token_ids"])
        if "generation_logprobs" in message:
            message["generation_logprobs"] = torch.tensor(message["generation_logprobs"])
