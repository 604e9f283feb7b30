"""Numbers in words: two hundred and five, twenty-first, two thirds, nineteen eighty-four, half a million."""

from __future__ import annotations

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.quantity import Kind, Quantity, is_year, low_at, place_of
from pipeline.rephrase.fidelity.tokens import Token
from pipeline.rephrase.fidelity.units import FRACTION

_MAX_WORDS = 24
_CLOCK = {("half", "past"): 30.0, ("quarter", "past"): 15.0, ("quarter", "to"): -15.0}


def read_words(tokens: list[Token], k: int) -> Quantity | None:
    """Return the number that begins with the word at `k`, or None where the word is none here."""
    low = tokens[k].low
    if low in lex.DECADES:
        two = lex.DECADES[low]
        return Quantity("decade", (1900.0 + two, 1800.0 + two, 2000.0 + two, float(two)), k, k + 1)
    if low in lex.VAGUE:
        end = k + 1
        value = lex.VAGUE[low]
        if low_at(tokens, end) == "of" and low_at(tokens, end + 1) in lex.VAGUE:
            value *= lex.VAGUE[low_at(tokens, end + 1)]
            end += 2
        return Quantity("vague", (value,), k, end)
    if low in ("half", "third", "quarter") and (fraction := _lone_fraction(tokens, k)) is not None:
        return fraction
    if low in lex.FRACTIONS and low not in lex.ORDINALS:
        return None
    if 13 <= lex.CARDINALS.get(low, 0) <= 20 and low_at(tokens, k + 1 + (low_at(tokens, k + 1) == "-")) in lex.DECADES:
        end = k + 1 + (low_at(tokens, k + 1) == "-")
        return Quantity("decade", (100.0 * lex.CARDINALS[low] + lex.DECADES[low_at(tokens, end)],), k, end + 1)
    if low in lex.CARDINALS or low in lex.ORDINALS or low in lex.SCALES:
        return _spelled(tokens, k)
    return None


def _lone_fraction(tokens: list[Token], k: int) -> Quantity | None:
    low = tokens[k].low
    before, after = low_at(tokens, k - 1), low_at(tokens, k + 1)
    hour = lex.CARDINALS.get(low_at(tokens, k + 2), 0)
    if 1 <= hour <= 12 and (low, after) in _CLOCK:
        return Quantity("clock", (60.0 * hour + _CLOCK[low, after],), k, k + 3)
    if low == "half":
        if after == "a" and low_at(tokens, k + 2) in lex.SCALES:
            scale = lex.SCALES[low_at(tokens, k + 2)]
            return Quantity("cardinal", (0.5 * scale,), k, k + 3, place=scale / 10, spelled=True)
        if before in ("first", "second", "other", "-") or after in ("-", "past"):
            return Quantity("cardinal", (0.5,), k, k + 1, unit=None, weak=True)
        return Quantity("cardinal", (0.5,), k, k + 1, unit=FRACTION, weak=after not in ("of", "the"), spelled=True)
    if before in ("a", "one") and after == "of":
        value = 1 / lex.FRACTIONS[low]
        return Quantity("cardinal", (value,), k, k + 1, unit=FRACTION, spelled=True, place=0.01)
    return None


def _spelled(tokens: list[Token], k: int) -> Quantity:
    """Read the longest run of number words from `k`; stops where the next word cannot continue the number."""
    total = current = 0.0
    kind: Kind = "cardinal"
    group = ""  # of the last word: unit, teen, ten, scale, year
    end = k
    at = k
    while at < len(tokens) and at < k + _MAX_WORDS:
        low = tokens[at].low
        if low == "-" and group in ("ten", "scale", "teen") and _continues(tokens, at + 1):
            at += 1
            continue
        if (
            low == "and"
            and group == "scale"
            and (low_at(tokens, at + 1) in lex.CARDINALS or low_at(tokens, at + 1) in lex.ORDINALS)
        ):
            at += 1
            continue
        ordinal = low in lex.ORDINALS
        value = lex.CARDINALS.get(low, lex.ORDINALS.get(low, -1))
        if low in lex.SCALES and not (group == "" and at > k):
            scale = lex.SCALES[low]
            if scale in (100.0, 12.0):
                current = (current or 1) * scale
            else:
                total += (current or 1) * scale
                current = 0
            group = "scale"
        elif value >= 100 and ordinal:
            current = (current or 1) * value
            kind = "ordinal"
        elif 0 <= value < 10 and group in ("", "scale", "ten"):
            current += value
            group = "unit"
        elif 10 <= value < 100 and group in ("", "scale"):
            current += value
            group = "ten" if value >= 20 and value % 10 == 0 else "teen"
        elif 10 <= value < 100 and group in ("teen", "ten") and 10 < current <= 20 and total == 0:
            current = 100 * current + value
            group = "ten" if value >= 20 else "year"
        else:
            break
        at += 1
        end = at
        if ordinal:
            kind = "ordinal"
            break
    whole = total + current
    weak = tokens[k].low in ("one", "first", "second", "zero") and end == k + 1
    if (
        kind == "cardinal"
        and is_year(whole)
        and group in ("unit", "ten", "year", "teen")
        and "hundred" not in (t.low for t in tokens[k:end])
        and "thousand" not in (t.low for t in tokens[k:end])
    ):
        kind = "year"
    quantity = Quantity(kind, (whole,), k, end, weak=weak, spelled=True, place=place_of(whole, 0))
    return _fraction(tokens, quantity)


def _continues(tokens: list[Token], at: int) -> bool:
    low = low_at(tokens, at)
    return low in lex.CARDINALS or low in lex.ORDINALS or low in lex.SCALES


def _fraction(tokens: list[Token], quantity: Quantity) -> Quantity:
    """Turn `two` before `thirds` into a fraction, and add decimals after `point`."""
    at = quantity.end + (low_at(tokens, quantity.end) == "-")
    low = low_at(tokens, at)
    if quantity.kind == "cardinal" and low in lex.FRACTIONS and low != "half" and 1 <= quantity.value < 10:
        plural = low.endswith("s")
        if plural == (quantity.value > 1):
            share = quantity.value / lex.FRACTIONS[low]
            return Quantity("cardinal", (share,), quantity.start, at + 1, unit=FRACTION, spelled=True, place=0.01)
    if low == "point" and low_at(tokens, at + 1) in lex.CARDINALS:
        decimals = ""
        at += 1
        while lex.CARDINALS.get(low_at(tokens, at), 10) < 10:
            decimals += str(lex.CARDINALS[low_at(tokens, at)])
            at += 1
        if decimals:
            value = float(f"{int(quantity.value)}.{decimals}")
            return Quantity("cardinal", (value,), quantity.start, at, spelled=True, place=10.0 ** -len(decimals))
    return quantity
