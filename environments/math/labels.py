r"""What stands beside a number and says what it is of: units, currencies, and what is counted.

Owned here: `5\text{ km}`, `\$5`, `5 people`, `5:00 PM`, and whether two such labels contradict each
other. Words that change the number (`5\text{ million}`, `7\text{ squared}`) are no labels.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from gym_ray.verifiers.answers import unwrapped
from gym_ray.verifiers.quantities import unit_of

ROMAN = r"\\(?:text|mathrm|textrm|textit|textnormal|rm|mbox|hbox|operatorname|mathsf|unit|si)"
_SPACE = r"(?:\s|~|\\[,;:! ]|\\quad)"
_NUMBER = re.compile(
    r"(?:[^a-zA-Z\\]|\\(?:(?:[dtc]?frac|sqrt|pi|cdot|times|left|right)(?![a-zA-Z])|[,;:! ]))+"
)
_CURRENCY = re.compile(r"([+-]?)\s*(?:(?:\\text\{)?(\\\$|[€£¥₹₩₽])\}?|(USD|EUR|GBP)(?=[\s\d]))\s*")
#: Longer texts are no quantities.
_MOST_CHARACTERS = 400
#: Where a label may begin.
_BOUNDARY = re.compile(
    rf"(?<=[\d}})\]!.])(?=[\s\\~a-zA-Z°µμΩ^])|(?<=\\pi)(?=[\s\\~])"
    rf"|(?<=[a-zA-Z|%])(?={_SPACE}*{ROMAN}\s*\{{)"
)
_IN_ROMAN = re.compile(rf"{_SPACE}*{ROMAN}\s*\{{")
_LONE_LETTER = re.compile(r"[a-zA-Z](?:\^.*)?")
_PERCENT = re.compile(rf"{_SPACE}*{ROMAN}\s*\{{\s*(?:percent|per cent|percentage|pct|\\?%)\s*\}}")

#: Words that change a number, deny it, or give another one beside it.
_NOT_COUNTED = re.compile(
    r"\b(?:and|or|nor|to|through|until|between|mod|modulo|choose|factorial|percent|percentage|pct|"
    r"cent[si]les?|dozens?|score|half|halves|quarters?|(?:third|fourth|fifth|sixth|seventh|eighth|"
    r"ninth|tenth|eleventh|twelfth|hundred|thousand|million|billion|trillion)(?:s|ths?)?|zero|one|"
    r"two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|sixty|"
    r"seventy|eighty|ninety|squared|cubed|plus|minus|times|over|divided|multiplied|added|root|power|"
    r"pi|less|more|fewer|greater|least|most|than|not|no|none|never|but|except|wrong|incorrect|"
    r"false|isn't|negative|positive|if|when|where|for|is|base|remainder|degrees?)\b",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[a-z]{3,}(?: [a-z]{2,}){0,2}")
#: In roman type nothing is a product, so that any words may be what is counted.
_WORDS_IN_ROMAN = re.compile(
    r"\(?[A-Za-z][A-Za-z.'’-]+(?:(?: |/| ?\(| ?\) ?)[A-Za-z][A-Za-z.'’-]*){0,8}\)?(?:\^[23])?"
)
_HALF_DAY = re.compile(r"[ap]\.? ?m\.?", re.IGNORECASE)
#: Words of which another one beside the same number is another answer.
_TELLING_WORDS = """
am pm noon midnight bc bce ad ce north south east west northeast northwest southeast southwest left
right up down upward upwards downward downwards inward outward clockwise counterclockwise
anticlockwise january february march april may june july august september october november december
monday tuesday wednesday thursday friday saturday sunday increase decrease profit loss gain rise
fall warmer colder above below faster slower red orange yellow green blue purple black white boys
girls men women
"""
_TELLING = frozenset(_TELLING_WORDS.split())


class Labelled(NamedTuple):
    """A number and what it is of.

    Attributes:
        number: what stands without the label.
        dimension: of the unit; "" of what is counted.
        factor: how many base units it is.
        words: the label's words, in small letters.
    """

    number: str
    dimension: str
    factor: Fraction
    words: frozenset[str] = frozenset()


def with_percent_signs(text: str) -> str:
    r"""`text` with percent signs for the word in roman type, as in `5\text{ percent}`."""
    return _PERCENT.sub(r"\\%", text)


def in_one_unit(expected: str, answer: str) -> tuple[str, str] | None:
    """The numbers that both texts state, in one unit; None when their labels contradict each
    other. A label on one side only is left out."""
    one, other = labelled(expected), labelled(answer)
    if one is None or other is None:
        return (expected if one is None else one.number), (
            answer if other is None else other.number
        )
    if not _are_of_the_same(one, other):
        return None
    ratio = other.factor / one.factor if one.dimension and other.dimension else Fraction(1)
    if ratio == 1:
        return one.number, other.number
    value = other.number.rpartition("=")[2]
    return one.number, rf"\frac{{{ratio.numerator}}}{{{ratio.denominator}}}\cdot({value})"


def labelled(text: str) -> Labelled | None:
    """The number before a label, with what the label says; None when there is no label."""
    text = unwrapped(text)
    if len(text) > _MOST_CHARACTERS:
        return None
    currency = _CURRENCY.match(text)
    if currency:
        name = (currency[2] or currency[3]).lstrip("\\")
        dimension, factor = unit_of(name) or (name, Fraction(1))
        rest = text[currency.end() :]
        rate = re.search(rf"{_SPACE}*(?:/\s*[a-z]|(?:{ROMAN}\s*\{{\s*)?(?:per|an?|each)\b)", rest)
        number = currency[1] + (rest[: rate.start()] if rate else rest)
        return Labelled(number, dimension, factor) if _NUMBER.fullmatch(number) else None
    for boundary in _BOUNDARY.finditer(text):
        number, unit = text[: boundary.start()], text[boundary.start() :]
        is_roman = _IN_ROMAN.match(unit) is not None
        if is_roman:
            if not number.strip() or not _is_balanced(number):
                continue
        elif _LONE_LETTER.fullmatch(unit) or not _NUMBER.fullmatch(number):
            continue  # `5x` and `5N` are products
        name = without_latex(unit)
        words = frozenset(re.findall(r"[^\W\d_]+", name.replace(".", "").casefold()))
        known = unit_of(name)
        if known is not None and not _HALF_DAY.fullmatch(name):
            return None if known[0] == "share" else Labelled(number, *known, words)
        if _HALF_DAY.fullmatch(name) or (name != unit and _is_counted(name, is_roman)):
            return Labelled(number, "", Fraction(1), words)
    return None


def is_product(word: str) -> bool:
    """Whether letters side by side are variables: `xy`, `abc`, but not `on` and not `saw`."""
    if not word.islower() or len(word) > 3 or set(word) & set("eiou"):
        return False
    return len(word) == 2 or "a" not in word or set(word) <= set("abcdxyz")


def without_latex(text: str) -> str:
    """A quantity as it would be typed: without commands for roman type and spaces."""
    text = unwrapped(text).replace(r"\AA", "Å").replace("{,}", ",")
    text = re.sub(r"\^\s*\{\s*(-?\d)\s*\}", r"^\1", text)
    text = re.sub(rf"{ROMAN}\s*\{{([^{{}}]*)\}}", r" \1", text)
    text = re.sub(r"\\frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}", r"\1/\2", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", "°", text)
    text = re.sub(r"\\[,;:! ]|~|\\quad", " ", text).replace(r"\%", "%").replace(r"\$", "$")
    text = text.replace(r"\Omega", "Ω").replace("µ", "μ")
    text = re.sub(r"\\mu(?![a-zA-Z])\s*", "μ", text)
    text = re.sub(r"\\times\s*", "×", text).replace(r"\cdot", "·")
    text = re.sub(r"(\w)\s*\^\s*\{?([23])\}?$", r"\1^\2", text)
    return " ".join(text.split())


def _are_of_the_same(one: Labelled, other: Labelled) -> bool:
    if one.dimension and other.dimension:
        return one.dimension == other.dimension
    if one.dimension or other.dimension:
        # A unit that is known and words that may name it: `18 dollars` and `18 dollars in all`.
        known, words = (one, other.words) if one.dimension else (other, one.words)
        return any(unit == (known.dimension, known.factor) for unit in map(unit_of, words))
    telling = one.words & _TELLING, other.words & _TELLING
    return not telling[0] or not telling[1] or telling[0] == telling[1]


def _is_counted(name: str, is_roman: bool) -> bool:
    if _NOT_COUNTED.search(name) or name in ("square", "cube", "prime"):
        return False
    if is_roman:
        return _WORDS_IN_ROMAN.fullmatch(name) is not None
    return _WORDS.fullmatch(name) is not None and not is_product(name)


def _is_balanced(text: str) -> bool:
    text = re.sub(r"\\[{}]", "", text)
    return text.count("{") == text.count("}") and text.count("(") + text.count("[") == text.count(
        ")"
    ) + text.count("]")
