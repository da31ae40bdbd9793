"""A null in a row is a field that is not there, as tables and `datasets.to_json` write it."""

import json
from pathlib import Path
from typing import Any

import pytest

from gym_ray.config.load import load_config
from gym_ray.environment import Environment, Outcome, TaskFields
from gym_ray.errors import RolloutFailure
from gym_ray.registry import load_environments
from gym_ray.task import Task

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "environments").glob("*/config.yaml"))


def environment_of(config: Path) -> Environment:
    (environment,) = load_environments(load_config(config)).values()
    return environment


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.parent.name)
def test_a_row_is_legal_with_its_nulls_and_without(config: Path) -> None:
    environment = environment_of(config)
    if environment.Fields is None:
        return
    for line in (config.parent / "data" / "example.jsonl").open():
        row = json.loads(line)
        environment.check_task({**dict.fromkeys(environment.Fields.model_fields), **row})
        environment.check_task({key: value for key, value in row.items() if value is not None})


@pytest.mark.parametrize("row", [{"answer": None}, {}])
def test_a_family_with_many_answers_needs_none(row: dict[str, Any]) -> None:
    environment = environment_of(ROOT / "environments" / "reasoning_gym" / "config.yaml")
    row = {
        "responses_create_params": {"input": "?"},
        "question": "?",
        "metadata": {"source_dataset": "countdown", "numbers": [2, 3], "target": 5},
        **row,
    }
    environment.check_task(row)
    task = Task("t", row)
    assert environment.gold_answer(task) is None
    assert environment.verify(Outcome(task, "<answer>2 + 3</answer>", [])).reward == 1.0


def test_a_null_is_kept_only_where_it_is_a_value() -> None:
    class Fields(TaskFields):
        needed: int
        many: int = 3
        may_be_null: int | None = 4
        anything: Any = 5

    class Counting(Environment):
        pass

    Counting.Fields = Fields
    read = Fields.model_validate(
        {"needed": 1, "many": None, "may_be_null": None, "anything": None, "else": None}
    )
    assert (read.many, read.may_be_null, read.anything) == (3, None, None)
    with pytest.raises(RolloutFailure, match="field 'needed': Field required"):
        Counting().check_task({"needed": None})
