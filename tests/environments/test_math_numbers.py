"""Numbers in every notation: equal to themselves, unequal to others nearby."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.environments.test_math import judge

#: A number of three to six digits times a power of ten that notations with digits can hold.
NUMBERS = st.builds(
    lambda digits, exponent, sign: sign * Decimal(digits).scaleb(exponent),
    st.integers(1001, 999_999),
    st.integers(-12, 6),
    st.sampled_from([1, -1]),
)
FAR_NUMBERS = st.builds(
    lambda digits, exponent, sign: sign * Decimal(digits).scaleb(exponent),
    st.integers(1001, 999_999),
    st.integers(-320, 300),
    st.sampled_from([1, -1]),
)


def digits(number: Decimal) -> str:
    return f"{number:f}"


def e_notation(number: Decimal) -> str:
    return f"{number:e}".replace("+", "")


def power_of_ten(number: Decimal) -> str:
    mantissa, _, exponent = f"{number:e}".partition("e")
    return rf"{mantissa}\times 10^{{{int(exponent)}}}"


def fraction(number: Decimal) -> str:
    sign = "-" if number < 0 else ""
    exact = Fraction(abs(number))
    return rf"{sign}\frac{{{exact.numerator}}}{{{exact.denominator}}}"


NOTATIONS: dict[str, Callable[[Decimal], str]] = {
    "digits": digits,
    "separated": lambda number: f"{number:,f}",
    "latex_separated": lambda number: f"{number:,f}".replace(",", "{,}"),
    "e": e_notation,
    "E": lambda number: f"{number:E}",
    "power_of_ten": power_of_ten,
    "fraction": fraction,
    "with_unit": lambda number: rf"{digits(number)} \text{{ km/h}}",
    "e_with_unit": lambda number: f"{e_notation(number)} dollars",
    "final_stop": lambda number: f"{digits(number)}.",
    "e_final_stop": lambda number: f"{e_notation(number)}.",
    "named": lambda number: f"x = {digits(number)}",
    "in_dollars": lambda number: f"${e_notation(number)}$",
}
FAR = ["e", "E", "power_of_ten", "e_with_unit", "e_final_stop", "in_dollars"]


@pytest.mark.parametrize("notation", NOTATIONS)
@settings(max_examples=12, deadline=None)
@given(number=NUMBERS, other=st.sampled_from(sorted(NOTATIONS)))
def test_a_number_equals_itself_in_another_notation_and_no_number_beside_it(
    notation: str, number: Decimal, other: str
) -> None:
    spell, respell = NOTATIONS[notation], NOTATIONS[other]
    if notation == other == "with_unit" or {notation, other} == {"with_unit", "e_with_unit"}:
        respell = digits  # dollars are no kilometers an hour
    assert judge(spell(number), boxed(respell(number))).reward == 1.0
    assert judge(spell(number), boxed(respell(number * Decimal("1.001")))).reward == 0.0
    assert judge(spell(number), boxed(respell(-number))).reward == 0.0


@settings(max_examples=40, deadline=None)
@given(number=FAR_NUMBERS, one=st.sampled_from(FAR), other=st.sampled_from(FAR))
def test_so_do_numbers_of_any_size(number: Decimal, one: str, other: str) -> None:
    spell, respell = NOTATIONS[one], NOTATIONS[other]
    assert judge(spell(number), boxed(respell(number))).reward == 1.0
    assert judge(spell(number), boxed(respell(number * Decimal("1.001")))).reward == 0.0
    assert judge(spell(number), boxed(respell(number * 10))).reward == 0.0


@settings(max_examples=60, deadline=None)
@given(number=st.floats(allow_nan=False, allow_infinity=False).filter(bool))
def test_a_json_number_equals_itself_and_no_number_beside_it(number: float) -> None:
    exact = Decimal(repr(number))
    assert judge(number, boxed(repr(number))).reward == 1.0
    assert judge(number, boxed(power_of_ten(exact))).reward == 1.0
    assert judge(number, boxed(power_of_ten(exact * Decimal("1.001")))).reward == 0.0


@settings(max_examples=40, deadline=None)
@given(
    whole=st.integers(0, 99),
    fixed=st.text("0123456789", max_size=3),
    block=st.text("0123456789", min_size=1, max_size=4).filter(lambda block: set(block) != {"0"}),
    command=st.sampled_from([r"\overline{%s}", r"\bar{%s}", "(%s)"]),
    sign=st.sampled_from(["", "-"]),
)
def test_a_repeating_decimal_is_its_fraction(
    whole: int, fixed: str, block: str, command: str, sign: str
) -> None:
    number = Fraction(int(f"{whole}{fixed}{block}") - int(f"{whole}{fixed}"),
                      10 ** len(fixed) * (10 ** len(block) - 1))  # fmt: skip
    repeating = f"{sign}{whole}.{fixed}{command % block}"
    exact = rf"{sign}\frac{{{number.numerator}}}{{{number.denominator}}}"
    beside = rf"{sign}\frac{{{number.numerator * 1001}}}{{{number.denominator * 1000}}}"
    assert judge(exact, boxed(repeating)).reward == 1.0
    assert judge(repeating, boxed(exact)).reward == 1.0
    assert judge(repeating, boxed(beside)).reward == 0.0


@settings(max_examples=40, deadline=None)
@given(
    whole=st.integers(1, 2000),
    below=st.integers(2, 60),
    data=st.data(),
    blank=st.sampled_from([" ", r"\ ", "  ", r"\,", "~"]),
    sign=st.sampled_from(["", "-"]),
)
def test_a_mixed_number_is_its_fraction(
    whole: int, below: int, data: st.DataObject, blank: str, sign: str
) -> None:
    above = data.draw(st.integers(1, below - 1))
    exact = rf"{sign}\frac{{{whole * below + above}}}{{{below}}}"
    for mixed in (f"{whole}{blank}{above}/{below}", rf"{whole}\frac{{{above}}}{{{below}}}"):
        assert judge(exact, boxed(sign + mixed)).reward == 1.0
        assert judge(sign + mixed, boxed(exact)).reward == 1.0
    beside = rf"{sign}\frac{{{(whole * below + above) * 1001}}}{{{below * 1000}}}"
    assert judge(f"{sign}{whole}{blank}{above}/{below}", boxed(beside)).reward == 0.0


@settings(max_examples=40, deadline=None)
@given(number=st.integers(10**15, 10**40), step=st.sampled_from([1, -1]))
def test_whole_numbers_are_equal_to_their_last_digit(number: int, step: int) -> None:
    assert judge(str(number), boxed(f"{number:,}")).reward == 1.0
    assert judge(str(number), boxed(str(number + step))).reward == 0.0
    assert judge(number, boxed(str(number + step))).reward == 0.0


@pytest.mark.parametrize("places", range(6, 15))
def test_a_decimal_of_six_places_stands_for_what_it_is_rounded_from(places: int) -> None:
    for exact, value in ((r"\frac{1}{6}", 1 / 6), (r"\sqrt{2}", math.sqrt(2)), (r"\pi", math.pi)):
        assert judge(exact, boxed(f"{value:.{places}f}")).reward == 1.0
        assert judge(exact, boxed(f"{value:.5f}")).reward == 0.0


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


@settings(max_examples=40, deadline=None)
@given(
    more=st.from_regex(r"[a-z ]{0,3}[0-9!?+.,-]{1,3}[a-z ]{0,3}", fullmatch=True).filter(
        lambda more: set(more) & set("0123456789!?+")
    ),
    command=st.sampled_from([r"\text", r"\mathrm", r"\mathbf", r"\mbox"]),
)
def test_what_stands_in_roman_type_is_read_unless_it_is_a_label(more: str, command: str) -> None:
    assert judge("7", boxed(rf"7{command}{{{more}}}")).reward == 0.0


@pytest.mark.parametrize("part", ["m/", "1/", "{", "(", "1+", "x^"])
def test_a_text_that_is_nested_too_deeply_is_no_failure(part: str) -> None:
    assert (
        judge("7", boxed(part * 700 + "7" + {"{": "}", "(": ")"}.get(part, "") * 700)).reward == 0
    )
