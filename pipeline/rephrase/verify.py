"""Verdicts on a rephrased text: every one a column, so that what is good enough is decided in SQL.

`verify` judges one pair, `verdict_table` many, `verify_file` a JSONL file of pairs. Nothing raises on odd text, and no
pair is dropped: a verdict that cannot be given is null.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import pyarrow as pa

from pipeline.kernels.statistics.repetition import copy_shares
from pipeline.llm.types import ending
from pipeline.rephrase.fidelity import lexicon
from pipeline.rephrase.fidelity.check import check
from pipeline.rephrase.fidelity.text import Finding
from pipeline.rephrase.post import SPECIAL_TOKENS, UNSPACED, meets
from pipeline.rephrase.styles import Format
from pipeline.table.errors import InputError
from pipeline.table.kept import json_lines
from pipeline.table.schema import Column, arrow
from pipeline.table.storage import open_file

VERSION = "fidelity_v4"
"""Raised when the same texts are judged otherwise."""
MAX_LINE_BYTES = 16 << 20
LEAST_OVERLAP = 0.15
"""Texts below it have nothing to do with their source. Measured on SummEdits: of the faithful summaries two lie below
(of dialogues; none of news), of texts beside the source of another domain 98 %."""
_MIN_OVERLAP_WORDS = 16
_LEAST_SOURCE_WORDS = 5
"""Of 96 faithful pairs of a source of 5 to 15 words none lies below `LEAST_OVERLAP`, of mismatched ones 93 %; of those
of fewer words 4 in 105."""
_WORD = re.compile(r"\w+")
_LONG = 4
_STEM = 5
_CLOSE = 3
_FUNCTION_WORDS = frozenset(
    word[:_STEM]
    for word in lexicon.words(
        "about above after again also been before below between could does down during each even ever from have having"
        " here into just like many more most much must none once only other over same should since some still such than"
        " that their them then there these they this those through under until upon very well were what when where"
        " which while will with within without would your"
    )
)
"""English words that say nothing of a subject. Measured on sentences of under 16 words of faithful summaries: with them
56 % of those beside another source lie below `LEAST_OVERLAP`, without them 79 %; beside their own 1.2 and 1.3 %."""
_UNSPACED = re.compile(f"[{UNSPACED}]")


class Verdicts(NamedTuple):
    """Every verdict on one pair."""

    finish_reason_ok: Annotated[bool | None, "the answer ended by itself; null when it is not known which reason it is"]
    marker_found: Annotated[
        bool | None, "it has the style's marker; null when the style requires none, or began the answer with it"
    ]
    format_ok: Annotated[bool | None, "holds what the style's format asks for; null when it asks for nothing"]
    length_ratio: Annotated[float | None, "code points of the rephrased text over those of the source"]
    length_ok: Annotated[bool | None, "within the style's limits; null when it has none"]
    same_language: Annotated[
        bool | None, "it is in the source's language; null without a detector, or when that cannot tell"
    ]
    refusal: Annotated[bool, "the model refused"]
    meta_phrase: Annotated[bool, "it speaks of its task: an introduction, notes, closing chatter"]
    leaked_tokens: Annotated[bool, "special tokens of a chat template, or U+FFFD, which the source has not"]
    source_overlap: Annotated[
        float | None,
        "share of its words that the source has, near one another; null for sources of few words, texts of none, "
        "between languages",
    ]
    copied_8gram_share: Annotated[float, "share of the text's 8-grams that stand in the source"]
    echoed_8gram_share: Annotated[float | None, "share that recites the instructions; null where they are not known"]
    repeated_8gram_share: Annotated[float, "share that repeats an earlier one of the text"]
    # Null in other languages than English; numbers in digits are judged in all, as far as they can be.
    unsupported_numbers: Annotated[int | None, "numbers that the source does not bear out"]
    unsupported_dates: Annotated[int | None, "dates that the source does not bear out; null but in English"]
    unsupported_units: Annotated[int | None, "units that the source does not bear out; null but in English"]
    unsupported_names: Annotated[int | None, "names that the source does not bear out; null but in English"]
    negation_flips: Annotated[int | None, "claims that are negated in one of the two texts alone; null but in English"]
    role_swaps: Annotated[int | None, "claims whose roles are exchanged; null but in English"]
    faithful: Annotated[bool, "what follows from the other verdicts at the default thresholds"]
    unsupported: Annotated[tuple[Finding, ...], "list of `{kind, value}`: what the source does not say"]


_ARROW = {
    bool: pa.bool_(),
    int: pa.int32(),
    float: pa.float32(),
    Finding: pa.list_(pa.struct([("kind", pa.string()), ("value", pa.string())])),
}
_KINDS = {name: get_args(kind) or (kind,) for name, kind in get_type_hints(Verdicts).items()}
_HINTS = get_type_hints(Verdicts, include_extras=True)
COLUMNS = {
    name: Column(_ARROW[kind[0]], _HINTS[name].__metadata__[0], type(None) in kind) for name, kind in _KINDS.items()
}
"""One column a verdict."""
SCHEMA = arrow(COLUMNS)
_ROUNDED = frozenset(name for name, kind in _KINDS.items() if kind[0] in (float, Finding))


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a style and its answer are held against; each may be unknown."""

    min_length_ratio: float | None = None
    max_length_ratio: float | None = None
    marker: str | None = None  # must stand in the rephrased text
    finish_reason: str | None = None
    language: str | None = None  # of the source, as ISO 639-1 or 639-3, perhaps with a script (`eng_Latn`)
    detect: Callable[[str], str | None] | None = None  # the language of a text, in the same codes
    format: Format | None = None
    instructions: str | None = None  # what the model was told besides the source


class Pair(NamedTuple):
    """A source text and what it was rephrased as."""

    source: str
    rephrased: str
    expectations: Expectations = Expectations()


def verify(source: str, rephrased: str, expectations: Expectations = Expectations()) -> Verdicts:
    """Return every verdict on `rephrased` as a rendering of `source`. Never raises on text, whatever it holds.

    `faithful` is the default threshold over the verdicts of fidelity: the text is not empty, is no refusal, has to do
    with its source, and has no unsupported number, date, unit or name, no flipped negation and no exchanged roles.
    Nulls do not count against it.
    """
    expected = expectations
    findings = check(source, rephrased, expected.language)
    refusal = is_refusal(rephrased, source)
    same_language = _same_language(source, rephrased, expected)
    overlap = None if same_language is False else source_overlap(source, rephrased)
    unrelated = overlap is not None and overlap < LEAST_OVERLAP
    copied, repeated, echoed = copy_shares(_utf8(source), _utf8(rephrased), _utf8(expected.instructions or ""))
    ratio = len(rephrased) / len(source) if source else None
    ended = None if expected.finish_reason is None else ending(expected.finish_reason)
    return Verdicts(
        finish_reason_ok=None if ended is None else ended == "complete",
        marker_found=None if expected.marker is None else expected.marker in rephrased,
        format_ok=None if expected.format is None else meets(expected.format, rephrased, ended == "cut_off"),
        length_ratio=ratio,
        length_ok=_length_ok(ratio, expected),
        same_language=same_language,
        refusal=refusal,
        meta_phrase=is_meta(rephrased, source),
        leaked_tokens=leaks(rephrased, source),
        source_overlap=overlap,
        copied_8gram_share=copied,
        echoed_8gram_share=None if expected.instructions is None else echoed,
        repeated_8gram_share=repeated,
        unsupported_numbers=findings.count("number"),
        unsupported_dates=findings.count("date"),
        unsupported_units=findings.count("unit"),
        unsupported_names=findings.count("name"),
        negation_flips=findings.count("negation"),
        role_swaps=findings.count("role"),
        faithful=not findings.found and not refusal and not unrelated and bool(rephrased.strip()),
        unsupported=findings.found,
    )


def source_overlap(source: str, rephrased: str) -> float | None:
    """Return the share of the words of `rephrased` that stand close to each other in `source` too, in any order.

    Of the distinct words of four letters and more (by their first five; of scripts without spaces, pairs of characters)
    those count that have another within three such words, in both texts. Where one of them has fewer than 16 those
    count that `source` has at all, but for English function words. None where `source` has fewer than 5, or `rephrased`
    none.
    """
    words, close = _close_words(rephrased)
    known, known_close = _close_of_source(source)
    if not words or len(known) < _LEAST_SOURCE_WORDS:
        return None
    if min(len(words), len(known)) < _MIN_OVERLAP_WORDS:
        content = words - _FUNCTION_WORDS
        return len(content & known) / max(1, len(content))
    return len({word for pair in close & known_close for word in pair}) / len(words)


def _close_words(text: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the distinct words of a text, and the pairs that stand close to each other."""
    words: list[str] = []
    for word in _WORD.findall(text.casefold()):
        if _UNSPACED.match(word):
            words += [word[k : k + 2] for k in range(max(1, len(word) - 1))]
        elif len(word) >= _LONG or word.isdecimal():
            words.append(word[:_STEM])
    pairs = {
        (min(word, other), max(word, other))
        for step in range(1, _CLOSE + 1)
        for word, other in zip(words, words[step:], strict=False)
        if word != other
    }
    return set(words), pairs


_close_of_source = lru_cache(maxsize=8)(_close_words)


def verdict_table(pairs: Iterable[Pair]) -> pa.Table:
    """Return the verdicts of `pairs` as a table of `SCHEMA`, one row a pair, in order."""
    rows = (verify(pair.source, pair.rephrased, pair.expectations) for pair in pairs)
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    arrays = [
        pa.array([*map(_plain, column)] if field.name in _ROUNDED else column, field.type)
        for field, column in zip(SCHEMA, columns, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def verdict_row(verdicts: Verdicts) -> dict[str, Any]:
    """Return `verdicts` as a dict of what JSON knows, keys in the order of `SCHEMA`."""
    return {name: _plain(value) for name, value in zip(SCHEMA.names, verdicts, strict=True)}


def verify_file(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield one JSON-able row a line of the JSONL file at `path`: its `id`, then every verdict. Blank lines have none.

    Each line is an object with `id` (text or number), `source` and `rephrased`; optional are `language`, `marker` and
    `finish_reason`. Other keys are ignored. Lines are read one at a time: memory does not grow with the file.

    Raises: InputError, with the number of the line, for what is no such object or is longer than 16 MiB; rows of the
    lines before it have been yielded.
    """
    where = Path(path)
    try:
        stream = open_file(where)
    except OSError as error:
        raise InputError(f"cannot read {where}: {error.strerror}; give a JSONL file of pairs") from error
    with stream:
        for place, row in json_lines(stream, str(where), MAX_LINE_BYTES, "an object with id, source and rephrased"):
            yield _verified_line(row, place)


def _verified_line(row: dict[str, Any], where: str) -> dict[str, Any]:
    for key in ("source", "rephrased"):
        if not isinstance(row.get(key), str):
            shown = "missing" if key not in row else f"{type(row[key]).__name__}"
            raise InputError(f"{where}: `{key}` is {shown}; it must be text")
    if isinstance(row.get("id"), bool) or not isinstance(row.get("id"), str | int):
        raise InputError(f"{where}: `id` is missing or neither text nor a whole number")
    known = {key: row.get(key) for key in ("language", "marker", "finish_reason")}
    for key, value in known.items():
        if value is not None and not isinstance(value, str):
            raise InputError(f"{where}: `{key}` is {type(value).__name__}; it must be text or null")
    return {"id": row["id"], **verdict_row(verify(row["source"], row["rephrased"], Expectations(**known)))}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [{"kind": finding.kind, "value": finding.value} for finding in value]
    return round(value, 6) if isinstance(value, float) else value


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _length_ok(ratio: float | None, expected: Expectations) -> bool | None:
    if ratio is None or (expected.min_length_ratio is None and expected.max_length_ratio is None):
        return None
    low = 0.0 if expected.min_length_ratio is None else expected.min_length_ratio
    high = float("inf") if expected.max_length_ratio is None else expected.max_length_ratio
    return low <= ratio <= high


def _same_language(source: str, rephrased: str, expected: Expectations) -> bool | None:
    if expected.detect is None:
        return None
    before = expected.language or expected.detect(source)
    after = expected.detect(rephrased)
    return None if before is None or after is None else before == after


# --- words by which a model speaks to whoever asked, rather than of its subject

_EDGE_CHARS = 400

_REFUSAL = re.compile(
    r"\b(I(?:'m| am) (?:very |so )?(?:sorry|afraid)\b[^.\n]{0,80}\b(?:can(?:'t|not)|unable|not able|won't|don't)"
    r"|(?:sorry|apologi[sz]e|apologies|unfortunately),?[^.\n]{0,40}\bI(?:'m| am)? ?"
    r"(?:can(?:'t|not)|unable|not able|won't)"
    r"|I (?:can(?:'t|not)|am unable to|am not able to|won't|will not|must decline to)"
    r" (?:\w+ ){0,2}?(?:help|assist|comply|fulfil+|provide|rephrase|rewrite|paraphrase|summari[sz]e|generate|create"
    r"|produce|complete|process|answer|continue|discuss|engage)\b"
    r"|I'm (?:unable|not able) to\b"
    r"|as an? (?:AI|artificial intelligence|(?:large )?language model)\b"
    r"|(?:against|violates?) my (?:guidelines|programming|policy|policies)"
    r"|no (?:source )?text (?:was|has been|is) (?:provided|given|supplied)"
    r"|please (?:provide|share|paste|send) (?:me )?(?:with )?the (?:\w+ ){0,2}?(?:text|passage|document|article"
    r"|content)\b)",
    re.IGNORECASE,
)
_META = re.compile(
    r"\A[\s*#>\"'`_-]*("
    r"(?:sure|certainly|of course|absolutely|okay|ok|great|no problem|gladly|alright|understood|got it)\s*[,!.:-]"
    r"|here(?:'s| is| are|'re)\b[^.\n]{0,100}(?::|\b(?:version|rephras\w*|paraphras\w*|rewrit\w*|summar\w*|text|passage"
    r"|article|list|questions?|pairs?)\b)"
    r"|below (?:is|are)\b[^.\n]{0,80}\b(?:version|rephras\w*|paraphras\w*|rewrit\w*|summar\w*|list|questions?|pairs?)\b"
    r"|(?:i have|i've|i) (?:rephrased|rewritten|rewrote|paraphrased|summari[sz]ed|extracted|created|condensed)\b"
    r"|(?:i'll|i will|let me|let's) (?:rephrase|rewrite|paraphrase|summari[sz]e|start|begin|break)\b"
    r"|(?:the )?(?:rephrased|rewritten|paraphrased|revised|distilled|summari[sz]ed) (?:version|text|passage|article"
    r"|content)\s*[:*]"
    r"|as an? (?:AI|(?:large )?language model)\b)",
    re.IGNORECASE,
)
_TASK = (
    r"(?:rephras|re-?writ|re-?wrote|re-?word|paraphras|summari[sz]|summary|condens|shorten|simplif|translat|edited|kept"
    r"|preserv|retain|maintain|omit|remov|left out|added|adding|changed|changes|followed|instruction|guideline"
    r"|requested|prompt\b|original|source\b|passage|wording|tone\b|style\b|format\b|facts?\b|meaning\b|version\b)"
)
_META_END = re.compile(
    r"(let me know (?:if|whether|what|how)|i hope (?:this|that|it) |hope (?:this|that|it) helps|is there anything else"
    r"|(?:would you like|do you want) (?:me to|another|more|to (?:continue|know|see|hear|learn|try|proceed))\b"
    r"|what would you like (?:me )?to (?:do|know|ask|discuss|learn|change)\b"
    r"|thank(?:s| you) for (?:asking|reading|sharing|your (?:question|request|input|feedback|message|patience))\b"
    r"|(?:i'm|i am) ready (?:for your|to (?:help|assist|answer))\b"
    r"|please (?:continue|proceed) with (?:the |your )?(?:next|editing|tasks?|questions?|answers?|rewrit|rephras)"
    r"|(?:^|(?<=[.!?]\s))(?:you're (?:very )?welcome\b|good luck(?: with [^.!?]{0,60})?[.!])"
    r"|(?:shall|should|may|can|could) i (?:help|assist|adjust|change)\b"
    r"|feel free to (?:ask|let me|request)|(?:do not|don't) hesitate to (?:ask|let me)"
    r"|(?:i'm|i am|i'd be|i will be) (?:happy|glad|here) to (?:help|assist|answer|adjust)"
    r"|how (?:else )?(?:can|may) i (?:help|assist)|what(?:'s| is| would be) your (?:next|other) "
    r"|do you have any (?:\w+ )?questions"
    r"|\b(?:the (?:source|original|provided|given|above|input) (?:text|passage|article|document)"
    r"|(?:this|the) (?:rephrased|paraphrased|rewritten) (?:version|text|passage))\b)[^\n]{0,200}\Z",
    re.IGNORECASE,
)
_BEGINS = r"(?:^|(?<=[.!?:\"')\]*])\s)[\s*_()\[\]\"'`#-]{0,8}"
_NOTE = re.compile(
    _BEGINS + r"(note|n\.b|p\.s|disclaimer|remark|comment|explanation|word count|(?:key )?changes(?: made)?)\b"
    r"[^\n]{0,100}?(?:\bI\b|\bmy\b|\d+ words|: ?\d+\W*$|\b" + _TASK + r")",
    re.IGNORECASE,
)
_PLEASE = re.compile(r"\b(?:please|kindly) (?=note\b)", re.IGNORECASE)
_OWN_WORK = re.compile(
    _BEGINS
    + r"(?:I(?:'ve)? (?:(?:have|did|not|also|only|just|tried|aimed|made|sure|to|that|the|all|every|any) ){0,4}"
    + _TASK
    + r"|(?i:(?:all|no|every|the (?:original|core|main)) [^\n.]{0,60}\b(?:facts?|information|details?|names?|numbers?"
    r"|meaning|tone|content|wording)\b[^\n.]{0,40}\b(?:kept|preserved|retained|rephrased|maintained|added|omitted)\b[^\n]{0,40}\Z"
    r"|(?:this|the above) (?:version|rewrite|rewriting|rephras\w+|paraphras\w+"
    r"|summary) (?:\w+ ){0,3}?" + _TASK + r"))"
)
_FIRST_PERSON = re.compile(r"\bI\b")


_REFUSAL_HINTS = (
    "sorry", "afraid", "apolog", "unfortunately", "i can", "unable", "not able", "i won", "i will not", "decline",
    "as an a", "as a l", "language model", "my guidelines", "my p", "text ", "please ",
)  # fmt: skip
_LEAK = re.compile(
    SPECIAL_TOKENS
    + r"|<unk>|\[UNK\]|<mask>|<0x[0-9A-Fa-f]{2}>|<(?:unused|extra_id_|reserved_)\d+>|\[UNUSED_TOKEN_\d+\]|\ufffd"
)


def leaks(text: str, source: str = "") -> bool:
    """Whether `text` holds a special token, or half a character, that `source` does not have."""
    return any(match[0] not in source for match in _LEAK.finditer(text))


def is_refusal(text: str, source: str = "") -> bool:
    """Whether the opening of `text` declines the task: later on, such words are probably the document's own.

    So are words that stand in `source`.
    """
    opening = text[:_EDGE_CHARS].replace("\u2019", "'")
    low = opening.lower()
    if not any(hint in low for hint in _REFUSAL_HINTS):
        return False
    match = _REFUSAL.search(opening)
    return match is not None and not opening[: match.start()].count('"') % 2 and not _stands_in(source, match)


def is_meta(text: str, source: str = "") -> bool:
    """Whether `text` opens or ends by speaking of itself, or to whoever asked, rather than of its subject.

    Words that stand in `source` are the document's own.
    """
    opening = _META.match(text[:_EDGE_CHARS].replace("\u2019", "'"))
    if opening is not None and not _stands_in(source, opening):
        return True
    line = text.rstrip()[-_EDGE_CHARS:].rpartition("\n")[2].replace("\u2019", "'")
    for pattern in (_META_END, _NOTE):
        match = pattern.search(_PLEASE.sub("", line))
        if match is not None and not _stands_in(source, match):
            return True
    return _OWN_WORK.search(line) is not None and not _FIRST_PERSON.search(source)


def _stands_in(source: str, match: re.Match[str]) -> bool:
    return bool(source) and match[1].lower() in source.lower().replace("\u2019", "'")
