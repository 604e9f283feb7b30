"""What a number, a date and the numbers of a sentence are, and small questions about tokens that all readers ask."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pipeline.rephrase.fidelity.number_tokens import Date
from pipeline.rephrase.fidelity.tokens import Token
from pipeline.rephrase.fidelity.units import Unit

Kind = Literal["cardinal", "ordinal", "year", "decade", "century", "vague", "clock", "opaque"]


@dataclass(slots=True)
class Quantity:
    """One number as it stands in a sentence; `values` are alternative readings."""

    kind: Kind
    values: tuple[float, ...]
    start: int
    end: int
    unit: Unit | None = None
    weak: bool = False  # too common a word to need support: one, first, half
    approximate: str = ""  # the word that says so
    place: float = 1.0  # value of the last digit that is not zero
    spelled: bool = False  # in words, or with a scale word
    ambiguous_scale: float = 0.0
    nouns: frozenset[str] = frozenset()
    before: str = ""
    sentence: int = -1
    opaque: str = ""
    afternoon: bool | None = None
    parts: tuple[float, ...] = ()

    def at(self, k: int) -> Quantity:
        """Return a copy, read from the one token at `k`."""
        return Quantity(
            self.kind,
            self.values,
            k,
            k + 1,
            None,
            self.weak,
            "",
            self.place,
            self.spelled,
            opaque=self.opaque,
            afternoon=self.afternoon,
            parts=self.parts,
        )

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


_CLAUSE_MARKS = frozenset({";", ":", "and", ","})


def low_at(tokens: list[Token], k: int) -> str:
    """Return the lower case of token `k`, or an empty text where there is none."""
    return tokens[k].low if 0 <= k < len(tokens) else ""


def stem_before(tokens: list[Token], start: int) -> str:
    """Return the stem of the content word closest before `start`, within four tokens of the same clause."""
    for token in reversed(tokens[max(0, start - 4) : start]):
        if token.content:
            if not token.number:
                return token.stem
        elif token.low in _CLAUSE_MARKS:
            break
    return ""


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
