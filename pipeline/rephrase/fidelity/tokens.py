"""Tokens of a text, sentence by sentence; what is known of a spelling is worked out once and kept.

Tokens are words (with an apostrophe part), numbers with everything glued to them (`1,200`, `1998-03-12`, `5km`, `21st`)
and single punctuation marks. Analysing a spelling takes microseconds and finding it again tens of nanoseconds, which is
what keeps a pair of a thousand words well below a millisecond.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import NamedTuple

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.number_tokens import Parsed, parse_number
from pipeline.rephrase.fidelity.stems import stem

WORD, NUMBER, MARK = range(3)
_MAX_KNOWN = 200_000
_MAX_TOKEN = 60

_TOKEN = re.compile(
    r"[^\W\d_]\w*(?:'[^\W\d_]+)?|\d+(?:[,.:/\-]\d+)*(?:'s|[^\W\d_]+)?|[^\w\s]|_",
)
_BREAK = re.compile(r"(?<=[.!?])(?:[\"')\]*]*)\s+(?=[\"'(\[*]*[A-Z0-9])|\s*\n\s*|(?<=[。！？])")
_DOTTED = re.compile(r"\b(?:[A-Za-z]\.){2,}")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Rev|Gen|Col|Capt|Lt|Sgt|Sen|Rep|Gov|vs|etc|e\.g|i\.e|cf|No|Nos|Vol|Fig|ca|approx"
    r"|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec|Inc|Ltd|Co|Corp|Mt|Ft|[A-Z]))\.\Z"
)
_LIST_MARK = re.compile(r"[\s>]*(?:[-*•·–#]+|\(?\d{1,2}[.)]|[A-Za-z][.)])\s+")
_LABEL = re.compile(
    r"(?:\**(?:Q(?:uestion)?|A(?:nswer)?|Step|Part|Tip|Pair|Item|Point|Example|Fact|Section|Chapter)\s*#?\d{0,3}\s*[:.)]\**)+\s*",
    re.IGNORECASE,
)
_STRAIGHT = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"', "\u2010": "-", "\u2011": "-",
        "\u2012": "-", "\u2013": "-", "\u2014": " - ", "\u2212": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
        "\u00bd": " 1/2", "\u00bc": " 1/4", "\u00be": " 3/4", "\u2153": " 1/3", "\u2154": " 2/3", "\u00ad": "",
        "\u2044": "/", "\u00d7": "x", "\u00b2": " squared", "\u00b3": " cubed", "\u200b": "",
    }
)  # fmt: skip


class Token:
    """What is known of one spelling: lower case without possessive, stem, and which lists it is on."""

    __slots__ = (
        "acronym", "base", "cap", "common", "content", "deny", "kind", "low", "number", "parsed", "polarity", "shown", "sign", "stem",
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
        self.stem = stem(low) if self.kind == WORD else low
        self.cap = self.kind == WORD and first.isupper()
        self.acronym = self.cap and len(low) > 1 and sum(c.isupper() for c in shown) * 2 > len(low)
        self.content = self.kind != MARK and low not in lex.FUNCTION_WORDS and low not in lex.NEGATIONS
        self.common = self.kind == WORD and _is_common(low)
        self.number = self.kind == NUMBER or (self.kind == WORD and _is_number_word(low))
        self.sign = self.kind == WORD and (low in lex.NEGATIONS or low.endswith("n't") or low == "cannot")
        stemmed = self.stem
        self.deny = 1 if self.sign or stemmed in lex.FLIPPERS else 2 if low in lex.BLURS or stemmed in lex.BLURS else 0
        self.base, self.polarity = base_of(low, self.stem) if self.kind == WORD else (low, 1)


class Sentence(NamedTuple):
    """The tokens of one sentence, heading or list item, and the stems of its content words."""

    tokens: list[Token]
    stems: frozenset[str]
    question: bool
    heading: bool
    listed: bool


class _Known(dict[str, Token]):
    """Spellings already analysed; emptied when full, so that no stream of odd words fills the memory."""

    def __missing__(self, shown: str) -> Token:
        if len(self) >= _MAX_KNOWN:
            self.clear()
        token = self[shown] = Token(shown)
        return token


_KNOWN = _Known()
_find = _TOKEN.findall


def sentences(text: str) -> list[Sentence]:
    """Return the sentences of `text` in order; list marks and labels such as `Answer:` or `3.` are left out."""
    return [made for piece in _pieces(_straight(text)) if (made := _sentence(piece)).tokens]


def tokens_of(text: str) -> list[Token]:
    """Return the tokens of `text` as they stand."""
    return [_KNOWN[shown] for shown in _find(_straight(text))]


def fold(low: str) -> str:
    """Return `low` without accents."""
    if low.isascii():
        return low
    return "".join(c for c in unicodedata.normalize("NFKD", low) if not unicodedata.combining(c))


def _straight(text: str) -> str:
    if not text.isascii():
        text = text.translate(_STRAIGHT)
    return _DOTTED.sub(lambda match: match[0].replace(".", ""), text)


def _pieces(text: str) -> list[str]:
    pieces: list[str] = []
    for piece in _BREAK.split(text):
        if pieces and pieces[-1].endswith(".") and _ABBREVIATION.search(pieces[-1], max(0, len(pieces[-1]) - 8)):
            pieces[-1] = f"{pieces[-1]} {piece}"
        elif piece:
            pieces.append(piece)
    return pieces


def _sentence(piece: str) -> Sentence:
    mark = _LIST_MARK.match(piece)
    listed = mark is not None
    if mark:
        piece = piece[mark.end() :]
    if label := _LABEL.match(piece):
        piece = piece[label.end() :]
    known = _KNOWN
    tokens = [known[shown] for shown in _find(piece)]
    stems = frozenset([token.stem for token in tokens if token.content])
    end = piece.rstrip("\"')*] ")[-1:]
    return Sentence(tokens, stems, end == "?", end not in ".!?;,", listed)


def _is_common(low: str) -> bool:
    common = lex.common_words()
    if low in common or len(low) == 1:
        return True
    for ending, other in (("s", ""), ("es", ""), ("ed", ""), ("ed", "e"), ("ing", ""), ("ing", "e"), ("ly", ""), ("ies", "y"),
                          ("ness", ""), ("er", ""), ("ally", "al"), ("n't", ""), ("ors", "e"), ("ors", ""),
                          ("or", "e"), ("or", ""), ("ers", ""), ("ers", "e"), ("er", "e"), ("able", ""), ("able", "e"),
                          ("ation", "e"), ("ations", "e"), ("ment", ""), ("ments", ""), ("ized", "ize"), ("ised", "ize"),
                          ("ish", ""), ("like", ""), ("ility", "le"), ("iness", "y"), ("less", ""), ("ful", "")):  # fmt: skip
        if low.endswith(ending) and len(low) - len(ending) > 3 and low[: -len(ending)] + other in common:
            return True
    for beginning in (
        "re",
        "over",
        "under",
        "non",
        "pre",
        "anti",
        "mis",
        "co",
        "un",
        "inter",
        "multi",
        "sub",
        "out",
        "dis",
    ):
        if low.startswith(beginning) and len(low) - len(beginning) > 3 and low[len(beginning) :] in common:
            return True
    return False


def base_of(low: str, stemmed: str) -> tuple[str, int]:
    """Return the word that `low` is judged by and -1 when `low` is its opposite: uncommon is common, denied."""
    signs = _opposites()
    if stemmed in signs:
        return signs[stemmed]
    if low.startswith("un") and len(low) > 5 and low not in lex.NOT_PREFIXED and _is_common(low[2:]):
        base, sign = signs.get(stem(low[2:]), (stem(low[2:]), 1))
        return base, -sign
    if (
        low.endswith("less")
        and len(low) > 6
        and low[:-4] in lex.common_words()
        and low not in ("unless", "nonetheless")
    ):
        return stem(low[:-4]), -1
    return stemmed, 1


@cache
def _opposites() -> dict[str, tuple[str, int]]:
    return {stem(word): (stem(base), sign) for word, (base, sign) in lex.opposites().items()}


def _is_number_word(low: str) -> bool:
    return (
        low in lex.CARDINALS
        or low in lex.ORDINALS
        or low in lex.SCALES
        or low in lex.VAGUE
        or low in lex.DECADES
        or low in lex.FRACTIONS
        or low in lex.MONTHS
        or low in lex.WEEKDAYS
        or low in lex.SEASONS
        or low in ("noon", "midday", "midnight")
    )
