"""Names of a rephrased text that its source does not have: whole, shortened, as an adjective, or by its initials."""

from __future__ import annotations

import weakref

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.findings import Finding
from pipeline.rephrase.fidelity.lazy import lazy
from pipeline.rephrase.fidelity.name_lists import COUNTRIES, DEMONYM_ENDINGS, EXPANSIONS, NICKNAMES, PLACES, TOLERATED
from pipeline.rephrase.fidelity.text import Text, roman
from pipeline.rephrase.fidelity.tokens import CAPITAL, WORD, Sentence, Token

_OPENERS = frozenset(('"', "'", "(", "[", ":", "*", "-", "#", "|", "/", "_", ">", ";", "=", "“"))
_PERSON_VERBS = lex.words(
    """be have say argue write find note explain state describe report claim suggest believe think add become serve
    join win lose play work live move return die marry lead found create make publish study receive begin start also
    later show discover propose develop show tell ask defeat beat sign grow later go come take give"""
)


class Names:
    """What the source has to support names with; the rarely needed parts are worked out on demand."""

    def __init__(self, source: Text) -> None:
        """Prepare to answer for `source`."""
        self.source: Text = weakref.proxy(source)  # which keeps this: no cycle
        self.lows = source.lows
        self.stems = source.stems

    @lazy
    def capitals(self) -> frozenset[str]:
        """All words with a capital, in lower case."""
        return frozenset([t.low for s in self.source.sentences if s.flags & CAPITAL for t in s.tokens if t.cap])

    @lazy
    def groups(self) -> frozenset[int]:
        """The groups of places and first names that the source's words belong to."""
        found: set[int] = set()
        for low in self.lows:
            found |= PLACES.get(low, _NONE)
            found |= COUNTRIES.get(low, _NONE)
        for low in self.capitals:
            found |= NICKNAMES.get(low, _NONE)
        return frozenset(found)

    @lazy
    def squeezed(self) -> str:
        """All words without what stands between them."""
        return "".join([t.low for s in self.source.sentences for t in s.tokens if t.kind == WORD])

    @lazy
    def initials(self) -> tuple[str, str, str]:
        """The first letters of all words, of the content words, and of the words with a capital, in order."""
        words = [t for s in self.source.sentences for t in s.tokens if t.kind == WORD or t.low == "-"]
        every = "".join(t.low[0] for t in words)
        content = "".join(t.low[0] if t.content else "" if t.kind == WORD else " " for t in words)
        capital = "".join(t.low[0] if t.cap else "" if not t.content else " " for t in words)
        return every, content, capital

    @lazy
    def followers(self) -> frozenset[str]:
        """The capitalised words that follow another."""
        return frozenset().union(*self.bigrams.values())

    @lazy
    def by_beginning(self) -> dict[str, list[str]]:
        """The capitalised words by their first four letters."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.capitals):
            if len(name) >= 4 and name not in PLACES:
                found.setdefault(name[:4], []).append(name)
        return found

    @lazy
    def bigrams(self) -> dict[str, set[str]]:
        """For each capitalised word, the capitalised words that follow it at once or after an initial."""
        following: dict[str, set[str]] = {}
        for sentence in self.source.sentences:
            tokens = sentence.tokens
            if not sentence.flags & CAPITAL:
                continue
            for k in [k for k, token in enumerate(tokens) if token.cap]:
                for other in tokens[k + 1 : k + 4]:
                    if other.cap:
                        following.setdefault(tokens[k].low, set()).add(other.low)
                    elif other.low not in _WITHIN_NAMES:
                        break
        return following


_NONE: frozenset[int] = frozenset()
_WITHIN_NAMES = frozenset({".", "-", "'", "de", "of", "the", "van", "von", "la", "and", "&"})
_MAX_RELATED = 20
_MAX_RUN = 8


def names_of(source: Text) -> Names:
    """Return the names of `source`, which keeps them for its next rephrasing."""
    kept = source.kept.get("names")
    if not isinstance(kept, Names):
        kept = source.kept["names"] = Names(source)
    return kept


def unsupported_names(source: Text, rephrased: Text) -> list[Finding]:
    """Return the names of `rephrased` that `source` does not support, each run of words once, in order."""
    names = names_of(source)
    lows, stems = names.lows, names.stems
    found: list[Finding] = []
    seen: set[str] = set()
    copied = rephrased.copied(source)
    for n, sentence in enumerate(rephrased.sentences):
        if not sentence.flags & CAPITAL or copied[n]:
            continue
        tokens = sentence.tokens
        capitals = [k for k, token in enumerate(tokens) if token.cap]
        last = -2
        for k in capitals:
            token = tokens[k]
            if token.low in lows or token.stem in stems:
                continue
            if not _is_name(sentence, k) or _supported(tokens, k, names) or token.low in seen:
                continue
            seen.add(token.low)
            if last == k - 1 and found:
                found[-1] = Finding("name", f"{found[-1].value} {token.shown}")
            else:
                found.append(Finding("name", token.shown))
            last = k
        if len(capitals) > 1:
            found.extend(_crossed([tokens[k : k + 2] for k in capitals[:-1] if tokens[k + 1].cap], names, seen))
    return found


def _is_name(sentence: Sentence, k: int) -> bool:
    """Whether the capital of token `k` marks a name rather than a beginning, a heading or an emphasis."""
    token = sentence.tokens[k]
    low = token.low
    if token.number or low in TOLERATED or low in lex.FUNCTION_WORDS or low in lex.NEGATIONS:
        return False
    first = k == 0 or sentence.tokens[k - 1].shown in _OPENERS or sentence.tokens[k - 1].low in (".", "!", "?")
    if token.acronym and (len(low) <= 5 or not token.common):
        return not token.common or len(low) <= 4
    if token.common:
        if low in lex.NAMELIKE and not sentence.heading:
            return not first or _looks_like_person(sentence.tokens, k)
        return False
    if low in lex.HONORIFICS:
        return False
    return not (first and low.endswith(("ing", "ly", "tion", "tions", "ment", "ness", "ization", "isation", "ology")))


def _looks_like_person(tokens: list[Token], k: int) -> bool:
    if k + 1 >= len(tokens):
        return False
    after = tokens[k + 1]
    return (
        (after.cap and not after.common)
        or after.stem in _PERSON_VERBS
        or after.low in ("was", "had", "'s", "is", "said")
    )


def _supported(tokens: list[Token], k: int, names: Names) -> bool:
    token = tokens[k]
    low = token.low
    group = PLACES.get(low, _NONE) | NICKNAMES.get(low, _NONE)
    if group:
        if not group.isdisjoint(names.groups):
            return True
        if low not in EXPANSIONS:
            return False
    if token.acronym and _acronym_supported(token, names):
        return True
    if (value := roman(token.shown)) and (value in names.source.index.by_value or value in names.source.index.implied):
        return True
    if any(part in names.lows or part in names.stems for part in _variants(low)):
        return True
    if len(low) == 1:  # an initial
        return any(name.startswith(low) for name in names.capitals)
    return (len(low) >= 5 and low in names.squeezed) or _expanded(tokens, k, names) or _related(low, names)


def _variants(low: str) -> list[str]:
    """Return other spellings of the same name: plural, possessive, ae for a diaeresis."""
    variants = [low + "s", low + "es"]
    if low.endswith("s"):
        variants.append(low[:-1])
    if low.endswith("ies"):
        variants.append(low[:-3] + "y")
    for long, short in (("ae", "a"), ("oe", "o"), ("ue", "u")):
        if long in low:
            variants.append(low.replace(long, short))
    return variants


def _related(low: str, names: Names) -> bool:
    """Whether it is a listed ending away from a name of the source: Darwinian of Darwin, Darwin of Darwinian."""
    for name in names.by_beginning.get(low[:4], ())[:_MAX_RELATED]:
        shared = 0
        for a, b in zip(name, low, strict=False):
            if a != b:
                break
            shared += 1
        rests = (name[shared:], low[shared:])
        if shared >= max(4, min(len(name), len(low)) - 2) and all(
            rest in DEMONYM_ENDINGS or rest in ("", "a", "e", "o", "y", "ia", "us", "um") for rest in rests
        ):
            return True
    return False


def _acronym_supported(token: Token, names: Names) -> bool:
    low = token.low
    expansion = EXPANSIONS.get(low)
    if expansion is not None and all(word in names.lows for word in expansion.split()):
        return True
    letters = low[:-1] if low.endswith("s") and token.shown[-1] == "s" else low
    if not letters.isalpha() or len(letters) < 2:
        return False
    every, content, capital = names.initials
    if len(letters) == 2:
        return letters in capital
    return letters in every or letters in content or letters in capital


def _expanded(tokens: list[Token], k: int, names: Names) -> bool:
    """Whether the run of capitalised words around `k` spells an acronym of the source."""
    start = k
    while start > max(0, k - _MAX_RUN) and (
        tokens[start - 1].cap
        or (tokens[start - 1].low in ("of", "for", "and", "the") and start > 1 and tokens[start - 2].cap)
    ):
        start -= 1
    end = k + 1
    while end < min(len(tokens), k + _MAX_RUN) and (
        tokens[end].cap
        or (tokens[end].low in ("of", "for", "and", "the") and end + 1 < len(tokens) and tokens[end + 1].cap)
    ):
        end += 1
    run = list(tokens[start:end])
    short = "".join(token.low[0] for token in run if token.cap)
    full = "".join(token.low[0] for token in run)
    for letters in (short, full):
        for i in range(len(letters)):
            for j in range(i + 2, len(letters) + 1):
                if i <= len([t for t in tokens[start:k] if t.cap]) < j and letters[i:j] in names.capitals:
                    return True
    return any(
        word in names.lows and k_low in EXPANSIONS[word].split() for word in EXPANSIONS for k_low in [tokens[k].low]
    )


def _crossed(neighbours: list[list[Token]], names: Names, seen: set[str]) -> list[Finding]:
    """Return names put together of the parts of two: John Jones, where the source has John Smith and Mary Jones."""
    found: list[Finding] = []
    for first, second in neighbours:
        if first.common or second.common or first.number or second.number:
            continue
        a, b = first.low, second.low
        if a not in names.capitals or b not in names.capitals or a in PLACES or b in PLACES or a in lex.HONORIFICS:
            continue
        following = names.bigrams.get(a, set())
        if not following or b in following or a in names.bigrams.get(b, set()):
            continue
        if b in names.followers and (a + b) not in seen:
            seen.add(a + b)
            found.append(Finding("name", f"{first.shown} {second.shown}"))
    return found
