"""Numbers, dates and measures in one sentence, whether in digits or in words."""

from __future__ import annotations

import math

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.measures import read_unit
from pipeline.rephrase.fidelity.number_words import read_words
from pipeline.rephrase.fidelity.quantity import (
    Kind,
    Moment,
    Numbers,
    Quantity,
    is_year,
    low_at,
    multiply,
    place_of,
    stem_before,
)
from pipeline.rephrase.fidelity.tokens import EXTENDING, MONEY, NUMBER, NUMERIC, WORD, Token
from pipeline.rephrase.fidelity.units import CURRENCY_SIGNS, UNITS

_APPROXIMATE_CLOSE = lex.words("or so c + some just close up")
_JOINS = frozenset({"-", "to", "and", "or", "through", "until", "till", "by", "x", "&", "/"})


def read_numbers(tokens: list[Token]) -> Numbers:
    """Return the numbers of a sentence in order; a number that belongs to a date is in the date alone."""
    found = Numbers()
    position = 0
    for k in [k for k, token in enumerate(tokens) if token.number]:
        if k < position:
            continue
        if (alone := _alone_at(tokens, k)) is not None:
            found.quantities.append(alone)
            position = k + 1
            continue
        if _is_calendar(tokens, k, found):
            if found.moments and found.moments[-1].end > k:
                position = found.moments[-1].end
            continue
        quantity = _read_quantity(tokens, k)
        if quantity is not None:
            found.quantities.append(quantity)
            position = quantity.end
    if found.quantities:
        if len(found.quantities) > 1:
            _join(tokens, found.quantities)
        for quantity in found.quantities:
            _surround(tokens, quantity)
    return found


def _alone_at(tokens: list[Token], k: int) -> Quantity | None:
    """Return the number at `k` where nothing beside it can change what it says, or None: it must be read in full."""
    if k + 1 < len(tokens) and tokens[k + 1].flags & (NUMERIC | EXTENDING):
        return None
    if k and tokens[k - 1].flags & MONEY:
        return None
    token = tokens[k]
    known = token.alone
    if known is None:
        known = token.alone = _read_alone(token)
    return known.at(k) if isinstance(known, Quantity) else None


def _read_alone(token: Token) -> Quantity | bool:
    """Return what the number `token` says by itself, or False for dates, measures and what needs its neighbours."""
    if token.kind == NUMBER:
        if token.parsed is not None and token.parsed.dates:
            return False
    elif token.low in ("half", "third", "quarter") or not (
        token.low in lex.CARDINALS or token.low in lex.ORDINALS or token.low in lex.SCALES
    ):
        return False
    quantity = _read_quantity([token], 0)
    return quantity if quantity is not None and quantity.unit is None else False


# --- the calendar


def _is_calendar(tokens: list[Token], k: int, found: Numbers) -> bool:
    token = tokens[k]
    low = token.low
    if token.kind == NUMBER:
        if token.parsed is not None and token.parsed.dates:
            found.moments.append(Moment(token.parsed.dates, k, k + 1, stem_before(tokens, k)))
            return True
        return False
    if low in lex.MONTHS and (token.cap or low not in lex.AMBIGUOUS_MONTHS):
        return _month(tokens, k, found)
    if low in lex.WEEKDAYS and token.cap:
        found.weekdays.append((lex.WEEKDAYS[low], k))
        return True
    if low in lex.SEASONS:
        if low != "fall" or low_at(tokens, k - 1) in ("the", "in", "of", "last", "this", "next"):
            found.seasons.append((lex.SEASONS[low], k))
        return True
    if low in ("noon", "midday", "midnight"):
        minutes = 0.0 if low == "midnight" else 720.0
        found.quantities.append(Quantity("clock", (minutes,), k, k + 1, afternoon=low != "midnight"))
        return True
    return low in lex.MONTHS


def _month(tokens: list[Token], k: int, found: Numbers) -> bool:
    """Read the date around the month at `k`, taking back a number before it that is its day."""
    month = lex.MONTHS[tokens[k].low]
    days: list[int | None] = []
    start = k
    if found.quantities:
        last = found.quantities[-1]
        gap = [t.low for t in tokens[last.end : k]]
        if gap in ([], ["of"], ["-"]) and _is_day(last):
            start = last.start
            days = [int(value) for value in last.values]
            found.quantities.pop()
            if found.quantities:
                first = found.quantities[-1]
                between = [t.low for t in tokens[first.end : last.start]]
                if _is_day(first) and between and between[0] in _JOINS | {","} and len(between) <= 2:
                    start = first.start
                    days = [*(int(value) for value in first.values), *days]
                    found.quantities.pop()
    k += 1
    if low_at(tokens, k) == ".":
        k += 1
    if not days:
        days, k = _days_after(tokens, k)
    year, k = _year_after(tokens, k)
    year_low = None if year is None else year
    for day in days or [None]:
        found.moments.append(Moment(((year_low, month, day),), start, k, stem_before(tokens, start)))
    return True


def _is_day(quantity: Quantity) -> bool:
    return (
        quantity.kind in ("cardinal", "ordinal")
        and quantity.unit is None
        and bool(quantity.values)
        and all(value == int(value) and 1 <= value <= 31 for value in quantity.values)
    )


def _days_after(tokens: list[Token], k: int) -> tuple[list[int | None], int]:
    days: list[int | None] = []
    if low_at(tokens, k) == "the":
        k += 1
    while k < len(tokens):
        quantity = _read_quantity(tokens, k) if tokens[k].number and tokens[k].low not in lex.MONTHS else None
        if (
            quantity is None
            or not _is_day(quantity)
            or (quantity.end < len(tokens) and tokens[quantity.end].low in (":", "%"))
        ):
            break
        days.extend(int(value) for value in quantity.values)
        k = quantity.end
        if low_at(tokens, k) in ("-", "and", "to", "&") and k + 1 < len(tokens) and tokens[k + 1].kind == NUMBER:
            k += 1
            continue
        break
    return days, k


def _year_after(tokens: list[Token], k: int) -> tuple[int | None, int]:
    at = k
    while low_at(tokens, at) in (",", "of", "in") and at < k + 2:
        at += 1
    if at < len(tokens) and tokens[at].number:
        token = tokens[at]
        if token.kind == NUMBER and token.parsed is not None:
            values = token.parsed.values
            if len(values) == 1 and not token.parsed.suffix and not token.parsed.comma and is_year(values[0]):
                return int(values[0]), at + 1
        elif token.low in lex.CARDINALS:
            quantity = _read_quantity(tokens, at)
            if quantity is not None and is_year(quantity.value) and quantity.unit is None:
                return int(quantity.value), quantity.end
    if (
        low_at(tokens, at) == "'"
        and at + 1 < len(tokens)
        and tokens[at + 1].kind == NUMBER
        and len(tokens[at + 1].shown) == 2
        and tokens[at + 1].shown.isdecimal()
    ):
        two = int(tokens[at + 1].shown)
        return (2000 if two < 50 else 1900) + two, at + 2
    return None, k


# --- numbers


def _read_quantity(tokens: list[Token], k: int) -> Quantity | None:
    token = tokens[k]
    quantity = _digits(tokens, k) if token.kind == NUMBER else read_words(tokens, k)
    if quantity is None or quantity.kind in ("clock", "opaque", "decade"):
        return quantity
    if quantity.kind == "cardinal" and quantity.value <= 12 and low_at(tokens, quantity.end) in ("am", "pm"):
        afternoon = low_at(tokens, quantity.end) == "pm" and quantity.value < 12
        return Quantity("clock", (60.0 * quantity.value + 720 * afternoon,), k, quantity.end + 1, afternoon=True)
    if quantity.end < len(tokens) and tokens[quantity.end].shown == "o'clock":
        return Quantity("clock", (60.0 * quantity.value,), k, quantity.end + 1)
    _scaled(tokens, quantity)
    read_unit(tokens, quantity)
    if quantity.kind == "ordinal" and quantity.unit is not None and quantity.unit.name == "century":
        quantity.kind, quantity.unit = "century", None
    return quantity


def _digits(tokens: list[Token], k: int) -> Quantity | None:
    token = tokens[k]
    parsed = token.parsed
    if parsed is None:
        return None
    after = low_at(tokens, k + 1)
    if parsed.minutes is not None or (parsed.values and after in ("am", "pm") and 1 <= parsed.values[0] <= 12):
        return _clock(tokens, k)
    if not parsed.values:
        return Quantity("opaque", (), k, k + 1, opaque=token.low)
    if (
        len(parsed.values) == 1
        and parsed.suffix in ("", "s")
        and parsed.values[0] <= 12
        and tokens[min(k + 1, len(tokens) - 1)].shown == "o'clock"
    ):
        return Quantity("clock", (60.0 * parsed.values[0],), k, k + 2)
    value = parsed.values[0]
    if parsed.suffix == "s" and value % 10 == 0 and (value >= 1000 or (value < 100 and value >= 10)):
        values = (value,) if value >= 1000 else (1900 + value, 1800 + value, value)
        return Quantity("decade", values, k, k + 1)
    kind: Kind = "ordinal" if parsed.suffix in ("st", "nd", "rd", "th") else "cardinal"
    if kind == "cardinal" and is_year(value) and not parsed.comma and parsed.decimals == 0 and not parsed.suffix:
        kind = "year"
    quantity = Quantity(kind, parsed.values, k, k + 1, place=place_of(value, parsed.decimals))
    if parsed.dashed:
        quantity.parts = parsed.values
    if parsed.suffix and kind == "cardinal":
        _suffix(tokens, quantity, parsed.suffix)
    return quantity


def _suffix(tokens: list[Token], quantity: Quantity, suffix: str) -> None:
    scale = {"k": 1e3, "bn": 1e9, "b": 1e9, "mn": 1e6, "m": 1e6, "tn": 1e12}.get(suffix)
    currency = low_at(tokens, quantity.start - 1) in CURRENCY_SIGNS
    if scale is not None and (currency or suffix not in ("m", "b")):
        multiply(quantity, scale)
    elif suffix in UNITS:
        quantity.unit = UNITS[suffix]
    elif suffix == "x":
        quantity.weak = quantity.value <= 2


def _clock(tokens: list[Token], k: int) -> Quantity:
    parsed = tokens[k].parsed
    assert parsed is not None
    minutes = float(parsed.minutes) if parsed.minutes is not None else 60.0 * parsed.values[0]
    suffix = parsed.suffix
    end = k + 1
    if not suffix and low_at(tokens, end) in ("am", "pm"):
        suffix = low_at(tokens, end)
        end += 1
    if suffix == "pm" and minutes < 720:
        minutes += 720
    if suffix == "am" and 720 <= minutes < 780:
        minutes -= 720
    known = True if suffix or minutes >= 780 else None
    clock = Quantity("clock", (minutes,), k, end, afternoon=known)
    if parsed.spaced.count(":") == 2:
        clock.parts = tuple(float(part) for part in parsed.spaced.split(":"))
    return clock


def _scaled(tokens: list[Token], quantity: Quantity) -> None:
    """Apply scale words and `and a half` after a number."""
    while (
        quantity.kind in ("cardinal", "year")
        and (low := low_at(tokens, quantity.end)) in lex.SCALES
        and quantity.unit is None
    ):
        if low in ("mn", "bn", "tn") and tokens[quantity.start].kind == WORD:
            return
        multiply(quantity, lex.SCALES[low])
        quantity.end += 1
    if quantity.kind == "cardinal" and [t.low for t in tokens[quantity.end : quantity.end + 3]] == ["and", "a", "half"]:
        extra = 0.5 * (quantity.place if quantity.spelled and quantity.value >= 1e3 else 1.0)
        quantity.values = tuple(value + extra for value in quantity.values)
        quantity.end += 3


# --- what stands around a number


def _join(tokens: list[Token], quantities: list[Quantity]) -> None:
    """Give the first number of a range the unit, scale or kind of the second."""
    for first, second in zip(reversed(quantities[:-1]), reversed(quantities[1:]), strict=True):
        gap = second.start - first.end
        if gap > 2 or gap < 1:
            continue
        words = [t.low for t in tokens[first.end : second.start]]
        if words[0] not in _JOINS or (gap == 2 and words[1] not in CURRENCY_SIGNS and words[1] != "the"):
            continue
        if first.unit is None and second.unit is not None and first.kind in ("cardinal", "year"):
            first.unit = second.unit
            first.kind = "cardinal"
        elif second.unit is None and first.unit is not None and first.unit.dimension in ("usd", "eur", "gbp", "jpy"):
            second.unit = first.unit
        if second.kind == "century" and first.kind == "ordinal":
            first.kind = "century"
        if (
            second.kind == "cardinal"
            and first.kind == "cardinal"
            and second.spelled
            and first.value < 1000 <= second.place * 10
            and not first.spelled
        ):
            first.ambiguous_scale = 10.0 ** (3 * int(math.log10(second.value) // 3)) if second.value > 0 else 0.0


def _surround(tokens: list[Token], quantity: Quantity) -> None:
    nouns: list[str] = []
    at = quantity.end + (low_at(tokens, quantity.end) == "-")
    for token in tokens[at : at + 3]:
        if not token.content or token.number:
            break
        nouns.append(token.stem)
    if nouns:
        quantity.nouns = frozenset(nouns)
    start = quantity.start
    quantity.before = stem_before(tokens, start)
    for k, token in enumerate(reversed(tokens[max(0, start - 4) : start])):
        low = token.low
        if low in lex.APPROXIMATE and not (k > 1 and low in _APPROXIMATE_CLOSE):
            quantity.approximate = low
            break
        if token.number or low in (",", ";", "and"):
            break
    if not quantity.approximate and (low_at(tokens, quantity.end) == "+" or low_at(tokens, quantity.end + 1) == "so"):
        quantity.approximate = "+"
