"""Whether two values that `math-verify` has read are equal, by their digits where those decide.

Owned here: numbers, by what they evaluate to and in proportion to their size; formulas, by their
values at a few points; and tuples, sets, intervals, matrices and relations made of these. Where
digits do not decide, nothing is said, and `math-verify` compares symbols. Evaluating takes
milliseconds where comparing symbols may take seconds, so that few verdicts meet a time limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

#: Digits a value is first evaluated to, and at most.
_DIGITS, _MOST_DIGITS = 50, 20_000
#: Two exact values that agree to so many digits are equal.
_AGREEING_DIGITS = 40
#: A decimal equals a value that it is this close to, in proportion: 0.333333 is a third.
_CLOSE = Decimal("1e-6")
#: Decimal places to which a decimal and another value have to agree, and the fewest digits a
#: decimal must have to stand for the exact value that it is rounded from.
_PLACES, _FEWEST_DIGITS = 6, 4
#: What variables are set to; the first ones are positive, where roots and logarithms are real.
_POINTS = ("1.3717", "0.6143", "2.2391", "3.1847", "-0.7391", "-1.6237")
_POSITIVE_POINTS = 4


def decided(expected: Any, found: Any) -> bool | None:
    """Whether two values are equal; None when their digits do not tell."""
    import sympy

    if isinstance(expected, sympy.MatrixBase) and isinstance(found, sympy.MatrixBase):
        if expected.shape != found.shape:
            return None
        return _all(map(decided, expected.flat(), found.flat()))
    if not isinstance(expected, sympy.Basic) or not isinstance(found, sympy.Basic):
        return None
    if isinstance(expected, sympy.Tuple) and isinstance(found, sympy.Tuple):
        if len(expected) != len(found):
            return None
        return _all(map(decided, expected, found))
    if isinstance(expected, sympy.FiniteSet) and isinstance(found, sympy.FiniteSet):
        return _same_elements(expected.args, found.args)
    if isinstance(expected, sympy.Interval) and isinstance(found, sympy.Interval):
        if (expected.left_open, expected.right_open) != (found.left_open, found.right_open):
            return None
        return _all([decided(expected.start, found.start), decided(expected.end, found.end)])
    if isinstance(expected, sympy.core.relational.Relational):
        if type(expected) is not type(found) or not decided(expected.lhs, found.lhs):
            return None
        return decided(expected.rhs, found.rhs)
    if isinstance(expected, sympy.Expr) and isinstance(found, sympy.Expr):
        return _same_expression(expected, found)
    return None


def is_true_equation(sides: Sequence[Any]) -> bool:
    """Whether all values are equal; numbers and formulas are, as far as their digits tell."""
    return all(decided(one, sides[-1]) is not False for one in sides)


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    said = list(verdicts)
    if False in said:
        return False
    return None if None in said else True


def _same_elements(expected: Sequence[Any], found: Sequence[Any]) -> bool | None:
    """Whether each element has its equal among the others'."""
    if len(expected) != len(found) or len(expected) > 50:
        return None
    left = list(found)
    for element in expected:
        said = [decided(element, other) for other in left]
        if True in said:
            left.pop(said.index(True))
        else:
            return None if None in said else False
    return True


def _same_expression(expected: Any, found: Any) -> bool | None:
    import sympy

    if expected == found:
        return True
    if isinstance(expected, sympy.Symbol) or isinstance(found, sympy.Symbol):
        return None  # `math-verify` knows when it is a word
    for expression in (expected, found):
        if expression.has(
            sympy.UnevaluatedExpr, sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit,
            sympy.Derivative, sympy.oo, -sympy.oo, sympy.zoo, sympy.nan, sympy.MatrixExpr,
            sympy.core.function.AppliedUndef,
        ):  # fmt: skip
            return None
    # `math-verify` reads it as a symbol.
    expected, found = (
        one.subs({i: sympy.I for i in one.free_symbols if i.name == "i"})
        for one in (expected, found)
    )
    symbols = sorted(expected.free_symbols | found.free_symbols, key=str)
    if not symbols:
        return _same_number(expected, found)
    return _same_at_points(expected, found, symbols)


def _same_number(expected: Any, found: Any) -> bool | None:
    import sympy

    if expected.is_Rational and found.is_Rational:
        return bool(expected == found)
    values = _values(expected, found, _DIGITS)
    if values is None:
        return None
    if not expected.has(sympy.Float) and not found.has(sympy.Float):
        return _same_exact(expected, found, values)
    if not all(_is_real(value) for value in values):
        return _is_close(*values, 12)
    if _is_close(*values, 12):
        return True
    if not isinstance(expected, sympy.Float) and not isinstance(found, sympy.Float):
        return False
    return _same_decimal(expected, found, values)


def _same_exact(expected: Any, found: Any, values: tuple[Any, Any]) -> bool | None:
    """Two numbers without decimals: to their last digit before the point, and 40 more."""
    import mpmath

    if not _is_close(*values, _AGREEING_DIGITS):
        return False
    largest = max(abs(value) for value in values)
    if not largest:
        return True
    size = abs(int(mpmath.log10(largest)))
    if 2 * size + _DIGITS > _MOST_DIGITS:
        return None
    again = _values(expected, found, 2 * size + _DIGITS)
    return None if again is None else _is_close(*again, 2 * size + _AGREEING_DIGITS)


def _same_decimal(expected: Any, found: Any, values: tuple[Any, Any]) -> bool:
    """A decimal and another number: to six places, and in proportion to their size."""
    import sympy

    one, other = (_written(value) for value in values)
    if round(one, _PLACES) != round(other, _PLACES):
        return False
    if abs(one - other) <= _CLOSE * max(abs(one), abs(other)):
        return True
    if expected.has(sympy.Float) and found.has(sympy.Float):
        return False
    decimal, exact = (one, other) if isinstance(expected, sympy.Float) else (other, one)
    digits = str(decimal.normalize()).lstrip("-0.").partition("E")[0].replace(".", "")
    places = max(_PLACES, -int(decimal.normalize().as_tuple().exponent))
    return len(digits) >= _FEWEST_DIGITS and round(exact, places) == decimal


def _same_at_points(expected: Any, found: Any, symbols: list[Any]) -> bool | None:
    """Whether two formulas have the same values; None when that is so at some points only."""
    import sympy

    rounded = expected.has(sympy.Float) or found.has(sympy.Float)
    same: list[bool] = []
    for number, point in enumerate(_POINTS):
        # Not the same for all variables, and of few digits, so that nothing cancels by chance.
        at = {
            symbol: sympy.Rational(point) * (7 + 2 * index) / (7 + index)
            for index, symbol in enumerate(symbols)
        }
        values = _values(expected, found, _DIGITS, at)
        if values is None:
            continue
        same.append(_is_close(*values, 12 if rounded else 30))
        if number < _POSITIVE_POINTS and not same[-1]:
            return False if not rounded or not _is_close(*values, 6) else None
    return True if len(same) >= 3 and all(same) else None


def _values(
    expected: Any, found: Any, digits: int, at: dict[Any, Any] | None = None
) -> tuple[Any, Any] | None:
    """Both as complex numbers; None when one has no value there."""
    one = _value(expected, digits, at)
    other = None if one is None else _value(found, digits, at)
    return None if other is None else (one, other)


def _value(expression: Any, digits: int, at: dict[Any, Any] | None) -> Any:
    import mpmath
    import sympy
    from math_verify.errors import TimeoutException

    try:
        value = expression.evalf(digits, subs=at or {})
        parts = value.as_real_imag()
    except TimeoutException:
        raise
    except Exception:  # what sympy does where a function has no value
        return None
    with mpmath.workdps(digits + 10):
        for part in parts:
            if not isinstance(part, sympy.Number) or not part.is_finite:
                return None
            if isinstance(part, sympy.Float) and part._prec < mpmath.mp.prec / 2:
                return None  # it may be nothing but the error of a difference
        return mpmath.mpc(*(part._to_mpmath(mpmath.mp.prec) for part in parts))


def _is_real(value: Any) -> bool:
    return bool(abs(value.imag) <= abs(value.real) * 10.0**-_AGREEING_DIGITS)


def _is_close(one: Any, other: Any, digits: int) -> bool:
    """Whether two values differ by less than their size times 10 to the minus `digits`."""
    import mpmath

    return bool(abs(one - other) <= max(abs(one), abs(other)) * mpmath.mpf(10) ** -digits)


def _written(value: Any) -> Decimal:
    """The decimal that a value was read from, without the error of the base of two."""
    import mpmath

    return Decimal(mpmath.nstr(value.real, 15, min_fixed=0, max_fixed=0))
