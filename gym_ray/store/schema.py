"""The columns of the dataset and of its manifest: what each is called, holds and means.

The schema is a contract: column names are stable, columns may be added, never repurposed. Not
owned here: how rollouts become rows (rows.py).
"""

from __future__ import annotations

import pyarrow as pa

from gym_ray.store.columns import Column, schema_of, structs

SCHEMA_VERSION = "1"

TOKEN_IDS = pa.list_(pa.int32())
LOSS_MASK = pa.list_(pa.int8())
LOGPROBS = pa.list_(pa.float32())
_SCORES = pa.map_(pa.string(), pa.float64())

_VERSION_SPANS = structs(
    "version_spans",
    "which policy sampled which tokens",
    Column("version", pa.int32(), "of the policy's weights"),
    Column("start", pa.int32(), "first token, counted in the generation"),
    Column("end", pa.int32(), "one past the last token"),
)
_TURNS = structs(
    "turns",
    "one per policy call of the final branch: turn n's prompt is `token_ids[:prompt_length]`, its "
    "generation the `generation_length` tokens after it",
    Column(
        "prompt_length",
        pa.int32(),
        "tokens before the generation; of a policy that returns no token IDs, what it counted",
    ),
    Column("generation_length", pa.int32(), "tokens sampled; counted likewise"),
    Column("stop_reason", pa.string(), "`stop`, `length` or `abort`"),
    _VERSION_SPANS,
    Column("queued_seconds", pa.float32(), "waited for the policy"),
    Column("generation_seconds", pa.float32(), "the policy worked"),
    Column("tool_seconds", pa.float32(), "tools worked after the turn"),
)
_SIDE_BRANCHES = structs(
    "side_branches",
    "histories that were left (edited or compacted, a conversation beside the first, a family that "
    "could not continue its tokens); usually empty. A generation that several branches share is "
    "masked in once, in the final branch if it is there, so that training on all of them counts no "
    "sampled token twice",
    Column("token_ids", TOKEN_IDS, "the whole sequence"),
    Column("loss_mask", LOSS_MASK, "1 where sampled, and in no other branch; same length"),
    Column("logprobs", LOGPROBS, "of the tokens with mask 1, 0 elsewhere; same length"),
)

_TASK_ID = Column(
    "task_id",
    pa.string(),
    "SHA-256 of the task row's canonical JSON without `_ng_…` and `_rowidx`: the same for rows of "
    "the same content",
)
_TASK_INDEX = Column(
    "task_index", pa.int32(), "position in the input of the first row with this content"
)
_ROLLOUT_INDEX = Column("rollout_index", pa.int32(), "number of the repeat, from 0")
_SOURCE_FILE = Column("source_file", pa.string(), "file the task row came from")
_SOURCE_LINE = Column("source_line", pa.int64(), "its line there, counted from 1")
_TASK = Column("task", pa.large_string(), "JSON: the task row's text, unchanged")

#: One row per rollout.
COLUMNS = (
    Column(
        "rollout_id",
        pa.string(),
        "hash of task, environment and `rollout_index`: unique in the run; across runs together "
        "with `run_id`",
    ),
    _TASK_ID,
    Column("run_id", pa.string(), "the run that made it"),
    _TASK_INDEX,
    _ROLLOUT_INDEX,
    _SOURCE_FILE,
    _SOURCE_LINE,
    Column("environment", pa.string(), "environment that verified it"),
    Column("agent", pa.string(), "agent that acted"),
    Column("model", pa.string(), "model that was sampled"),
    Column(
        "status",
        pa.string(),
        "`completed`, `truncated` (verified all the same) or `failed` (no reward)",
    ),
    Column(
        "truncation_reason",
        pa.string(),
        "`length`, `max_turns`, `context` or `deadline`; null unless truncated, or truncated and "
        "then failed in verification",
    ),
    Column("reward", pa.float64(), "null unless verified"),
    Column(
        "reward_components",
        _SCORES,
        "weighted parts that sum to the reward (relative 1e-5), when there are any",
    ),
    Column("metrics", _SCORES, "unweighted scores by name"),
    Column(
        "turn_rewards",
        pa.list_(pa.float64()),
        "one per turn of the final branch where the verifier judges the process; null where it "
        "does not",
    ),
    Column(
        "token_ids",
        TOKEN_IDS,
        "the whole sequence of the final branch, prompts and generations. Null when the policy "
        "returns none (then `loss_mask` and `logprobs` are null too, and the row serves SFT and "
        "DPO, not RL); empty when the rollout failed, unless only its verification did: then "
        "everything the policy did is there",
    ),
    Column("loss_mask", LOSS_MASK, "1 exactly where the policy sampled; same length"),
    Column(
        "logprobs",
        LOGPROBS,
        "log-probability of each sampled token under the distribution it was drawn from (after "
        "temperature, top-k, top-p and grammar; at temperature 0, that of temperature 1); 0 "
        "elsewhere; same length",
    ),
    _TURNS,
    _SIDE_BRANCHES,
    Column("prompt", pa.large_string(), "JSON: Responses-API input items"),
    Column(
        "response",
        pa.large_string(),
        "JSON: output items, without token fields, and what the policy was shown in between",
    ),
    Column(
        "left_out",
        pa.large_string(),
        "JSON: output items of the turns that `response` leaves out because their history was "
        "edited or compacted, or because they are of a conversation beside the task's: a list of "
        "items for each of `side_branches`, of the turns that are masked in there; usually empty",
    ),
    Column("tools", pa.large_string(), "JSON: definitions of the tools offered"),
    _TASK,
    Column(
        "sampling",
        pa.string(),
        "JSON: temperature, top_p, top_k, max_output_tokens, seed, stop, grammar, structural_tag "
        "(what guided decoding); where turns differ, `turns` has one object per turn of the final "
        "branch with what differs",
    ),
    Column("attempts", pa.int32(), "attempts this rollout took"),
    Column(
        "error_kind", pa.string(), "one of the [failure kinds](dataset.md#failure-kinds), or null"
    ),
    Column("error", pa.string(), "what went wrong; null unless failed"),
    Column("started_at", pa.timestamp("us", tz="UTC"), "start of the last attempt"),
    Column("seconds", pa.float32(), "wall time of the last attempt"),
)
SCHEMA = schema_of(COLUMNS, {"gym_ray.schema_version": SCHEMA_VERSION})

#: One row per rollout that is to run; see `RolloutSpec`.
MANIFEST_COLUMNS = (
    Column("rollout_id", pa.string(), "as the rollout will have it"),
    _TASK_ID,
    _TASK_INDEX,
    _ROLLOUT_INDEX,
    Column("environment", pa.string(), "where it runs"),
    _SOURCE_FILE,
    _SOURCE_LINE,
    _TASK,
    Column("error", pa.string(), "why the row is no legal task; null when it is one"),
)
MANIFEST_SCHEMA = schema_of(MANIFEST_COLUMNS, {"gym_ray.schema_version": SCHEMA_VERSION})
