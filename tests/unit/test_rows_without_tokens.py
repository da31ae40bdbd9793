"""Rollouts of a policy that returns no token IDs: null columns, counted and read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gym_ray.collection.compaction import compact
from gym_ray.errors import FailureKind
from gym_ray.rollout import NO_LOGPROBS, NO_MASK, NO_TOKENS, Rollout
from gym_ray.store.index import Index
from gym_ray.store.rows import broken_invariants, from_table, to_table
from gym_ray.store.segments import SegmentStore
from gym_ray.store.stored_run import read_rollouts
from gym_ray.turn import Turn

Make = Callable[..., Rollout]
COLUMNS = ("token_ids", "loss_mask", "logprobs")
TOKENLESS = {
    "token_ids": NO_TOKENS,
    "loss_mask": NO_MASK,
    "logprobs": NO_LOGPROBS,
    # Counted by the policy: of a history it shortens, say, so that nothing has to add up.
    "turns": (Turn(90, 7, "stop", (), 0.0, 0.5), Turn(50, 3, "stop", (), 0.0, 0.5)),
}
FAILED = {"status": "failed", "error_kind": FailureKind.POLICY_ERROR}


def test_token_columns_are_null_where_the_policy_told_none_and_empty_where_it_failed(
    make_rollout: Make,
) -> None:
    table = to_table([make_rollout(0), make_rollout(1, **TOKENLESS), make_rollout(2, **FAILED)])

    for name in COLUMNS:
        assert table[name].is_null().to_pylist() == [False, True, False]
        assert table[name][2].as_py() == []


def test_rows_without_tokens_read_back_the_same(make_rollout: Make) -> None:
    before = [make_rollout(0), make_rollout(1, **TOKENLESS), make_rollout(2)]

    after = list(from_table(to_table(before)))

    assert [rollout.has_tokens for rollout in after] == [True, False, True]
    assert [len(rollout.logprobs) for rollout in after] == [5, 0, 5]
    assert after[1].turns == before[1].turns
    assert after[1].sampled_tokens == 10
    assert after[2].token_ids.tolist() == before[2].token_ids.tolist()
    assert broken_invariants(after) == []


def test_rows_without_tokens_are_counted_in_every_mixture(
    make_rollout: Make, tmp_path: Path
) -> None:
    told = [make_rollout(0), make_rollout(1, **FAILED)]
    tokenless = [make_rollout(2, **TOKENLESS), make_rollout(3, **FAILED)]
    mixed = [make_rollout(4), make_rollout(5, **TOKENLESS), make_rollout(6, **FAILED)]
    store = SegmentStore(tmp_path / "segments")
    for name, rollouts in {"told": told, "tokenless": tokenless, "mixed": mixed}.items():
        store.write(name, rollouts)

    index = Index.read(list(store.files()))
    assert index.table["without_token_ids"].to_pylist() == [i in (2, 5) for i in range(7)]

    (tmp_path / "rollouts").mkdir()
    compact(index, tmp_path / "rollouts", tmp_path / "segments")
    shards = sorted((tmp_path / "rollouts").glob("*.parquet"))
    again = Index.read(shards)
    assert again.table["without_token_ids"].to_pylist() == [i in (2, 5) for i in range(7)]
    rollouts = list(read_rollouts(tmp_path / "rollouts"))
    assert [rollout.without_token_ids for rollout in rollouts] == [i in (2, 5) for i in range(7)]
