"""A text analysed once: sentences, an index of their words, the numbers of the whole; and what rules find in it."""

from __future__ import annotations

import weakref
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.quantities import read_numbers
from pipeline.rephrase.fidelity.quantity import Date, Moment, Numbers, Quantity
from pipeline.rephrase.fidelity.tokens import NUMERIC, ODD, WORD, Sentence, Token, sentences

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
        """Add every way to say less of `date`."""
        known = self.yearless if date[0] is None else self.partial
        for bits in range(8):
            known.add((date[0] if bits & 1 else None, date[1] if bits & 2 else None, date[2] if bits & 4 else None))

    def _implied(self, text: Text) -> None:
        """Add Roman numerals, and digits inside words (`COVID-19`, `G20`)."""
        self.implied: set[float] = set()
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
