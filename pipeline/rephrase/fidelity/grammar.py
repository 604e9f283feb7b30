"""Sentences of a rephrased text beside those they were made of: flipped negation, exchanged roles.

A sentence is read for what it affirms and what it denies, word by word (`Reading`).
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.text import Finding, Text
from pipeline.rephrase.fidelity.tokens import DENYING, OPPOSITE, Sentence, Token, low_at

_ALIGNED = 0.4
_CLOSE = 0.5
_VERBATIM = 0.75
_MAX_STEMS = 80
_WINDOW = 6
"""How many tokens away, within a clause, a word of negation may stand from what it denies."""
_CLAUSE = lex.words(", ; : ( ) but which who because although though while whereas when where if ? ! .")
_SCOPE_TOKENS = 9
_NOT_ONLY = lex.words("only just merely simply solely necessarily least")
_NO_DOUBT = lex.words("doubt matter sooner wonder less fewer later more longer")
_MAX_CUES = 12


def _denies(tokens: list[Token], k: int) -> bool:
    """Whether the word of negation at `k` denies: not so in `not only`, `no doubt`, `whether or not`, `fail it`."""
    low, after = tokens[k].low, low_at(tokens, k + 1)
    if low == "not":
        return after not in _NOT_ONLY and low_at(tokens, k - 1) != "or"
    if low in ("no", "nope"):
        return after.isalpha() and after not in _NO_DOUBT
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
    def places(self) -> dict[str, int]:
        """Where each stem of a content word stands last."""
        return {token.key: k for k, token in enumerate(self.tokens) if token.key}

    @cached_property
    def by(self) -> bool:
        """Whether it says `by`."""
        return "by" in [token.low for token in self.tokens]

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
        return [k for k in known if 0 < abs(k - at) <= _WINDOW and clauses[k] == clauses[at]]


def flipped_and_swapped(source: Text, rephrased: Text) -> list[Finding]:
    """Return the sentences of `rephrased` that deny what `source` affirms, affirm what it denies, or exchange roles."""
    found: list[Finding] = []
    matches = rephrased.matches(source)
    copied = rephrased.copied(source)
    for k, sentence in enumerate(rephrased.sentences):
        if len(sentence.stems) > _MAX_STEMS:
            continue
        aligned = matches[k]
        if not aligned or aligned[0][0] < _ALIGNED or copied[k]:
            continue
        least = 0.4 * aligned[0][0]
        known: list[tuple[float, Reading]] = []
        for share, j in aligned:
            if share >= least:
                kept = source.kept.get(j)
                if not isinstance(kept, Reading):
                    kept = source.kept[j] = Reading(source.sentences[j])
                known.append((share, kept))
        own = Reading(sentence)
        flip = _flip(own, known)
        if flip:
            found.append(Finding("negation", flip))
        swap = roles_exchanged(own, [reading for _, reading in known])
        if swap:
            found.append(Finding("role", swap))
    return found


def _flip(own: Reading, known: list[tuple[float, Reading]]) -> str | None:
    """Return the words of a flipped negation, or None."""
    sentence = own.sentence
    share, best = known[0]
    flags = sentence.flags | best.sentence.flags
    if not flags & (DENYING | OPPOSITE):
        return None
    verbatim = share >= _VERBATIM
    return (
        _denied_here(own, known, verbatim)
        or _denied_there(own, best, known, verbatim)
        or _opposite(own, known)
        or _inserted(own, known)
    )


def _denied_here(own: Reading, known: list[tuple[float, Reading]], verbatim: bool) -> str | None:
    """Return a denial of something that every close source sentence affirms."""
    for at in own.heads:
        places = _places(own, at, known)
        if places and all(_differs(own, at, other, j, verbatim) for other, j in places):
            return _shown(own, at)
    return None


def _denied_there(own: Reading, best: Reading, known: list[tuple[float, Reading]], verbatim: bool) -> str | None:
    """Return something affirmed that the source denies wherever it speaks of it."""
    if own.cues and not verbatim:
        return None
    for j in best.heads:
        base = best.tokens[j].base
        mine = own.bases.get(base, [])
        if not mine:
            continue
        places = _places(own, mine[0], known)
        if places and all(_differs(own, at, other, i, verbatim) for at in mine for other, i in places):
            return own.tokens[mine[0]].shown
    return None


def _places(own: Reading, at: int, known: list[tuple[float, Reading]]) -> list[tuple[Reading, int]]:
    """Return where the close source sentences speak of position `at`: the clauses that share most with its own."""
    base = own.tokens[at].base
    places = [(reading, j) for _, reading in known if base in reading.bases for j in reading.bases[base]]
    if len(places) < 2:
        return places
    clause = own.clause_of(at)
    shares = [len(reading.clause_of(j) & clause) for reading, j in places]
    return [place for place, share in zip(places, shares, strict=True) if share == max(shares)]


def _differs(own: Reading, at: int, other: Reading, j: int, verbatim: bool) -> bool:
    """Whether position `at` and position `j` of the other sentence have opposite signs beyond doubt."""
    if own.sign(at) == other.sign(j):
        return False
    if own.blurred(at) != other.blurred(j):
        return False
    return verbatim or min(own.denials(at), other.denials(j)) == 0


def _opposite(own: Reading, known: list[tuple[float, Reading]]) -> str | None:
    """Return a word whose listed opposite the source has in its place, where neither sentence denies anything."""
    if own.cues:
        return None
    best = known[0][1]
    if not (own.sentence.flags | best.sentence.flags) & OPPOSITE:
        return None
    for base, mine in own.bases.items():
        if base not in best.bases:
            continue
        polarity = own.tokens[mine[0]].polarity
        places = _places(own, mine[0], known)
        if places and all(
            reading.tokens[j].polarity == -polarity and _differs(own, mine[0], reading, j, False)
            for reading, j in places
        ):
            return own.tokens[mine[0]].shown
    return None


def _inserted(own: Reading, known: list[tuple[float, Reading]]) -> str | None:
    """Return a denial in a sentence whose every close source sentence denies nothing in any way."""
    if not own.heads or known[0][0] < _CLOSE:
        return None
    if any(reading.negative for share, reading in known if share >= 0.5 * known[0][0]):
        return None
    if len(own.sentence.stems & known[0][1].sentence.stems) < 3:
        return None
    return _shown(own, own.heads[0])


def _shown(own: Reading, at: int) -> str:
    cue = max((k for k in own.cues if k < at), default=at)
    return " ".join(token.shown for token in own.tokens[max(0, cue - 1) : at + 1])


# --- roles


_SYMMETRIC = lex.words(
    """meet marri join merg combin differ resembl fac pla equal connect link relat shar border mix collaborat associat
    compar unit pair match cooperat negotiat be have do make use includ call name know say see become divorc dat
    found base locat correspond"""
)  # fmt: skip
_BOUNDARY = lex.words(", ; : ( ) but which who whom that because although though while whereas when where if")
_BE = lex.words("is are was were been being be am get gets got isn't aren't wasn't weren't")
_PREPOSITIONS = lex.words("in on at during after before for with and to by from into over under as until since near")
_PRONOUNS = frozenset({"it", "he", "she", "they", "we", "i", "you"})
_SIDE = 8


def roles_exchanged(own: Reading, sources: list[Reading]) -> str | None:
    """Return the relation whose two sides the sentence exchanges against each of `sources` that has it, or None."""
    if not sources:
        return None
    tokens = own.tokens
    places = sources[0].places
    order = [places[token.key] for token in tokens if token.key in places]
    if order == sorted(order) and own.by == sources[0].by:
        return None  # what both say stands in the same order, and neither alone in the passive
    for k, token in enumerate(tokens):
        if not token.content or (token.cap and k) or token.number or token.stem in _SYMMETRIC:
            continue
        stem = token.stem
        having = [source for source in sources if stem in source.sentence.stems]
        if not having or not _relates(tokens, k) or sum([other.stem == stem for other in tokens]) > 1:
            continue
        verdicts = [_exchanged(tokens, k, source) for source in having]
        if False in verdicts:
            continue
        for verdict in verdicts:
            if isinstance(verdict, str):
                return verdict
    return _route_exchanged(tokens, sources)


def _exchanged(tokens: list[Token], k: int, reading: Reading) -> str | bool | None:
    """Return the words when exchanged, False when both agree, None when it cannot be told."""
    theirs, stem = reading.tokens, tokens[k].stem
    at = [j for j, token in enumerate(theirs) if token.key == stem]
    if len(at) != 1 or not _relates(theirs, at[0]):
        return None
    agents, patients = _sides(tokens, k)
    known_agents, known_patients = _sides(theirs, at[0])
    names = reading.names
    pronoun = any(low_at(t, j + 1) in ("it", "him", "her", "them") for t, j in ((tokens, k), (theirs, at[0])))
    for mine, known, kept in (
        (agents & names, known_agents & names, patients & known_patients),
        (patients & names, known_patients & names, agents & known_agents),
    ):
        if (kept or pronoun) and mine and known and mine.isdisjoint(known):
            return f"{' '.join(sorted(mine))}: {tokens[k].shown}"
    if agents & known_agents or patients & known_patients:
        return False
    first, second = agents & known_patients, patients & known_agents
    compared = not first.isdisjoint(names) or tokens[k].low.endswith("er") or tokens[k].low in ("more", "less")
    if not first or (not second and not (compared and patients and not known_agents)):
        return None
    second = second or patients
    return f"{sorted(first)[0]} {tokens[k].shown} {sorted(second)[0]}"


def _relates(tokens: list[Token], k: int) -> bool:
    """Whether the word at `k` may be a verb, a comparative, or what somebody is of somebody."""
    low = tokens[k].low
    following = [token.low for token in tokens[k + 1 : k + 4]]
    return low.endswith(("ed", "s")) or lex.is_irregular(low) or following[:1] == ["of"] or "than" in following


def _sides(tokens: list[Token], k: int) -> tuple[set[str], set[str]]:
    """Return the stems on the side of who does it and on the side of whom it is done to."""
    left, right = _left(tokens, k), _right(tokens, k)
    by = [j for j in range(k + 1, min(len(tokens), k + 5)) if tokens[j].low == "by"]
    if by:
        return _right(tokens, by[0]), left
    passive = not _BE.isdisjoint([token.low for token in tokens[max(0, k - 4) : k]])
    return (set(), left) if passive and not tokens[k].low.endswith(("er", "ing", "th", "st")) else (left, right)


def _left(tokens: list[Token], k: int) -> set[str]:
    found: set[str] = set()
    for j in range(k - 1, max(-1, k - 1 - _SIDE), -1):
        if not found and tokens[j].low in _PRONOUNS:
            break
        if tokens[j].low in _BOUNDARY and found:
            break
        if tokens[j].party:
            found.add(tokens[j].stem)
    return found


def _right(tokens: list[Token], k: int) -> set[str]:
    found: set[str] = set()
    for j in range(k + 1, min(len(tokens), k + 1 + _SIDE)):
        low = tokens[j].low
        if low in _BOUNDARY or low in _PREPOSITIONS:
            break
        if tokens[j].party:
            found.add(tokens[j].stem)
    return found


def _route_exchanged(tokens: list[Token], sources: list[Reading]) -> str | None:
    """Return `from A to B` where the source has `from B to A` and never the same."""
    routes = _routes(tokens)
    if not routes:
        return None
    for start, end in routes:
        known = [route for source in sources for route in _routes(source.tokens)]
        if any(start & other_start or end & other_end for other_start, other_end in known):
            continue
        if any(start & other_end and end & other_start for other_start, other_end in known):
            return f"from {sorted(start)[0]} to {sorted(end)[0]}"
    return None


def _routes(tokens: list[Token]) -> list[tuple[set[str], set[str]]]:
    found: list[tuple[set[str], set[str]]] = []
    for k, token in enumerate(tokens):
        if token.low != "from":
            continue
        to = next((j for j in range(k + 2, min(len(tokens), k + 8)) if tokens[j].low == "to"), None)
        if to is None or any(tokens[j].low in _BOUNDARY for j in range(k, to)):
            continue
        start = {t.stem for t in tokens[k + 1 : to] if t.content}
        end = _right(tokens, to) | {t.stem for t in tokens[to + 1 : to + 2] if t.number}
        if start and end:
            found.append((start, end))
    return found
