"""The whole check of one pair."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

from pipeline.rephrase.fidelity.digits import unsupported_digits
from pipeline.rephrase.fidelity.grammar import flipped_and_swapped
from pipeline.rephrase.fidelity.names import replaced_names, unsupported_names
from pipeline.rephrase.fidelity.support import replaced_numbers, unsupported_numbers
from pipeline.rephrase.fidelity.text import Finding, Kind, Text, analyse

_KEPT_SOURCES = 8


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of one pair, and the kinds that could be judged in full."""

    found: tuple[Finding, ...] = ()
    judged: frozenset[Kind] = frozenset(get_args(Kind))

    def count(self, kind: Kind) -> int | None:
        """Return how many findings are of `kind`; None where there are none, but not all could be judged."""
        count = sum(finding.kind == kind for finding in self.found)
        return count if count or kind in self.judged else None


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
