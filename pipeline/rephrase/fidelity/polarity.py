"""A sentence as the rules of negation and of roles see it: what it affirms and what it denies, word by word."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.tokens import DENYING, OPPOSITE, Sentence, Token, low_at

WINDOW = 6
"""How many tokens away, within a clause, a word of negation may stand from what it denies."""
_CLAUSE = lex.words(", ; : ( ) but which who because although though while whereas when where if ? ! .")
_SCOPE_TOKENS = 9
_MAX_CUES = 12
YES_NO = lex.words(
    "is are was were do does did can could has have had will would should may might must am isn't aren't wasn't don't "
    "doesn't didn't whether true weren't won't can't couldn't wouldn't shouldn't"
)


def _denies(tokens: list[Token], k: int) -> bool:
    """Whether the word of negation at `k` denies: not so in `No, ...`, `whether or not`, `fail the test`."""
    low, after = tokens[k].low, low_at(tokens, k + 1)
    if low == "not":
        return low_at(tokens, k - 1) != "or"
    if low in ("no", "nope"):
        return after.isalpha()
    if tokens[k].stem in ("declin", "fail", "neglect"):
        return after == "to" and low_at(tokens, k + 2).isalpha()
    return True


def _head(tokens: list[Token], k: int) -> int | None:
    """Return the content word of its clause that the cue at `k` denies first."""
    for j in range(k + 1, min(len(tokens), k + 1 + _SCOPE_TOKENS)):
        if tokens[j].low in _CLAUSE and not (j == k + 1 and tokens[j].low == ","):
            break
        if tokens[j].content:
            return j
    return None


class Reading:
    """A sentence with its words of negation and where each base stands, each part worked out when it is first needed.

    Positions are those of `tokens`.
    """

    def __init__(self, sentence: Sentence) -> None:
        """Read `sentence`."""
        self.sentence = sentence
        self.tokens = sentence.tokens

    @cached_property
    def cues(self) -> list[int]:
        """Where the words stand that deny."""
        return [k for k in self._flagged if self.tokens[k].deny == 1 and _denies(self.tokens, k)]

    @cached_property
    def blurs(self) -> list[int]:
        """Where the words stand around which polarity is not judged."""
        return [k for k in self._flagged if self.tokens[k].deny == 2]

    @cached_property
    def _flagged(self) -> list[int]:
        if not self.sentence.flags & (DENYING | OPPOSITE):
            return []
        return [k for k, token in enumerate(self.tokens) if token.flags & (DENYING | OPPOSITE)]

    @cached_property
    def heads(self) -> list[int]:
        """Where that stands which each of the first cues denies first."""
        return [head for k in self.cues[:_MAX_CUES] if (head := _head(self.tokens, k)) is not None]

    @cached_property
    def negative(self) -> bool:
        """Whether anything at all denies, in whatever way."""
        opposite = any(not self.tokens[k].deny and self.tokens[k].polarity < 0 for k in self._flagged)
        return opposite or bool(self.cues or self.blurs)

    @cached_property
    def bases(self) -> dict[str, list[int]]:
        """Where each base of a content word stands, but for the words that deny."""
        bases: defaultdict[str, list[int]] = defaultdict(list)
        for k, token in enumerate(self.tokens):
            if token.content and k not in self.cues:
                bases[token.base].append(k)
        return dict(bases)

    @cached_property
    def names(self) -> frozenset[str]:
        """The stems of its names."""
        named = [t for t in self.tokens if t.cap and not t.common and not t.number and t.low not in lex.HONORIFICS]
        return frozenset([token.stem for token in named])

    @cached_property
    def clauses(self) -> list[int]:
        """The number of the clause that each token belongs to."""
        numbers: list[int] = []
        clause = 0
        for token in self.tokens:
            if token.low in _CLAUSE:
                clause += 1
            numbers.append(clause)
        return numbers

    def clause_of(self, at: int) -> set[str]:
        """Return the bases of the content words in the clause of position `at`."""
        clause = self.clauses[at]
        return {t.base for k, t in enumerate(self.tokens) if t.content and self.clauses[k] == clause}

    def sign(self, at: int) -> int:
        """Return +1 or -1: what is affirmed or denied at position `at`."""
        return -self.tokens[at].polarity if self.denials(at) % 2 else self.tokens[at].polarity

    def denials(self, at: int) -> int:
        """Return how many words of negation stand in the clause of position `at`, close to it."""
        return len(self._close(self.cues, at))

    def blurred(self, at: int) -> frozenset[str]:
        """Return the words close to position `at`, and not there, that make its polarity hard to tell."""
        return frozenset([self.tokens[k].stem for k in self._close(self.blurs, at)])

    def _close(self, known: list[int], at: int) -> list[int]:
        clauses = self.clauses if known else []
        return [k for k in known if 0 < abs(k - at) <= WINDOW and clauses[k] == clauses[at]]
