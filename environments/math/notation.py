r"""Spellings of the same mathematics that `math-verify` does not read, or reads too kindly.

Owned here: characters that stand for LaTeX commands, inequalities that state an interval,
quantities and their units, words, and numerals of another base. Numbers are in `numerals.py`.
Everything else is left as it is.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from gym_ray.verifiers.answers import unwrapped
from gym_ray.verifiers.quantities import quantity_of, unit_of

from .numerals import in_decimals

_CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "∞": r"\infty ",
     "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ",
     "±": r"\pm ", "∈": r"\in ", "°": r"^\circ ", "…": "...",
     "\u00a0": " ", "\u2009": " ", "\u202f": " "}
)  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_ROOT = re.compile(r"√\s*(\{[^{}]*\}|\([^()]*\)|\d+(?:\.\d+)?|[^\W\d_])")
_DEGREES = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))")
_ANGLE_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
#: What may end a text without being part of it: stops, blanks, and LaTeX's spaces.
_STOPS = ".,;。，；"
_SPACES = ("\\qquad", "\\quad", "\\,", "\\;", "\\:", "\\!", "\\ ")
_CLOSINGS = ("$", r"\)", r"\]")

_RELATIONS = {"<": False, r"\lt": False, "<=": True, r"\le": True, r"\leq": True,
              r"\leqslant": True}  # fmt: skip
_REVERSED = {">": "<", r"\gt": "<", ">=": "<=", r"\ge": "<=", r"\geq": "<=", r"\geqslant": "<="}
_RELATION = re.compile(r"(<=|>=|<|>|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![a-zA-Z]))")
_VARIABLE = re.compile(r"[a-zA-Z]|\\(?:theta|alpha|beta|lambda)")
_WORD = re.compile(r"[A-Za-z]{2,}")
_INFINITY = {"inf", "infinity"}
_NUMBER = re.compile(
    r"(?:[^a-zA-Z\\]|\\(?:(?:[dtc]?frac|sqrt|pi|cdot|times|left|right)(?![a-zA-Z])|[,;:! ]))+"
)
_CURRENCY = re.compile(r"([+-]?)\s*(?:\\text\{)?([€£¥₹₩₽])\}?\s*")
#: Words after a number that may be what is counted, and no arithmetic.
_COUNTED = re.compile(
    r"(?!.*\b(?:and|or|to|mod|modulo|choose|factorial|percent|percentage|pct|hundred|thousand|"
    r"million|billion|trillion|dozen|half|halves|thirds?|quarters?|squared|cubed|plus|minus|times|"
    r"over|less|more|than|not|if|when|for|is|base|degrees?)\b)[a-z]{3,}(?: [a-z]{2,}){0,2}"
)
#: Longer texts are no quantities.
_MOST_CHARACTERS = 400
#: Where a unit may begin.
_BOUNDARY = re.compile(r"(?<=[\d})\]!.])(?=[\s\\~a-zA-Z°µμΩ^])|(?<=\\pi)(?=[\s\\~])")
_LONE_LETTER = re.compile(r"[a-zA-Z](?:\^.*)?")
_BASED = re.compile(r"([0-9A-Za-z]+)_(?:\{(\d+)\}|(\d+))")


def spelled(text: str) -> str:
    r"""`text` with characters written as the LaTeX they stand for.

    >>> spelled("√2 + x² ≤ ½")
    '\\sqrt{2} + x^{2} \\le  \\frac{1}{2}'
    """
    text = "".join(_fraction_or_width(character) for character in text)
    text = re.sub(
        r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", text
    )
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1].strip('{}()')}}}", text)
    text = text.translate(_CHARACTERS).replace(r"\varnothing", r"\emptyset")
    if _ANGLE_FUNCTION.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    return in_decimals(text)


def without_stop(text: str) -> str:
    r"""`text` without the stop at its end, which may stand before a closing `$`.

    >>> without_stop("2024."), without_stop(r"$(1,2),$"), without_stop("0.333...")
    ('2024', '$(1,2)$', '0.333...')
    """
    text = text.strip()
    if text.endswith(("...", r"\ldots", r"\dots")):
        return text
    for closing in _CLOSINGS:
        if text.endswith(closing) and len(text) > len(closing):
            inner = text.removesuffix(closing)
            return without_stop(inner) + closing if not inner.endswith("\\") else text
    text = re.sub(r"\\text\{[.,;]?\}$", "", text)
    end = len(text)
    while end:
        space = next((space for space in _SPACES if text.endswith(space, 0, end)), None)
        if space is not None:
            end -= len(space)
        elif text[end - 1] in _STOPS or text[end - 1] == "~" or text[end - 1].isspace():
            end -= 1
        else:
            break
    return text[:end] or text


def in_one_notation(expected: str, answer: str) -> tuple[str, str]:
    """Both texts; where one is an interval and the other an inequality, that one as an interval."""
    for one, other in ((expected, answer), (answer, expected)):
        if not _is_interval(unwrapped(one)):
            continue
        interval = _interval_of(unwrapped(other))
        if interval is not None:
            return (expected, interval) if other is answer else (interval, answer)
    return expected, answer


def equal_in_notation(expected: str, answer: str) -> bool | None:
    """Whether two words, two quantities with units, two numerals with a base, or the same text
    twice, are equal; None for other pairs, such as a quantity and a bare number."""
    if _without_blanks(unwrapped(expected)) == _without_blanks(unwrapped(answer)):
        return True
    words = [_WORD.fullmatch(unwrapped(text)) for text in (expected, answer)]
    if words[0] and words[1]:
        return _same_word(expected, answer)
    based = [_BASED.fullmatch(unwrapped(text)) for text in (expected, answer)]
    if based[0] and based[1]:
        return _digits_and_base(based[0]) == _digits_and_base(based[1])
    quantities = [quantity_of(_without_latex(text)) for text in (expected, answer)]
    if quantities[0] and quantities[1] and quantities[0][1] and quantities[1][1]:
        return quantities[0] == quantities[1]
    return None


def in_one_unit(expected: str, answer: str) -> tuple[str, str] | None:
    """The numbers that both texts state, in one unit; None when they have units of two kinds. A
    unit on one side only is left out."""
    one, other = _number_and_unit(expected), _number_and_unit(answer)
    if one is None or other is None:
        return (expected if one is None else one[0]), (answer if other is None else other[0])
    if not one[1] or not other[1]:
        return expected, answer
    if one[1] != other[1]:
        return None
    ratio = other[2] / one[2]
    if ratio == 1:
        return one[0], other[0]
    return one[0], rf"\frac{{{ratio.numerator}}}{{{ratio.denominator}}}\cdot({other[0]})"


def _number_and_unit(text: str) -> tuple[str, str, Fraction] | None:
    """The number before a unit, the unit's dimension, and how many base units it is. Words that
    may be what is counted (`5 people`) are a unit without a dimension."""
    text = unwrapped(text)
    if len(text) > _MOST_CHARACTERS:
        return None
    currency = _CURRENCY.match(text)
    if currency:
        dimension, factor = unit_of(currency[2]) or (currency[2], Fraction(1))
        number = currency[1] + text[currency.end() :]
        return (number, dimension, factor) if _NUMBER.fullmatch(number) else None
    for boundary in _BOUNDARY.finditer(text):
        number, unit = text[: boundary.start()], text[boundary.start() :]
        if _LONE_LETTER.fullmatch(unit) or not _NUMBER.fullmatch(number):
            continue  # `5x` and `5N` are products
        name = _without_latex(unit)
        known = unit_of(name)
        if known is not None:
            return None if known[0] == "share" else (number, *known)
        if name != unit and _COUNTED.fullmatch(name) and not _is_product(name):
            return number, "", Fraction(1)
    return None


def _same_word(expected: str, answer: str) -> bool | None:
    one, other = unwrapped(expected), unwrapped(answer)
    if {one, other} & _INFINITY or (
        one == expected and other == answer and _is_product(one) and _is_product(other)
    ):
        return None
    return one.casefold() == other.casefold()


def _is_product(word: str) -> bool:
    """Whether letters side by side are variables: `xy`, `abc`, but not `on` and not `saw`."""
    if not word.islower() or len(word) > 3 or set(word) & set("eiou"):
        return False
    return len(word) == 2 or "a" not in word or set(word) <= set("abcdxyz")


def _fraction_or_width(character: str) -> str:
    kind = unicodedata.decomposition(character).partition(" ")[0]
    if kind == "<fraction>":
        above, _, below = unicodedata.normalize("NFKC", character).partition("\N{FRACTION SLASH}")
        return rf"\frac{{{above}}}{{{below}}}" if below else character
    return unicodedata.normalize("NFKC", character) if kind == "<wide>" else character


def _is_interval(text: str) -> bool:
    return (
        text.removeprefix(r"\left").lstrip().startswith(("(", "["))
        and text.endswith((")", "]"))
        and "," in text
    )


def _interval_of(text: str) -> str | None:
    r"""`1 < x \le 2` as `(1, 2]`; None when `text` is no inequality in one variable."""
    parts = [part.strip() for part in _RELATION.split(text)]
    if len(parts) not in (3, 5):
        return None
    relations = parts[1::2]
    if all(relation in _REVERSED for relation in relations):
        parts = parts[::-1]
        relations = [_REVERSED[relation] for relation in reversed(relations)]
    if not all(relation in _RELATIONS for relation in relations):
        return None
    terms = parts[::2]
    where = [index for index, term in enumerate(terms) if _VARIABLE.fullmatch(term)]
    if len(where) != 1 or (len(terms) == 3 and where != [1]):
        return None
    low, high = ("(", r"-\infty"), (")", r"\infty")
    for index, relation in enumerate(relations):
        includes = _RELATIONS[relation]
        if index < where[0]:
            low = ("[" if includes else "(", terms[index])
        else:
            high = ("]" if includes else ")", terms[index + 1])
    return f"{low[0]}{low[1]}, {high[1]}{high[0]}"


def _without_blanks(text: str) -> str:
    """`text` without blanks beside signs; those between words and numbers stay."""
    return re.sub(r" ?([^\w\s]) ?", r"\1", " ".join(text.split()))


def _without_latex(text: str) -> str:
    """A quantity as it would be typed: without commands for roman type and spaces."""
    text = unwrapped(text)
    text = re.sub(r"\\(?:text|mathrm|textrm|rm|operatorname)\s*\{([^{}]*)\}", r" \1", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", "°", text)
    text = re.sub(r"\\[,;:! ]|~|\\quad", " ", text).replace(r"\%", "%").replace(r"\$", "$")
    text = text.replace(r"\Omega", "Ω").replace(r"\mu", "μ").replace("µ", "μ")
    text = re.sub(r"\\times\s*", "×", text).replace(r"\cdot", "·")
    text = re.sub(r"(\w)\s*\^\s*\{?([23])\}?$", r"\1^\2", text)
    return " ".join(text.split())


def _digits_and_base(match: re.Match[str]) -> tuple[str, int]:
    return match[1].lstrip("0").upper(), int(match[2] or match[3])
