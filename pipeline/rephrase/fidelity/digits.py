"""Numbers in digits, in any language: all that is judged of texts that are not English.

A language decides which of `.` and `,` is the decimal sign; where it is not known, a number counts as supported or not
only when both readings agree. What may stand in words in the source, or in another unit, is not judged.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.text import Finding

_COMMA = lex.words(
    """de deu ger fr fra fre es spa it ita nl nld dut pt por ru rus uk ukr be bel pl pol cs ces cze sk slk slo sv swe da
    dan no nb nn nor nob fi fin is isl tr tur el ell gre ro ron rum hu hun bg bul hr hrv sr srp bs bos sl slv mk mkd sq
    sqi lt lit lv lav et est id ind vi vie ca cat gl glg eu eus az aze kk kaz ka kat hy hye af afr lb ltz"""
)
_POINT = lex.words(
    """en eng zh zho chi cmn yue wuu ja jpn ko kor th tha he heb hi hin bn ben ta tam te tel mr mar gu guj pa pan kn kan
    ml mal ur urd ne nep si sin my mya km khm lo lao ms msa tl tgl fil sw swa am amh ga gle cy cym mt mlt"""
)
_NUMBER = re.compile(r"(?<![\d.,])\d{1,3}(?:[ \u00a0\u202f\u2009'’]\d{3})+(?:[.,]\d+)?(?!\d)|\d+(?:[.,]\d+)*")
_GROUP_MARKS = re.compile(r"[ \u00a0\u202f\u2009'’]")
_LIST_MARK = re.compile(r"^[ \t]*\(?\d{1,3}[.)][ \t]+", re.MULTILINE)
_READINGS = {
    ",": re.compile(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?|\d+(?:,\d+)?"),
    ".": re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,2}(?:,\d{2})+,\d{3}|\d+(?:\.\d+)?"),
}
_SYMBOLS = frozenset("%‰°:/-–")
_UNSPACED = 0x2E80
_AFTER = re.compile(r"[ \u00a0\u202f\u2009]?(?:([^\W\d_]+)|(\S))")
_MAX_DIGITS = 60


class _Number(NamedTuple):
    value: float
    beside: str  # the beginning of the word behind it, or the sign at it: what it counts, as far as that shows
    shown: str


def unsupported_digits(source: str, rephrased: str, code: str) -> tuple[list[Finding], bool]:
    """Return the numbers of `rephrased` that `source` has not, and whether all of them could be judged.

    `code` is the language's, as in ISO 639-1 or 639-3; an unknown or empty one is read both ways.
    """
    before, after = unicodedata.normalize("NFC", source), unicodedata.normalize("NFC", rephrased)
    after = _LIST_MARK.sub("", after)
    decimals = "," if code in _COMMA else "." if code in _POINT else ",."
    readings = [_judged(before, after, decimal) for decimal in decimals]
    found, judged = [], True
    for verdicts in zip(*readings, strict=True):
        supported = {is_supported for is_supported, _ in verdicts}
        if supported == {False}:
            found.append(Finding("number", verdicts[0][1]))
        elif supported != {True}:
            judged = False
    return found, judged


def _judged(source: str, rephrased: str, decimal: str) -> list[tuple[bool | None, str]]:
    """Return of each number of `rephrased`, in order, whether the source supports it, and how it is written."""
    known = [number for group in _numbers(source, decimal) for number in group]
    groups = list(_numbers(rephrased, decimal))
    said = {number.value for group in groups for number in group}
    values = {number.value for number in known}
    unused = [number for number in known if number.value not in said]
    besides, scales = {number.beside for number in unused} - {""}, _scales(unused)
    numerals = {unicodedata.numeric(c, -1) for c in set(source) if not c.isdecimal()}
    found: list[tuple[bool | None, str]] = []
    for group in groups:
        verdicts = [number.value in values or _unknown(number, besides, scales, numerals) for number in group]
        worst = False if False in verdicts else None if None in verdicts else True
        found.append((worst, group[0].shown))
    return found


def _unknown(number: _Number, besides: set[str], scales: dict[str, set[int]], numerals: set[float]) -> bool | None:
    """Return False for a number that the source cannot have in another form, None where it may.

    `besides` and `scales` are of those numbers of the source that the rephrased text has not.
    """
    value, beside = number.value, number.beside
    if beside in besides:
        return False  # it stands in the place of another
    digits_of, exponent = _scale(value)
    if any(abs(exponent - other) >= 2 for other in scales.get(digits_of, ())):
        return None  # 1.300.000 and 1,3 million
    digits = {int(digit) for digit in f"{value:g}" if digit.isdecimal() and digit != "0"}
    if digits and digits <= numerals:
        return None
    unspaced = bool(beside) and ord(beside[0]) >= _UNSPACED
    if value <= 10 or (not unspaced and _is_spelled_often(value)):
        return None
    is_year = 1000 <= value <= 2100 and value == int(value)
    return None if scales and beside and not is_year else False  # perhaps in another unit


def _scales(numbers: list[_Number]) -> dict[str, set[int]]:
    """Return the powers of ten by the digits that they go with."""
    found: dict[str, set[int]] = {}
    for number in numbers:
        digits, exponent = _scale(number.value)
        found.setdefault(digits, set()).add(exponent)
    return found


def _scale(value: float) -> tuple[str, int]:
    digits, _, exponent = f"{value:.12e}".partition("e")
    return digits, int(exponent)


def _is_spelled_often(value: float) -> bool:
    """Whether running text may have the number in words: up to a hundred, halves, and round ones."""
    return (value <= 100 and 2 * value == int(2 * value)) or len(f"{value:.0f}".rstrip("0")) == 1


def _numbers(text: str, decimal: str) -> Iterator[list[_Number]]:
    """Yield the numbers of each place where digits stand; several where they are no number, as in `03.05.1998`."""
    for match in _NUMBER.finditer(text):
        body = _GROUP_MARKS.sub("", match[0])
        values = _values(body, decimal) if len(body) <= _MAX_DIGITS else [float(re.sub("[.,]", "", body)[:_MAX_DIGITS])]
        beside = _beside(text, match)
        yield [_Number(value, beside, f"{match[0]} {beside}".strip()) for value in values]


def _values(body: str, decimal: str) -> list[float]:
    other = "." if decimal == "," else ","
    for sign, grouping in ((decimal, other), (other, decimal)):
        if _READINGS[sign].fullmatch(body):
            return [float(body.replace(grouping, "").replace(sign, "."))]
    return [float(part) for part in re.split("[.,]", body)]


def _beside(text: str, match: re.Match[str]) -> str:
    before = text[: match.start()].rstrip(" \u00a0\u202f")[-1:]
    if before and unicodedata.category(before) == "Sc":
        return before
    after = _AFTER.match(text, match.end())
    if after is None:
        return ""
    if word := (after[1] or "").casefold():
        return word[0] if ord(word[0]) >= _UNSPACED else word[:4]
    return after[2] if after[2] in _SYMBOLS or unicodedata.category(after[2]) == "Sc" else ""
