"""The RL export lines up: tokens, masks and logprobs of a real collection drive a GRPO step.

The code is the page's; the model is the one the engine served.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from tests import training
from tests.forward_pass import TOLERANCE

Row = dict[str, Any]

#: Negative controls take every so manyth row.
EVERY = 6


@pytest.fixture(scope="module")
def stepped(demo: Path, brief_checkpoint: Path) -> dict[str, Any]:
    """What the page's code leaves behind: functions, rows, and the policy after its step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(demo)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", demo / "cache")
        return training.run_code("A GRPO step by hand", brief_checkpoint)


@pytest.fixture(scope="module")
def policy(brief_checkpoint: Path) -> Any:
    """The policy as it was served."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(brief_checkpoint, dtype=torch.float32)


@pytest.fixture(scope="module")
def rows(stepped: dict[str, Any]) -> list[Row]:
    return list(stepped["rows"])


def test_every_kind_of_rollout_is_among_the_rows(rows: list[Row]) -> None:
    assert {row["environment"] for row in rows} == {"talk", "drafts"}
    assert {json.loads(row["sampling"])["temperature"] for row in rows} == {1.0, 0.8}
    assert max(len(row["turns"] or ()) for row in rows) == 3
    assert {row["branch"] for row in rows} == {0, 1}


def test_ratios_are_one_before_the_step(
    stepped: dict[str, Any], policy: Any, rows: list[Row]
) -> None:
    errors = [_error(stepped, policy, row) for row in rows]

    print(f"worst ratio error {max(errors):.1e} over {sum(r['sampled_tokens'] for r in rows)}")
    assert sum(row["sampled_tokens"] for row in rows) > 300
    assert max(errors) < TOLERANCE


@pytest.mark.parametrize("column", ["token_ids", "loss_mask", "logprobs"])
@pytest.mark.parametrize("by", [1, -1])
def test_ratios_are_not_one_where_a_column_is_shifted_by_one(
    stepped: dict[str, Any], policy: Any, rows: list[Row], column: str, by: int
) -> None:
    # A mask moved past the row's end only loses a token there: something must follow generations.
    several = [row for row in rows if len(row["turns"] or ()) > 1]
    for row in several[::2] if (column, by) == ("loss_mask", 1) else rows[::EVERY]:
        shifted = {**row, column: [*row[column][-by:], *row[column][:-by]]}
        assert _error(stepped, policy, shifted) > TOLERANCE


def test_ratios_are_not_one_without_the_rows_temperature(
    stepped: dict[str, Any], policy: Any, rows: list[Row]
) -> None:
    cool = [row for row in rows if json.loads(row["sampling"])["temperature"] == 0.8]

    for row in cool[::EVERY]:
        sampling = json.dumps({**json.loads(row["sampling"]), "temperature": 1.0})
        assert _error(stepped, policy, {**row, "sampling": sampling}) > TOLERANCE


def test_guided_turns_are_left_out_and_the_free_turn_after_them_lines_up(
    stepped: dict[str, Any], policy: Any, demo: Path
) -> None:
    exported = datasets.Dataset.from_parquet(
        str(demo / "exports" / "demo-rl" / "*.parquet"), cache_dir=str(demo / "cache")
    )
    guided = [row for row in exported if row["environment"] == "desk"]

    played = [row for row in guided if len(row["turns"]) == 3]
    assert played
    for row in played:
        assert not stepped["is_unfiltered"](row)
        assert _error(stepped, policy, row) > TOLERANCE
        start = row["turns"][-1]["start"]
        free = {**row, "loss_mask": [0] * start + row["loss_mask"][start:]}
        assert _error(stepped, policy, free) < TOLERANCE


def test_the_step_makes_tokens_with_positive_advantage_more_likely(
    stepped: dict[str, Any], policy: Any, rows: list[Row]
) -> None:
    gains: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for row in rows:
        with torch.no_grad():
            before, after = (
                stepped["ratios"](model, row).log() for model in (policy, stepped["policy"])
            )
        assert row["advantage_grpo"] != 0
        gains[row["advantage_grpo"] > 0].append(after - before)

    more, less = (torch.cat(gains[positive]).mean().item() for positive in (True, False))
    print(f"mean change of the log-probability: {more:+.1e}, {less:+.1e}")
    assert less < 0 < more


def _error(stepped: dict[str, Any], policy: Any, row: Row) -> float:
    """How far the farthest ratio of a row is from 1."""
    with torch.no_grad():
        return float((stepped["ratios"](policy, row) - 1).abs().max())
