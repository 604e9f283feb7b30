"""Sentences of a rephrased text beside those they were made of: flipped negation, exchanged roles."""

from __future__ import annotations

from pipeline.rephrase.fidelity.findings import Finding
from pipeline.rephrase.fidelity.polarity import YES_NO, Polarity, blurred_around, count_around
from pipeline.rephrase.fidelity.reading import Reading
from pipeline.rephrase.fidelity.roles import roles_exchanged
from pipeline.rephrase.fidelity.text import Text
from pipeline.rephrase.fidelity.tokens import DENYING, OPPOSITE, Token

_ALIGNED = 0.4
_CLOSE = 0.5
_VERBATIM = 0.75
_MAX_STEMS = 80


def flipped_and_swapped(source: Text, rephrased: Text) -> list[Finding]:
    """Return the sentences of `rephrased` that deny what `source` affirms, affirm what it denies, or exchange roles."""
    found: list[Finding] = []
    matches = rephrased.matches(source)
    copied = rephrased.copied(source)
    for k, sentence in enumerate(rephrased.sentences):
        if not 0 < len(sentence.stems) <= _MAX_STEMS or (len(sentence.stems) == 1 and sentence.heading):
            continue
        aligned = matches[k]
        if not aligned or aligned[0][0] < _ALIGNED or copied[k]:
            continue
        least = aligned[0][0] * (0.75 if aligned[0][0] >= _VERBATIM else 0.4)
        known = [(share, _reading(source, j)) for share, j in aligned if share >= least]
        own = Reading(sentence)
        flip = _flip(own, known)
        if flip:
            found.append(Finding("negation", flip))
        close = [reading for share, reading in known if share >= max(_ALIGNED, 0.8 * known[0][0])]
        swap = roles_exchanged(own, close)
        if swap:
            found.append(Finding("role", swap))
    return found


def _reading(source: Text, k: int) -> Reading:
    """Return sentence `k` of `source`, which keeps what is worked out of it."""
    kept = source.kept.get(k)
    if not isinstance(kept, Reading):
        kept = source.kept[k] = Reading(source.sentences[k])
    return kept


def _flip(own: Reading, known: list[tuple[float, Reading]]) -> str | None:
    """Return the words of a flipped negation, or None."""
    sentence = own.sentence
    share, best = known[0]
    flags = sentence.flags | best.sentence.flags
    if not flags & (DENYING | OPPOSITE) or (sentence.question and sentence.tokens[0].low in YES_NO):
        return None
    if not own.polarity.heads and not best.polarity.heads and (own.polarity.cues or not flags & OPPOSITE):
        return None
    if len(own.bases.keys() & best.bases.keys()) < min(2, len(sentence.stems)):
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
    for at in own.polarity.heads:
        places = _places(own, at, known)
        if places and all(_differs(own, at, other, j, verbatim) for other, j in places):
            return _shown(own.sentence.tokens, own.polarity, at)
    return None


def _denied_there(own: Reading, best: Reading, known: list[tuple[float, Reading]], verbatim: bool) -> str | None:
    """Return something affirmed that the source denies wherever it speaks of it."""
    if own.polarity.cues and not verbatim:
        return None
    for j in best.polarity.heads:
        base = best.sentence.tokens[j].base
        mine = own.bases.get(base, [])
        if not mine:
            continue
        places = _places(own, mine[0], known)
        if places and all(_differs(own, at, other, i, verbatim) for at in mine for other, i in places):
            return own.sentence.tokens[mine[0]].shown
    return None


def _places(own: Reading, at: int, known: list[tuple[float, Reading]]) -> list[tuple[Reading, int]]:
    """Return where the close source sentences speak of position `at`: the clauses that share most with its own."""
    base = own.sentence.tokens[at].base
    places = [
        (reading, j)
        for _, reading in known
        if base in reading.bases and len(own.bases.keys() & reading.bases.keys()) >= min(2, len(own.bases))
        for j in reading.bases[base]
    ]
    if len(places) < 2:
        return places
    clause = own.clause_of(at)
    shares = [len(reading.clause_of(j) & clause) for reading, j in places]
    return [place for place, share in zip(places, shares, strict=True) if share == max(shares)]


def _differs(own: Reading, at: int, other: Reading, j: int, verbatim: bool) -> bool:
    """Whether position `at` and position `j` of the other sentence have opposite signs beyond doubt."""
    if own.sign(at) == other.sign(j):
        return False
    if blurred_around(own.sentence.tokens, own.polarity, at) != blurred_around(
        other.sentence.tokens, other.polarity, j
    ):
        return False
    return verbatim or min(count_around(own.polarity, at), count_around(other.polarity, j)) == 0


def _opposite(own: Reading, known: list[tuple[float, Reading]]) -> str | None:
    """Return a word whose listed opposite the source has in its place, where neither sentence denies anything."""
    if own.polarity.cues:
        return None
    best = known[0][1]
    if not (own.sentence.flags | best.sentence.flags) & OPPOSITE:
        return None
    for base, mine in own.bases.items():
        if len(mine) > 1 or base not in best.bases:
            continue
        polarity = own.sentence.tokens[mine[0]].polarity
        places = _places(own, mine[0], known)
        if places and all(
            reading.sentence.tokens[j].polarity == -polarity and _differs(own, mine[0], reading, j, False)
            for reading, j in places
        ):
            return own.sentence.tokens[mine[0]].shown
    return None


def _inserted(own: Reading, known: list[tuple[float, Reading]]) -> str | None:
    """Return a denial in a sentence whose every close source sentence denies nothing in any way."""
    if not own.polarity.heads or known[0][0] < _CLOSE:
        return None
    if any(reading.polarity.negative for share, reading in known if share >= 0.5 * known[0][0]):
        return None
    if len(own.sentence.stems & known[0][1].sentence.stems) < 3:
        return None
    return _shown(own.sentence.tokens, own.polarity, own.polarity.heads[0])


def _shown(tokens: list[Token], polarity: Polarity, at: int) -> str:
    cue = max((k for k in polarity.cues if k < at), default=at)
    return " ".join(token.shown for token in tokens[max(0, cue - 1) : at + 1])
