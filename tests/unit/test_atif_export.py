"""Trajectories of rollouts: what they say, that others can read them, and the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import atif
import numpy as np
import pytest

from gym_ray.atif.format import TrajectoryRefused, checked
from gym_ray.atif.trajectories import trajectory_of
from gym_ray.renderers.items import items_from_message
from gym_ray.renderers.messages import AssistantMessage, ToolCall
from gym_ray.rollout import Rollout
from gym_ray.turn import Turn, VersionSpan
from tests.exports import ADD, Make, failed, lines, run_command, said, store, tokenless, told

SPANS = (VersionSpan(3, 0, 1), VersionSpan(4, 1, 2))


def two_turns(make_rollout: Make, **fields: Any) -> Rollout:
    """A turn that thinks, says something and makes two calls, their results, and an answer."""
    calls = (ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "add", "{oops", "is not JSON"))
    items = items_from_message(AssistantMessage("Let me.", "hm", calls), item_id_prefix="r-0")
    for call_id, output in (("c1", "3"), ("c2", "malformed")):
        items.append({"type": "function_call_output", "call_id": call_id, "output": output})
    items += items_from_message(AssistantMessage("It is 3."), item_id_prefix="r-1")
    prompt = [
        {"role": "developer", "content": "Add."},
        {"role": "user", "content": [{"type": "input_text", "text": "0 + 1 = ?"}]},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "1 + 2 = ?"},
    ]
    given: dict[str, Any] = {
        "token_ids": np.arange(10, 19, dtype=np.int32),
        "loss_mask": np.array([0, 0, 1, 1, 0, 0, 1, 1, 1], dtype=np.int8),
        "logprobs": np.array([0, 0, -0.1, -2, 0, 0, -3, -4, -5], dtype=np.float32),
        "turns": (
            Turn(2, 2, "stop", SPANS, 0.25, 0.5, 0.0),
            Turn(6, 3, "length", (VersionSpan(4, 0, 3),), 0.0, 0.5, 1.5),
        ),
        "reward": 0.75,
        "reward_components": {"right": 0.5, "short": 0.25},
        "prompt": json.dumps(prompt),
        "response": json.dumps(items),
        "tools": json.dumps(ADD),
    }
    return make_rollout(**{**given, **fields})


def test_a_turn_is_a_step_with_its_calls_and_what_came_back(make_rollout: Make) -> None:
    steps = trajectory_of(two_turns(make_rollout))["steps"]

    assert [(step["step_id"], step["source"]) for step in steps] == [
        (1, "system"), (2, "user"), (3, "agent"), (4, "user"), (5, "agent"), (6, "agent"),
    ]  # fmt: skip
    assert [step["message"] for step in steps[:4]] == ["Add.", "0 + 1 = ?", "1", "1 + 2 = ?"]
    acting, answer = steps[4:]
    assert (acting["reasoning_content"], acting["message"]) == ("hm", "Let me.")
    assert acting["tool_calls"] == [
        {"tool_call_id": "c1", "function_name": "add", "arguments": {"a": 1}},
        {
            "tool_call_id": "c2",
            "function_name": "add",
            "arguments": {},
            "extra": {"malformed_arguments": "{oops"},
        },
    ]
    assert acting["observation"]["results"] == [
        {"source_call_id": "c1", "content": "3"},
        {"source_call_id": "c2", "content": "malformed"},
    ]
    assert answer["message"] == "It is 3."


def test_what_the_policy_said_in_the_prompt_is_context_and_not_sampled(make_rollout: Make) -> None:
    steps = trajectory_of(two_turns(make_rollout))["steps"]

    assert [step.get("is_copied_context") for step in steps] == [None, None, True, *[None] * 3]
    assert [step.get("llm_call_count") for step in steps] == [*[None] * 4, 1, 1]


def test_every_step_has_the_exact_tokens_of_its_call(make_rollout: Make) -> None:
    rollout = two_turns(make_rollout)

    first, second = (step["metrics"] for step in trajectory_of(rollout)["steps"][4:])

    assert first["prompt_token_ids"] == [10, 11]
    assert first["completion_token_ids"] == [12, 13]
    assert np.array_equal(np.float32(first["logprobs"]), rollout.logprobs[2:4])
    assert first["extra"]["stop_reason"] == "stop"
    assert first["extra"]["version_spans"] == [dataclasses.asdict(span) for span in SPANS]
    assert second["prompt_token_ids"] == [10, 11, 12, 13, 14, 15]
    assert (second["prompt_tokens"], second["completion_tokens"]) == (6, 3)


def test_the_whole_says_reward_sums_tools_and_whose_it_is(make_rollout: Make) -> None:
    rollout = two_turns(make_rollout)
    made = trajectory_of(rollout)

    assert made["schema_version"] == "ATIF-v1.7"
    assert made["trajectory_id"] == f"run-{rollout.spec.rollout_id}"
    assert (made["agent"]["name"], made["agent"]["model_name"]) == ("single_turn", "m")
    assert made["agent"]["tool_definitions"][0]["function"]["name"] == "add"
    assert made["final_metrics"] == {
        "total_prompt_tokens": 8,
        "total_completion_tokens": 5,
        "total_steps": 6,
        "extra": {"reward": 0.75, "reward_components": {"right": 0.5, "short": 0.25}},
    }
    kept = made["extra"]["gym_ray"]
    assert (kept["task"], kept["environment"]) == (rollout.spec.task, "sums")


def test_a_failed_rollout_is_a_trajectory_that_says_so(make_rollout: Make) -> None:
    made = trajectory_of(failed(make_rollout, 0, 0))

    assert [step["message"] for step in made["steps"]] == ["verifier_error: gone"]
    assert made["extra"]["gym_ray"]["error_kind"] == "verifier_error"
    assert made["final_metrics"]["extra"]["reward"] is None


def test_a_policy_that_tells_no_tokens_leaves_their_counts(make_rollout: Make) -> None:
    metrics = trajectory_of(tokenless(make_rollout, **said("3")))["steps"][-1]["metrics"]

    assert (metrics["prompt_tokens"], metrics["completion_tokens"]) == (3, 2)
    assert not {"prompt_token_ids", "completion_token_ids", "logprobs"} & metrics.keys()


def test_a_result_of_no_known_call_is_an_observation_of_its_own(make_rollout: Make) -> None:
    result = {"type": "function_call_output", "call_id": "gone", "output": "3"}
    prompt = [{"role": "user", "content": "?"}, result]

    steps = trajectory_of(two_turns(make_rollout, prompt=json.dumps(prompt)))["steps"]

    assert (steps[1]["source"], steps[1]["message"]) == ("system", "")
    assert steps[1]["observation"]["results"] == [{"content": "3", "extra": {"call_id": "gone"}}]


def everything(make_rollout: Make) -> list[Rollout]:
    calls = {"response": json.dumps(items_from_message(
        AssistantMessage("", None, (ToolCall("c", "f", "{}"),)), item_id_prefix="a-0"
    ))}  # fmt: skip
    return [
        two_turns(make_rollout),
        make_rollout(1, 0, **said("3")),
        make_rollout(1, 1, **told("?"), **calls),
        tokenless(make_rollout, 2, 0, **said("3")),
        failed(make_rollout, 3, 0),
        make_rollout(4, 0, **said("é\n\0"), status="truncated", truncation_reason="length"),
    ]


def test_every_kind_of_rollout_keeps_the_formats_rules(make_rollout: Make) -> None:
    for rollout in everything(make_rollout):
        made = json.loads(json.dumps(trajectory_of(rollout)))

        checked(made)
        atif.Trajectory.model_validate(made)


def test_the_command_writes_a_line_each(make_rollout: Make, tmp_path: Path) -> None:
    rollouts = everything(make_rollout)
    run = store(tmp_path / "run", rollouts)

    code, text = run_command("export", "atif", run, "--output", tmp_path / "out", "--json")

    assert code == 0
    assert json.loads(text)["rows"] == {"trajectories": len(rollouts)}
    made = lines(tmp_path / "out" / "trajectories.jsonl")
    assert {one["extra"]["gym_ray"]["rollout_id"] for one in made} == {
        rollout.spec.rollout_id for rollout in rollouts
    }
    card = (tmp_path / "out" / "README.md").read_text()
    assert "path: trajectories.jsonl" in card
    assert "Agent Trajectory Interchange Format" in card


def test_the_command_writes_a_file_each_for_harbors_tools(
    make_rollout: Make, tmp_path: Path
) -> None:
    rollouts = everything(make_rollout)
    run = store(tmp_path / "run", rollouts)

    code, _ = run_command("export", "atif", run, "--output", tmp_path / "out", "--one-file-each")

    assert code == 0
    for rollout in rollouts:
        path = tmp_path / "out" / "trajectories" / f"{rollout.spec.rollout_id}.json"
        assert json.loads(path.read_text()) == trajectory_of(rollout)
    assert "path: trajectories/*.json" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "trajectories.jsonl").exists()


def test_rollouts_whose_items_or_mask_do_not_fit_are_counted(
    make_rollout: Make, tmp_path: Path
) -> None:
    mask = np.array([0, 0, 1, 1, 1], dtype=np.int8)
    rollouts = [make_rollout(0, 0), make_rollout(0, 1, **said("3"), loss_mask=mask)]
    rollouts += [make_rollout(1, 0, **said("3"))]
    run = store(tmp_path / "run", rollouts)

    _, text = run_command("export", "atif", run, "--output", tmp_path / "out", "--json")

    report = json.loads(text)
    assert report["dropped"] == {"items or tokens do not fit the turns": 2}
    assert report["rows"] == {"trajectories": 1}


BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "another version": ({"schema_version": "ATIF-v9"}, "schema_version", "Input should be"),
    "no steps": ({"steps": []}, "steps", "at least 1 item"),
    "no agent": ({"agent": None}, "agent", "valid dictionary"),
    "a field of nobody": ({"reward": 1.0}, "reward", "is no field of the format; move it into"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_document_that_breaks_a_rule_is_refused(name: str, make_rollout: Make) -> None:
    change, field, reason = BROKEN[name]

    with pytest.raises(TrajectoryRefused) as refused:
        checked({**trajectory_of(two_turns(make_rollout)), **change})

    assert refused.value.field == field
    assert reason in refused.value.reason


BROKEN_STEPS: dict[str, tuple[int, dict[str, Any], str, str]] = {
    "numbers": (4, {"step_id": 9}, "", "steps[4].step_id=9 is not sequential; expected 5"),
    "a model's field": (1, {"reasoning_content": "hm"}, "steps[1]",
                        "`reasoning_content` is only valid on"),
    "a call of nobody": (5, {"observation": {"results": [{"source_call_id": "x"}]}}, "steps[5]",
                         "answers a call 'x' that the step does not make"),
    "metrics of no model": (4, {"llm_call_count": 0}, "steps[4]", "`metrics` MUST be absent"),
    "a time": (0, {"timestamp": "noon"}, "steps[0].timestamp", "must be ISO 8601, got 'noon'"),
    "a part": (0, {"message": [{"type": "text"}]}, "steps[0].message[0]", "requires `text`"),
    "tokens": (5, {"metrics": {"prompt_token_ids": [1.5]}}, "steps[5].metrics.prompt_token_ids[0]",
               "valid integer"),
    "no message": (0, {"message": None}, "steps[0].message", "valid string"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_STEPS)
def test_a_step_that_breaks_a_rule_is_refused(name: str, make_rollout: Make) -> None:
    number, change, field, reason = BROKEN_STEPS[name]
    made = trajectory_of(two_turns(make_rollout))
    made["steps"][number].update(change)

    with pytest.raises(TrajectoryRefused) as refused:
        checked(made)

    assert refused.value.field == field
    assert reason in refused.value.reason
