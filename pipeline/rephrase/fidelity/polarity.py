"""A sentence as the rules of negation and of roles see it: what it affirms and what it denies, word by word."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.tokens import DENYING, OPPOSITE, WORD, Sentence, Token, lazy

WINDOW = 6
"""How many tokens away, within a clause, a word of negation may stand from what it denies."""
_CLAUSE = lex.words(", ; : ( ) but which who because although though while whereas when where if ? ! .")
_SCOPE_TOKENS = 9
_MAX_CUES = 12
_MINIMISERS = lex.words("only just merely simply solely necessarily least")
_AFTER_NO = lex.words("doubt matter sooner wonder less fewer later more")
YES_NO = lex.words(
    "is are was were do does did can could has have had will would should may might must am isn't aren't wasn't don't "
    "doesn't didn't whether true weren't won't can't couldn't wouldn't shouldn't"
)
_DEGREE = lex.words("very particularly especially really fully entirely completely always often also even ever")


class Polarity(NamedTuple):
    """Where a sentence denies: positions of the words that do, of what each denies first, the clauses."""

    cues: list[int]
    heads: list[int]
    clauses: list[int]
    blurs: list[int]
    negative: bool  # anything at all that denies, in whatever way


_PLAIN = Polarity([], [], [], [], False)
_NO_WORDS: frozenset[str] = frozenset()


def read_polarity(sentence: Sentence) -> Polarity:
    """Return where and what `sentence` denies."""
    if not sentence.flags & (DENYING | OPPOSITE):
        return _PLAIN
    tokens = sentence.tokens
    cues: list[int] = []
    blurs: list[int] = []
    negative = False
    for k, token in [(k, token) for k, token in enumerate(tokens) if token.flags & (DENYING | OPPOSITE)]:
        if token.deny:
            if token.deny == 2:
                blurs.append(k)
            elif _denies(tokens, k):
                cues.append(k)
        elif token.polarity < 0:
            negative = True
    heads = [head for k in cues[:_MAX_CUES] if (head := _head(tokens, k)) is not None]
    return Polarity(
        cues, heads, clauses_of(tokens) if cues or blurs else [], blurs, negative or bool(cues) or bool(blurs)
    )


def count_around(polarity: Polarity, at: int) -> int:
    """Return how many words of negation stand in the clause of position `at`, close to it."""
    if not polarity.cues:
        return 0
    clause = polarity.clauses[at]
    return sum(0 < abs(k - at) <= WINDOW and polarity.clauses[k] == clause for k in polarity.cues)


def blurred_around(tokens: list[Token], polarity: Polarity, at: int) -> frozenset[str]:
    """Return the words close to position `at`, and not there, that make its polarity hard to tell."""
    return frozenset(
        [
            tokens[k].stem
            for k in polarity.blurs
            if 0 < abs(k - at) <= WINDOW and polarity.clauses[k] == polarity.clauses[at]
        ]
    )


def _denies(tokens: list[Token], k: int) -> bool:
    """Whether the word of negation at `k` denies: not so in `not only`, `No. 5`, `No, ...`, `whether or not`."""
    low = tokens[k].low
    after = tokens[k + 1].low if k + 1 < len(tokens) else ""
    if low == "not" or low.endswith("n't"):
        return after not in _MINIMISERS and not (k >= 2 and tokens[k - 1].low == "or")
    if low in ("no", "nope"):
        if after in (",", ".", ":", ";", "!", "-", "", '"', "'", ")"):
            return False
        return after not in _AFTER_NO and after != "longer"
    if low in ("nothing", "none") and after in ("but", "other"):
        return False
    if low in ("never", "not") and after in ("!", ".") and k <= 1:
        return False
    if tokens[k].stem in ("declin", "fail", "neglect"):
        return after == "to" and k + 2 < len(tokens) and tokens[k + 2].kind == WORD
    return True


def clauses_of(tokens: list[Token]) -> list[int]:
    """Return the number of the clause that each token belongs to."""
    numbers: list[int] = []
    clause = 0
    for token in tokens:
        if token.low in _CLAUSE:
            clause += 1
        numbers.append(clause)
    return numbers


def _head(tokens: list[Token], k: int) -> int | None:
    """Return the content word that the cue at `k` denies first; an adverb only where nothing else follows."""
    adverb: int | None = None
    for j in range(k + 1, min(len(tokens), k + 1 + _SCOPE_TOKENS)):
        token = tokens[j]
        if token.low in _CLAUSE and not (j == k + 1 and token.low == ","):
            break
        if not token.content:
            continue
        if token.low in _DEGREE or (token.low.endswith("ly") and token.polarity > 0):
            adverb = j if adverb is None else adverb
            continue
        return j
    return adverb


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
