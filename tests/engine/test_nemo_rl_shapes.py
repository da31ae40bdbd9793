"""Exports of a real collection have the shapes NeMo RL's datasets document and assert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.exports import lines

Row = dict[str, Any]


@pytest.mark.parametrize("parquet", [False, True], ids=["jsonl", "parquet"])
def test_sft_messages_start_with_what_was_told_and_end_with_the_assistant(
    demo: Path, parquet: bool
) -> None:
    for row in _rows(demo, "demo-sft", parquet=parquet):
        roles = [message["role"] for message in row["messages"]]
        assert set(roles) <= {"system", "user", "assistant", "tool"}
        assert "system" not in roles[1:]
        assert roles[-1] == "assistant"
        assert 0.8 <= row["reward"] <= 1
        assert all(isinstance(message["content"], str) for message in row["messages"])


@pytest.mark.parametrize("parquet", [False, True], ids=["jsonl", "parquet"])
def test_dpo_has_a_context_and_ranked_completions(demo: Path, parquet: bool) -> None:
    for row in _rows(demo, "demo-dpo-nemo-rl", parquet=parquet):
        assert [message["role"] for message in row["context"]][-1] == "user"
        assert [one["rank"] for one in row["completions"]] == [0, 1]
        better, worse = (one["completion"] for one in row["completions"])
        assert better != worse
        for completion in (better, worse):
            assert completion[0]["role"] == completion[-1]["role"] == "assistant"
        assert row["quality_difference"] >= 0.1


@pytest.mark.parametrize("parquet", [False, True], ids=["jsonl", "parquet"])
def test_binary_preferences_are_strings(demo: Path, parquet: bool) -> None:
    rows = _rows(demo, "demo-dpo-text", parquet=parquet)

    assert {row["environment"] for row in rows} == {"drafts"}
    for row in rows:
        texts = [row["prompt"], row["chosen"], row["rejected"]]
        assert all(isinstance(text, str) and text for text in texts)
        assert row["chosen"] != row["rejected"]


def test_rl_tasks_are_lines_with_an_agent_as_an_object(demo: Path) -> None:
    rows = lines(demo / "exports/demo-nemo-gym/tasks.jsonl")

    given = [json.loads(line) for line in (demo / "tasks.jsonl").read_text().splitlines()]
    assert [row["responses_create_params"] for row in rows] == [
        row["responses_create_params"] for row in given
    ]
    assert [row["agent_ref"] for row in rows] == [row["agent_ref"] for row in given]


def _rows(demo: Path, name: str, *, parquet: bool) -> list[Row]:
    """Rows as `load_dataset` gives them, which NeMo RL calls with the file's type."""
    folder = demo / "exports" / name
    kind, files = ("parquet", "*.parquet") if parquet else ("json", "train.jsonl")
    rows = list(
        datasets.load_dataset(
            kind, data_files=str(folder / files), split="train", cache_dir=str(demo / "cache")
        )
    )
    assert rows
    return rows
