"""NeMo Gym's output row: a rollout in the shape its tools and NeMo RL read.

Owned here: the row's shape (the verify response, with token fields on the output items). Not
owned here: NeMo Gym's input row, which is our task row as it is (`task.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gym_ray.errors import RETRYABLE
from gym_ray.rollout import Rollout
from gym_ray.task_fields import Field

#: What the policy itself produces; other items are what it was told.
_SAID = {"reasoning": "rs_", "message": "msg_", "function_call": "fc_"}

_STATUS = {"completed": "completed", "truncated": "incomplete", "failed": "failed"}

#: What `output_row` adds to the task's own keys.
FIELDS = (
    Field("responses_create_params", "object | null", "the task row's, or null", True),
    Field("response", "object", "a response of OpenAI's Responses API", True),
    Field("response.id", "string", "`resp_` and the rollout's id", True),
    Field("response.object", "string", "`response`", True),
    Field("response.created_at", "int", "start of the last attempt, seconds since 1970", True),
    Field("response.status", "string", "`completed`, `incomplete` (truncated), `failed`", True),
    Field("response.error", "object | null", "`code` and `message` of a failure", True),
    Field(
        "response.incomplete_details",
        "object | null",
        "of a truncated rollout: `reason` `max_output_tokens`, whatever the reason",
        True,
    ),
    Field("response.instructions", "string | null", "the task's", True),
    Field("response.metadata", "object | null", "`truncation_reason` where there is one", True),
    Field("response.model", "string", "model that was sampled", True),
    Field(
        "response.output",
        "list<object>",
        "what the policy said and was told, the prompt left out",
        True,
    ),
    Field(
        "response.output[].prompt_token_ids",
        "list<int>",
        "on the last item of each turn: all tokens before its generation; absent where the policy "
        "returns none",
    ),
    Field("response.output[].generation_token_ids", "list<int>", "beside it: tokens sampled"),
    Field("response.output[].generation_log_probs", "list<number>", "their log-probabilities"),
    Field("response.parallel_tool_calls", "bool", "the task's", True),
    Field("response.temperature", "number | null", "sampled with", True),
    Field("response.tool_choice", "string | object", "the task's", True),
    Field("response.tools", "list<object>", "definitions offered", True),
    Field("response.top_p", "number | null", "sampled with", True),
    Field("response.max_output_tokens", "int | null", "of a turn at most", True),
    Field("response.usage", "object", "tokens; each turn's prompt counts whole", True),
    Field("reward", "number | null", "null of a failed rollout", True),
    Field("reward_components", "object", "weighted parts of the reward, where there are any"),
    Field("_ng_task_index", "int", "the task row's, else its position in the input", True),
    Field("_ng_rollout_index", "int", "number of the repeat, from 0", True),
    Field("_ng_attempt_index", "int", "retries it took; absent when none"),
    Field("_ng_failure_class", "string", "failure kind; only in `rollouts_failures.jsonl`"),
    Field("_ng_failure_terminal", "bool", "beside it: whether a retry would be in vain"),
    Field("agent_ref", "object", "the task row's, else the environment's", True),
    Field(
        "…",
        "any",
        "the task row's other keys, and the rollout's metrics by name; `side_branches` where "
        "histories were left (edited, compacted, a conversation beside the task's), a list of "
        "objects with `output` (items), `token_ids`, `loss_mask` (1 where sampled, and in no other "
        "branch) and `log_probs`",
    ),
)


def output_row(rollout: Rollout) -> dict[str, Any]:
    """A rollout as NeMo Gym's verify response.

    All keys of the task row stay as they are. `response.output` items carry
    `prompt_token_ids`, `generation_token_ids` and `generation_log_probs` on the last item of
    each turn, unless the policy returned none. Metrics become fields of the row where it has
    none of that name. A failed rollout has `_ng_failure_class` and no reward (null). NeMo Gym knows
    one sequence a rollout, so that the others stand beside it, under `side_branches`.

    OpenAI knows two reasons of incomplete responses, so every truncation is
    `max_output_tokens` there; `response.metadata.truncation_reason` says which one it was.

    Raises:
        ValueError: the items do not fall into as many turns as were sampled.
    """
    row = _row_of(rollout.spec.task)
    result = {
        **row,
        "responses_create_params": row.get("responses_create_params"),
        "response": _response(rollout, row),
        "reward": rollout.reward,
    }
    if rollout.side_branches:
        result["side_branches"] = _side_branches(rollout)
    if rollout.reward_components:
        result["reward_components"] = dict(rollout.reward_components)
    result.setdefault("_ng_task_index", rollout.spec.task_index)
    result.setdefault("_ng_rollout_index", rollout.spec.rollout_index)
    if rollout.attempts > 1:
        result["_ng_attempt_index"] = rollout.attempts - 1
    if rollout.error_kind is not None:
        result["_ng_failure_class"] = str(rollout.error_kind)
        result["_ng_failure_terminal"] = rollout.error_kind not in RETRYABLE
    result["agent_ref"] = _agent_ref(row, rollout.spec.environment)
    for name, value in rollout.metrics.items():
        result.setdefault(name, value)
    return result


def numbers_in(rollout: Rollout) -> int:
    """How many token IDs and logprobs the row of a rollout has: what it costs to write it."""
    sides = sum(3 * len(branch.token_ids) for branch in rollout.side_branches)
    return sides + sum(turn.prompt_length + 2 * turn.generation_length for turn in rollout.turns)


def turn_of_item(item: Mapping[str, Any]) -> str | None:
    """What the IDs of a turn's items have in common; None for what the policy was told."""
    kind = item.get("type", "message")
    if kind not in _SAID or (kind == "message" and item.get("role") != "assistant"):
        return None
    name = str(item.get("id") or "").removeprefix(_SAID[kind])
    return (name.rpartition("_")[0] if kind == "function_call" else name) or None


def last_items(items: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The last item of each turn of the policy.

    Items of one turn have IDs of one prefix (`items.items_from_message`), which tells apart
    turns with nothing told in between.
    """
    last: dict[str, Any] | None = None
    for item in items:
        if last is not None and turn_of_item(item) != turn_of_item(last):
            yield last
            last = None
        if turn_of_item(item) is not None:
            last = item
    if last is not None:
        yield last


def _row_of(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):  # A line that is no task; the rollout has failed of it.
        return {}
    return row if isinstance(row, dict) else {}


def _side_branches(rollout: Rollout) -> list[dict[str, Any]]:
    left_out: list[list[dict[str, Any]]] = json.loads(rollout.left_out)
    # Imported rollouts may have sequences without items.
    left_out += [[]] * (len(rollout.side_branches) - len(left_out))
    return [
        {
            "output": items,
            "token_ids": branch.token_ids.tolist(),
            "loss_mask": branch.loss_mask.tolist(),
            "log_probs": branch.logprobs.tolist(),
        }
        for branch, items in zip(rollout.side_branches, left_out, strict=True)
    ]


def _agent_ref(row: Mapping[str, Any], environment: str) -> dict[str, Any]:
    ref = row.get("agent_ref")
    if isinstance(ref, dict):
        return ref
    return {
        "type": "responses_api_agents",
        "name": ref if isinstance(ref, str) else environment,
    }


def _response(rollout: Rollout, row: Mapping[str, Any]) -> dict[str, Any]:
    params = row.get("responses_create_params")
    params = params if isinstance(params, dict) else {}
    sampling = json.loads(rollout.sampling)
    reason = rollout.truncation_reason
    return {
        "id": f"resp_{rollout.spec.rollout_id}",
        "object": "response",
        "created_at": int(rollout.started_at.timestamp()),
        "status": _STATUS[rollout.status],
        "error": (
            None
            if rollout.error_kind is None
            else {"code": "server_error", "message": f"{rollout.error_kind}: {rollout.error}"}
        ),
        "incomplete_details": None if reason is None else {"reason": "max_output_tokens"},
        "instructions": params.get("instructions"),
        "metadata": None if reason is None else {"truncation_reason": reason},
        "model": rollout.model,
        "output": _output(rollout),
        "parallel_tool_calls": params.get("parallel_tool_calls") is not False,
        "temperature": sampling.get("temperature"),
        "tool_choice": params.get("tool_choice") or "auto",
        "tools": [
            {"description": None, "parameters": None, "strict": None, "type": "function", **tool}
            for tool in json.loads(rollout.tools)
        ],
        "top_p": sampling.get("top_p"),
        "max_output_tokens": sampling.get("max_output_tokens"),
        "usage": _usage(rollout),
    }


def _usage(rollout: Rollout) -> dict[str, Any]:
    """Tokens over all turns: each turn's prompt counts whole, as an API would bill it."""
    prompts = sum(turn.prompt_length for turn in rollout.turns)
    return {
        "input_tokens": prompts,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": rollout.sampled_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompts + rollout.sampled_tokens,
    }


def _output(rollout: Rollout) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(rollout.response)
    if not len(rollout.token_ids):
        return items
    last = list(last_items(items))
    if len(last) != len(rollout.turns):
        raise ValueError(
            f"rollout {rollout.spec.rollout_id}: its items are those of {len(last)} turns and "
            f"{len(rollout.turns)} were sampled"
        )
    for item, turn in zip(last, rollout.turns, strict=True):
        start, end = turn.prompt_length, turn.prompt_length + turn.generation_length
        item["prompt_token_ids"] = rollout.token_ids[:start].tolist()
        item["generation_token_ids"] = rollout.token_ids[start:end].tolist()
        item["generation_log_probs"] = rollout.logprobs[start:end].tolist()
    return items
