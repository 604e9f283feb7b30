"""Units of measure: which spelling means which, and how many of the base unit of its dimension it holds."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.rephrase.fidelity import lexicon as lex


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
  | lightyear lightyears=9.4607e15 | parsec parsecs=3.0857e16 | fathom fathoms=1.8288 | furlong furlongs=201.168
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


def _read(table: str) -> dict[str, Unit]:
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


UNITS = _read(_TABLE)
CURRENCY_SIGNS = {sign: UNITS[sign] for sign in "$€£¥₹"}
SHORT = lex.words("m g t l s h v w j k n min bar mi au nm cal ha sec kn cl stone stones pa ms mb kb gb tb")
"""Spellings that are units only right after a number."""
FRACTION = Unit("fraction", "ratio", 1.0)
DEGREE_SCALES = {"c": UNITS["celsius"], "f": UNITS["fahrenheit"], "k": UNITS["kelvin"]} | {
    name: UNITS[name] for name in ("celsius", "centigrade", "fahrenheit", "kelvin")
}


def comparable(first: Unit, second: Unit) -> bool:
    """Whether a value in one unit may be compared with a value in the other, perhaps after conversion."""
    a, b = first.dimension, second.dimension
    if a == b:
        return True
    pair = {a, b}
    return pair in _SAME


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
