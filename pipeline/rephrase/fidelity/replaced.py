"""Names and numbers in the place of others: what stands between the same neighbours in the sentence it was made of."""

from __future__ import annotations

from operator import attrgetter

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.findings import Finding
from pipeline.rephrase.fidelity.name_lists import NICKNAMES, PLACES
from pipeline.rephrase.fidelity.names import Names, names_of
from pipeline.rephrase.fidelity.quantity import Quantity
from pipeline.rephrase.fidelity.text import Text
from pipeline.rephrase.fidelity.tokens import CAPITAL, NUMERIC, Sentence, Token

_ALIGNED = 0.5
_VERBATIM = 0.7
_MAX_NUMBERS = 25
_LOW = attrgetter("low")
_NO_GROUP: set[int] = set()


def replaced_names(source: Text, rephrased: Text) -> list[Finding]:
    """Return names of `rephrased` that stand where the source, in the sentence they were made of, has another name."""
    names: Names | None = None
    found: list[Finding] = []
    matches = rephrased.matches(source)
    copied = rephrased.copied(source)
    for n, sentence in enumerate(rephrased.sentences):
        if not sentence.flags & CAPITAL:
            continue
        aligned = matches[n]
        if not aligned or aligned[0][0] < _ALIGNED or copied[n]:
            continue
        best = source.sentences[aligned[0][1]]
        positions = [k for k, token in enumerate(sentence.tokens) if token.cap and k]
        if not positions and not (sentence.tokens[0].cap and not sentence.tokens[0].common):
            continue
        lows = set(map(_LOW, best.tokens))
        extra = [
            k for k in (0, *positions) if _may_be_name(sentence.tokens[k], k) and sentence.tokens[k].low not in lows
        ]
        if extra and len(aligned) > 1:
            near = {
                t.low for share, k in aligned[1:] if share >= 0.7 * aligned[0][0] for t in source.sentences[k].tokens
            }
            extra = [k for k in extra if sentence.tokens[k].low not in near]
        if not extra:
            continue
        names = names or names_of(source)
        own = {token.low for token in sentence.tokens}
        missing = [k for k, token in enumerate(best.tokens) if _may_be_name(token, k) and token.low not in own]
        for k in extra:
            if (
                sentence.tokens[k].low in lex.FUNCTION_WORDS
                or sentence.tokens[k].low in lex.HONORIFICS
                or sentence.tokens[k - 1].shown in ('"', ":", "(", "'")
            ):
                continue
            known = sentence.tokens[k].low in names.capitals
            if not known and (
                not sentence.tokens[k].common
                or sentence.tokens[k].acronym
                or sentence.heading
                or sentence.tokens[k].low in names.lows
            ):
                continue  # reported as unsupported, if it is a name
            token = sentence.tokens[k]
            others = [j for j in missing if _same_place(sentence, k, best, j, both=not known)]
            if any(not _same_person(token, best.tokens[j], names) for j in others):
                found.append(Finding("name", sentence.tokens[k].shown))
                break
    return found


def replaced_numbers(source: Text, rephrased: Text) -> list[Finding]:
    """Return numbers of `rephrased` that the source has, but not in the place where it has another number."""
    found: list[Finding] = []
    matches = rephrased.matches(source)
    copied = rephrased.copied(source)
    for n, sentence in enumerate(rephrased.sentences):
        if not sentence.flags & NUMERIC or copied[n]:
            continue
        aligned = matches[n]
        if not aligned or aligned[0][0] < _VERBATIM:
            continue
        quantities = rephrased.numbers(n).quantities
        if len(quantities) > _MAX_NUMBERS:
            continue
        for quantity in quantities:
            if not quantity.values or quantity.kind in ("clock", "vague"):
                continue
            around = _around(sentence.tokens, quantity)
            if not _telling(*around):
                continue
            rivals = [
                other
                for _, k in aligned
                for other in source.numbers(k).quantities[:_MAX_NUMBERS]
                if other.values and other.unit == quantity.unit and _around(source.sentences[k].tokens, other) == around
            ]
            if rivals and not any(_equal(quantity, other) for other in rivals):
                shown = " ".join(token.shown for token in sentence.tokens[quantity.start : quantity.end + 1])
                found.append(Finding("date" if quantity.kind == "year" else "number", shown))
    return found


def _equal(quantity: Quantity, other: Quantity) -> bool:
    if not set(other.values).isdisjoint(quantity.values) or _share(other) == _share(quantity):
        return True
    return bool(other.ambiguous_scale) and other.value * other.ambiguous_scale == quantity.value


def _share(quantity: Quantity) -> float:
    factor = quantity.unit.factor if quantity.unit is not None else 1.0
    return round(quantity.value * factor, 6)


def _telling(before: str, after: str) -> bool:
    """Whether the neighbours of a number say where it stands: one of them is more than punctuation."""
    return (len(before) > 2 and len(after) > 2) or (
        (len(before) > 3 or len(after) > 3) and bool(before) and bool(after)
    )


def _around(tokens: list[Token], quantity: Quantity) -> tuple[str, str]:
    before = tokens[quantity.start - 1].low if quantity.start else ""
    after = tokens[quantity.end].low if quantity.end < len(tokens) else ""
    return before, after


def _may_be_name(token: Token, k: int) -> bool:
    if not token.cap or token.number or len(token.low) < 2 or token.low in lex.HONORIFICS:
        return False
    return k > 0 or not token.common


def _same_place(sentence: Sentence, k: int, other: Sentence, j: int, both: bool) -> bool:
    """Whether the two names have a neighbouring content word in common on one side, or `both` neighbouring words."""
    if both:
        return (
            j > 0
            and _low(sentence.tokens, k - 1) == _low(other.tokens, j - 1)
            and _low(sentence.tokens, k + 1) == _low(other.tokens, j + 1)
        )
    return any(
        (mine := _neighbour(sentence.tokens, k, step)) is not None and mine == _neighbour(other.tokens, j, step)
        for step in (-1, 1)
    )


def _low(tokens: list[Token], k: int) -> str:
    return tokens[k].low if 0 <= k < len(tokens) else ""


def _neighbour(tokens: list[Token], k: int, step: int) -> str | None:
    at = k + step
    while 0 <= at < len(tokens) and abs(at - k) <= 4:
        token = tokens[at]
        if token.content and not (token.cap and not token.common):
            return token.stem
        if token.low in (",", ";", ":", "and", "or"):
            return None
        at += step
    return None


def _same_person(token: Token, other: Token, names: Names) -> bool:
    a, b = token.low, other.low
    groups = PLACES.get(a, _NO_GROUP) | NICKNAMES.get(a, _NO_GROUP)
    if groups & (PLACES.get(b, _NO_GROUP) | NICKNAMES.get(b, _NO_GROUP)):
        return True
    if b in names.bigrams.get(a, set()) or a in names.bigrams.get(b, set()) or a[:4] == b[:4]:
        return True
    return (token.acronym or other.acronym) and (a[0] == b[0])
