"""What NeMo RL does with an actor's results, as far as results can break it.

Written from its behavior, not from its code: the stream's accumulator (row indices, groups), the
post-processing of a group (tokens, reward, components, masks, metrics), which failures it asks
for again, how rows find their shard, and how the list of its releases is read. Raises where NeMo
RL would, or would train on something else than was sampled. tests/interop/test_nemo_rl.py has the
same done by NeMo RL's own code.
"""

from __future__ import annotations

import dataclasses
import math
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray

from gym_ray.integrations.nemo_rl import GymTerminalEpisodeFailure

PREFIX = "timing/rollout"

#: How often rows that did not arrive are asked for.
ATTEMPTS = 3

_INFRASTRUCTURE = (TimeoutError, ConnectionError, ray.exceptions.RayActorError)


@dataclasses.dataclass
class Consumed:
    """What came of a batch.

    Attributes:
        results: by row.
        groups: by number, in the order they were complete.
        timing: as the actor told it; None when a stream ended without.
        calls: how many rows each call asked for.
    """

    results: dict[int, dict[str, Any]]
    groups: list[int]
    timing: dict[str, float] | None
    calls: list[int]


class Tokenizer:
    """Picklable stand-in for the model's: the scripted policy's byte-level one."""

    def batch_decode(self, batch: Sequence[Sequence[int]]) -> list[str]:
        from gym_ray.renderers import load_renderer

        renderer = load_renderer(None)
        return [renderer.decode(np.asarray(ids, dtype=np.int32)) for ids in batch]


def named_group(rows: Sequence[Mapping[str, Any]], attempt: int = 0) -> list[dict[str, Any]]:
    """Rows of one group as NeMo RL 0.8 names them."""
    group = uuid.uuid4().hex
    return [
        {
            **row,
            "_rowidx": index,
            "_ng_group_id": group,
            "_ng_group_attempt": attempt,
            "_ng_rollout_index": index,
        }
        for index, row in enumerate(rows)
    ]


async def consume(
    actor: Any,
    rows: list[dict[str, Any]],
    num_generations: int = 1,
    before_asking_again: Callable[[Consumed], None] = lambda _: None,
    parts: int = 3,
) -> Consumed:
    """Roll out a batch, asking again for rows lost to infrastructure, group by group.

    Args:
        actor: takes the place of theirs.
        rows: of the batch.
        num_generations: rows of a group, which are neighbors.
        before_asking_again: called between two attempts.
        parts: of each row in the stream: 3 in August 2026, 4 from 0.8 on.
    """
    prepared = [{**row, "_rowidx": index} for index, row in enumerate(rows)]
    consumed = Consumed({}, [], None, [])
    for attempt in range(1, ATTEMPTS + 1):
        pending = [row for row in prepared if row["_rowidx"] not in consumed.results]
        if not pending:
            break
        if attempt > 1:
            before_asking_again(consumed)
        consumed.calls.append(len(pending))
        try:
            await _stream(actor, pending, prepared, num_generations, consumed, parts)
        except Exception as error:
            if not is_infrastructure(error) or attempt == ATTEMPTS:
                raise
    assert sorted(consumed.results) == list(range(len(rows))), "rows are missing without an error"
    return consumed


async def _stream(
    actor: Any,
    pending: list[dict[str, Any]],
    prepared: list[dict[str, Any]],
    num_generations: int,
    consumed: Consumed,
    parts: int,
) -> None:
    dispatched = {row["_rowidx"] for row in pending}
    arrived = 0
    call = actor.run_rollouts.options(num_returns="streaming").remote(pending, PREFIX, False)
    async for reference in call:
        told = await reference
        assert len(told) == parts
        index, *resolved, result, timing = told
        assert type(index) is int
        assert index in dispatched
        assert index not in consumed.results, f"row {index} came twice"
        arrived += 1
        assert (timing is not None) == (arrived == len(pending))
        read(result)
        if resolved:
            # The caller's row may name its source alone; metrics go by where it went.
            assert isinstance(resolved[0], dict)
            prepared[index]["agent_ref"] = resolved[0]
        consumed.results[index] = result
        consumed.timing = timing
        group = index // num_generations
        members = range(group * num_generations, (group + 1) * num_generations)
        if all(member in consumed.results for member in members):
            read_group(
                [prepared[member] for member in members],
                [consumed.results[member] for member in members],
            )
            consumed.groups.append(group)


def read(result: dict[str, Any]) -> None:
    """Turn a result's lists into tensors, and check what training reads."""
    log = result["message_log"]
    assert log, "no generation data"
    assert [message["role"] for message in log] == ["user", "assistant"] * (len(log) // 2)
    assert result["input_message_log"] == log[:1]
    for message in log:
        tokens = np.asarray(message["token_ids"])
        assert (tokens.ndim, tokens.dtype.kind) == (1, "i"), "torch.tensor of it would be float"
        assert message["content"] == ""
        if message["role"] == "user":
            continue
        logprobs = np.asarray(message["generation_logprobs"])
        assert (logprobs.shape, logprobs.dtype.kind) == (tokens.shape, "f")
        assert not np.isnan(logprobs).any(), "Generation logprobs contain NaN"
        assert type(message["is_invalid_tool_call"]) is bool
        assert type(message["has_malformed_thinking"]) is bool
    _read_texts(result)


def _read_texts(result: dict[str, Any]) -> None:
    """Every turn's prompt begins with all tokens before it: nothing was rendered anew."""
    items = [item for item in result["full_result"]["response"]["output"] if "prompt_str" in item]
    log = result["message_log"]
    assert len(items) == len(log) // 2
    decode = Tokenizer().batch_decode
    seen: list[int] = []
    for turn, item in enumerate(items):
        seen = [*seen, *log[2 * turn]["token_ids"]]
        generated = list(log[2 * turn + 1]["token_ids"])
        assert decode([seen, generated]) == [item["prompt_str"], item["generation_str"]]
        seen += generated
    fields = ("prompt_token_ids", "generation_token_ids", "generation_log_probs")
    output = result["full_result"]["response"]["output"]
    assert not [field for item in output for field in fields if field in item]


def read_group(rows: list[dict[str, Any]], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Post-process a prompt group; returns its rewards, masks, components and metrics."""
    assert len({row["agent_ref"]["name"] for row in rows}) == 1
    if "_ng_task_index" in rows[0]:
        assert len({int(row["_ng_task_index"]) for row in rows}) == 1
    full = [result["full_result"] for result in results]
    for row, found in zip(rows, full, strict=True):
        assert isinstance(found["response"]["output"], list)
        assert found["responses_create_params"]["input"] == row["responses_create_params"]["input"]
        assert found["agent_ref"] == row["agent_ref"]
        assert found.get("_ng_task_index") == row.get("_ng_task_index")
        components = found.get("reward_components") or {}
        if components:
            total = sum(float(score) for score in components.values())
            assert math.isclose(found["reward"], total, rel_tol=1e-5, abs_tol=1e-6)
    metrics = defaultdict(list)
    for found in full:
        for key in full[0]:
            if isinstance(found.get(key), bool | int | float):
                metrics[key].append(float(found[key]))
    return {
        "rewards": [float(found["reward"]) for found in full],
        "masks": [bool((found.get("instance_config") or {}).get("mask_sample")) for found in full],
        "metrics": dict(metrics),
    }


def is_infrastructure(error: BaseException) -> bool:
    """How a failure that crossed Ray is told from one of the row's."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, _INFRASTRUCTURE):
            return True
        current = current.__cause__
    return False


def is_terminal(error: BaseException) -> bool:
    """Whether a group is never tried again, whatever its other rows failed of."""
    return isinstance(error, GymTerminalEpisodeFailure)


class Shards:
    """Which of several actors a group of rows goes to, by the entries each has.

    Args:
        actors: by shard.
        entries: of each shard, as its actor tells them.
    """

    def __init__(
        self, actors: Mapping[str, Any], entries: Mapping[str, Mapping[str, list[str]]]
    ) -> None:
        self._actors = actors
        self._shards: dict[str, str] = {}
        for shard, own in entries.items():
            for entry, kinds in own.items():
                assert set(kinds) & {"responses_api_agents", "resources_servers"}
                other = self._shards.setdefault(entry, shard)
                assert other == shard, f"rows naming {entry} could go to {other} and to {shard}"

    def actor_of(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """The actor for the rows of a group, which have one route."""
        (route,) = {(row.get("agent_ref") or {}).get("name") or row["task_source"] for row in rows}
        assert route in self._shards, f"no shard hosts {route}; hosted: {sorted(self._shards)}"
        return self._actors[self._shards[route]]


def consume_list(actor: Any, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Any]:
    """Roll out a batch the way releases 0.5 to 0.7 do."""
    prepared = [{**row, "_rowidx": index} for index, row in enumerate(rows)]
    results, timing = ray.get(actor.run_rollouts.remote(prepared, Tokenizer(), PREFIX))
    read_list(prepared, results)
    return results, timing


def read_list(rows: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> None:
    """Check the list of results that releases 0.5 to 0.7 are given."""
    assert len(results) == len(rows)
    for row, result in zip(rows, results, strict=True):
        read(result)
        read_group([row], [result])
