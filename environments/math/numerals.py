r"""Numbers as people write them, as the LaTeX that `math-verify` reads.

Owned here: `2.5e-3`, `0.1\overline{6}`, `0.333...`, `1 1/2`, `1\,234`. All of them are exact: a
repeating decimal becomes its fraction, and digits are never rounded.
"""

from __future__ import annotations

import re
from fractions import Fraction

#: LaTeX's spaces and braces inside a number: `1\,234`, `1{,}234`.
_GROUPED_DIGITS = re.compile(r"(?<=\d)(?:\\[,;!: ]|\{,\}|~)(?=\d{3}(?!\d))")
_E_NOTATION = re.compile(
    r"(?<![\w.\\])(?P<whole>\d{1,3}(?:,\d{3})+|\d*)(?:\.(?P<part>\d*))?"
    r"[eE](?P<exponent>[+-]?\d{1,6})(?![\w.^{(]*[A-Za-z^{(])(?!\.\d)"
)
_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX*]\s*(?=10\s*\^)")
_BARE_EXPONENT = re.compile(r"(?<=10)\s*\^\s*([+-]?\d+)(?!\d)")
#: Digits a number in e-notation is written out with; a greater one stays a power of ten.
_MOST_PLACES = 400
#: The spelling of Euler's number and a sum: `2e-5` next to `e` is two times e, less five.
_PRODUCT_WITH_E = re.compile(r"(?<![\w.\\])([2-9]\d*)e([+-])(?!0)(\d+)(?![\w.])")
_EULERS_E = re.compile(r"(?<![a-zA-Z\\])e(?![a-zA-Z])")

_REPEATING = re.compile(
    r"(?<![\w.])(?P<whole>\d{1,3}(?:,\d{3})+|\d*)\.(?P<fixed>\d*)"
    r"(?:\\(?:overline|bar|dot|overset\{\\bullet\})\s*(?:\{\s*(?P<braced>\d+)\s*\}|(?P<digit>\d))"
    r"|\((?P<round>\d+)\)(?![\d.(]))"
)
_GOES_ON = re.compile(
    r"(?<![\w.])(?P<whole>\d+)\.(?P<fixed>\d*?)(?P<block>\d+?)(?P=block){2,}(?P<rest>)"
    r"\s*(?:\.{3}|…|\\(?:ldots|dots|cdots)(?![a-zA-Z]))"
)
_SCALE = re.compile(
    r"(?P<before>[\d}])(?:\s|~|\\[,;:! ])*(?P<roman>\\(?:text|mathrm|textrm|mbox)\s*\{\s*)?"
    r"(?P<word>hundred|thousand|million|billion|trillion|dozen)\b(?P<after>\s*\})?"
)
#: As in `2 hundred thousand million`.
_MOST_SCALES = 3
_SCALES = {"hundred": "100", "thousand": "10^{3}", "million": "10^{6}", "billion": "10^{9}",
           "trillion": "10^{12}", "dozen": "12"}  # fmt: skip
#: Thousands apart from each other by blanks, in a text that is nothing else.
_APART = re.compile(r"(\s*[-+$]?\s*)(\d{1,3}(?: \d{3})+)((?:\.\d+)?\s*\$?\s*)")
#: Longer ones are no numbers anyone states, and matching a repetition in them is slow.
_MOST_REPEATING = 60
_MIXED = re.compile(
    r"(?<![\w.,^_\\}])(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\s|\\[,;: ]|~)+"
    r"(?P<above>\d+)\s*/\s*(?P<below>\d+)(?![\w.^/])"
)


def in_decimals(text: str) -> str:
    r"""`text` with the numbers in it spelled as LaTeX has them.

    >>> in_decimals("2.5e-3"), in_decimals(r"0.1\overline{6}"), in_decimals("1 1/2")
    ('0.0025', '\\frac{1}{6}', '\\frac{3}{2}')
    """
    text = _GROUPED_DIGITS.sub("", text)
    apart = _APART.fullmatch(text)
    if apart:
        text = apart[1] + apart[2].replace(" ", "") + apart[3]
    for _ in range(_MOST_SCALES):
        text = _SCALE.sub(_scaled, text)
    text = _TIMES_TEN.sub(r"\\times ", text)
    text = _BARE_EXPONENT.sub(r"^{\1}", text)
    text = _E_NOTATION.sub(_written_out, text)
    text = _REPEATING.sub(_fraction_of_repeating, text)
    if len(text) <= _MOST_REPEATING:
        text = _GOES_ON.sub(_fraction_of_repeating, text)
    return _MIXED.sub(_improper, text)


def with_eulers_e(text: str, other: str) -> str:
    """`text` with `2e-5` as a sum, when the text beside it says that e is Euler's number.

    >>> with_eulers_e("2e-5", "-5 + 2e"), with_eulers_e("2e-5", "0.00002")
    ('2 e - 5', '2e-5')
    """
    if not _EULERS_E.search(_E_NOTATION.sub("", other)):
        return text
    return _PRODUCT_WITH_E.sub(r"\1 e \2 \3", text)


def _scaled(match: re.Match[str]) -> str:
    number = rf"{match['before']}\cdot {_SCALES[match['word']]}"
    is_open = match["roman"] and not match["after"]
    after = "" if match["roman"] or not match["after"] else match["after"]
    return f"{number} {match['roman']}" if is_open else number + after


def _written_out(match: re.Match[str]) -> str:
    whole, part = (match["whole"] or "").replace(",", ""), match["part"] or ""
    if not whole and not part:
        return match[0]
    exponent = int(match["exponent"])
    if abs(exponent) > _MOST_PLACES:
        mantissa = f"{whole or '0'}.{part}" if part else whole
        return rf"{mantissa}\times 10^{{{exponent}}}"
    digits, places = whole + part, len(part) - exponent
    if places <= 0:
        return (digits + "0" * -places).lstrip("0") or "0"
    digits = digits.rjust(places + 1, "0")
    return f"{digits[:-places].lstrip('0') or '0'}.{digits[-places:]}"


def _fraction_of_repeating(match: re.Match[str]) -> str:
    groups = match.groupdict()
    block = next(groups[name] for name in ("braced", "digit", "round", "block") if groups.get(name))
    fixed = match["fixed"]
    whole = (match["whole"] or "0").replace(",", "")
    number = Fraction(int(whole + fixed + block) - int(whole + fixed)) / (
        10 ** len(fixed) * (10 ** len(block) - 1)
    )
    return _as_latex(number)


def _improper(match: re.Match[str]) -> str:
    whole = int(match["whole"].replace(",", ""))
    above, below = int(match["above"]), int(match["below"])
    if not 0 < above < below:
        return match[0]
    return rf"\frac{{{whole * below + above}}}{{{below}}}"


def _as_latex(number: Fraction) -> str:
    if number.denominator == 1:
        return str(number.numerator)
    return rf"\frac{{{number.numerator}}}{{{number.denominator}}}"
