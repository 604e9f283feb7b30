"""What a number says: a token that begins with a digit, units of measure, and the numbers and dates of a sentence."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Date = tuple[int | None, int | None, int | None]
"""Year, month, day; None for what is not said."""

_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?\Z")
_INDIAN = re.compile(r"\d{1,2}(?:,\d{2})+,\d{3}\Z")
_POINTS = re.compile(r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?\Z")
_PLAIN = re.compile(r"\d+(?:\.\d+)?\Z")
_EUROPEAN = re.compile(r"[0-9]{1,12},[0-9]{1,12}\Z")
_TIME = re.compile(r"(\d{1,2})[:.](\d{2})(?::(\d{2}))?\Z")
_YEAR_FIRST = re.compile(r"(\d{4})[-/.](\d{1,2})(?:[-/.](\d{1,2}))?\Z")
_YEAR_LAST = re.compile(r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4}|\d{2})\Z")
_BODY = re.compile(r"(\d+(?:[,.:/\-]\d+)*)(.*)\Z", re.DOTALL)
_MAX_DIGITS = 18


class Parsed(NamedTuple):
    """One number token: its values (several for a range), dates in digits, minutes since midnight, letters after it."""

    values: tuple[float, ...] = ()
    dates: tuple[Date, ...] = ()
    minutes: int | None = None
    suffix: str = ""
    spaced: str = ""  # the digits as written, for what has no value (versions, addresses)
    decimals: int = 0
    comma: bool = False
    dashed: bool = False


def parse_number(shown: str) -> Parsed:
    """Return what `shown`, which begins with a digit, says; unknown forms have no values and stand for themselves."""
    match = _BODY.match(shown)
    if match is None:  # a digit that is not decimal, such as a superscript
        return Parsed(spaced=shown)
    body, suffix = match[1], match[2].lower().replace("'", "")
    value = plain_value(body)
    if value is not None:
        decimals = len(body.partition(".")[2])
        clock = _clock(body) if suffix in ("am", "pm") or (suffix == "" and ":" in body) else None
        if suffix in ("am", "pm") and value <= 24 and decimals == 0:
            return Parsed((), (), int(value) * 60, suffix, body)
        return Parsed((value,), (), clock, suffix, body, decimals, "," in body)
    return _compound(body, suffix)


def plain_value(body: str) -> float | None:
    """Return the value of a number written alone, or None."""
    if len(body) > _MAX_DIGITS or not body.isascii():
        return None
    if _PLAIN.match(body):
        return float(body)
    if _THOUSANDS.match(body) or _INDIAN.match(body):
        return float(body.replace(",", ""))
    if _POINTS.match(body):
        return float(body.replace(".", "").replace(",", "."))
    return None


def _clock(body: str) -> int | None:
    match = _TIME.match(body)
    if match is None or int(match[1]) > 24 or int(match[2]) > 59:
        return None
    return int(match[1]) * 60 + int(match[2])


def _compound(body: str, suffix: str) -> Parsed:
    if (minutes := _clock(body)) is not None and ":" in body:
        return Parsed((), (), minutes, suffix, body)
    if dates := _digit_dates(body):
        return Parsed((), dates, None, suffix, body)
    if body.count("/") == 1 and "-" not in body:
        above, below = (plain_value(part) for part in body.split("/"))
        if above is not None and below:
            if above >= 1000:
                return Parsed(_years(above, below), (), None, suffix, body)
            return Parsed((above / below,), (), None, suffix, body, 2)
    parts = re.split(r"[-/:,]" if "." in body else r"[-/:,.]", body)
    values = tuple(value for part in parts if (value := plain_value(part)) is not None)
    if body.count("-") == 1 and len(parts) == 2 and len(values) == 2 and values[0] >= 1000 and len(parts[1]) == 2:
        return Parsed(_years(*values), (), None, suffix, body, dashed=True)
    if "-" in body and len(values) == len(parts) <= 2:
        return Parsed(values, (), None, suffix, body, max(len(p.partition(".")[2]) for p in parts), dashed=True)
    if "," in body and len(parts) == len(values) and "." not in body:
        european = (float(body.replace(",", ".")),) if _EUROPEAN.match(body) else ()
        return Parsed((*european, *values), (), None, suffix, body, 1 if european else 0)
    return Parsed((), (), None, suffix, body)


def _years(first: float, second: float) -> tuple[float, ...]:
    return (first, first - first % 100 + second) if second < 100 else (first, second)


def _digit_dates(body: str) -> tuple[Date, ...]:
    if match := _YEAR_FIRST.match(body):
        year, month, day = int(match[1]), int(match[2]), int(match[3]) if match[3] else None
        is_date = 1 <= day <= 31 if day is not None else len(match[2]) == 2 and "-" not in body
        return ((year, month, day),) if is_date and 1 <= month <= 12 else ()
    if match := _YEAR_LAST.match(body):
        first, second, year = int(match[1]), int(match[2]), int(match[3])
        if len(match[3]) == 2:
            year += 2000 if year < 50 else 1900
        found = [
            (year, month, day)
            for day, month in ((first, second), (second, first))
            if 1 <= month <= 12 and 1 <= day <= 31
        ]
        return tuple(dict.fromkeys(found))
    return ()


# --- units of measure


class Unit(NamedTuple):
    """A unit: `value * factor + offset` is in the base unit of `dimension`."""

    name: str
    dimension: str
    factor: float = 1.0
    offset: float = 0.0


_YEAR = 365.25 * 86400.0
_TABLE = """
length: m metre metres meter meters=1 | km kms kilometre kilometres kilometer kilometers=1000 | cm centimetre
  centimetres
  centimeter centimeters=0.01 | mm millimetre millimetres millimeter millimeters=0.001 | mi mile miles=1609.344
  | ft foot feet=0.3048 | inch inches=0.0254 | yd yard yards yds=0.9144 | nm nanometre nanometres nanometer
  nanometers=1e-9
  | micron microns micrometre micrometres micrometer micrometers=1e-6 | au=1.495978707e11
  | lightyear lightyears=9.4607e15 | nauticalmi=1852 | parsec parsecs=3.0857e16
  | fathom fathoms=1.8288 | furlong furlongs=201.168
mass: kg kgs kilogram kilograms kilogramme kilogrammes kilo kilos=1 | g gram grams gramme grammes=0.001 | mg milligram
  milligrams=1e-6 | mcg microgram micrograms=1e-9 | lb lbs=0.45359237 | oz ounce ounces=0.028349523
  | tonne tonnes t=1000 | ton tons=1000 | stone stones=6.35029
pound: pound pounds=0.45359237
time: sec secs s seconds=1 | min mins minute minutes=60 | h hr hrs hour hours=3600 | day days=86400 | week weeks=604800
  | fortnight fortnights=1209600 | ms millisecond milliseconds=0.001 | microsecond microseconds=1e-6
  | nanosecond nanoseconds=1e-9
area: acre acres=4046.8564 | ha hectare hectares=10000 | sqft=0.09290304 | sqm=1
volume: l litre litres liter liters=0.001 | ml millilitre millilitres milliliter milliliters=1e-6 | cl=1e-5
  | gal gallon gallons=0.003785411784 | pint pints=0.000473176 | quart quarts=0.000946353 | cup cups=0.000236588
  | tbsp tablespoon tablespoons=1.47868e-5 | tsp teaspoon teaspoons=4.92892e-6
speed: mph=0.44704 | kph kmh=0.2777778 | knot knots kn=0.5144444
power: w watt watts=1 | kw kilowatt kilowatts=1000 | mw megawatt megawatts=1e6 | gw gigawatt gigawatts=1e9 | hp
  horsepower=745.7
energy: j joule joules=1 | kj kilojoule kilojoules=1000 | cal calorie calories kcal kilocalorie kilocalories=4184
  | kwh=3.6e6 | mwh=3.6e9 | ev=1.602e-19
voltage: v volt volts=1 | kv kilovolt kilovolts=1000 | mv millivolt millivolts=0.001
current: amp amps ampere amperes=1 | milliamp milliamps=0.001
frequency: hz hertz=1 | khz kilohertz=1000 | mhz megahertz=1e6 | ghz gigahertz=1e9
pressure: pa pascal pascals=1 | kpa=1000 | psi=6894.76 | bar bars=100000
data: byte bytes=1 | kb kilobyte kilobytes=1e3 | mb megabyte megabytes=1e6 | gb gigabyte gigabytes=1e9
  | tb terabyte terabytes=1e12
ratio: percent percentage pct %=0.01
usd: dollar dollars usd $ bucks=1
eur: euro euros eur €=1
gbp: gbp £ sterling quid=1
jpy: yen ¥ jpy=1
inr: rupee rupees ₹ inr=1
chf: franc francs chf=1
rub: rouble roubles ruble rubles=1
cny: yuan renminbi=1
krw: won ₩=1
cent: cent cents=0.01
pence: pence penny pennies=0.01
"""


def _read_units(table: str) -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    for line in table.replace("\n  ", " ").strip().split("\n"):
        dimension, _, rest = line.partition(":")
        for entry in rest.split("|"):
            names, _, factor = entry.rpartition("=")
            spellings = names.split()
            units.update((spelling, Unit(spellings[0], dimension, float(factor))) for spelling in spellings)
    for name, seconds in (("month", _YEAR / 12), ("year", _YEAR), ("decade", 10 * _YEAR), ("century", 100 * _YEAR)):
        plural = "centuries" if name == "century" else name + "s"
        units[name] = units[plural] = Unit(name, "time", seconds)
    units["yr"] = units["yrs"] = units["year"]
    units["celsius"] = units["centigrade"] = Unit("celsius", "temperature")
    units["fahrenheit"] = Unit("fahrenheit", "temperature", 5 / 9, -160 / 9)
    units["kelvin"] = units["kelvins"] = Unit("kelvin", "temperature", 1.0, -273.15)
    units["degree"] = units["degrees"] = units["°"] = Unit("degree", "degree")
    return units


UNITS = _read_units(_TABLE)
CURRENCY_SIGNS = {sign: UNITS[sign] for sign in "$€£¥₹"}
_SHORT = "m g t l s h v w j k n min bar mi au nm cal ha sec kn cl stone stones pa ms mb kb gb tb"
SHORT = frozenset(_SHORT.split())
"""Spellings that are units only right after a number."""
FRACTION = Unit("fraction", "ratio", 1.0)
DEGREE_SCALES = {"c": UNITS["celsius"], "f": UNITS["fahrenheit"], "k": UNITS["kelvin"]} | {
    name: UNITS[name] for name in ("celsius", "centigrade", "fahrenheit", "kelvin")
}


def comparable(first: Unit, second: Unit) -> bool:
    """Whether a value in one unit may be compared with a value in the other, perhaps after conversion."""
    return first.dimension == second.dimension or {first.dimension, second.dimension} in _SAME


_SAME: tuple[set[str], ...] = (
    {"pound", "mass"},
    {"pound", "gbp"},
    {"degree", "temperature"},
    {"cent", "usd"},
    {"cent", "eur"},
    {"pence", "gbp"},
    {"speed", "length/time"},
)


def converted(value: float, unit: Unit, other: Unit) -> float:
    """Return `value` of `unit` in `other`; where only the factor is ambiguous (pounds, degrees), unchanged."""
    pair = {unit.dimension, other.dimension}
    if pair in ({"pound", "gbp"}, {"degree", "temperature"}):
        return value
    return (value * unit.factor + unit.offset - other.offset) / other.factor


# --- the numbers of a sentence


QuantityKind = Literal["cardinal", "ordinal", "year", "decade", "century", "vague", "clock", "opaque"]


@dataclass(slots=True)
class Quantity:
    """One number as it stands in a sentence; `values` are alternative readings."""

    kind: QuantityKind
    values: tuple[float, ...]
    start: int
    end: int
    unit: Unit | None = None
    weak: bool = False  # too common a word to need support: one, first, half
    approximate: str = ""  # the word that says so
    place: float = 1.0  # value of the last digit that is not zero
    spelled: bool = False  # in words, or with a scale word
    ambiguous_scale: float = 0.0
    noun: str = ""  # the stem of the content word that follows: what it is the number of
    before: str = ""
    sentence: int = -1
    opaque: str = ""
    afternoon: bool | None = None
    parts: tuple[float, ...] = ()

    @property
    def value(self) -> float:
        """The first reading."""
        return self.values[0] if self.values else math.nan


@dataclass(slots=True)
class Moment:
    """A date; `dates` are alternative readings (`03/04/1998`)."""

    dates: tuple[Date, ...]
    start: int
    end: int
    before: str = ""


@dataclass(slots=True)
class Numbers:
    """All that one sentence says in numbers."""

    quantities: list[Quantity] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    weekdays: list[tuple[int, int]] = field(default_factory=list)  # (weekday, position)
    seasons: list[tuple[str, int]] = field(default_factory=list)


def is_year(value: float) -> bool:
    """Whether a number may be a year as it stands."""
    return value == int(value) and 1000 <= value <= 2100


def place_of(value: float, decimals: int) -> float:
    """Return the value of the last digit of `value` that is not zero."""
    if decimals:
        return 10.0**-decimals
    whole = int(abs(value))
    if whole == 0:
        return 1.0
    place = 1.0
    while whole % 10 == 0:
        whole //= 10
        place *= 10
    return place


def multiply(quantity: Quantity, scale: float) -> None:
    """Apply a scale word to `quantity`."""
    quantity.values = tuple(round(value * scale, 6) for value in quantity.values)
    quantity.parts = tuple(round(value * scale, 6) for value in quantity.parts)
    quantity.place *= scale
    quantity.spelled = True
    if quantity.kind == "year":
        quantity.kind = "cardinal"
