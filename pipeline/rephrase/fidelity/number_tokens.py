"""What a token that begins with a digit says: values, a decade, a time, dates, a suffix."""

from __future__ import annotations

import re
from typing import NamedTuple

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
    fraction: bool = False
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
            return Parsed((above / below,), (), None, suffix, body, 2, fraction=True)
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
        if 1 <= month <= 12 and (day is None or 1 <= day <= 31) and (day is not None or len(match[2]) == 2):
            if day is None and "-" in body and month > 12:
                return ()
            return ((year, month, day),) if day is not None or "-" not in body else ()
        return ()
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
