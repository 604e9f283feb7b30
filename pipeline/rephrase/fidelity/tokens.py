"""Tokens of a text, sentence by sentence; what is known of a spelling is worked out once and kept.

Tokens are words (with an apostrophe part), numbers with everything glued to them (`1,200`, `1998-03-12`, `5km`, `21st`)
and single punctuation marks. What stands between two blanks is looked up whole: working out its tokens takes
microseconds and finding them again tens of nanoseconds, three times as fast as searching the text with one expression.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import chain, compress
from operator import attrgetter
from typing import NamedTuple

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.quantity import Parsed, parse_number

WORD, NUMBER, MARK = range(3)
NUMERIC, CAPITAL, DENYING, OPPOSITE, ODD = (1 << k for k in range(5))
"""Bits of `Token.flags` and `Sentence.flags`: a sentence without a bit need not be searched for what it stands for."""
_MAX_KNOWN = 100_000
_MAX_TOKEN = 60
_MAX_CHUNKS = 2000
_MAX_TOKENS = 150
"""Longer sentences are read in pieces: what compares two sentences takes the square of their length."""

_TOKEN = re.compile(
    r"[^\W\d_]\w*(?:'[^\W\d_]+)?|\d+(?:[,.:/\-]\d+)*(?:'s|[^\W\d_]+)?|[^\w\s]|_",
)
_DOTTED = re.compile(r"\b(?:[A-Za-z]\.){2,}")
_ENDS = re.compile(r"[.!?][\"')\]*]*\Z")
_STARTS = re.compile(r"[\"'(\[*_]*[A-Z0-9]")
_ABBREVIATION = re.compile(
    r"[(\"'\[]*(?:Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Rev|Gen|Col|Capt|Lt|Sgt|Sen|Rep|Gov|vs|etc|e\.g|i\.e|cf|No|Nos|Vol|Fig|ca|approx"
    r"|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec|Inc|Ltd|Co|Corp|Mt|Ft|[A-Z])\.\Z"
)
_LIST_MARK = re.compile(r">*(?:[-*\u2022\u00b7\u2013#]+|\(?\d{1,2}[.)]|[A-Za-z][.)])\Z")
_MAX_MARK = 5
_LABEL = re.compile(
    r"\s*(?:\**(?:Q(?:uestion)?|A(?:nswer)?|Step|Part|Tip|Pair|Item|Point|Example|Fact|Section|Chapter)\s*#?\d{0,3}\s*[:.)]\**)+\s*",
    re.IGNORECASE,
)
_STRAIGHT = {
        "\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"', "\u2010": "-", "\u2011": "-",
        "\u2012": "-", "\u2013": "-", "\u2014": " - ", "\u2212": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
        "\u00bd": " 1/2", "\u00bc": " 1/4", "\u00be": " 3/4", "\u2153": " 1/3", "\u2154": " 2/3", "\u00ad": "",
        "\u2044": "/", "\u00d7": "x", "\u00b2": " squared", "\u00b3": " cubed", "\u200b": "",
}  # fmt: skip
_ODD = re.compile("[" + "".join(_STRAIGHT) + "]")
_CLOSERS = frozenset("\"')*]")
_ENDINGS = frozenset(".!?;,")
_CLAUSE_MARKS = frozenset({";", ":", "and", ","})


class Token:
    """What is known of one spelling: lower case without possessive, stem, and which lists it is on."""

    __slots__ = (
        "acronym", "base", "cap", "common", "content", "deny", "flags", "key", "kind", "low",
        "number", "parsed", "party", "polarity", "shown", "stem",
    )  # fmt: skip

    def __init__(self, shown: str) -> None:
        """Analyse `shown`; over-long spellings are cut, since no rule looks that far."""
        self.shown = shown = shown[:_MAX_TOKEN]
        first = shown[0]
        self.kind = WORD if first.isalpha() else NUMBER if first.isdigit() else MARK
        self.parsed: Parsed | None = parse_number(shown) if self.kind == NUMBER else None
        low = fold(shown.lower())
        if self.kind == WORD and "'" in low and not low.endswith("n't"):
            low = low.split("'", 1)[0] or low
        self.low = low
        self.stem = lex.stem(low) if self.kind == WORD else low
        self.cap = self.kind == WORD and first.isupper()
        self.acronym = self.cap and len(low) > 1 and sum(c.isupper() for c in shown) * 2 > len(low)
        self.content = self.kind != MARK and low not in lex.FUNCTION_WORDS and low not in lex.NEGATIONS
        self.common = self.kind == WORD and _is_common(low)
        self.number = self.kind == NUMBER or (self.kind == WORD and low in lex.NUMBER_WORDS)
        denies = self.kind == WORD and (low in lex.NEGATIONS or low.endswith("n't") or low == "cannot")
        stemmed = self.stem
        self.deny = 1 if denies or stemmed in lex.FLIPPERS else 2 if stemmed in lex.BLURS else 0
        self.base, self.polarity = _base_of(low, self.stem) if self.kind == WORD else (low, 1)
        self.key = self.stem if self.content else ""
        self.party = self.content and not self.number and not low.endswith("ly")  # may be who does it, or to whom
        odd = self.kind == WORD and (not low.isalpha() or self.acronym)
        self.flags = (
            NUMERIC * self.number
            + CAPITAL * self.cap
            + DENYING * (self.deny > 0)
            + OPPOSITE * (self.polarity < 0)
            + ODD * odd
        )


class Sentence(NamedTuple):
    """The tokens of one sentence, heading or list item, the stems of its content words, the kinds of its tokens."""

    tokens: list[Token]
    stems: frozenset[str]
    flags: int
    question: bool
    heading: bool
    listed: bool


class Chunk:
    """What stands between two blanks: its tokens, what they add to a sentence, whether it may end or begin one."""

    __slots__ = ("ends", "flags", "keys", "starts", "tokens")

    def __init__(self, tokens: tuple[Token, ...], ends: bool, starts: bool) -> None:
        """Gather the stems of content words and the flags of `tokens`."""
        self.tokens = tokens
        self.keys = tuple([token.key for token in tokens if token.key])
        self.flags = _all_flags(tokens)
        self.ends = ends
        self.starts = starts


class _Tokens(dict[str, Token]):
    """Spellings already analysed; emptied when full, so that no stream of odd words fills the memory."""

    def __missing__(self, shown: str) -> Token:
        if len(self) >= _MAX_KNOWN:
            self.clear()
        token = self[shown] = Token(shown)
        return token


class _Chunks(dict[str, Chunk]):
    """Chunks already analysed; long ones, which hardly ever come again, are not kept."""

    def __missing__(self, chunk: str) -> Chunk:
        # Plain quotes and dashes, and acronyms without dots.
        straight = chunk if chunk.isascii() else _ODD.sub(lambda match: _STRAIGHT[match[0]], chunk)
        straight = _DOTTED.sub(lambda match: match[0].replace(".", ""), straight)
        tokens = tuple(_KNOWN[shown] for shown in _TOKEN.findall(straight))
        ends = _ENDS.search(straight) is not None and _ABBREVIATION.match(straight) is None
        made = Chunk(tokens, ends and not _DOTTED.search(chunk), _STARTS.match(straight) is not None)
        if len(chunk) <= _MAX_TOKEN:
            if len(self) >= _MAX_KNOWN:
                self.clear()
            self[chunk] = made
        return made


_KNOWN = _Tokens()
_CHUNKS = _Chunks()
_tokens = attrgetter("tokens")
_keys = attrgetter("keys")
_flags = attrgetter("flags")
_ends = attrgetter("ends")


def sentences(text: str) -> list[Sentence]:
    """Return the sentences of `text` in order; list marks and labels such as `Answer:` or `3.` are left out."""
    found: list[Sentence] = []
    known = _CHUNKS.__getitem__
    for line in text.split("\n"):
        chunks = line.split()
        if not chunks:
            continue
        first = chunks[0]
        listed = False
        if len(first) <= _MAX_MARK and not first.isalpha():
            listed = _LIST_MARK.match(first) is not None
            if listed:
                line = line.lstrip()[len(first) :].lstrip()
                chunks = line.split()
        if label := _LABEL.match(line):
            chunks = line[label.end() :].split()
        _add_sentences([*map(known, chunks)], listed, found)
    return found


def _add_sentences(chunks: list[Chunk], listed: bool, found: list[Sentence]) -> None:
    if len(chunks) > _MAX_CHUNKS:
        for first in range(0, len(chunks), _MAX_CHUNKS):
            _add_sentences(chunks[first : first + _MAX_CHUNKS], listed, found)
        return
    start = 0
    last = len(chunks) - 1
    for k in compress(range(last), map(_ends, chunks)):
        if chunks[k + 1].starts:
            _add_sentence(chunks[start : k + 1], listed, found)
            start = k + 1
    if start <= last:
        _add_sentence(chunks[start:] if start else chunks, listed, found)


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


def fold(low: str) -> str:
    """Return `low` without accents."""
    if low.isascii():
        return low
    return "".join(c for c in unicodedata.normalize("NFKD", low) if not unicodedata.combining(c))


def _add_sentence(chunks: list[Chunk], listed: bool, found: list[Sentence]) -> None:
    """Add the sentence of `chunks`: none when empty, an over-long one (a table, hostile text) in pieces."""
    tokens = [*chain.from_iterable(map(_tokens, chunks))]
    if len(tokens) > _MAX_TOKENS:
        for first in range(0, len(tokens), _MAX_TOKENS):
            piece = tokens[first : first + _MAX_TOKENS]
            stems = frozenset([token.key for token in piece if token.key])
            found.append(Sentence(piece, stems, _all_flags(piece), *_manner(piece), listed))
    elif tokens:
        flags = 0
        for bits in filter(None, map(_flags, chunks)):
            flags |= bits
        stems = frozenset(chain.from_iterable(map(_keys, chunks)))
        found.append(Sentence(tokens, stems, flags, *_manner(tokens), listed))


def _all_flags(tokens: Iterable[Token]) -> int:
    flags = 0
    for token in tokens:
        flags |= token.flags
    return flags


def _manner(tokens: list[Token]) -> tuple[bool, bool]:
    """Return whether a sentence is a question, and whether it is a heading: does not end as sentences do."""
    end = tokens[-1].shown
    if end in _CLOSERS:
        end = next((token.shown for token in tokens[-2:-4:-1] if token.shown not in _CLOSERS), "")
    return end == "?", end not in _ENDINGS


_ENDINGS_AWAY = tuple(
    (ending, other)
    for other, endings in (("", "s es ed ing ly er ers or ors ness"), ("e", "ed ing er ers or ors ation"), ("y", "ies"))
    for ending in endings.split()
)


def _is_common(low: str) -> bool:
    common = lex.common_words()
    return (
        low in common
        or len(low) == 1
        or any(low.endswith(ending) and low[: -len(ending)] + other in common for ending, other in _ENDINGS_AWAY)
    )


def _base_of(low: str, stemmed: str) -> tuple[str, int]:
    """Return the word that `low` is judged by and -1 when `low` is its opposite: uncommon is common, denied."""
    signs = lex.opposites()
    if stemmed in signs:
        return signs[stemmed]
    if low.startswith("un") and len(low) > 5 and _is_common(low[2:]):
        base, sign = signs.get(lex.stem(low[2:]), (lex.stem(low[2:]), 1))
        return base, -sign
    if (
        low.endswith("less")
        and len(low) > 6
        and low[:-4] in lex.common_words()
        and low not in ("unless", "nonetheless")
    ):
        return lex.stem(low[:-4]), -1
    return stemmed, 1
