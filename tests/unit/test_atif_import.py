"""Rollouts of trajectories of ours: again as they were, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_ray import read_rollouts
from gym_ray.atif.format import TrajectoryRefused, checked
from gym_ray.atif.rollouts import restored
from gym_ray.atif.trajectories import trajectory_of
from gym_ray.renderers.items import items_from_message, items_from_told
from gym_ray.renderers.messages import AssistantMessage, ToolCall
from gym_ray.rollout import Rollout
from gym_ray.store.rows import broken_invariants, to_table
from gym_ray.transcript import Transcript
from gym_ray.turn import Generation, VersionSpan
from tests.exports import Make, run_command, store
from tests.unit.conftest import _rollout
from tests.unit.test_atif_export import everything, two_turns

Row = dict[str, Any]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAME = st.text("abc_1", min_size=1, max_size=5)
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=4)
LOGPROB = st.floats(-50, 0, width=32)
SECONDS = st.floats(0, 1000, width=32)
ARGUMENTS = st.one_of(st.dictionaries(NAME, st.integers() | TEXT).map(json.dumps), TEXT)
SCORES = st.dictionaries(NAME, st.floats(-9, 9), max_size=2)


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    """What an agent leaves: any number of turns, calls and results, branches and tokens or none."""
    transcript = Transcript()
    items: list[Row] = []
    history: list[int] = draw(TOKENS)
    for number in range(draw(st.integers(1, 4))):
        sampled = draw(st.lists(st.tuples(st.integers(0, 9), LOGPROB), min_size=1, max_size=4))
        ids = [token for token, _ in sampled]
        generation = Generation(
            token_ids=np.array(ids, dtype=np.int32),
            logprobs=np.array([logprob for _, logprob in sampled], dtype=np.float32),
            stop_reason=draw(st.sampled_from(["stop", "length", "abort"])),
            version_spans=(VersionSpan(draw(st.integers(0, 99)), 0, len(ids)),),
            queued_seconds=draw(SECONDS),
            generation_seconds=draw(SECONDS),
        )
        transcript.append(history, generation, tool_seconds=draw(SECONDS))
        history = [*history, *ids, *draw(TOKENS)]
        calls = tuple(
            ToolCall(f"c{number}-{index}", draw(NAME), draw(ARGUMENTS))
            for index in range(draw(st.integers(0, 2)))
        )
        message = AssistantMessage(draw(TEXT), draw(st.none() | TEXT), calls)
        items += items_from_message(message, item_id_prefix=f"r-{number}")
        answered = [call.id for call in calls if draw(st.booleans())]
        items += items_from_told(
            [{"role": "tool", "tool_call_id": name, "content": draw(TEXT)} for name in answered]
        )
        if draw(st.booleans()):
            items += items_from_told([{"role": "user", "content": draw(TEXT)}])
    has_tokens = draw(st.booleans())
    sequence = (
        {name: getattr(transcript, name) for name in ("token_ids", "loss_mask", "logprobs")}
        if has_tokens
        else {"token_ids": np.zeros(0, np.int32), "loss_mask": np.zeros(0, np.int8),
              "logprobs": np.zeros(0, np.float32)}
    )  # fmt: skip
    return _rollout(
        draw(st.integers(0, 99)),
        draw(st.integers(0, 9)),
        **sequence,
        turns=tuple(transcript.turns),
        prompt=json.dumps([{"role": "user", "content": draw(TEXT)}]),
        response=json.dumps(items),
        reward=draw(st.none() | st.floats(-9, 9)),
        reward_components=draw(SCORES),
        metrics=draw(SCORES),
        seconds=draw(SECONDS),
        sampling=json.dumps({"temperature": draw(SECONDS)}),
    )


def row_of(rollout: Rollout) -> Row:
    """A rollout's columns, JSON ones parsed: that is where text may differ in spaces."""
    (row,) = to_table([rollout]).to_pylist()
    return row | {name: json.loads(row[name]) for name in ("prompt", "response", "tools")}


@given(rollouts())
def test_whatever_is_exported_is_imported_the_same(rollout: Rollout) -> None:
    tree = json.loads(json.dumps(trajectory_of(rollout)))

    again = restored(checked(tree), tree)

    assert row_of(again) == row_of(rollout)
    assert broken_invariants([again]) == []


def test_a_dataset_is_the_same_after_export_and_import(make_rollout: Make, tmp_path: Path) -> None:
    branching = Transcript()
    for prompt in ([1, 2], [1, 5]):
        one = np.ones(1)
        branching.insert(
            prompt, Generation(one.astype(np.int32), -one.astype(np.float32), "stop", (), 0.0, 0.0)
        )
    sides = {name: getattr(branching, name) for name in ("token_ids", "loss_mask", "logprobs")}
    answer = items_from_message(AssistantMessage("3"), item_id_prefix="a-1")
    known = everything(make_rollout)
    known.append(
        make_rollout(
            5, 0, **sides, turns=tuple(branching.turns), side_branches=branching.side_branches,
            prompt='[{"role": "user", "content": "?"}]', response=json.dumps(answer),
            turn_rewards=(1.0,),
        )
    )  # fmt: skip
    run = store(tmp_path / "run", known)

    assert run_command("export", "atif", run, "--output", tmp_path / "out")[0] == 0
    made = tmp_path / "out" / "trajectories.jsonl"
    code, text = run_command("import", "atif", made, "--output", tmp_path / "again", "--json")

    assert code == 0
    report = json.loads(text)
    assert (report["rollouts"], report["ours"], report["rejected"]) == (7, 7, 0)
    before, after = (
        [row_of(rollout) for rollout in read_rollouts(tmp_path / name)] for name in ("run", "again")
    )
    assert after == before
    assert before[-1]["side_branches"] != []
    assert run_command("metrics", tmp_path / "again")[0] == 0


def changed(tree: Row, change: Callable[[Row], None]) -> Row:
    copy: Row = json.loads(json.dumps(tree))
    change(copy)
    return copy


CHANGES: dict[str, tuple[Callable[[Row], Any], str]] = {
    "a text": (lambda t: t["steps"][4].update(message="No."), "steps[4].message"),
    "a token": (
        lambda t: t["steps"][4]["metrics"]["completion_token_ids"].__setitem__(0, 99),
        "steps",
    ),
    "the reward": (
        lambda t: t["final_metrics"]["extra"].update(reward=0.0),
        "final_metrics.extra.reward",
    ),
    "a step more": (
        lambda t: t["steps"].append({"step_id": 7, "source": "user", "message": "?"}),
        "steps",
    ),
    "a column": (lambda t: t["extra"]["gym_ray"].update(status="fine"), "extra.gym_ray.status"),
    "a column less": (lambda t: t["extra"]["gym_ray"].pop("task"), "extra.gym_ray.task"),
    "a failure": (
        lambda t: t["extra"]["gym_ray"].update(error_kind="policy_error"),
        "extra.gym_ray",
    ),
    "rows of later": (
        lambda t: t["extra"]["gym_ray"].update(schema_version="9"),
        "extra.gym_ray.schema_version",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_ours_is_refused_where_it_was_changed(name: str, make_rollout: Make) -> None:
    change, field = CHANGES[name]
    tree = changed(trajectory_of(two_turns(make_rollout)), change)

    with pytest.raises(TrajectoryRefused) as refused:
        restored(checked(tree), tree)

    assert refused.value.field.startswith(field)


def test_what_others_add_to_ours_does_no_harm(make_rollout: Make) -> None:
    def annotate(tree: Row) -> None:
        tree["notes"] = "seen"
        tree["steps"][4]["metrics"]["cost_usd"] = 0.5
        tree["agent"]["version"] = "0.0.9"

    rollout = two_turns(make_rollout)
    tree = changed(trajectory_of(rollout), annotate)

    assert row_of(restored(checked(tree), tree)) == row_of(rollout)
