"""The whole check of one pair."""

from __future__ import annotations

from functools import lru_cache

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.findings import Finding, Findings
from pipeline.rephrase.fidelity.grammar import flipped_and_swapped
from pipeline.rephrase.fidelity.names import unsupported_names
from pipeline.rephrase.fidelity.replaced import replaced_names, replaced_numbers
from pipeline.rephrase.fidelity.support import unsupported_numbers
from pipeline.rephrase.fidelity.text import Text, analyse

_KEPT_SOURCES = 8
_NO_NAMES = lex.words("de deu ger als bar lb ltz ja jpn zh zho cmn ko kor th tha ar ara he heb hi hin fa fas ka kat")
"""Languages whose capitals do not tell names from other words, or that have none."""


def check(source: str, rephrased: str, language: str | None = None) -> Findings:
    """Return what `rephrased` says that `source` does not support.

    `language` is the source's (`en`, `eng`, `eng_Latn`); None guesses from its function words whether it is English.
    """
    before = _analysed(source)
    after = analyse(rephrased)
    code = (language or "").lower().replace("-", "_").partition("_")[0]
    english = code in ("en", "eng") if code else before.english
    found: list[Finding] = list(unsupported_numbers(before, after))
    names = code not in _NO_NAMES and (english or bool(code) or _cased(source))
    if names:
        found += unsupported_names(before, after)
    if english:
        shown = {finding.value for finding in found}
        found += [finding for finding in replaced_numbers(before, after) if finding.value not in shown]
        if names:
            found += replaced_names(before, after)
        found += flipped_and_swapped(before, after)
    return Findings(tuple(found), names, english)


@lru_cache(maxsize=_KEPT_SOURCES)
def _analysed(source: str) -> Text:
    """Return `source` analysed; several rephrasings of one source follow each other."""
    return analyse(source)


def _cased(text: str) -> bool:
    """Whether capitals are rare enough in `text` to mark names."""
    sample = text[:2000]
    words = [word for word in sample.split() if word[0].isalpha()]
    capitals = sum(word[0].isupper() for word in words)
    lower = sum(word[0].islower() for word in words)
    return lower > 0 and capitals <= 0.25 * len(words)
