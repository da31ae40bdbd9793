"""SFT and DPO exports: conversations as trainers read them, filters and pairs. No Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gym_ray.collection import compaction
from gym_ray.export import source
from gym_ray.export.export import export
from gym_ray.export.sft import SftRecipe
from gym_ray.renderers.messages import ToolCall
from gym_ray.turn import Turn
from tests.exports import (
    ADD,
    Make,
    Row,
    failed,
    lines,
    preferences,
    said,
    store,
    table_of,
    tokenless,
    told,
    with_a_call,
)


def test_sft_keeps_the_prompt_and_ends_with_the_assistant(
    make_rollout: Make, exported: Any
) -> None:
    (row,), _ = exported([make_rollout(**with_a_call())], "sft")

    assert row["messages"] == [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "1 + 2 = ?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "type": "function",
                    "id": "c1",
                    "function": {"name": "add", "arguments": {"a": 1, "b": 2}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "assistant", "content": "It is 3."},
    ]
    assert row["tools"][0]["function"]["name"] == "add"
    assert row["reward"] == 1.0


def test_sft_keeps_a_conversation_of_several_tasks_once(make_rollout: Make, exported: Any) -> None:
    rollouts = [
        make_rollout(0, 0, **said("3"), reward=0.5),
        make_rollout(0, 1, **said("three")),
        make_rollout(1, 0, **said("3"), reward=1.0),
        make_rollout(2, 0, **said("3"), tools=json.dumps(ADD)),
        make_rollout(3, 0, **said("3") | told("2 + 1 = ?")),
    ]

    rows, report = exported(rollouts, "sft")

    places = [(row["messages"][0]["content"], row["messages"][-1]["content"]) for row in rows]
    assert places == [
        ("1 + 2 = ?", "3"),
        ("1 + 2 = ?", "three"),
        ("1 + 2 = ?", "3"),
        ("2 + 1 = ?", "3"),
    ]
    assert [("tools" in row, row["reward"]) for row in rows][:3:2] == [(False, 0.5), (True, 1.0)]
    assert report["rows"] == {"train": 4}
    assert report["dropped"] == {"repeats one of another task": 1}
    assert (report["packing"]["rows"], report["packing"]["tokens"]) == (4, 20)
    assert len(exported(rollouts, "sft", "--no-dedup")[0]) == 5


def test_sft_takes_repeats_out_of_every_part(
    make_rollout: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "ROW_GROUP_ROWS", 2)
    monkeypatch.setattr(source, "PART_ROW_GROUPS", 2)
    texts = ["a", "b", "c", "a", "d", "b", "a", "a", "e", "f"]
    run = store(tmp_path / "run", [make_rollout(n, **said(t)) for n, t in enumerate(texts)])

    report = export(run, tmp_path / "out", "sft", SftRecipe(), quiet=True)

    answers = [row["messages"][-1]["content"] for row in table_of(tmp_path / "out").to_pylist()]
    assert answers == list("abcdef")
    rows = lines(tmp_path / "out" / "train.jsonl")
    assert [row["messages"][-1]["content"] for row in rows] == answers
    assert report.rows == {"train": 6}
    names = {path.name.split("-")[0] for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "export.json", "train", "train.jsonl"}


def test_sft_in_parquet_has_arguments_and_tools_as_text(make_rollout: Make, tmp_path: Path) -> None:
    run = store(
        tmp_path / "run", [make_rollout(0, 0, **with_a_call()), make_rollout(1, **said("3"))]
    )

    export(run, tmp_path / "out", "sft", SftRecipe(), quiet=True)

    first, second = table_of(tmp_path / "out").to_pylist()
    call = first["messages"][2]["tool_calls"][0]["function"]
    assert json.loads(call["arguments"]) == {"a": 1, "b": 2}
    assert json.loads(first["tools"])[0]["function"]["name"] == "add"
    assert second["tools"] is None
    assert [message["role"] for message in second["messages"]] == ["user", "assistant"]


def test_reasoning_can_be_put_inline_or_left_out(make_rollout: Make, exported: Any) -> None:
    rollout = make_rollout(**said("3", reasoning="hm"))

    def answer(mode: str) -> Row:
        (row,), _ = exported([rollout], "sft", "--reasoning", mode)
        last: Row = row["messages"][-1]
        return last

    assert answer("keep")["reasoning_content"] == "hm"
    assert answer("inline") == {
        "role": "assistant", "content": "<think>\nhm\n</think>\n\n3",
    }  # fmt: skip
    assert answer("drop") == {"role": "assistant", "content": "3"}


def test_what_was_told_after_the_last_word_is_left_out(make_rollout: Make, exported: Any) -> None:
    fields = with_a_call(status="truncated", truncation_reason="max_turns")
    fields["response"] = json.dumps(json.loads(fields["response"])[:-1])

    (row,), _ = exported([make_rollout(**fields)], "sft", "--include-truncated")

    assert row["messages"][-1]["tool_calls"]


def test_sft_leaves_out_what_is_not_worth_imitating(make_rollout: Make, exported: Any) -> None:
    bad_call = (ToolCall("c", "add", "{oops", "no JSON"),)
    cut = {"status": "truncated", "truncation_reason": "length"}
    rollouts = [
        make_rollout(0, 0, **said("3")),
        make_rollout(0, 1, **said("4"), reward=0.5),
        make_rollout(0, 2, **said("3")),
        make_rollout(0, 3, **said("5"), **cut),
        make_rollout(0, 4, **said("", tool_calls=bad_call)),
        make_rollout(0, 5, **said(" \n")),
        make_rollout(0, 6, **told("?")),
        failed(make_rollout, 0, 7),
        make_rollout(0, 8, **said("6"), turns=(Turn(90, 30, "stop", (), 0.0, 0.1),)),
    ]

    rows, report = exported(rollouts, "sft", "--min-reward", "0.8", "--max-tokens", "100")

    assert [row["rollout_id"] for row in rows] == [rollouts[0].spec.rollout_id]
    assert report["dropped"] == dict.fromkeys(
        [
            "reward below the minimum", "repeats another of its task", "truncated",
            "has a malformed tool call", "ends with an empty message",
            "has no message of the policy", "failed", "too long",
        ],
        1,
    )  # fmt: skip


def test_arguments_that_are_python_and_no_json_are_malformed(
    make_rollout: Make, exported: Any
) -> None:
    call = (ToolCall("c", "add", '{"x": NaN}', None),)

    rows, report = exported([make_rollout(**said("", tool_calls=call))], "sft")

    assert rows == []
    assert report["dropped"] == {"has a malformed tool call": 1}


def test_the_best_of_each_task_are_kept(make_rollout: Make, exported: Any) -> None:
    rewards = [0.1, 0.9, 0.5, 0.9]
    rollouts = [make_rollout(0, n, **said(str(n)), reward=r) for n, r in enumerate(rewards)]
    rollouts.append(make_rollout(1, 0, **said("x"), reward=0.0))

    rows, _ = exported(rollouts, "sft", "--best-of", "2")

    assert [row["messages"][-1]["content"] for row in rows] == ["1", "3", "x"]


def test_rollouts_without_tokens_serve_sft(make_rollout: Make, exported: Any) -> None:
    rows, _ = exported([tokenless(make_rollout, 0, 0, **said("3"))], "sft")

    assert len(rows) == 1


def test_dpo_pairs_are_message_lists(make_rollout: Make, exported: Any) -> None:
    (row,), _ = exported(preferences(make_rollout), "dpo")

    assert row["prompt"] == [{"role": "user", "content": "1 + 2 = ?"}]
    assert row["chosen"] == [{"role": "assistant", "content": "1"}]
    assert row["rejected"] == [{"role": "assistant", "content": "0"}]
    assert (row["chosen_reward"], row["rejected_reward"]) == (1.0, 0.0)
    assert row["quality_difference"] == 1.0


def test_all_pairs_above_a_margin(make_rollout: Make, exported: Any) -> None:
    rows, _ = exported(
        preferences(make_rollout), "dpo", "--pairing", "all-above-margin", "--margin", "0.5"
    )

    pairs = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]
    assert pairs == [("1", "0"), ("1", "2"), ("2", "0")]


def test_dpo_in_nemo_rls_shape_ranks_completions(make_rollout: Make, exported: Any) -> None:
    (row,), _ = exported(preferences(make_rollout), "dpo", "--shape", "nemo-rl")

    assert row["context"] == [{"role": "user", "content": "1 + 2 = ?"}]
    assert row["completions"] == [
        {"rank": 0, "completion": [{"role": "assistant", "content": "1"}]},
        {"rank": 1, "completion": [{"role": "assistant", "content": "0"}]},
    ]


def test_dpo_as_text_takes_only_plain_prompts_and_answers(
    make_rollout: Make, exported: Any
) -> None:
    rollouts = preferences(make_rollout)
    rollouts += [make_rollout(1, n, **with_a_call(reward=float(n))) for n in range(2)]

    (row,), report = exported(rollouts, "dpo", "--shape", "text")

    assert (row["prompt"], row["chosen"], row["rejected"]) == ("1 + 2 = ?", "1", "0")
    assert report["dropped"] == {"is more than a prompt and an answer in plain text": 2}


def test_pairs_need_one_prompt_and_two_answers(make_rollout: Make, exported: Any) -> None:
    same = [make_rollout(0, n, **said("3"), reward=float(n)) for n in range(2)]
    other = [
        make_rollout(1, n, **{**said(str(n)), **told(f"prompt {n}")}, reward=float(n))
        for n in range(2)
    ]
    alone = [make_rollout(2, 0, **said("3")), failed(make_rollout, 2, 1)]
    # Servers draw IDs of calls anew.
    calling = [
        make_rollout(3, n, **said("", tool_calls=(ToolCall(f"c{n}", "add", "{}"),)), reward=n)
        for n in range(2)
    ]

    rows, report = exported([*same, *other, *alone, *calling], "dpo")

    assert rows == []
    assert report["dropped"] == {
        "pairs whose answers are the same": 2,
        "pairs whose prompts differ": 1,
        "no reward (failed or not verified)": 1,
    }
    assert report["noted"] == {"groups without a pair": 4}


def test_what_was_cut_off_is_never_preferred(make_rollout: Make, exported: Any) -> None:
    cut = {"status": "truncated", "truncation_reason": "length"}
    rollouts = [
        make_rollout(0, 0, **said("long"), reward=1.0, **cut),
        make_rollout(0, 1, **said("short"), reward=0.5),
        make_rollout(0, 2, **said("cut"), reward=0.0, **cut),
    ]

    (row,), _ = exported(rollouts, "dpo")

    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("short", "cut")
