"""Which answers mean the same by rule, and which do not."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from gym_ray.environments.equivalence import EquivalenceEnvironment
from tests.environments.judging import example_rows, judged, refusal


def reward(
    expected: Any, reply: str, *, truncation_reason: str | None = None, **params: Any
) -> float:
    return judged(
        EquivalenceEnvironment(**params),
        {"expected_answer": expected},
        reply,
        truncation_reason=truncation_reason,
    ).reward


def same(one: str, other: str) -> bool:
    there, back = reward(one, f"\\boxed{{{other}}}"), reward(other, f"\\boxed{{{one}}}")
    assert there == back
    return bool(there)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("the sun", "Sun."),
        ("THE SUN", "sun"),
        ("co-operate", "co operate"),
        ("don't", "don’t"),
        ("Yahoo!", "yahoo"),
        ("A", "a"),
        ("(5)", "5"),
        ("1,000", "1000.0"),
        ("one thousand", "1e3"),
        ("1.2 × 10^3", "1200"),
        ("twenty-one", "21"),
        ("two hundred and five thousand", "205,000"),
        ("minus five", "-5"),
        ("1/2", "0.5"),
        ("½", "1/2"),
        ("three apples", "3 apples"),
        ("5 km", "5000 m"),
        ("5 kilometres", "5 km"),
        ("90 km/h", "25 meters per second"),
        ("5 feet", "60 inches"),
        ("2 m^2", "2 square meters"),
        ("50 %", "50 percent"),
        (r"\$5", "5 dollars"),
        ("July 4, 1776", "1776-07-04"),
        ("4th of July 1776", "Jul 4 1776"),
        ("[8.124, 12.852]", "[8.124,12.852]"),
        ("3, 5, 7", "3,5,7"),
        ("3; 5", "3;5"),
        ("(1, 2)", "(1,2)"),
        ("(1, -2)", "(1,-2)"),
        ("1, 1,000, 5", "1; 1,000; 5"),
        ("-5", "- 5"),
        ("-5 km", "- 5 km"),
        ("3 - 2", "3-2"),
        ("x = -5", "x = - 5"),
        ("10:30", "10 : 30"),
        ("2/3 cup", "2 / 3 cup"),
        ("covid-19", "covid 19"),
    ],
)
def test_what_means_the_same_is_worth_one(one: str, other: str) -> None:
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-5", "5"),
        ("1.5", "15"),
        ("10:30", "10 30"),
        ("1990-1995", "1990 1995"),
        ("3 - 2", "3 2"),
        ("3 - 2", "3, -2"),
        ("3 * 4", "3 4"),
        ("10 : 30", "10 30"),
        ("1,2", "12"),
        ("3,5", "3.5"),
        ("8.124,12.852", "8.12412852"),
        ("(1, -2)", "(1, 2)"),
        ("x = - 5", "x = 5"),
        ("at -5 degrees today", "at 5 degrees today"),
        ("1,2,3", "1,23"),
        ("1234,567", "1234567"),
        ("3/4 cup", "3-4 cup"),
        ("twenty eleven", "31"),
        ("5!", "5"),
        ("x²", "x2"),
        ("C++", "C"),
        ("hepatitis A", "hepatitis"),
        ("type A blood", "type blood"),
        ("80", "80 km/h"),
        ("80 km", "80 m"),
        ("5 m", "5 s"),
        ("50%", "0.5"),
        ("03/04/2020", "2020-04-03"),
        ("Charles Darwin", "Darwin"),
        ("café", "cafe"),
        ("not the sun", "the sun"),
        ("1/0", "0"),
    ],
)
def test_what_may_mean_something_else_is_worth_nothing(one: str, other: str) -> None:
    assert not same(one, other)


@pytest.mark.parametrize(
    ("reply", "expected_reward"),
    [
        (r"\boxed{moon}, no: \boxed{\text{the sun}}", 1.0),
        ("<answer>the sun</answer> is it", 1.0),
        ("**Answer:** The Sun.", 1.0),
        ("I think\nthe sun", 1.0),
        (r"\boxed{moon} the sun", 0.0),
        (r"\boxed{the sun", 0.0),
        ("the sun\nor not", 0.0),
        ("", 0.0),
        (r"\boxed{}", 0.0),
        (r"\boxed{.}", 0.0),
    ],
)
def test_the_answer_is_where_the_reply_states_it(reply: str, expected_reward: float) -> None:
    assert reward("the sun", reply) == expected_reward


def test_a_reply_cut_short_states_nothing_in_its_last_line() -> None:
    assert reward("sun", "so: the sun", truncation_reason="length") == 0.0
    assert reward("sun", "Answer: the sun", truncation_reason="length") == 1.0


def test_a_box_can_be_required() -> None:
    assert reward("sun", "the sun", require_box=True) == 0.0
    assert reward("sun", r"\boxed{the sun}", require_box=True) == 1.0


def test_any_of_several_expected_answers_will_do() -> None:
    assert reward(["UK", "United Kingdom"], r"\boxed{the united kingdom}") == 1.0
    assert reward(["UK", "United Kingdom"], r"\boxed{England}") == 0.0


@pytest.mark.parametrize("expected", [None, "", [], [""], "...", ["ok", "?"]])
def test_a_row_that_expects_nothing_is_refused(expected: Any) -> None:
    assert "expected_answer" in refusal(EquivalenceEnvironment(), {"expected_answer": expected})
    assert "expected_answer" in refusal(EquivalenceEnvironment(), {})


SAID = st.lists(
    st.sampled_from(["the", "red", "7", "1,250", "-3", "km", "A", "Mr.", "x²", "¼", "ten", "%"]),
    min_size=1,
    max_size=6,
).map(" ".join)


@hypothesis.settings(deadline=None)
@hypothesis.given(SAID.filter(lambda text: text.casefold() not in ("the", "mr.")))
def test_gold_is_rewarded_and_gold_with_a_word_more_is_not(gold: str) -> None:
    assert reward(gold, f"\\boxed{{{gold}}}") == 1.0
    assert reward(gold, f"\\boxed{{{gold} violet}}") == 0.0
    assert reward(gold, f"\\boxed{{violet {gold}}}") == 0.0


def test_every_example_is_solved_by_each_of_its_expected_answers() -> None:
    for row in example_rows("equivalence"):
        expected = row["expected_answer"]
        for answer in expected if isinstance(expected, list) else [expected]:
            assert reward(expected, f"\\boxed{{{answer}}}") == 1.0
        assert reward(expected, r"\boxed{something else}") == 0.0


NUMBER = st.decimals(-(10**4), 10**4, places=2, allow_nan=False).map(lambda d: f"{d.normalize():f}")


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    numbers=st.lists(NUMBER.filter(lambda text: "." in text), min_size=2, max_size=5),
    separators=st.tuples(st.sampled_from([",", ";"]), st.sampled_from([", ", "; ", " , "])),
    brackets=st.sampled_from(["%s", "(%s)", "[%s]"]),
    at=st.integers(0, 4),
)
def test_a_list_is_the_same_with_blanks_and_without(
    numbers: list[str], separators: tuple[str, str], brackets: str, at: int
) -> None:
    tight, wide = (brackets % mark.join(numbers) for mark in separators)
    assert same(tight, wide)
    other = list(numbers)
    other[at % len(other)] += "7"
    assert not same(tight, brackets % separators[1].join(other))
    negated = list(numbers)
    position = at % len(negated)
    negated[position] = f"-{negated[position]}".replace("--", "")
    if float(numbers[position]):
        assert not same(tight, brackets % separators[1].join(negated))
        assert same(wide, brackets % separators[0].join(one.replace("-", "- ") for one in numbers))
