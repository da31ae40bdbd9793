"""RL exports: tokens as stored, advantages of whole groups. No Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gym_ray.errors import ConfigError
from gym_ray.export.export import export
from gym_ray.export.rl import RlRecipe
from gym_ray.rollout import Branch
from gym_ray.turn import Turn, VersionSpan
from tests.exports import (
    Make,
    failed,
    store,
    table_of,
    tokenless,
)


def test_rl_rows_have_advantages_of_their_group(make_rollout: Make, exported: Any) -> None:
    rollouts = [make_rollout(0, n, reward=float(n == 0)) for n in range(4)]
    rollouts += [make_rollout(1, n, reward=float(n)) for n in range(2)]

    rows, report = exported(rollouts, "rl", "--format", "jsonl")

    assert [row["advantage_grpo"] for row in rows[:4]] == [1.5, -0.5, -0.5, -0.5]
    assert [row["advantage_rloo"] for row in rows[:4]] == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert [row["group_size"] for row in rows] == [4] * 4 + [2] * 2
    assert len({row["group_id"] for row in rows}) == 2
    assert (report["rollouts"], report["groups"], report["rows"]) == (6, 2, {"train": 6})


def test_a_group_with_a_failed_member_is_dropped_or_completed(
    make_rollout: Make, exported: Any
) -> None:
    rollouts = [make_rollout(0, n, reward=float(n)) for n in range(3)]
    rollouts += [failed(make_rollout, 0, 3), make_rollout(1, 0)]

    rows, report = exported(rollouts, "rl", "--format", "jsonl")
    assert [row["task_index"] for row in rows] == [1]
    assert report["dropped"] == {
        "in a group with failed rollouts": 3,
        "no reward (failed or not verified)": 1,
    }

    rows, report = exported(
        rollouts, "rl", "--format", "jsonl", "--failed-groups", "keep-completed"
    )
    assert [row["advantage_grpo"] for row in rows] == [-1.0, 0.0, 1.0, 0.0]
    assert report["noted"]["groups with rollouts that have no reward"] == 1


def test_groups_of_equal_rewards_can_be_left_out(make_rollout: Make, exported: Any) -> None:
    rollouts = [make_rollout(0, n, reward=1.0) for n in range(2)]
    rollouts += [make_rollout(1, n, reward=float(n)) for n in range(2)]

    rows, report = exported(rollouts, "rl", "--format", "jsonl", "--drop-zero-variance")

    assert {row["task_index"] for row in rows} == {1}
    assert report["dropped"] == {"in a group whose rewards are all equal": 2}


def side(tokens: list[int], mask: list[int]) -> Branch:
    return Branch(
        token_ids=np.asarray(tokens, dtype=np.int32),
        loss_mask=np.asarray(mask, dtype=np.int8),
        logprobs=-np.asarray(mask, dtype=np.float32),
    )


def test_every_branch_with_tokens_of_its_own_is_a_row(make_rollout: Make, exported: Any) -> None:
    branches = (side([7, 8], [0, 1]), side([7, 9], [0, 0]), side([6, 5, 4], [0, 1, 1]))
    rollouts = [make_rollout(0, 0), make_rollout(0, 1, reward=0.0, side_branches=branches)]

    rows, report = exported(rollouts, "rl", "--format", "jsonl")

    assert [(row["rollout_index"], row["branch"]) for row in rows] == [
        (0, 0), (1, 0), (1, 1), (1, 3),
    ]  # fmt: skip
    assert [row["token_ids"] for row in rows[2:]] == [[7, 8], [6, 5, 4]]
    assert {row["advantage_rloo"] for row in rows[1:]} == {-1.0}, "branches count once in a group"
    assert [row["turns"] for row in rows[1:]] == [[{"start": 3, "end": 5}], None, None]
    assert report["dropped"] == {"branches without sampled tokens of their own": 1}
    assert report["packing"]["tokens"] == 5 + 5 + 2 + 3


def test_versions_and_turn_rewards_stand_where_their_tokens_are(
    make_rollout: Make, exported: Any
) -> None:
    turn = Turn(3, 2, "stop", (VersionSpan(4, 0, 1), VersionSpan(5, 1, 2)), 0.0, 0.1)
    components = {"right": 0.75, "short": 0.25}
    rollout = make_rollout(turns=(turn,), turn_rewards=(0.5,), reward_components=components)

    (row,), _ = exported([rollout], "rl", "--format", "jsonl")

    assert row["policy_versions"] == [4, 5]
    assert row["version_spans"] == [
        {"version": 4, "start": 3, "end": 4},
        {"version": 5, "start": 4, "end": 5},
    ]
    assert (row["turns"], row["turn_rewards"]) == ([{"start": 3, "end": 5}], [0.5])
    assert row["reward_components"] == components


def test_rollouts_without_tokens_are_refused_with_their_number(
    make_rollout: Make, tmp_path: Path
) -> None:
    rollouts = [make_rollout(0, 0), tokenless(make_rollout, 0, 1), tokenless(make_rollout, 1, 0)]
    run = store(tmp_path / "run", rollouts)

    with pytest.raises(ConfigError, match=r"2 of 3 rollouts have no token IDs.*export sft"):
        export(run, tmp_path / "out", "rl", RlRecipe(), quiet=True)

    assert [path.name for path in tmp_path.iterdir()] == ["run"], "nothing is left behind"


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_exported_sequence_is_the_stored_one(
    data: st.DataObject, make_rollout: Make, tmp_path_factory: pytest.TempPathFactory
) -> None:
    seed = data.draw(st.integers(0, 2**16))
    random = np.random.default_rng(seed)

    def branch() -> Branch:
        length = int(random.integers(1, 30))
        mask = random.integers(0, 2, length).astype(np.int8)
        return Branch(
            random.integers(0, 2**31 - 1, length).astype(np.int32),
            mask,
            (-random.random(length) * mask).astype(np.float32),
        )

    rollouts = []
    for task in range(data.draw(st.integers(1, 5))):
        for repeat in range(int(random.integers(1, 5))):
            final = branch()
            sides = tuple(branch() for _ in range(int(random.integers(0, 3))))
            rollouts.append(
                make_rollout(
                    task, repeat, token_ids=final.token_ids, loss_mask=final.loss_mask,
                    logprobs=final.logprobs, side_branches=sides, turns=(),
                    reward=float(random.integers(0, 3)),
                )
            )  # fmt: skip
    folder = tmp_path_factory.mktemp("stored")
    run = store(folder / "run", rollouts, compacted=data.draw(st.booleans()))

    export(run, folder / "out", "rl", RlRecipe(), quiet=True)

    wanted = {
        (r.spec.rollout_id, number): (b.token_ids, b.loss_mask, b.logprobs)
        for r in rollouts
        for number, b in enumerate((Branch(r.token_ids, r.loss_mask, r.logprobs), *r.side_branches))
        if b.loss_mask.any()
    }
    found = table_of(folder / "out").to_pylist()
    assert len(found) == len(wanted)
    for row in found:
        columns = wanted[row["rollout_id"], row["branch"]]
        for name, column in zip(("token_ids", "loss_mask", "logprobs"), columns, strict=True):
            np.testing.assert_array_equal(np.asarray(row[name], dtype=column.dtype), column)
