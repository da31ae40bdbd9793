"""RL rows: one per branch of a rollout, with the tokens, mask and logprobs of the stored row.

Tokens go through Arrow and never through Python: they are the stored ones by construction.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.export.counts import ExportCounts
from gym_ray.export.recipe import TRAIN, Converted, groups_of
from gym_ray.store.columns import Column, schema_of, structs
from gym_ray.store.schema import COLUMNS as STORED
from gym_ray.store.schema import LOGPROBS, LOSS_MASK, TOKEN_IDS
from gym_ray.verifiers.advantages import has_no_signal, leave_one_out, standardized

FailedGroups = Literal["drop", "keep-completed"]

#: Type of each token column, also of side branches.
_TOKENS = {"token_ids": TOKEN_IDS, "loss_mask": LOSS_MASK, "logprobs": LOGPROBS}

#: Copied from the stored row as they are.
_COPIED = (
    "task_id", "rollout_id", "run_id", "task_index", "rollout_index", "environment", "model",
    "status", "truncation_reason", "reward", "sampling",
)  # fmt: skip
_STORED = {column.name: column for column in STORED}

COLUMNS = (
    Column("group_id", pa.string(), "`run_id:task_id`: what the rollouts of a group share"),
    *(_STORED[name] for name in _COPIED),
    # A map would be the natural type, but Hugging Face's `datasets` infers no features from one.
    structs(
        "reward_components",
        "weighted parts that sum to the reward, when there are any",
        Column("name", pa.string(), "of the part"),
        Column("value", pa.float64(), "what it adds to the reward"),
    ),
    Column("branch", pa.int32(), "0 for the final branch; side branches count from 1"),
    Column("token_ids", TOKEN_IDS, "the whole sequence of the branch, prompts and generations"),
    Column("loss_mask", LOSS_MASK, "1 exactly where the policy sampled; same length"),
    Column("logprobs", LOGPROBS, "sampling log-probability where the mask is 1, 0 elsewhere"),
    Column("length", pa.int32(), "tokens of the branch"),
    Column("sampled_tokens", pa.int32(), "of them, sampled"),
    Column("group_size", pa.int32(), "rollouts of the group that have a reward"),
    Column(
        "advantage_grpo",
        pa.float64(),
        "(r − mean) / std over the group, sample standard deviation, no epsilon; 0 where all are "
        "equal",
    ),
    Column(
        "advantage_rloo",
        pa.float64(),
        "r − mean of the others in the group; 0 for a group of one",
    ),
    Column(
        "policy_versions",
        pa.list_(pa.int32()),
        "of the policies that sampled the branch, ascending; null on side branches",
    ),
    structs(
        "version_spans",
        "which policy sampled which tokens; null on side branches",
        Column("version", pa.int32(), "of the policy's weights"),
        Column("start", pa.int32(), "first token, counted in `token_ids`"),
        Column("end", pa.int32(), "one past the last token"),
    ),
    structs(
        "turns",
        "where each generation stands; null on side branches",
        Column("start", pa.int32(), "first token, counted in `token_ids`"),
        Column("end", pa.int32(), "one past the last token"),
    ),
    Column(
        "turn_rewards",
        pa.list_(pa.float64()),
        "in the order of `turns`, where the verifier judges the process; else null, as on side "
        "branches",
    ),
)
SCHEMA = schema_of(COLUMNS, {"gym_ray.export": "rl"})


@dataclasses.dataclass(frozen=True, slots=True)
class RlRecipe:
    """RL rows.

    Attributes:
        failed_groups: what becomes of a group some of whose rollouts have no reward: `drop` it, or
            `keep-completed` and compare those among themselves. Failures are rarely independent
            of the reward, so that either way says something about the dataset: both are counted.
        drop_zero_variance: leave out groups whose rewards are all equal: their advantages are 0.
    """

    failed_groups: FailedGroups = "drop"
    drop_zero_variance: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (*_COPIED, "reward_components", *_TOKENS, "turns", "turn_rewards", "side_branches")

    @property
    def schema(self) -> pa.Schema:
        return SCHEMA

    @property
    def files(self) -> tuple[str, ...]:
        return (TRAIN,)

    def convert(self, table: pa.Table) -> Converted:
        groups = groups_of(table)
        tally = ExportCounts.of_read(table, groups)
        scores = self._scores(table, groups, tally)
        kept = _with_tokens(table, scores, tally)
        found = _branches(table, np.asarray(kept, dtype=np.int64), scores, tally)
        tally.rows[TRAIN] += len(found)
        tally.lengths.update(found["length"].to_pylist())
        tally.sampled_tokens += pc.sum(found["sampled_tokens"]).as_py() or 0
        return Converted(tally, found, {TRAIN: _lines(found)})

    def _scores(
        self, table: pa.Table, groups: list[list[int]], tally: ExportCounts
    ) -> dict[int, tuple[int, float, float]]:
        """Group size and both advantages of every rollout to keep, by row number."""
        rewards, statuses = table["reward"].to_pylist(), table["status"].to_pylist()
        scores: dict[int, tuple[int, float, float]] = {}
        for group in groups:
            members = [n for n in group if statuses[n] != "failed" and rewards[n] is not None]
            lost = len(group) - len(members)
            tally.dropped["no reward (failed or not verified)"] += lost
            tally.noted["groups with rollouts that have no reward"] += lost > 0
            if not members:
                continue
            if lost and self.failed_groups == "drop":
                tally.dropped["in a group with failed rollouts"] += len(members)
                continue
            found = np.asarray([rewards[n] for n in members], dtype=np.float64)
            tally.noted["groups whose rewards are all equal"] += has_no_signal(found)
            if self.drop_zero_variance and has_no_signal(found):
                tally.dropped["in a group whose rewards are all equal"] += len(members)
                continue
            advantages = zip(standardized(found), leave_one_out(found), strict=True)
            for number, (grpo, rloo) in zip(members, advantages, strict=True):
                scores[number] = (len(members), float(grpo), float(rloo))
        return scores


def _with_tokens(
    table: pa.Table, scores: dict[int, tuple[int, float, float]], tally: ExportCounts
) -> list[int]:
    without_token_ids = table["token_ids"].is_null().to_numpy()
    lengths = pc.fill_null(pc.list_value_length(table["token_ids"]), 0).to_numpy()
    kept = []
    for number in scores:
        if without_token_ids[number]:
            tally.without_token_ids += 1
        elif not lengths[number]:
            tally.dropped["took no turn"] += 1
        else:
            kept.append(number)
    return kept


def _branches(
    table: pa.Table,
    rows: np.ndarray[tuple[int], np.dtype[np.int64]],
    scores: dict[int, tuple[int, float, float]],
    tally: ExportCounts,
) -> pa.Table:
    """One row per branch: the final one is branch 0, side branches count from 1."""
    chosen = table.take(pa.array(rows)).combine_chunks()
    sides = _array(chosen, "side_branches")
    parents = pc.list_parent_indices(sides).to_numpy().astype(np.int64)
    flat = pc.list_flatten(sides)
    seen: collections.Counter[int] = collections.Counter()
    numbers = np.zeros(len(rows) + len(parents), dtype=np.int64)
    for place, parent in enumerate(parents.tolist(), start=len(rows)):
        seen[parent] += 1
        numbers[place] = seen[parent]
    owners = np.concatenate([np.arange(len(rows), dtype=np.int64), parents])
    tokens = {
        name: pa.concat_arrays(
            [_array(chosen, name).cast(kind), pc.struct_field(flat, name).cast(kind)]
        )
        for name, kind in _TOKENS.items()
    }
    sampled = _sums(tokens["loss_mask"])
    order = np.lexsort((numbers, owners))
    # A branch whose generations all stand in other branches has nothing to learn from.
    order = order[sampled[order] > 0]
    tally.dropped["branches without sampled tokens of their own"] += len(owners) - len(order)
    tokens = {name: column.take(pa.array(order)) for name, column in tokens.items()}
    owner, branch = owners[order], numbers[order]
    copied = chosen.select(list(_COPIED)).take(pa.array(owner))
    final = [
        _of_final_branch(turns, rewards) for turns, rewards in zip(
            chosen["turns"].to_pylist(), _turn_rewards(chosen), strict=True
        )
    ]  # fmt: skip
    nothing: dict[str, Any] = dict.fromkeys(final[0]) if final else {}
    of_branch = [
        final[o] if b == 0 else nothing
        for o, b in zip(owner.tolist(), branch.tolist(), strict=True)
    ]
    places = zip(copied["run_id"].to_pylist(), copied["task_id"].to_pylist(), strict=True)
    score = [scores[number] for number in rows[owner].tolist()]
    columns: dict[str, Any] = {
        **{name: copied[name] for name in _COPIED},
        **tokens,
        "group_id": [f"{run_id}:{task_id}" for run_id, task_id in places],
        "reward_components": _components(chosen["reward_components"].take(pa.array(owner))),
        "branch": branch,
        "length": pc.list_value_length(tokens["token_ids"]),
        "sampled_tokens": sampled[order],
        "group_size": [size for size, _, _ in score],
        "advantage_grpo": [grpo for _, grpo, _ in score],
        "advantage_rloo": [rloo for _, _, rloo in score],
        **{
            name: [entry[name] for entry in of_branch]
            for name in ("policy_versions", "version_spans", "turns", "turn_rewards")
        },
    }
    arrays = []
    for field in SCHEMA:
        column = columns[field.name]
        is_arrow = isinstance(column, pa.Array | pa.ChunkedArray)
        arrays.append(column.cast(field.type) if is_arrow else pa.array(column, type=field.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _of_final_branch(
    turns: list[dict[str, Any]], turn_rewards: list[float] | None
) -> dict[str, Any]:
    """What the stored row says of its final branch alone; positions count in `token_ids`."""
    spans = [
        {
            "version": span["version"],
            "start": turn["prompt_length"] + span["start"],
            "end": turn["prompt_length"] + span["end"],
        }
        for turn in turns
        for span in turn["version_spans"]
    ]
    return {
        "policy_versions": sorted({span["version"] for span in spans}),
        "version_spans": spans,
        "turns": [
            {
                "start": turn["prompt_length"],
                "end": turn["prompt_length"] + turn["generation_length"],
            }
            for turn in turns
        ],
        "turn_rewards": turn_rewards,
    }


def _components(column: pa.ChunkedArray) -> list[list[dict[str, Any]]]:
    return [
        [{"name": name, "value": value} for name, value in entries or ()]
        for entries in column.to_pylist()
    ]


def _turn_rewards(table: pa.Table) -> list[list[float] | None]:
    """None for all where the dataset is older than the column."""
    if "turn_rewards" not in table.column_names:
        return [None] * len(table)
    found: list[list[float] | None] = table["turn_rewards"].to_pylist()
    return found


def _array(table: pa.Table, name: str) -> pa.Array:
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        empty = pa.array([], type=table.schema.field(name).type)
        column = column.chunk(0) if column.num_chunks else empty
    return column


def _sums(lists: pa.ListArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    running = np.concatenate([[0], np.cumsum(lists.values.to_numpy(), dtype=np.int64)])
    offsets = lists.offsets.to_numpy()
    found: np.ndarray[tuple[int], np.dtype[np.int64]] = running[offsets[1:]] - running[offsets[:-1]]
    return found


def _lines(table: pa.Table) -> Iterator[dict[str, Any]]:
    for start in range(0, len(table), 64):
        for row in table.slice(start, 64).to_pylist():
            components = {part["name"]: part["value"] for part in row["reward_components"]}
            yield {**row, "reward_components": components}
