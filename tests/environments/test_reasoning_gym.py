"""The reasoning-gym environment: generated rows, and rewards worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from gym_ray.environment import Outcome
from gym_ray.environments.reasoning_gym import ReasoningGymEnvironment
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure
from gym_ray.task import parse_task
from gym_ray.verdict import Verdict

EXAMPLES = Path(__file__).parents[2] / "environments" / "reasoning_gym" / "data" / "example.jsonl"

# The shape of a row of NeMo Gym: no instruction about tags.
KNIGHTS = {
    "responses_create_params": {"input": [{"role": "user", "content": "Who is a sage?"}]},
    "question": "Who is a sage?",
    "answer": "Zoey is a fool, and Riley is a sage.",
    "metadata": {
        "source_dataset": "knights_knaves",
        "source_index": 0,
        "solution": [False, True],
        "names": ["Zoey", "Riley"],
        "knight_knave_terms": {"knight": "sage", "knave": "fool"},
    },
}


def entry(family: str, answer: str | None) -> dict[str, Any]:
    return {
        "responses_create_params": {"input": "?"},
        "question": "?",
        "answer": answer,
        "metadata": {"source_dataset": family},
    }


def judge(row: dict[str, Any], reply: str) -> Verdict:
    task = parse_task(json.dumps(row), task_index=0, source_file="t.jsonl", source_line=1)
    return ReasoningGymEnvironment().verify(Outcome(task=task, text=reply, items=[]))


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("<answer>43</answer>", 1.0),
        ("<answer>42</answer> no, <answer>\n43\n</answer>", 1.0),
        ("<answer>43", 1.0),
        (r"17 and 26 make \boxed{43}", 1.0),
        ("Let me add.\n43\n", 1.0),
        ("<answer>42</answer>", 0.0),
        ("<answer>42</answer>\n43", 0.0),
        ("", 0.0),
        ("四十三", 0.0),
    ],
)
def test_the_answer_is_taken_from_tag_box_or_last_line(reply: str, reward: float) -> None:
    verdict = judge(entry("letter_counting", "43"), reply)
    assert verdict.reward == reward
    assert verdict.metrics["score/letter_counting"] == reward
    assert verdict.metrics["answer_found"] == float(reply != "")


def test_partial_credit_is_the_librarys() -> None:
    # Its rule for an answer that contains the solution: length of the solution / of the answer.
    assert judge(entry("letter_counting", "43"), "<answer>43 cm</answer>").reward == 2 / 5


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("Zoey is a fool, and Riley is a sage.", 1.0),
        ("<answer>Riley is a sage, and Zoey is a fool.</answer>", 1.0),
        ("Zoey is a sage, and Riley is a fool.", 0.0),
    ],
)
def test_a_row_of_nemo_gym_is_accepted_and_scored(reply: str, reward: float) -> None:
    ReasoningGymEnvironment().check_task(KNIGHTS)
    assert judge(KNIGHTS, reply).reward == reward


def test_an_answer_the_librarys_scorer_chokes_on_is_worth_nothing() -> None:
    row = entry("prime_factorization", "2 × 3")
    row["metadata"] |= {"number": 6, "factors": [2, 3]}
    assert judge(row, "<answer>2 × 3</answer>").reward == 1.0
    assert judge(row, "<answer>two times three</answer>").reward == 0.0


def test_a_row_whose_own_solution_cannot_be_scored_is_the_tasks_fault() -> None:
    with pytest.raises(RolloutFailure, match=r"word_sorting.*'sorted_words'") as failure:
        judge(entry("word_sorting", "a, b"), "a, b")
    assert failure.value.kind is FailureKind.TASK_INVALID


def test_an_unknown_family_is_the_tasks_fault() -> None:
    with pytest.raises(RolloutFailure, match="no family 'chain_sums'") as failure:
        judge(entry("chain_sums", "1"), "1")
    assert failure.value.kind is FailureKind.TASK_INVALID


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"metadata": {}}, "metadata.source_dataset"),
        ({"metadata": None}, "metadata"),
        ({"answer": 4}, "answer"),
        ({"question": None}, "question"),
    ],
)
def test_a_row_without_the_scorers_fields_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(RolloutFailure, match=f"'{field}'"):
        ReasoningGymEnvironment().check_task(entry("gcd", "4") | change)


def test_the_same_seed_generates_the_same_rows_and_another_seed_others() -> None:
    rows = list(ReasoningGymEnvironment(size=20, seed=5).tasks())
    assert len(rows) == 20
    assert rows == list(ReasoningGymEnvironment(size=20, seed=5).tasks())
    assert rows != list(ReasoningGymEnvironment(size=20, seed=6).tasks())


def test_generated_rows_are_legal_and_solved_by_their_own_answer() -> None:
    environment = ReasoningGymEnvironment(size=20)
    for row in environment.tasks():
        environment.check_task(row)
        assert judge(row, f"<answer>{row['answer']}</answer>").reward == 1.0
        assert "<answer>" in row["responses_create_params"]["input"][0]["content"]


def test_families_are_mixed_by_weight_and_configured_each() -> None:
    environment = ReasoningGymEnvironment(
        families={"chain_sum": 3, "gcd": 1},
        family_config={"chain_sum": {"min_terms": 7, "max_terms": 7}},
        size=200,
    )
    rows = list(environment.tasks())
    sums = [row for row in rows if row["metadata"]["source_dataset"] == "chain_sum"]
    assert 120 < len(sums) < 180  # 150 expected; 5 standard deviations are 31
    assert all(row["metadata"]["num_terms"] == 7 for row in sums)


def test_families_may_be_a_plain_list() -> None:
    rows = list(ReasoningGymEnvironment(families=["gcd"], size=3).tasks())
    assert {row["metadata"]["source_dataset"] for row in rows} == {"gcd"}


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"families": ["no_such_family"]}, "no_such_family"),
        ({"families": ["gcd"], "family_config": {"gcd": {"bogus": 1}}}, "bogus"),
        ({"families": []}, "at least one"),
        ({"size": 0}, "size"),
        ({"families": ["gcd", "word_ladder"]}, "word_ladder cannot be generated"),
    ],
)
def test_params_the_library_refuses_are_a_config_error(params: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        list(ReasoningGymEnvironment(**params).tasks())


def test_the_example_rows_are_what_their_seed_generates() -> None:
    rows = [json.loads(line) for line in EXAMPLES.read_text("utf-8").splitlines()]
    assert len(rows) >= 5
    assert rows == list(ReasoningGymEnvironment(size=len(rows), seed=2026).tasks())


def test_without_the_library_the_line_that_brings_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"pip install 'gym-ray\[reasoning-gym\]'"):
        ReasoningGymEnvironment()
