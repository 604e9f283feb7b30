"""A text analysed once: its sentences, an index of their words, the numbers that it has in digits or in words."""

from __future__ import annotations

import datetime
import math
import weakref
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.quantity import (
    CURRENCY_SIGNS,
    DEGREE_SCALES,
    FRACTION,
    SHORT,
    UNITS,
    Date,
    Moment,
    Numbers,
    Quantity,
    QuantityKind,
    Unit,
    is_year,
    multiply,
    place_of,
)  # fmt: skip
from pipeline.rephrase.fidelity.tokens import (
    NUMBER,
    NUMERIC,
    ODD,
    WORD,
    Sentence,
    Token,
    low_at,
    sentences,
    stem_before,
)  # fmt: skip

Kind = Literal["number", "date", "unit", "name", "negation", "role"]
NO_NUMBERS = Numbers()
MAX_SCANNED = 400
"""How many numbers of a source are tried for rounding, conversion and sums; equal values are found among all."""
_SAMPLE = 4
MAX_POSTINGS = 40
"""A word in more sentences than this says nothing about which sentence is meant."""


class Finding(NamedTuple):
    """Something that the source does not support: `kind`, and the words of the rephrased text (`value`)."""

    kind: Kind
    value: str


@dataclass
class Text:
    """The sentences of a text and what is looked up in them, each worked out when it is first needed."""

    text: str
    sentences: list[Sentence] = field(default_factory=list)
    _matches: list[list[tuple[float, int]]] | None = None
    _copied: list[bool] | None = None
    _numbers: dict[int, Numbers] = field(default_factory=dict)
    kept: dict[object, object] = field(default_factory=dict)  # what rules have worked out of it, by their own keys

    @cached_property
    def lows(self) -> frozenset[str]:
        """All words in lower case, without possessives and accents."""
        return frozenset([token.low for sentence in self.sentences for token in sentence.tokens])

    @cached_property
    def stems(self) -> dict[str, list[int]]:
        """For each stem of a content word, the sentences that have it."""
        stems: defaultdict[str, list[int]] = defaultdict(list)
        for k, sentence in enumerate(self.sentences):
            for stem in sentence.stems:
                stems[stem].append(k)
        return dict(stems)

    @cached_property
    def postings(self) -> dict[str, list[int]]:
        """`stems` without those of too many sentences."""
        if len(self.sentences) <= MAX_POSTINGS:
            return self.stems
        return {stem: found for stem, found in self.stems.items() if len(found) <= MAX_POSTINGS}

    def numbers(self, k: int) -> Numbers:
        """Return the numbers of sentence `k`."""
        if not self.sentences[k].flags & NUMERIC:
            return NO_NUMBERS
        found = self._numbers.get(k)
        if found is None:
            found = self._numbers[k] = read_numbers(self.sentences[k].tokens)
        return found

    @cached_property
    def index(self) -> NumberIndex:
        """The numbers of the whole text."""
        return NumberIndex(self)

    @cached_property
    def english(self) -> bool:
        """Whether enough of the words are those that English cannot do without."""
        words = [t.low for sentence in self.sentences[:_SAMPLE] for t in sentence.tokens if t.kind == WORD]
        marks = sum(map(lex.ENGLISH_MARKS.__contains__, words))
        return bool(words) and "".join(words).isascii() and (marks >= 0.08 * len(words) or len(words) < 12)

    def matches(self, source: Text) -> list[list[tuple[float, int]]]:
        """Return `source.aligned` of each sentence; the source is the same at every call."""
        if self._matches is None:
            self._matches = [source.aligned(sentence.stems) for sentence in self.sentences]
        return self._matches

    def copied(self, source: Text) -> list[bool]:
        """Return of each sentence whether `source` has all its tokens in one sentence; the source is always the same.

        Only the sentence that shares most with it is looked at.
        """
        if self._copied is None:
            self._copied = [
                bool(best) and best[0][0] == 1.0 and source.sentences[best[0][1]].tokens == sentence.tokens
                for best, sentence in zip(self.matches(source), self.sentences, strict=True)
            ]
        return self._copied

    def aligned(self, stems: frozenset[str]) -> list[tuple[float, int]]:
        """Return up to four sentences that share most of `stems`: (share of `stems`, sentence), best first."""
        votes: dict[int, int] = {}
        known = self.postings
        for stem in stems & known.keys():
            for k in known[stem]:
                votes[k] = votes.get(k, 0) + 1
        if not votes:
            return []
        size = len(stems)
        if len(votes) == 1:
            return [(count / size, k) for k, count in votes.items()]
        ranked = sorted([(-count, k) for k, count in votes.items()])  # of equals the earlier one, whatever the hashes
        return [(-count / size, k) for count, k in ranked[:4]]


class NumberIndex:
    """Every number of a text by value and by dimension, its dates, and the counts of its lists."""

    def __init__(self, text: Text) -> None:
        """Collect the numbers of all sentences of `text`."""
        self.by_value: dict[float, list[Quantity]] = {}
        self.by_dimension: dict[str, list[Quantity]] = {}
        self.by_before: dict[str, list[Quantity]] = {}
        self.by_noun: dict[str, list[Quantity]] = {}
        self.all: list[Quantity] = []
        self.partial: set[Date] = set()
        self.yearless: set[Date] = set()
        self.moments: list[Moment] = []
        self.dates: set[Date] = set()
        self.years: set[int] = set()
        self.weekdays: set[int] = set()
        self.seasons: set[str] = set()
        self.opaque: set[str] = set()
        for k, sentence in enumerate(text.sentences):
            if sentence.flags & NUMERIC:
                self._add(k, text.numbers(k))
        self._implied(text)
        self.text: Text = weakref.proxy(text)  # a reference would be a cycle, left to the garbage collector
        self.scanned = self.all[:MAX_SCANNED]
        self.values = list(self.by_value.items())[:MAX_SCANNED]

    def _add(self, k: int, numbers: Numbers) -> None:
        for quantity in numbers.quantities:
            quantity.sentence = k
            self.all.append(quantity)
            for value in (*quantity.values, *quantity.parts) if quantity.parts else quantity.values:
                self.by_value.setdefault(round(value, 9), []).append(quantity)
                if 1000 <= value <= 2100 and value == int(value) and quantity.kind in ("year", "cardinal", "decade"):
                    self.years.add(int(value))
            if quantity.ambiguous_scale:
                self.by_value.setdefault(quantity.value * quantity.ambiguous_scale, []).append(quantity)
            if quantity.unit is not None:
                self.by_dimension.setdefault(quantity.unit.dimension, []).append(quantity)
            if quantity.noun:
                self.by_noun.setdefault(quantity.noun, []).append(quantity)
            if quantity.before:
                self.by_before.setdefault(quantity.before, []).append(quantity)
            if quantity.opaque:
                self.opaque.add(quantity.opaque)
        for moment in numbers.moments:
            self.moments.append(moment)
            self.dates.update(moment.dates)
            for date in moment.dates:
                self._add_date(date)
            self.years.update(date[0] for date in moment.dates if date[0] is not None)
        if numbers.weekdays:
            self.weekdays.update(day for day, _ in numbers.weekdays)
        if numbers.seasons:
            self.seasons.update(season for season, _ in numbers.seasons)

    def _add_date(self, date: Date) -> None:
        """Add every way to say less of `date`, and the day of the week that it falls on."""
        year, month, day = date
        if year and month and day:
            with suppress(ValueError):  # no day of the calendar
                self.weekdays.add(datetime.date(year, month, day).isoweekday())
        known = self.yearless if date[0] is None else self.partial
        for bits in range(8):
            known.add((date[0] if bits & 1 else None, date[1] if bits & 2 else None, date[2] if bits & 4 else None))

    def _implied(self, text: Text) -> None:
        """Add what words imply (`both`), Roman numerals, and digits inside words (`COVID-19`, `G20`)."""
        self.implied: set[float] = {lex.IMPLIED[low] for low in text.lows & lex.IMPLIED.keys()}
        for sentence in text.sentences:
            if not sentence.flags & ODD:
                continue
            for token in sentence.tokens:
                if token.kind == WORD and not token.low.isalpha():
                    digits = "".join(c if c.isdigit() else " " for c in token.low).split()
                    self.implied.update(float(part) for part in digits if len(part) < 16 and part.isascii())
                elif token.acronym and (value := roman(token.shown)):
                    self.implied.add(float(value))

    @cached_property
    def list_counts(self) -> set[int]:
        """How many items the lists of the text have, by commas and by lines."""
        counts: set[int] = set()
        lines = 0
        for sentence in self.text.sentences:
            if sentence.listed:
                lines += 1
            elif lines:
                counts.add(lines)
                lines = 0
            counts |= _sentence_counts(sentence.tokens)
        return (counts | {lines}) - {0}


def analyse(text: str) -> Text:
    """Return `text` split and ready to be asked."""
    return Text(text, sentences(text))


def roman(shown: str) -> int:
    """Return the value of a Roman numeral of two to six letters among I, V and X, or 0."""
    if not 2 <= len(shown) <= 6 or shown.strip("IVX"):
        return 0
    values = [{"I": 1, "V": 5, "X": 10}[c] for c in shown]
    total = sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))
    return total if total < 40 else 0


_MAX_ITEM_WORDS = 6


def _sentence_counts(tokens: list[Token]) -> set[int]:
    """Return the lengths of the lists in a sentence: items between commas and `and` or `or`, none of many words."""
    counts: set[int] = set()
    items, words = 1, 0
    for token in tokens:
        if token.low in (",", ";", "and", "or", "&"):
            if words > _MAX_ITEM_WORDS and items > 1:
                counts.add(items)
                items = 1
            items += words > 0
            words = 0
        elif token.low in (":", "(", ")", "-"):
            counts.add(items)
            items, words = 1, 0
        else:
            words += 1
    return (counts | {items}) - {1}


# --- the numbers, dates and measures of one sentence


_QUALIFIERS = lex.words("metric light nautical us british fluid american canadian australian")
_APPROXIMATE_CLOSE = lex.words("or so c + some just close up")
_JOINS = frozenset({"-", "to", "and", "or", "through", "until", "till", "by", "x", "&", "/"})


def read_numbers(tokens: list[Token]) -> Numbers:
    """Return the numbers of a sentence in order; a number that belongs to a date is in the date alone."""
    found = Numbers()
    position = 0
    for k in [k for k, token in enumerate(tokens) if token.number]:
        if k < position:
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
    for day in days or [None]:
        found.moments.append(Moment(((year, month, day),), start, k, stem_before(tokens, start)))
    return True


def _is_day(quantity: Quantity) -> bool:
    return (
        quantity.kind in ("cardinal", "ordinal")
        and quantity.unit is None
        and bool(quantity.values)
        and all(value == int(value) and 1 <= value <= 31 for value in quantity.values)
    )


def _days_after(tokens: list[Token], k: int) -> tuple[list[int | None], int]:
    """Read one day after a month, or several joined: `May 3 and 4`."""
    days: list[int | None] = []
    at = k = k + (low_at(tokens, k) == "the")
    while at < len(tokens) and tokens[at].number and tokens[at].low not in lex.MONTHS:
        quantity = _read_quantity(tokens, at)
        if quantity is None or not _is_day(quantity) or low_at(tokens, quantity.end) in (":", "%"):
            break
        days += [int(value) for value in quantity.values]
        k = quantity.end
        at = k + (low_at(tokens, k) in ("-", "and", "to", "&"))
        if at == k or at == len(tokens) or tokens[at].kind != NUMBER:
            break
    return days, k


def _year_after(tokens: list[Token], k: int) -> tuple[int | None, int]:
    at = k
    while low_at(tokens, at) in (",", "of", "in") and at < k + 2:
        at += 1
    parsed = tokens[at].parsed if at < len(tokens) else None
    if parsed is None or len(parsed.values) != 1 or parsed.suffix or parsed.comma or not is_year(parsed.values[0]):
        return None, k
    return int(parsed.values[0]), at + 1


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
    value = parsed.values[0]
    if parsed.suffix == "s" and value % 10 == 0 and (value >= 1000 or (value < 100 and value >= 10)):
        values = (value,) if value >= 1000 else (1900 + value, 1800 + value, value)
        return Quantity("decade", values, k, k + 1)
    kind: QuantityKind = "ordinal" if parsed.suffix in ("st", "nd", "rd", "th") else "cardinal"
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
        if (
            second.kind == "cardinal"
            and first.kind == "cardinal"
            and second.spelled
            and first.value < 1000 <= second.place * 10
            and not first.spelled
        ):
            first.ambiguous_scale = 10.0 ** (3 * int(math.log10(second.value) // 3)) if second.value > 0 else 0.0


def _surround(tokens: list[Token], quantity: Quantity) -> None:
    at = quantity.end + (low_at(tokens, quantity.end) == "-")
    if at < len(tokens) and tokens[at].content and not tokens[at].number:
        quantity.noun = tokens[at].stem
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


# --- numbers in words


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
    return _spelled(tokens, k) if low in lex.COUNTING else None


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
    kind: QuantityKind = "cardinal"
    group = ""  # of the last word: unit, teen, ten, scale
    scaled = False
    end = at = k
    while at < min(len(tokens), k + _MAX_WORDS):
        low, after = tokens[at].low, low_at(tokens, at + 1)
        if (low == "-" and group in ("ten", "scale", "teen") and after in lex.COUNTING) or (
            low == "and" and group == "scale" and (after in lex.CARDINALS or after in lex.ORDINALS)
        ):
            at += 1
            continue
        value = lex.CARDINALS.get(low, lex.ORDINALS.get(low, -1))
        scale = lex.SCALES.get(low, value if value >= 100 else 0.0)  # or hundredth, thousandth
        if scale and (group or at == k):
            current = (current or 1) * scale
            if scale not in (100.0, 12.0):
                total, current = total + current, 0
            group, scaled = "scale", True
        elif 0 <= value < 10 and group in ("", "scale", "ten"):
            current += value
            group = "unit"
        elif 10 <= value < 100 and group in ("", "scale"):
            current += value
            group = "ten" if value >= 20 else "teen"
        elif 10 <= value < 100 and group in ("teen", "ten") and 10 < current <= 20 and not scaled:
            current = 100 * current + value  # nineteen eighty(-four)
            group = "ten" if value >= 20 else "year"
        else:
            break
        at += 1
        end = at
        if low in lex.ORDINALS:
            kind = "ordinal"
            break
    whole = total + current
    weak = tokens[k].low in ("one", "first", "second", "zero") and end == k + 1
    if kind == "cardinal" and is_year(whole) and not scaled:
        kind = "year"
    quantity = Quantity(kind, (whole,), k, end, weak=weak, spelled=True, place=place_of(whole, 0))
    return _fraction(tokens, quantity)


def _fraction(tokens: list[Token], quantity: Quantity) -> Quantity:
    """Turn `two` before `thirds` into a fraction, and add decimals after `point`."""
    at = quantity.end + (low_at(tokens, quantity.end) == "-")
    low = low_at(tokens, at)
    if quantity.kind == "cardinal" and low in lex.FRACTIONS and low != "half" and 1 <= quantity.value < 10:
        plural = low.endswith("s")
        if plural == (quantity.value > 1):
            share = quantity.value / lex.FRACTIONS[low]
            return Quantity("cardinal", (share,), quantity.start, at + 1, unit=FRACTION, spelled=True, place=0.01)
    end = at = at + 1
    while low == "point" and lex.CARDINALS.get(low_at(tokens, end), 10) < 10:
        end += 1
    if end > at:
        decimals = "".join(str(lex.CARDINALS[token.low]) for token in tokens[at:end])
        value = float(f"{int(quantity.value)}.{decimals}")
        return Quantity("cardinal", (value,), quantity.start, end, spelled=True, place=10.0 ** -len(decimals))
    return quantity


# --- units


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
    if [t.low for t in tokens[quantity.end : quantity.end + 3]] == ["and", "a", "half"]:
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
    if low in _QUALIFIERS:
        step = at + 1 + (low_at(tokens, at + 1) == "-")
        base = UNITS.get(low_at(tokens, step))
        return (None, at) if base is None else (UNITS.get(low + base.name, base), step + 1)
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
