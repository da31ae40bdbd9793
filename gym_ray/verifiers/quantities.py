"""Numbers and quantities as people write them, exactly.

Owned here: `1,234.5`, `1.2e3`, `3/4`, `forty-two`, `$5`, `12 km/h`, `50 %`, as fractions of base
units. Temperatures and anything else whose scale has an offset keep their own unit.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

_SMALL_NAMES = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen
"""
_TENS_NAMES = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: number for number, word in enumerate(_SMALL_NAMES.split())}
_TENS = {word: 10 * number for number, word in enumerate(_TENS_NAMES.split(), start=2)}
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_DIGITS = re.compile(
    r"(?P<whole>[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|[+-]?\.\d+)"
    r"(?:(?:[eE]|\s*[x×*]\s*10\s*\^\s*)\{?(?P<exponent>[+-]?\d{1,3})\}?)?"
    r"(?:\s*/\s*(?P<denominator>\d+))?"
)
_POWER = re.compile(r"(square_|cubic_)?([^\s\d^²³_-]+)(\^?\{?-?[1-4]\}?|[²³])?")
_POWERS = {"": 1, "square": 2, "²": 2, "cubic": 3, "³": 3}
#: More digits than this are no quantity anyone states, and exact arithmetic on them is slow.
_MOST_CHARACTERS = 400

#: One unit: its dimension and how many base units it is. Names are singular; the rest is spelling.
_UNITS: dict[str, tuple[str, Fraction]] = {}
_SPELLINGS: dict[tuple[str, str], str] = {
    ("length", "m"): "1 m meter metre|1000 km kilometer kilometre|1/100 cm centimeter centimetre|"
    "1/1000 mm millimeter millimetre|1/1000000 μm micrometer micrometre|1/1000000000 nm nanometer "
    "nanometre|1/10000000000 Å angstrom|9460730472580800 ly lightyear|149597870700 au AU|"
    "30856775814913673 pc parsec|127/5000 in inch inches|381/1250 ft foot feet|1143/1250 yd yard|"
    "201168/125 mi mile",
    ("area", "m²"): "10000 hectare|316160658/78125 acre",
    ("mass", "g"): "1 g gram|1000 kg kilogram|1/1000 mg milligram|1/1000000 μg microgram|"
    "1000000 t tonne|45359237/100000 lb lbs pound|45359237/1600000 oz ounce|45359237/50 ton",
    ("time", "s"): "1 s sec second|60 min minute|3600 h hr hour|86400 day|604800 week|"
    "1/1000 ms millisecond|1/1000000 μs microsecond|1/1000000000 ns nanosecond",
    ("month", "month"): "1 month mo|12 yr year|120 decade|1200 century centuries",
    ("volume", "l"): "1 l L liter litre|1/1000 ml mL milliliter millilitre|"
    "473176473/125000000 gal gallon|473176473/500000000 qt quart|473176473/1000000000 pt pint|"
    "473176473/2000000000 cup|473176473/32000000000 tbsp tablespoon|"
    "473176473/96000000000 tsp teaspoon",
    ("energy", "J"): "1 J joule|1000 kJ kilojoule|1000000 MJ megajoule|3600000 kWh|"
    "523/125 cal calorie|4184 kcal kilocalorie",
    ("electronvolt", "eV"): "1 eV|1000 keV|1000000 MeV|1000000000 GeV",
    ("power", "W"): "1 W watt|1000 kW kilowatt|1000000 MW megawatt|1/1000 mW milliwatt",
    ("force", "N"): "1 N newton|1000 kN kilonewton",
    ("voltage", "V"): "1 V volt|1000 kV kilovolt|1/1000 mV millivolt",
    ("current", "A"): "1 A amp ampere|1/1000 mA milliampere",
    ("resistance", "Ω"): "1 Ω ohm|1000 kΩ",
    ("charge", "C"): "1 C coulomb",
    ("capacity", "F"): "1 F farad|1/1000000 μF|1/1000000000000 pF",
    ("magnetic field", "T"): "1 T tesla",
    ("frequency", "Hz"): "1 Hz hertz|1000 kHz kilohertz|1000000 MHz megahertz|1000000000 GHz",
    ("pressure", "Pa"): "1 Pa pascal|1000 kPa kilopascal|1000000 MPa|100000 bar|101325 atm",
    ("amount", "mol"): "1 mol mole|1/1000 mmol",
    ("kelvin", "K"): "1 K kelvin",
    ("speed of ships", "kn"): "1 knot",
    ("angle", "°"): "1 ° deg degree",
    ("radian", "rad"): "1 rad radian",
    ("celsius", "°C"): "1 °C ℃",
    ("fahrenheit", "°F"): "1 °F ℉",
    ("share", "%"): "1 % percent",
    ("dollar", "$"): "1 $ USD dollar|1/100 ¢ cent",
    ("euro", "€"): "1 € EUR euro",
    ("pound sterling", "£"): "1 £ GBP",
    ("yen", "¥"): "1 ¥ JPY yen",
    ("yuan", "CNY"): "1 CNY RMB yuan",
    ("rupee", "₹"): "1 ₹ INR rupee",
    ("byte", "B"): "1 B byte|1000 kB KB kilobyte|1000000 MB megabyte|1000000000 GB gigabyte",
    ("bit", "bit"): "1 bit",
    ("unit", "unit"): "1 unit",
}
for (_dimension, _), _groups in _SPELLINGS.items():
    for _group in _groups.split("|"):
        _factor, *_names = _group.split()
        for _name in _names:
            _UNITS[_name] = (_dimension, Fraction(_factor))


#: Symbols that are told with any of these before them; `min`, `ft`, `pm` and such have their own.
_PREFIXES = {"G": 9, "M": 6, "k": 3, "m": -3, "μ": -6, "n": -9, "p": -12}
for _symbol in "g s J eV W N V A Ω C F T Hz Pa L".split():  # noqa: SIM905
    _dimension, _one = _UNITS[_symbol]
    for _prefix, _power in _PREFIXES.items():
        _UNITS.setdefault(_prefix + _symbol, (_dimension, _one * Fraction(10) ** _power))
#: Other spellings of units that are made of several.
_RESPELLED = [
    (re.compile(r"\bmph\b"), "mi/h"),
    (re.compile(r"\bk(?:m?ph|mh)\b"), "km/h"),
    (re.compile(r"\blight[ -]years?\b"), "lightyear"),
    (re.compile(r"\b(?:degrees?|deg) celsius\b", re.IGNORECASE), "°C"),
    (re.compile(r"\b(?:degrees?|deg) fahrenheit\b", re.IGNORECASE), "°F"),
    (re.compile(r"\bsq\.? "), "square "),
    (re.compile(r"\bcu\.? "), "cubic "),
]


#: Units that are made of others: by dimension, how many of which base units one is.
_DERIVED: dict[str, tuple[Fraction, dict[str, int]]] = {
    "area": (Fraction(1), {"length": 2}),
    "volume": (Fraction(1, 1000), {"length": 3}),
    "force": (Fraction(1000), {"mass": 1, "length": 1, "time": -2}),
    "energy": (Fraction(1000), {"mass": 1, "length": 2, "time": -2}),
    "power": (Fraction(1000), {"mass": 1, "length": 2, "time": -3}),
    "pressure": (Fraction(1000), {"mass": 1, "length": -1, "time": -2}),
    "voltage": (Fraction(1000), {"mass": 1, "length": 2, "time": -2, "charge": -1}),
    "current": (Fraction(1), {"charge": 1, "time": -1}),
    "resistance": (Fraction(1000), {"mass": 1, "length": 2, "time": -1, "charge": -2}),
    "capacity": (Fraction(1, 1000), {"mass": -1, "length": -2, "time": 2, "charge": 2}),
    "magnetic field": (Fraction(1000), {"mass": 1, "time": -1, "charge": -1}),
    "frequency": (Fraction(1), {"time": -1}),
}


def number_of(text: str) -> Fraction | None:
    """The number a text is, in digits or English words; None when it is more or less than one.

    >>> number_of("1,250.50"), number_of("forty-two"), number_of("-3/4")
    (Fraction(2501, 2), Fraction(42, 1), Fraction(-3, 4))
    """
    text = text.strip()
    if len(text) > _MOST_CHARACTERS:
        return None
    if len(text) == 1 and unicodedata.decomposition(text).startswith("<fraction>"):
        text = unicodedata.normalize("NFKC", text).replace("\N{FRACTION SLASH}", "/")
    digits = _DIGITS.fullmatch(text)
    return _from_digits(digits) if digits else _from_words(text.casefold())


def quantity_of(text: str) -> tuple[Fraction, str] | None:
    """A number in base units and its dimension, "" for a bare number; None when `text` is none.

    >>> quantity_of("90 km/h") == quantity_of("25 m/s")
    True
    """
    text = text.strip()
    if len(text) > _MOST_CHARACTERS:
        return None
    bare = number_of(text)
    if bare is not None:
        return bare, ""
    before = re.match(r"([+-]?)\s*([$€£])\s*", text)
    if before:
        text = f"{before[1]}{text[before.end() :]} {before[2]}"
    digits = _DIGITS.match(text)
    if digits:
        number, rest = _from_digits(digits), text[digits.end() :]
    else:
        head, _, rest = text.partition(" ")
        number = number_of(head)
    unit = unit_of(rest.strip())
    if number is None or unit is None:
        return None
    return number * unit[1], unit[0]


def _from_digits(match: re.Match[str]) -> Fraction | None:
    number = Fraction(match["whole"].replace(",", "").removesuffix("."))
    if match["exponent"]:
        number *= Fraction(10) ** int(match["exponent"])
    if match["denominator"]:
        if int(match["denominator"]) == 0:
            return None
        number /= int(match["denominator"])
    return number


def _from_words(text: str) -> Fraction | None:
    """`two hundred and five thousand`: below a thousand it adds up, then a large word scales."""
    sign = -1 if text.startswith(("minus ", "negative ")) else 1
    words = re.split(r"[\s-]+", text.partition(" ")[2] if sign < 0 else text)
    if words[0] not in _SMALL and words[0] not in _TENS:
        return None
    total = group = 0
    limit = 10**15  # large words only get smaller
    for index, word in enumerate(words):
        previous = words[index - 1] if index else ""
        starts = previous in ("", "hundred", "and", *_LARGE)
        if word in _SMALL and (starts or (previous in _TENS and 0 < _SMALL[word] < 10)):
            group += _SMALL[word]
        elif word in _TENS and starts:
            group += _TENS[word]
        elif word == "hundred" and 0 < group < 10:
            group *= 100
        elif word in _LARGE and group and _LARGE[word] < limit:
            limit = _LARGE[word]
            total, group = total + group * limit, 0
        elif not (word == "and" and previous in ("hundred", *_LARGE) and index + 1 < len(words)):
            return None
    return Fraction(sign * (total + group))


def unit_of(text: str) -> tuple[str, Fraction] | None:
    """Dimension and factor of `km`, `m/s`, `meters per second`, `m^2`, `kg·m/s^2`, `J/(kg K)`.

    >>> unit_of("km/h")
    ('length/time', Fraction(5, 18))
    """
    for pattern, unit in _RESPELLED:
        text = pattern.sub(unit, text)
    numerator, per, denominator = re.sub(r"\s+per\s+|\s*/\s*", "/", text.strip()).partition("/")
    grouped = re.fullmatch(r"\(([^()]*)\)", denominator)
    above = _powers_of(numerator)
    below = _powers_of(grouped[1] if grouped else denominator) if per else []
    if above is None or below is None or not above:
        return None
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for sign, units in ((1, above), (-1, below)):
        for dimension, one, power in units:
            times, parts = _DERIVED.get(dimension, (Fraction(1), {dimension: 1}))
            factor *= (one * times) ** (sign * power)
            for name, exponent in parts.items():
                powers[name] = powers.get(name, 0) + sign * power * exponent
    named = sorted(powers.items())
    over = "·".join(_power_name(name, power) for name, power in named if power > 0)
    under = [_power_name(name, -power) for name, power in named if power < 0]
    return "/".join([over, *under]), factor


def _power_name(name: str, power: int) -> str:
    return name if power == 1 else f"{name}^{power}"


def _powers_of(text: str) -> list[tuple[str, Fraction, int]] | None:
    """Each unit of a product, with its dimension, its factor and its power."""
    units: list[tuple[str, Fraction, int]] = []
    words = re.sub(r"(square|cubic) ", r"\1_", text.strip())
    for word in re.split(r"\s*[·*⋅]\s*|\s+", words) if words else []:
        match = _POWER.fullmatch(word)
        unit = match and (_UNITS.get(match[2]) or _plural(match[2].casefold()))
        if match is None or not unit:
            return None
        mark = (match[1] or match[3] or "").lstrip("^").strip("{}_")
        units.append((*unit, _POWERS[mark] if mark in _POWERS else int(mark)))
    return units


def _plural(name: str) -> tuple[str, Fraction] | None:
    """A spelled-out unit in either case and number; symbols keep theirs (`m` is not `M`)."""
    if len(name) < 3:
        return None
    return _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))
