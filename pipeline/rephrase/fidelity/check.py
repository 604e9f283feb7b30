"""The whole check of one pair."""

from __future__ import annotations

from functools import lru_cache

from pipeline.rephrase.fidelity.digits import unsupported_digits
from pipeline.rephrase.fidelity.findings import Finding, Findings, Kind
from pipeline.rephrase.fidelity.grammar import flipped_and_swapped
from pipeline.rephrase.fidelity.names import unsupported_names
from pipeline.rephrase.fidelity.replaced import replaced_names, replaced_numbers
from pipeline.rephrase.fidelity.support import unsupported_numbers
from pipeline.rephrase.fidelity.text import Text, analyse

_KEPT_SOURCES = 8


def check(source: str, rephrased: str, language: str | None = None) -> Findings:
    """Return what `rephrased` says that `source` does not support.

    `language` is the source's (`en`, `eng`, `eng_Latn`); None guesses from its function words whether it is English.
    Of other languages only numbers in digits are judged.
    """
    code = (language or "").lower().replace("-", "_").partition("_")[0]
    before = _analysed(source) if code in ("", "en", "eng") else None
    if before is None or not (code or before.english):
        numbers, are_judged = unsupported_digits(source, rephrased, code)
        judged: frozenset[Kind] = frozenset({"number"}) if are_judged else frozenset()
        return Findings(tuple(numbers), judged)
    after = analyse(rephrased)
    found: list[Finding] = [*unsupported_numbers(before, after), *unsupported_names(before, after)]
    shown = {finding.value for finding in found}
    found += [finding for finding in replaced_numbers(before, after) if finding.value not in shown]
    found += [*replaced_names(before, after), *flipped_and_swapped(before, after)]
    return Findings(tuple(found))


@lru_cache(maxsize=_KEPT_SOURCES)
def _analysed(source: str) -> Text:
    """Return `source` analysed; several rephrasings of one source follow each other."""
    return analyse(source)
