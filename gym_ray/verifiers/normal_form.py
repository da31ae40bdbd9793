"""One form for answers that mean the same: numbers, dates, quantities, and words.

Owned here: what is equal by rule. A rule is here only when it holds whatever the question was:
`1,000` is `1000`, `5 km` is `5000 m`, `July 4, 1776` is `1776-07-04`. Not equal, since that depends
on the question: `80` and `80 km/h`, `50%` and `0.5`, `Darwin` and `Charles Darwin`, `03/04/2020`
and either of its readings.
"""

from __future__ import annotations

import datetime
import re
from fractions import Fraction

from gym_ray.verifiers.quantities import number_of, quantity_of
from gym_ray.verifiers.text import plain

#: A value that compares equal for equal answers; its first item says what was read.
NormalForm = tuple[object, ...]

_ARTICLES = frozenset({"a", "an", "the"})
_MONTH_NAMES = """
january jan|february feb|march mar|april apr|may|june jun|july jul|august aug|september sept sep|
october oct|november nov|december dec
"""
_MONTHS = {
    name: number
    for number, names in enumerate(_MONTH_NAMES.split("|"), start=1)
    for name in names.split()
}
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})\.?"
_DATES = [
    re.compile(r"(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})"),
    re.compile(rf"{_MONTH} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<year>\d{{4}})"),
    re.compile(
        rf"(?:the )?(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH},? (?P<year>\d{{4}})"
    ),
]
#: A number, a word, or a sign.
_TOKEN = re.compile(
    r"(?<!\d,)\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,]*,\d|\d)|\d+(?:\.\d+)?|(?<![^\W_])\.\d+|[^\W\d_]+(?:'[^\W\d_]+)*|[^\s\w]|_"
)
_DROPPED = frozenset("""!"'()*,-./:;?[\\]_`{}«»¿¡…、。""")

#: The sign of a number, apart from it.
_SPACED_SIGN = re.compile(r"^([-+])\s+(?=[\d.$€£])")
#: Marks that separate, with a blank or without one.
_SEPARATORS = frozenset(",;")
#: Marks that make something else of the numbers beside them.
_BETWEEN_NUMBERS = frozenset("-/:*")


def normal_form(answer: str) -> NormalForm:
    """The form in which equal answers are equal; `("words",)` when nothing is said.

    >>> normal_form("The Sun.") == normal_form("sun")
    True
    >>> normal_form("1.5 km") == normal_form("1,500 meters")
    True
    """
    text = plain(answer).strip()
    text = text.removesuffix(".").strip()
    if re.fullmatch(r"\([^()]*\)", text):
        text = text[1:-1].strip()
    text = _SPACED_SIGN.sub(r"\1", text)
    folded = text.casefold()
    date = _date_of(folded)
    if date is not None:
        return ("date", date)
    quantity = quantity_of(text)
    if quantity is not None:
        return ("quantity", *quantity)
    return ("words", *_words_of(text))


def _date_of(text: str) -> datetime.date | None:
    for pattern in _DATES:
        match = pattern.fullmatch(text)
        if match:
            month = _MONTHS.get(match["month"]) or int(match["month"])
            try:
                return datetime.date(int(match["year"]), month, int(match["day"]))
            except ValueError:
                return None
    return None


def _words_of(text: str) -> list[str | Fraction]:
    """Words and numbers in order. Articles and punctuation go, unless nothing else is there; a mark
    that makes another number (`-5`, `1990-95`, `10:30`, `3/4`) stays, with blanks around or not."""
    tokens = list(_TOKEN.finditer(text.casefold() if text.isupper() else text))
    dropped = {index for index in range(len(tokens)) if _is_dropped(tokens, index)}
    if len(dropped) == len(tokens):
        dropped = {index for index in dropped if tokens[index].group() in _DROPPED}
    kept: list[str | Fraction] = []
    sign = 1
    for index, match in enumerate(tokens):
        token = match.group().casefold()
        if index in dropped:
            continue
        if _is_sign(tokens, index):
            sign = -1
            continue
        number = number_of(token)
        kept.append(token.replace("'", "") if number is None else sign * number)
        sign = 1
    return kept


def _is_dropped(tokens: list[re.Match[str]], index: int) -> bool:
    token = tokens[index].group()
    if token in _DROPPED:
        if token in _SEPARATORS:
            return True
        if token in _BETWEEN_NUMBERS and _is_number(tokens, index - 1):
            return not _is_number(tokens, index + 1)
        if token == "-":
            return not _is_sign(tokens, index)
        return not _joins_numbers(tokens[index].string, tokens[index].start())
    if token.casefold() not in _ARTICLES or index + 1 == len(tokens):
        return False  # `hepatitis A`
    return token[0].islower() or index == 0  # `type A blood`


def _is_sign(tokens: list[re.Match[str]], index: int) -> bool:
    """Whether a minus stands before a number alone: at the start, after a mark, or after a word and
    a blank (`at -5`); not in `covid-19`, `3 - 2` and `score - 5`."""
    if tokens[index].group() != "-" or not _is_number(tokens, index + 1):
        return False
    if index == 0:
        return True
    before = tokens[index - 1].group()
    if not before[-1].isalnum():
        return before not in ")]}-"
    is_apart = tokens[index - 1].end() < tokens[index].start()
    is_attached = tokens[index].end() == tokens[index + 1].start()
    return is_apart and is_attached and not _is_number(tokens, index - 1)


def _is_number(tokens: list[re.Match[str]], index: int) -> bool:
    return 0 <= index < len(tokens) and tokens[index].group()[-1].isdigit()


def _joins_numbers(text: str, position: int) -> bool:
    before, after = text[max(0, position - 1) : position], text[position + 1 : position + 2]
    return before.isdigit() and after.isdigit()
