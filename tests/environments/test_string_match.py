"""Which part of a reply is compared, and what counts as the same string."""

import json
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from gym_ray.environments.string_match import StringMatchEnvironment
from tests.environments.judging import ENVIRONMENTS, example_rows, judged, refusal

#: What deployments/laptop-cpu.yaml collects.
QUESTIONS = ENVIRONMENTS / "string_match" / "data" / "questions.jsonl"


def reward(expected: Any, reply: str, mode: str, **fields: Any) -> float:
    row = {"expected_answer": expected, "extraction_mode": mode, **fields}
    return judged(StringMatchEnvironment(), row, reply).reward


@pytest.mark.parametrize(
    ("mode", "reply"),
    [
        ("boxed", r"so \boxed{Paris}"),
        ("boxed", r"\boxed{Rome} no \boxed{\text{paris}}"),
        ("boxed", r"\boxed{ **Paris**. }"),
        ("final_answer", "Final answer: Paris"),
        ("final_answer", "Answer: Rome\n**Final Answer:** Paris."),
        ("final_answer", 'Final answer: "Paris"'),
        ("final_answer", r"Final answer: $\boxed{\text{Paris}}$"),
        ("final_answer", r"No label, but \boxed{Paris}"),
        ("last_line", "It is\n\n  Paris  \n"),
        ("last_line", "Paris"),
        ("full_response", " Paris\n"),
        ("full_response", "Ｐａｒｉｓ"),
    ],
)
def test_the_stated_answer_is_found_and_equal(mode: str, reply: str) -> None:
    assert reward("Paris", reply, mode) == 1.0


@pytest.mark.parametrize(
    ("mode", "reply"),
    [
        ("boxed", "Paris"),
        ("boxed", r"\boxed{Paris} or \boxed{Rome}"),
        ("boxed", r"\boxed{Paris, France}"),
        ("final_answer", "Paris"),
        ("final_answer", "Final answer: Paris\nFinal answer: Rome"),
        ("final_answer", "Final answer: Paris or Rome"),
        ("last_line", "Paris\nI think"),
        ("full_response", "It is Paris"),
        *((mode, "") for mode in ("boxed", "final_answer", "last_line", "full_response")),
    ],
)
def test_anything_else_is_worth_nothing(mode: str, reply: str) -> None:
    assert reward("Paris", reply, mode) == 0.0


def test_the_default_is_the_final_answer_in_either_case() -> None:
    verdict = judged(StringMatchEnvironment(), {"expected_answer": "Paris"}, "Answer: PARIS")
    assert (verdict.reward, verdict.metrics) == (1.0, {"answer_found": 1.0})


def test_case_counts_when_the_row_says_so() -> None:
    assert reward("pH", r"\boxed{PH}", "boxed", case_sensitive=True) == 0.0
    assert reward("pH", r"\boxed{pH}", "boxed", case_sensitive=True) == 1.0


@pytest.mark.parametrize(
    ("expected", "reply", "same"),
    [
        ("a  b", "a b", True),
        ("don't", "don’t", True),
        ("1-2", "1–2", True),
        ("x²", "x2", False),
        ("$5", "5", False),
        ("A*", "A", False),
        ("-5", "5", False),
        ("U.S.", "U.S", True),
        (15, "15", True),
        (1.5, "1.5", True),
    ],
)
def test_only_what_looks_alike_is_the_same(expected: Any, reply: str, same: bool) -> None:
    assert reward(expected, reply, "last_line") == float(same)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({}, "expected_answer"),
        ({"expected_answer": None}, "expected_answer"),
        ({"expected_answer": "  "}, "expected_answer"),
        ({"expected_answer": "."}, "expected_answer"),
        ({"expected_answer": "a", "extraction_mode": "guess"}, "extraction_mode"),
    ],
)
def test_a_row_that_cannot_be_matched_is_refused_by_its_field(
    row: dict[str, Any], field: str
) -> None:
    assert f"field '{field}" in refusal(StringMatchEnvironment(), row)


WORDS = st.text(st.sampled_from("abcXYZ 019"), min_size=1, max_size=20).filter(str.strip)


@hypothesis.settings(deadline=None)
@hypothesis.given(WORDS, st.sampled_from("qQ7+"))
def test_gold_is_rewarded_and_gold_with_a_character_more_is_not(gold: str, more: str) -> None:
    for mode, form in (
        ("boxed", r"\boxed{%s}"),
        ("final_answer", "Final answer: %s"),
        ("last_line", "so\n%s"),
        ("full_response", "%s"),
    ):
        assert reward(gold, form % gold, mode) == 1.0
        assert reward(gold, form % (gold + more), mode) == 0.0
        assert reward(gold, form % (more + gold), mode) == 0.0


def test_every_question_of_the_demo_is_solved_by_its_answer_and_by_nothing_that_it_shows() -> None:
    rows = [json.loads(line) for line in QUESTIONS.read_text("utf-8").splitlines()]
    environment = StringMatchEnvironment()
    prompts = [row["responses_create_params"]["input"] for row in rows]

    assert len({prompt[-1]["content"] for prompt in prompts}) == len(rows) == 16
    for row, prompt in zip(rows, prompts, strict=True):
        assert judged(environment, row, row["expected_answer"]).reward == 1.0
        for message in prompt:
            assert judged(environment, row, message["content"]).reward == 0.0


def test_every_example_is_solved_by_its_expected_answer() -> None:
    forms = {"boxed": r"\boxed{%s}", "final_answer": "Final answer: %s"}
    for row in example_rows("string_match"):
        form = forms.get(row["extraction_mode"], "%s")
        environment = StringMatchEnvironment()
        assert judged(environment, row, form % row["expected_answer"]).reward == 1.0
        assert judged(environment, row, form % "something else").reward == 0.0
