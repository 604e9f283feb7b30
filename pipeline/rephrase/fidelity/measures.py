"""The unit of a number: after it, before it (currencies), in compounds such as `square miles` and `km per hour`."""

from __future__ import annotations

from pipeline.rephrase.fidelity.quantity import Quantity, low_at
from pipeline.rephrase.fidelity.tokens import WORD, Token
from pipeline.rephrase.fidelity.units import CURRENCY_SIGNS, DEGREE_SCALES, FRACTION, SHORT, UNITS, Unit


def read_unit(tokens: list[Token], quantity: Quantity) -> None:
    """Give `quantity` its unit and move its end behind it."""
    before = low_at(tokens, quantity.start - 1)
    if before in CURRENCY_SIGNS:
        quantity.unit = CURRENCY_SIGNS[before]
        quantity.kind = "cardinal"
    if quantity.unit is None and before in ("usd", "eur", "gbp", "us$"):
        quantity.unit = UNITS.get(before)
    at = quantity.end
    attached = low_at(tokens, at) in ("-", ".") and at + 1 < len(tokens) and tokens[at].low == "-"
    if attached:
        at += 1
    if quantity.unit is None or quantity.unit is FRACTION:
        found, end = _unit_at(tokens, at, quantity)
        if found is None:
            return
        quantity.unit, quantity.end = found, end
        if quantity.kind == "year":
            quantity.kind = "cardinal"
        if quantity.weak and found.dimension not in ("time", "ratio", "pound", "usd"):
            quantity.weak = False
    if [t.low for t in tokens[quantity.end : quantity.end + 3]] == ["and", "a", "half"] and quantity.unit is not None:
        quantity.values = tuple(value + 0.5 for value in quantity.values)
        quantity.end += 3
        quantity.weak = False
    _rate(tokens, quantity)


def _unit_at(tokens: list[Token], at: int, quantity: Quantity) -> tuple[Unit | None, int]:
    low = low_at(tokens, at)
    if low in ("square", "sq", "cubic", "cu"):
        step = at + 1 + (low_at(tokens, at + 1) == ".")
        base = UNITS.get(low_at(tokens, step))
        if base is None or base.dimension != "length":
            return None, at
        power = 2 if low in ("square", "sq") else 3
        return _powered(base, power), step + 1
    if low in (
        "metric",
        "light",
        "nautical",
        "us",
        "british",
        "long",
        "short",
        "fluid",
        "american",
        "canadian",
        "australian",
    ):
        base = UNITS.get(low_at(tokens, at + 1 + (low_at(tokens, at + 1) == "-")))
        if base is None or (
            low in ("us", "british", "long", "short") and base.dimension not in ("usd", "pound", "mass", "volume")
        ):
            return None, at
        end = at + 2 + (low_at(tokens, at + 1) == "-")
        if low == "light":
            return UNITS["lightyear"], end
        return (Unit("nautical mile", "length", 1852.0) if low == "nautical" else base), end
    if low in ("degree", "degrees", "°"):
        scale = DEGREE_SCALES.get(low_at(tokens, at + 1))
        return (scale, at + 2) if scale is not None else (UNITS["degree"], at + 1)
    if low == "per" and low_at(tokens, at + 1) == "cent":
        return UNITS["%"], at + 2
    if low in ("c", "f") and tokens[at].shown in ("C", "F"):
        return DEGREE_SCALES[low], at + 1
    unit = UNITS.get(low)
    if unit is None or (quantity.kind == "ordinal" and low not in ("century", "centuries")):
        return None, at
    if low in SHORT and len(low) <= 2 and tokens[quantity.start].kind == WORD:
        return None, at
    if low_at(tokens, at + 1) in ("squared", "cubed") and unit.dimension == "length":
        return _powered(unit, 2 if low_at(tokens, at + 1) == "squared" else 3), at + 2
    return unit, at + 1


def _powered(base: Unit, power: int) -> Unit:
    return Unit(f"{base.name}{power}", "area" if power == 2 else "volume", base.factor**power)


def _rate(tokens: list[Token], quantity: Quantity) -> None:
    """Read `per hour`, `/h`, `an hour` after a unit of length, volume or data."""
    unit = quantity.unit
    if unit is None or unit.dimension not in ("length", "volume", "data"):
        return
    low = low_at(tokens, quantity.end)
    below = UNITS.get(low_at(tokens, quantity.end + 1))
    if low in ("per", "/", "a", "an", "each", "every") and below is not None and below.dimension == "time":
        quantity.unit = Unit(f"{unit.name}/{below.name}", f"{unit.dimension}/time", unit.factor / below.factor)
        quantity.end += 2
