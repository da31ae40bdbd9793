r"""Spellings of the same mathematics that `math-verify` does not read, or reads too kindly.

Owned here: characters that stand for LaTeX commands, inequalities that state an interval, ratios,
times, words, and numerals of another base. Numbers are in `numerals.py`, units in `labels.py`.
Everything else is left as it is.
"""

from __future__ import annotations

import math
import re
import unicodedata

from gym_ray.verifiers.answers import unwrapped
from gym_ray.verifiers.quantities import number_of, quantity_of

from .labels import is_product, with_percent_signs, without_latex
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

#: `f'`, `30'`, `5''`, which math-verify drops; not `don't`, and not a closing quote.
_PRIMES = re.compile(r"(?<=[\w)}\]])(?:('{1,3})|(\"))(?![\w'\"])")
_OLD_ROMAN = re.compile(r"\{\s*\\rm(?![a-zA-Z])([^{}]*)\}")
_ROMAN_CONSTANT = re.compile(r"\\(?:mathrm|text|mathit)\{([ei])\}")
_RATIO = re.compile(r"[^:{}]*(?:\{[^{}]*\}[^:{}]*)*")
_MOST_TERMS = 10
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?(?![\d:])")

_RELATIONS = {"<": False, r"\lt": False, "<=": True, r"\le": True, r"\leq": True,
              r"\leqslant": True}  # fmt: skip
_REVERSED = {">": "<", r"\gt": "<", ">=": "<=", r"\ge": "<=", r"\geq": "<=", r"\geqslant": "<="}
_RELATION = re.compile(r"(<=|>=|<|>|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![a-zA-Z]))")
_OR = re.compile(r"\\text\s*\{\s*or\s*\}|\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z])| or ")
_VARIABLE = re.compile(r"[a-zA-Z]|\\(?:theta|alpha|beta|lambda)")
_WORD = re.compile(r"[A-Za-z]{2,}")
_INFINITY = {"inf", "infinity"}
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
    text = text.translate(_CHARACTERS).replace(r"\varnothing", r"\emptyset").replace("{:}", ":")
    text = _OLD_ROMAN.sub(r"\\text{\1}", text)
    text = _ROMAN_CONSTANT.sub(r"\1", with_percent_signs(text))
    if not text.lstrip().startswith(("'", '"')):
        text = _PRIMES.sub(lambda match: "^{" + _prime_marks(match) + "}", text)
    if _ANGLE_FUNCTION.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    plain = unwrapped(text)
    in_words = number_of(plain) if plain.replace("-", "").replace(" ", "").isalpha() else None
    return in_decimals(text) if in_words is None else str(in_words)


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
    """Both texts; where one is an interval and the other an inequality, that one as an interval.
    Ratios of three terms and more are tuples of two terms and more."""
    ratios = _ratio_of(unwrapped(expected)), _ratio_of(unwrapped(answer))
    if any(ratios):
        return ratios[0] or expected, ratios[1] or answer
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
    time, other = (_CLOCK.match(unwrapped(text)) for text in (expected, answer))
    # No ratio would be left with a common factor.
    if (
        time
        and math.gcd(int(time[1]), int(time[2])) > 1
        and (not other or _time_of(time) != _time_of(other))
    ):
        return False
    quantities = [quantity_of(without_latex(text)) for text in (expected, answer)]
    if quantities[0] and quantities[1] and quantities[0][1] and quantities[1][1]:
        return quantities[0] == quantities[1]
    return None


def _ratio_of(text: str) -> str | None:
    """`1:2:3` as `(2/1, 3/1)`; None for ratios of two, which are quotients, and for other texts."""
    terms = [term.strip() for term in text.split(":")]
    if (
        not 3 <= len(terms) <= _MOST_TERMS
        or not all(terms)
        or not all(_RATIO.fullmatch(term) for term in terms)
    ):
        return None
    quotients = (rf"\frac{{{term}}}{{{terms[0]}}}" for term in terms[1:])
    return f"({', '.join(quotients)})"


def _time_of(match: re.Match[str]) -> tuple[int, ...]:
    return tuple(int(part or 0) for part in match.groups())


def _same_word(expected: str, answer: str) -> bool | None:
    one, other = unwrapped(expected), unwrapped(answer)
    if {one, other} & _INFINITY or (
        one == expected and other == answer and is_product(one) and is_product(other)
    ):
        return None
    return one.casefold() == other.casefold()


def _prime_marks(match: re.Match[str]) -> str:
    return r"\prime" * (len(match[1]) if match[1] else 2)


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
    r"""`x < 1` as `(-\infty, 1)`, and `x < 1 \text{ or } x > 2` as a union; None when `text` is no
    inequality in one variable, or is made of others."""
    intervals = [_one_interval_of(part.strip()) for part in _OR.split(text)]
    known = [interval for interval in intervals if interval is not None]
    return r" \cup ".join(known) if len(known) == len(intervals) else None


def _one_interval_of(text: str) -> str | None:
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


def _digits_and_base(match: re.Match[str]) -> tuple[str, int]:
    return match[1].lstrip("0").upper(), int(match[2] or match[3])
