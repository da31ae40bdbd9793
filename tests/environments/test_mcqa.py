"""Which option a reply settles on, in every grading mode."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from gym_ray.environments.mcqa import McqaEnvironment
from gym_ray.errors import ConfigError
from tests.environments.judging import example_rows, judged, refusal

OPTIONS = [{"A": "Circle"}, {"B": "Square"}, {"C": "A triangle, with 3 sides"}, {"D": "$x^2$"}]
STRICT = "strict_single_letter_boxed"


def reward(reply: str, *, expected: str = "B", **fields: Any) -> float:
    row = {"options": OPTIONS, "expected_answer": expected, **fields}
    return judged(McqaEnvironment(), row, reply).reward


@pytest.mark.parametrize("mode", [STRICT, "lenient_boxed"])
@pytest.mark.parametrize(
    "reply",
    [
        r"\boxed{B}",
        r"First \boxed{C}, no: \boxed{B}.",
        r"\boxed{\text{B}}",
        r"\boxed{ [B] }",
        r"\boxed{(B)}",
        r"\boxed{B.}",
        r"\boxed{B: Square}",
        r"\boxed{\text{B) Square}}",
        r"\boxed{B - a square}",
        r"\boxed{\textbf{B}}",
        r"\boxed{\textbf{(B) }Lyon}",
        r"\boxed{\text{(B)} Lyon}",
        r"\boxed{\boxed{B}}",
    ],
)
def test_a_boxed_letter_counts_in_both_boxed_modes(mode: str, reply: str) -> None:
    assert reward(reply, grading_mode=mode) == 1.0


@pytest.mark.parametrize("mode", [STRICT, "lenient_boxed"])
@pytest.mark.parametrize(
    "reply",
    [
        "",
        "B",
        "Answer: B",
        r"\boxed{}",
        r"\boxed{C}",
        r"\boxed{B}, no: \boxed{C}",
        r"\boxed{A) B) C)}",
        r"\boxed{B: or D: perhaps}",
        r"\boxed{A, B}",
        r"\boxed{AB}",
        r"\boxed{B-level}",
        r"\boxed{Because}",
        r"\boxed{E}",
        r"\boxed{B",
    ],
)
def test_other_replies_do_not_choose_it_in_either_boxed_mode(mode: str, reply: str) -> None:
    assert reward(reply, grading_mode=mode) == 0.0


@pytest.mark.parametrize(
    ("reply", "expected", "strict", "lenient"),
    [
        (r"\boxed{Square}", "B", 0.0, 1.0),
        (r"\boxed{ \text{ square. } }", "B", 0.0, 1.0),
        (r"\boxed{b}", "B", 0.0, 1.0),
        (r"\boxed{A triangle, with 3 sides}", "C", 0.0, 1.0),
        (r"\boxed{A triangle, with 3 sides}", "A", 0.0, 0.0),
        (r"\boxed{x^2}", "D", 0.0, 1.0),
        ("Square", "B", 0.0, 0.0),
    ],
)
def test_only_the_lenient_mode_reads_an_options_text(
    reply: str, expected: str, strict: float, lenient: float
) -> None:
    assert reward(reply, expected=expected, grading_mode=STRICT) == strict
    assert reward(reply, expected=expected, grading_mode="lenient_boxed") == lenient


def test_text_that_two_options_share_chooses_neither() -> None:
    row = {"options": {"A": "Same", "B": "same "}, "grading_mode": "lenient_boxed"}
    verdict = judged(McqaEnvironment(), {**row, "expected_answer": "A"}, r"\boxed{same}")
    assert (verdict.reward, verdict.metrics) == (0.0, {"answer_found": 0.0})


@pytest.mark.parametrize(
    ("reply", "expected_reward"),
    [
        ("Answer: B", 1.0),
        ("**Answer:** B", 1.0),
        ("**Answer: B**", 1.0),
        ("answer : b.", 1.0),
        ("Answer:\n\n**B**", 1.0),
        ("Answer: Square", 1.0),
        (r"Answer: \boxed{B}", 1.0),
        ("Answer: A\nFinal Answer: B", 1.0),
        ("Answer: B\nAnswer: A", 0.0),
        ("Answer: A or B", 0.0),
        ("Answer: Because", 0.0),
        ("My answers: B", 0.0),
        (r"\boxed{B}", 0.0),
        ("Answer:", 0.0),
    ],
)
def test_what_stands_after_the_last_answer_colon_counts(reply: str, expected_reward: float) -> None:
    assert reward(reply, grading_mode="lenient_answer_colon") == expected_reward


@pytest.mark.parametrize(
    ("pattern", "reply", "expected_reward"),
    [
        (r"Option Selected:\s*([A-Za-z])\s*", "Option Selected: B", 1.0),
        (r"Option Selected:\s*([A-Za-z])\s*", "option selected: b", 1.0),
        (r"Option Selected:\s*([A-Za-z])\s*", "Option Selected: A\nOption Selected: B", 1.0),
        (r"Option Selected:\s*([A-Za-z])\s*", "Option Selected: Because it is", 0.0),
        (r"Option Selected:\s*([A-Za-z])\s*", "It is B", 0.0),
        (r"(?:choose|pick) ([\w, ]+)", "I pick Square", 1.0),
        (r"(?:choose|pick) ([\w, ]+)", "I pick Circle", 0.0),
        (r"(?:choose|pick) ([\w, ]+)", "I pick Square dance", 0.0),
        (["X: (.)", r"Y: ([A-Z])"], "Y: B", 1.0),
        (["X: (.)", r"Y: ([A-Z])"], "Y: B\nX: A", 0.0),
        (["X: (.)", r"Y: ([A-Z])"], "Y: B\nX: ?", 1.0),
        (r"\\boxed\{\s*([A-Za-z])\s*\}", r"Answer: \boxed{ B }", 1.0),
        (r"(?:choose|pick) (?:(\d)|([A-Z]))", "I pick B", 1.0),
    ],
)
def test_a_rows_own_pattern_goes_before_its_mode(
    pattern: str | list[str], reply: str, expected_reward: float
) -> None:
    template = {"output_regex": pattern, "template_id": "t"}
    assert reward(reply, template_metadata=template) == expected_reward


BOXING = r"\\boxed\{\s*([A-Za-z])\s*\}"


@pytest.mark.parametrize("pattern", [BOXING, "Option Selected: ([A-Z])", [BOXING, "X: (.)"]])
@pytest.mark.parametrize(
    "box", [r"\boxed{%s}", r"\boxed{{%s}}", r"\boxed{\text{%s}}", r"\boxed{(%s)}", r"\boxed{%s: x}"]
)
def test_where_a_pattern_finds_nothing_the_mode_decides(pattern: Any, box: str) -> None:
    template = {"output_regex": pattern}
    assert reward(f"Answer: {box % 'B'}", template_metadata=template) == 1.0
    assert reward(f"Answer: {box % 'C'}", template_metadata=template) == 0.0
    assert reward("Answer: B", template_metadata=template) == 0.0
    lenient = {"template_metadata": template, "grading_mode": "lenient_answer_colon"}
    assert reward("Answer: B", **lenient) == 1.0


@pytest.mark.parametrize(
    ("reply", "expected_reward"),
    [
        ("Answer: B", 1.0),
        ("**Answer:** B", 1.0),
        ("**Answer**: b", 1.0),
        ("Answer: B, because of its sides", 1.0),
        ("Answer: the right one is B.", 1.0),
        (r"Answer: \boxed{B}", 1.0),
        ("Answer: ب", 1.0),
        ("Answer: ব", 1.0),
        ("Answer: A\nAnswer: B", 1.0),
        ("Answer: B\nAnswer: none of them", 1.0),
        ("Answer: A or B", 0.0),
        ("Answer: B, C", 0.0),
        ("Answer: C", 0.0),
        ("Answer: because", 0.0),
        ("B", 0.0),
        ("", 0.0),
    ],
)
def test_the_markdown_mode_reads_a_sentence_after_the_colon(
    reply: str, expected_reward: float
) -> None:
    row = {"options": OPTIONS, "expected_answer": "B"}
    environment = McqaEnvironment(grading_mode="lenient_answer_colon_md")
    assert judged(environment, row, reply).reward == expected_reward
    assert reward(reply, grading_mode="lenient_answer_colon_md") == expected_reward


def test_a_mode_that_is_none_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="lenient_answer_colon_md"):
        McqaEnvironment(grading_mode="guess")  # type: ignore[arg-type]


@pytest.mark.parametrize("letter", ["B", "b", "ب", "ব"])
def test_letters_of_other_scripts_are_those_of_the_options(letter: str) -> None:
    template = {"output_regex": [r"الإجابة:\s*(\w)", r"Answer:\s*(\w)"]}
    assert reward(f"Answer: {letter}", template_metadata=template) == 1.0
    assert reward(rf"\boxed{{{letter}}}", grading_mode="lenient_boxed") == 1.0
    assert reward(f"Answer: {letter}", expected="C", template_metadata=template) == 0.0


def test_options_may_be_padded_with_null() -> None:
    padded = [{"A": "x", "B": None}, {"A": None, "B": "y"}]
    assert reward(r"\boxed{B}", options=padded) == 1.0
    assert reward(r"\boxed{A}", options=padded) == 0.0
    assert reward(r"\boxed{y}", options={"A": "x", "B": "y", "C": None},
                  grading_mode="lenient_boxed") == 1.0  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"options": None}])
def test_options_may_be_missing_beside_a_pattern(options: dict[str, Any]) -> None:
    row = {
        "template_metadata": {"output_regex": "Pick: ([A-Z])"},
        "expected_answer": "j",
        **options,
    }
    for reply, right in (("Pick: J", 1.0), ("Pick: K", 0.0), (r"\boxed{J}", 1.0), ("J", 0.0)):
        assert judged(McqaEnvironment(), row, reply).reward == right


def test_template_metadata_without_a_pattern_leaves_the_mode() -> None:
    assert reward(r"\boxed{B}", template_metadata={"template_id": "t"}) == 1.0


GOOD = {"options": OPTIONS, "expected_answer": "B"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"options": None}, "options"),
        ({"options": []}, "options"),
        ({"options": [{"A": "x", "B": "y"}]}, "options"),
        ({"options": [{"A": "x"}, {"A": "y"}]}, "options"),
        ({"options": {"A": "x", "a": "y"}}, "options"),
        ({"options": {"AB": "x", "C": "y"}}, "options"),
        ({"expected_answer": "Z"}, "expected_answer"),
        ({"expected_answer": None}, "expected_answer"),
        ({"grading_mode": "guess"}, "grading_mode"),
        ({"template_metadata": {"output_regex": "("}}, "template_metadata.output_regex"),
        ({"template_metadata": {"output_regex": "B"}}, "template_metadata.output_regex"),
    ],
)
def test_a_row_that_cannot_be_graded_is_refused_by_its_field(
    change: dict[str, Any], field: str
) -> None:
    assert f"field '{field}" in refusal(McqaEnvironment(), {**GOOD, **change})


@pytest.mark.parametrize("field", ["options", "expected_answer"])
def test_a_row_without_a_needed_field_is_refused(field: str) -> None:
    row = {name: value for name, value in GOOD.items() if name != field}
    assert f"field '{field}'" in refusal(McqaEnvironment(), row)


@hypothesis.settings(deadline=None)
@hypothesis.given(st.sampled_from("ABCD"), st.sampled_from("ABCD"), st.text(max_size=40))
def test_gold_is_rewarded_and_another_letter_is_not(gold: str, other: str, before: str) -> None:
    reply = f"{before.replace('{', '').replace(chr(92), '')} \\boxed{{{other}}}"
    assert reward(reply, expected=gold) == float(gold == other)


#: How a reply that chooses a letter ends, for rows of the example file.
STATEMENTS = {
    STRICT: r"\boxed{%s}",
    "lenient_boxed": r"\boxed{%s}",
    "lenient_answer_colon": "Answer: %s",
    "pattern": "Final Choice: %s",
}


def test_every_example_is_solved_by_its_letter_only() -> None:
    for row in example_rows("mcqa"):
        mode = "pattern" if "template_metadata" in row else row["grading_mode"]
        letters = [letter for option in row["options"] for letter in option]
        rewards = {
            letter: judged(McqaEnvironment(), row, STATEMENTS[mode] % letter).reward
            for letter in letters
        }
        assert rewards == {letter: float(letter == row["expected_answer"]) for letter in letters}
        assert judged(McqaEnvironment(), row, "").reward == 0.0
