"""A sentence as the rules of negation and of roles see it, each part worked out when it is first needed."""

from __future__ import annotations

from collections import defaultdict

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.lazy import lazy
from pipeline.rephrase.fidelity.polarity import Polarity, clauses_of, count_around, read_polarity
from pipeline.rephrase.fidelity.tokens import Sentence


class Reading:
    """A sentence with its polarity and where each base stands."""

    def __init__(self, sentence: Sentence) -> None:
        """Read `sentence`."""
        self.sentence = sentence

    @lazy
    def polarity(self) -> Polarity:
        """Where and what the sentence denies."""
        return read_polarity(self.sentence)

    @lazy
    def bases(self) -> dict[str, list[int]]:
        """Where each base of a content word stands."""
        bases: defaultdict[str, list[int]] = defaultdict(list)
        for k, token in enumerate(self.sentence.tokens):
            if token.content:
                bases[token.base].append(k)
        for k in self.polarity.cues:
            base = self.sentence.tokens[k].base
            if self.sentence.tokens[k].content:
                bases[base].remove(k)
                if not bases[base]:
                    del bases[base]
        return dict(bases)

    @lazy
    def places(self) -> dict[str, int]:
        """Where each stem of a content word stands last; an empty stem stands for all other words."""
        return {token.key: k for k, token in enumerate(self.sentence.tokens)}

    @lazy
    def by(self) -> bool:
        """Whether it says `by`."""
        return "by" in [token.low for token in self.sentence.tokens]

    @lazy
    def names(self) -> frozenset[str]:
        """The stems of its names."""
        return frozenset(
            [
                token.stem
                for token in self.sentence.tokens
                if token.cap and not token.common and not token.number and token.low not in lex.HONORIFICS
            ]
        )

    @lazy
    def clauses(self) -> list[int]:
        """The clause of each token."""
        return self.polarity.clauses or clauses_of(self.sentence.tokens)

    def clause_of(self, at: int) -> set[str]:
        """Return the bases of the content words in the clause of position `at`."""
        clause = self.clauses[at]
        return {t.base for k, t in enumerate(self.sentence.tokens) if t.content and self.clauses[k] == clause}

    def sign(self, at: int) -> int:
        """Return +1 or -1: what is affirmed or denied at position `at`."""
        polarity = self.sentence.tokens[at].polarity
        return -polarity if count_around(self.polarity, at) % 2 else polarity
