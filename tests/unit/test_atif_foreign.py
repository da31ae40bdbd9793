"""Rollouts of other tools' trajectories, as far as they tell, and what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gym_ray import read_rollouts
from gym_ray.atif.format import checked
from gym_ray.atif.imports import import_atif
from gym_ray.atif.rollouts import restored
from gym_ray.atif.trajectories import trajectory_of
from gym_ray.errors import ConfigError
from gym_ray.rollout import Rollout
from gym_ray.store.rows import broken_invariants, from_table, to_table
from tests.exports import Make, run_command
from tests.unit.test_atif_export import two_turns
from tests.unit.test_atif_import import changed, row_of

Row = dict[str, Any]


def step(number: int, source: str, message: Any, **fields: Any) -> Row:
    return {"step_id": number, "source": source, "message": message, **fields}


def foreign(**fields: Any) -> Row:
    """A trajectory as an agent of Harbor leaves it: a command, its output, an answer."""
    calls = [{"tool_call_id": "c", "function_name": "shell", "arguments": {"keys": "ls"}}]
    acting = step(
        3, "agent", "", timestamp="2026-01-31T12:00:04Z", reasoning_content="hm", tool_calls=calls,
        observation={"results": [{"source_call_id": "c", "content": "a.txt"}]},
        metrics={"prompt_tokens": 50, "completion_tokens": 7},
    )  # fmt: skip
    function = {"name": "shell", "description": "", "parameters": {"type": "object"}}
    return {
        "schema_version": "ATIF-v1.5",
        "session_id": "s",
        "agent": {
            "name": "terminus-2",
            "version": "2.0",
            "model_name": "qwen",
            "tool_definitions": [{"type": "function", "function": function}],
        },
        "steps": [
            step(1, "system", "Be brief.", timestamp="2026-01-31T12:00:00Z"),
            step(2, "user", [{"type": "text", "text": "Which files?"}]),
            acting,
            step(4, "agent", "a.txt", metrics={"prompt_tokens": 60, "completion_tokens": 3}),
        ],
        "final_metrics": {"total_cost_usd": 0.25, "extra": {"reward": 1}},
        **fields,
    }


def tokens(prompt: list[int], completion: list[int]) -> Row:
    return {
        "prompt_token_ids": prompt,
        "completion_token_ids": completion,
        "logprobs": [-0.5] * len(completion),
    }


def with_tokens(first: Row, second: Row) -> Row:
    tree = foreign()
    tree["steps"][2]["metrics"], tree["steps"][3]["metrics"] = first, second
    return tree


Import = Callable[..., tuple[list[Rollout], Row]]


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    """`imported(*documents, …)`: the rollouts of a JSONL of them by the command, and its report."""

    def run(*documents: Row, arguments: tuple[str, ...] = (), code: int = 0) -> Any:
        path = tmp_path / "given.jsonl"
        path.write_text("".join(f"{json.dumps(document)}\n" for document in documents))
        output = tmp_path / "out"
        ended, text = run_command("import", "atif", path, "--output", output, "--json", *arguments)
        assert ended == code
        return list(read_rollouts(output)) if output.exists() else [], json.loads(text)

    return run


def test_another_tools_trajectory_is_a_rollout_of_its_prompt(imported: Import) -> None:
    (rollout,), report = imported(foreign(), arguments=("--environment", "shell"))

    prompt = [(item["role"], item["content"][0]["text"]) for item in json.loads(rollout.prompt)]
    assert prompt == [("system", "Be brief."), ("user", "Which files?")]
    response = json.loads(rollout.response)
    assert [item["type"] for item in response] == [
        "reasoning", "function_call", "function_call_output", "message",
    ]  # fmt: skip
    assert json.loads(response[1]["arguments"]) == {"keys": "ls"}
    assert (rollout.agent, rollout.model, rollout.status) == ("terminus-2", "qwen", "completed")
    assert (rollout.reward, dict(rollout.metrics)) == (1.0, {"cost_usd": 0.25})
    assert (rollout.spec.environment, rollout.spec.source_line) == ("shell", 1)
    params = json.loads(rollout.spec.task)["responses_create_params"]
    assert params["input"] == json.loads(rollout.prompt)
    assert params["tools"][0]["name"] == "shell"
    assert rollout.seconds == 4.0
    assert (report["ours"], report["with_tokens"], report["with_reward"]) == (0, 0, 1)


def test_without_token_fields_turns_have_the_lengths_that_are_told(imported: Import) -> None:
    (rollout,), _ = imported(foreign())

    assert rollout.without_token_ids
    lengths = [(turn.prompt_length, turn.generation_length) for turn in rollout.turns]
    assert lengths == [(50, 7), (60, 3)]
    assert next(from_table(to_table([rollout]))).without_token_ids


def test_token_fields_of_every_step_make_a_sequence(imported: Import) -> None:
    tree = with_tokens(tokens([1, 2], [3]), tokens([1, 2, 3, 4], [5, 6]))

    (rollout,), report = imported(tree)

    assert rollout.token_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert rollout.loss_mask.tolist() == [0, 0, 1, 0, 1, 1]
    assert rollout.logprobs.tolist() == [0, 0, -0.5, 0, -0.5, -0.5]
    assert report["with_tokens"] == 1
    assert broken_invariants([rollout]) == []


def test_a_prompt_that_does_not_continue_begins_a_branch(imported: Import, tmp_path: Path) -> None:
    (rollout,), report = imported(with_tokens(tokens([1, 2], [3]), tokens([1, 9], [5])))

    assert rollout.token_ids.tolist() == [1, 9, 5]
    assert [side.token_ids.tolist() for side in rollout.side_branches] == [[1, 2, 3]]
    assert len(json.loads(rollout.spec.task)["responses_create_params"]["input"]) == 2
    assert [item["type"] for item in json.loads(rollout.prompt)[2:]] == [
        "reasoning", "function_call", "function_call_output",
    ]  # fmt: skip
    assert len(json.loads(rollout.response)) == 1
    assert list(report["noted"].values()) == [1]
    assert run_command("export", "atif", tmp_path / "out", "--output", tmp_path / "more")[0] == 0
    (line,) = (tmp_path / "more" / "trajectories.jsonl").read_text().splitlines()
    assert row_of(restored(checked(json.loads(line)), json.loads(line))) == row_of(rollout)


def test_tokens_on_some_steps_only_are_left_out_and_counted(imported: Import) -> None:
    (rollout,), report = imported(with_tokens(tokens([1], [2]), {"completion_token_ids": [3]}))

    assert not rollout.has_tokens
    assert report["noted"] == {"have tokens on some steps only, and were read without": 1}


def test_trajectories_with_the_same_beginning_are_of_one_task(imported: Import) -> None:
    other = foreign()
    other["steps"][1]["message"] = "Which folders?"

    rollouts, _ = imported(foreign(), other, foreign(), foreign())

    places = [(rollout.spec.task_index, rollout.spec.rollout_index) for rollout in rollouts]
    assert places == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert len({rollout.spec.rollout_id for rollout in rollouts}) == 4


def test_a_result_that_answers_no_call_is_what_the_agent_was_told(imported: Import) -> None:
    tree = foreign()
    tree["steps"][2] |= {
        "tool_calls": None,
        "observation": {"results": [{"content": "a.txt"}]},
    }

    (rollout,), _ = imported(tree)

    told = json.loads(rollout.response)[2]
    assert (told["role"], told["content"][0]["text"]) == ("user", "a.txt")


def test_copied_steps_before_the_first_turn_are_its_prompt(imported: Import) -> None:
    tree = foreign()
    tree["steps"][2] |= {"is_copied_context": True}

    (rollout,), _ = imported(tree)

    assert [turn.prompt_length for turn in rollout.turns] == [60]
    assert json.loads(rollout.prompt)[-1]["type"] == "function_call_output"
    assert len(json.loads(rollout.response)) == 1


def test_what_a_rollout_has_no_place_for_is_counted(imported: Import) -> None:
    inner = foreign(trajectory_id="t")

    _, report = imported(
        foreign(subagent_trajectories=[inner], continued_trajectory_ref="next.json")
    )

    assert sorted(report["noted"]) == [
        "are continued in another file",
        "have trajectories of subagents, which were left out",
    ]


def picture(tree: Row) -> None:
    source = {"media_type": "image/png", "path": "a.png"}
    tree["steps"][1]["message"] = [{"type": "image", "source": source}]


UNREADABLE: dict[str, tuple[Callable[[Row], Any], str, str]] = {
    "a picture": (picture, "steps[1].message[0]", "is image, and rollouts hold text only"),
    "no agent": (lambda t: t.update(steps=t["steps"][:2]), "steps", "no step of the agent"),
    "a step of no model": (
        lambda t: t["steps"].append(step(5, "agent", "done", llm_call_count=0)),
        "steps[4]",
        "is the agent's without a call of the model",
    ),
    "no prompt": (
        lambda t: t.update(steps=[step(1, "agent", "hi")]),
        "steps",
        "put what it was asked before",
    ),
    "logprobs": (
        lambda t: t["steps"][2].update(metrics=tokens([1], [2]) | {"logprobs": [-1.0, -1.0]}),
        "steps[2].metrics.logprobs",
        "has 2 values for 1 tokens",
    ),
    "no probability": (
        lambda t: t["steps"][2].update(metrics=tokens([1], [2]) | {"logprobs": [0.5]}),
        "steps[2].metrics.logprobs",
        "above 0",
    ),
    "counts": (
        lambda t: t["steps"][2].update(metrics=tokens([1], [2]) | {"prompt_tokens": 5}),
        "steps[2].metrics.prompt_tokens",
        "is 5, and there are 1 token IDs",
    ),
    "many calls": (
        lambda t: t["steps"][2].update(metrics=tokens([1], [2]), llm_call_count=2),
        "steps[2].llm_call_count",
        "cannot be told apart",
    ),
    "a reward": (
        lambda t: t["final_metrics"]["extra"].update(reward="high"),
        "final_metrics.extra.reward",
        'must be a number, got "high"',
    ),
    "a tool": (
        lambda t: t["agent"].update(tool_definitions=[{"type": "function", "function": {}}]),
        "",
        "makes a task that responses_create_params.tools[0] must be",
    ),
    "a number for a text": (
        lambda t: t["agent"].update(name=3),
        "agent.name",
        "valid string",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_told_with_file_line_field_and_reason(
    name: str, imported: Import, tmp_path: Path
) -> None:
    change, field, reason = UNREADABLE[name]

    rollouts, report = imported(foreign(), changed(foreign(), change), code=1)

    (rejection,) = report["rejections"]
    assert rejection["file"] == str(tmp_path / "given.jsonl")
    assert (rejection["line"], rejection["field"]) == (2, field)
    assert reason in rejection["reason"]
    assert rollouts == []
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_read_can_be_left_out(imported: Import, tmp_path: Path) -> None:
    bad = changed(foreign(), picture)

    rollouts, report = imported(bad, foreign(), arguments=("--on-invalid", "drop"))

    assert (len(rollouts), report["read"], report["rejected"]) == (1, 2, 1)
    (line,) = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["field"] == "steps[1].message[0]"
    assert json.loads((tmp_path / "out" / "import.json").read_text())["rollouts"] == 1


def test_lines_that_are_no_json_are_told(tmp_path: Path) -> None:
    lines, whole = tmp_path / "a.jsonl", tmp_path / "b.json"
    lines.write_bytes(b"\n{\n[]\n\xff\n")
    whole.write_text(json.dumps(foreign(), indent=2))

    code, text = run_command(
        "import", "atif", lines, whole, "--output", tmp_path / "out", "--on-invalid", "drop"
    )

    assert code == 0
    said = text.splitlines()
    assert said[0].startswith(f"{lines}:2: is no JSON (")
    assert said[1].startswith(f"{lines}:3: Input should be a valid dictionary")
    assert said[2].startswith(f"{lines}:4: is no JSON (")
    assert said[3].startswith(
        "1 rollouts of 4 trajectories in 2 files: 0 by gym-ray, 0 with tokens"
    )


def test_nothing_left_is_an_error(imported: Import) -> None:
    imported(changed(foreign(), picture), arguments=("--on-invalid", "drop"), code=1)


def test_a_rollout_that_is_there_twice_is_refused(
    make_rollout: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(trajectory_of(two_turns(make_rollout))))

    code, _ = run_command("import", "atif", path, path, "--output", tmp_path / "out")

    assert code == 2
    assert "1 rollouts are in the files twice" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "reason"), [(".", "is a folder; name the files"), ("x.json", "no such file")]
)
def test_files_that_are_not_there_are_named(
    name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = run_command("import", "atif", tmp_path / name, "--output", tmp_path / "out")

    assert code == 2
    assert reason in capsys.readouterr().err


def test_a_url_is_no_output_of_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").touch()
    with pytest.raises(ConfigError, match="--output 's3://bucket/run': only a local or mounted"):
        import_atif(["a.jsonl"], "s3://bucket/run", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
