"""Rollouts as Arrow and Parquet: whatever goes in comes out, bit for bit."""

import dataclasses
import datetime
import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gym_ray.errors import FailureKind
from gym_ray.rollout import Branch, Rollout, RolloutSpec, failed_rollout
from gym_ray.store.rows import (
    broken_invariants,
    from_table,
    specs_from_table,
    specs_to_table,
    to_table,
)
from gym_ray.store.schema import MANIFEST_SCHEMA, SCHEMA
from gym_ray.turn import Turn, VersionSpan

TEXT = st.text(max_size=8)
INT32 = st.integers(-(2**31), 2**31 - 1)
COUNT = st.integers(0, 2**31 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
REWARD = st.floats(allow_nan=False, allow_infinity=False)
SCORES = st.dictionaries(TEXT, REWARD, max_size=3)
SEED = st.integers(0, 2**32 - 1)


@st.composite
def branches(draw: st.DrawFn) -> Branch:
    length = draw(st.sampled_from([0, 1, 3, 40]))
    random = np.random.default_rng(draw(SEED))
    mask = random.integers(0, 2, length).astype(np.int8)
    logprobs = (-random.random(length) * mask).astype(np.float32)
    token_ids = random.integers(-(2**31), 2**31, length).astype(np.int32)
    return Branch(token_ids, mask, logprobs)


SPANS = st.builds(VersionSpan, version=COUNT, start=COUNT, end=COUNT)
TURNS = st.builds(
    Turn,
    prompt_length=COUNT,
    generation_length=COUNT,
    stop_reason=st.sampled_from(["stop", "length", "abort"]),
    version_spans=st.lists(SPANS, max_size=2).map(tuple),
    queued_seconds=FLOAT32,
    generation_seconds=FLOAT32,
    tool_seconds=FLOAT32,
)
SPECS = st.builds(
    RolloutSpec,
    rollout_id=TEXT,
    task_id=TEXT,
    task_index=COUNT,
    rollout_index=COUNT,
    environment=TEXT,
    source_file=TEXT,
    source_line=st.integers(0, 2**63 - 1),
    task=TEXT,
    error=st.none(),
)


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    status = draw(st.sampled_from(["completed", "truncated", "failed"]))
    spec = draw(SPECS)
    error_kind = error = truncation_reason = reward = None
    if status == "failed":
        error_kind, error = draw(st.sampled_from(FailureKind)), draw(TEXT)
        if error_kind == FailureKind.TASK_INVALID:
            spec = dataclasses.replace(spec, error=error)
    else:
        reward = draw(st.none() | REWARD)
    if status == "truncated":
        truncation_reason = draw(st.sampled_from(["length", "max_turns", "context", "deadline"]))
    final = draw(branches())
    moments = st.datetimes(
        datetime.datetime(1970, 1, 1),
        datetime.datetime(2200, 1, 1),
        timezones=st.just(datetime.UTC),
    )
    return Rollout(
        spec=spec,
        run_id=draw(TEXT),
        agent=draw(TEXT),
        model=draw(TEXT),
        status=status,
        truncation_reason=truncation_reason,
        reward=reward,
        reward_components=draw(SCORES),
        metrics=draw(SCORES),
        token_ids=final.token_ids,
        loss_mask=final.loss_mask,
        logprobs=final.logprobs,
        turns=tuple(draw(st.lists(TURNS, max_size=2))),
        side_branches=tuple(draw(st.lists(branches(), max_size=2))),
        prompt=draw(TEXT),
        response=draw(TEXT),
        tools=draw(TEXT),
        sampling=draw(TEXT),
        attempts=draw(COUNT),
        error_kind=error_kind,
        error=error,
        started_at=draw(moments),
        seconds=draw(FLOAT32),
    )


def plain(value: Any) -> Any:
    """A value in a form that compares exactly: arrays by type and content."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return list(value.items())
    return (type(value), value)


def plains(values: Iterable[Any]) -> list[Any]:
    return [plain(value) for value in values]


def through_parquet(table: pa.Table, **options: Any) -> pa.Table:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", **options)
    return pq.read_table(io.BytesIO(file.getvalue()))


SLOW = settings(max_examples=15, suppress_health_check=list(HealthCheck))


@SLOW
@given(st.lists(rollouts(), max_size=4))
def test_rollouts_survive_arrow_and_parquet_unchanged(values: list[Rollout]) -> None:
    table = to_table(values)

    assert table.schema.equals(SCHEMA, check_metadata=True)
    assert plains(from_table(table)) == plains(values)
    stored = through_parquet(table, row_group_size=2)
    assert stored.schema.equals(SCHEMA)
    assert stored.schema.metadata[b"gym_ray.schema_version"] == b"1"
    assert plains(from_table(stored)) == plains(values)


@SLOW
@given(st.lists(rollouts(), min_size=1, max_size=5), st.data())
def test_slices_and_selections_of_tables_read_back_their_own_rows(
    values: list[Rollout], data: st.DataObject
) -> None:
    table = pa.concat_tables([to_table(values[:2]), to_table(values[2:])])
    start = data.draw(st.integers(0, len(values)))
    length = data.draw(st.integers(0, len(values)))
    picked = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=4))

    assert plains(from_table(table.slice(start, length))) == plains(values[start : start + length])
    taken = table.take(pa.array(picked, type=pa.int64()))
    assert plains(from_table(taken)) == plains(values[index] for index in picked)


@settings(max_examples=30)
@given(st.lists(SPECS | SPECS.map(lambda s: dataclasses.replace(s, error=s.task)), max_size=5))
def test_manifest_rows_survive_arrow_and_parquet_unchanged(specs: list[RolloutSpec]) -> None:
    table = specs_to_table(specs)

    assert table.schema.equals(MANIFEST_SCHEMA)
    assert specs_from_table(table) == specs
    assert specs_from_table(through_parquet(table)) == specs
    assert specs_from_table(table.slice(1, 2)) == specs[1:3]


@settings(max_examples=10)
@given(rollouts())
def test_rollouts_travel_between_processes(value: Rollout) -> None:
    assert plain(pickle.loads(pickle.dumps(value))) == plain(value)


def test_a_dataset_with_columns_of_a_later_version_is_still_read(
    make_rollout: Callable[..., Rollout],
) -> None:
    value = make_rollout(1)
    table = to_table([value]).append_column("later", pa.array(["?"]))
    shuffled = table.select(list(reversed(table.schema.names)))

    assert plains(from_table(shuffled)) == [plain(value)]


def test_many_rows_read_back_in_order(make_rollout: Callable[..., Rollout]) -> None:
    values = [make_rollout(index // 8, index % 8) for index in range(1200)]

    read = list(from_table(through_parquet(to_table(values), row_group_size=500)))

    assert [r.spec.rollout_id for r in read] == [v.spec.rollout_id for v in values]
    assert [r.token_ids[3:].tolist() for r in read] == [[i // 8, i % 8] for i in range(1200)]


def test_a_failure_whose_message_is_no_text_is_stored_all_the_same(
    make_spec: Callable[..., RolloutSpec],
) -> None:
    kind = FailureKind.ENVIRONMENT_ERROR
    failed = failed_rollout(make_spec(), kind, "no file \ud800.txt", run_id="run")

    (read,) = from_table(through_parquet(to_table([failed])))

    assert read.error == "no file \\ud800.txt"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"loss_mask": np.zeros(4, np.int8)}, "5 tokens, 4 mask entries, 5 logprobs"),
        ({"logprobs": np.zeros(6, np.float32)}, "5 tokens, 5 mask entries, 6 logprobs"),
        ({"status": "truncated"}, "truncation_reason is set exactly when"),
        ({"truncation_reason": "length"}, "truncation_reason is set exactly when"),
        ({"status": "failed"}, "error_kind is set exactly when"),
        ({"error_kind": FailureKind.CANCELLED}, "error_kind is set exactly when"),
        (
            {"status": "failed", "error_kind": FailureKind.CANCELLED, "reward": 0.0},
            "a failed rollout has no reward",
        ),
    ],
)
def test_a_rollout_that_contradicts_itself_cannot_be_made(
    make_rollout: Callable[..., Rollout], fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        make_rollout(**fields)


def test_a_sound_rollout_breaks_no_invariant(make_rollout: Callable[..., Rollout]) -> None:
    failed = make_rollout(status="failed", error_kind=FailureKind.CANCELLED)

    assert broken_invariants([make_rollout(), make_rollout(1), failed]) == []


def side(token_ids: list[int], loss_mask: list[int], logprobs: list[float]) -> Branch:
    return Branch(
        np.array(token_ids, np.int32), np.array(loss_mask, np.int8), np.array(logprobs, np.float32)
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"loss_mask": np.array([0, 0, 1, 1, 1], np.int8)}, "loss mask is not 1 exactly"),
        ({"loss_mask": np.array([0, 0, 0, 0, 1], np.int8)}, "loss mask is not 1 exactly"),
        ({"logprobs": np.array([0, 0, 0, 0.1, 0], np.float32)}, "not finite and at most 0"),
        ({"logprobs": np.array([0, 0, 0, -np.inf, 0], np.float32)}, "not finite and at most 0"),
        ({"logprobs": np.array([0, 0, 0, np.nan, 0], np.float32)}, "not finite and at most 0"),
        ({"logprobs": np.array([0, -1, 0, -1, 0], np.float32)}, "not sampled"),
        ({"turns": (Turn(3, 3, "stop", (), 0, 0),)}, "does not continue the sequence"),
        ({"turns": (Turn(3, 2, "stop", (), 0, 0),) * 2}, "does not continue the sequence"),
        ({"reward": float("nan")}, "reward is not finite"),
        ({"side_branches": (side([1, 2], [0, 1], [0, 0.5]),)}, "do not fit its mask"),
        ({"side_branches": (side([1, 2], [0, 1], [-1, -1]),)}, "do not fit its mask"),
        ({"side_branches": (side([1, 2], [0], [0, 0]),)}, "unequal length"),
    ],
)
def test_a_broken_token_contract_is_found(
    make_rollout: Callable[..., Rollout], fields: dict[str, Any], says: str
) -> None:
    assert any(says in problem for problem in broken_invariants([make_rollout(**fields)]))
