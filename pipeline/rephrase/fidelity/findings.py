"""What the rules found: one list, each finding with its kind and the words that gave rise to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Kind = Literal["number", "date", "unit", "name", "negation", "role"]
KINDS: tuple[str, ...] = get_args(Kind)


class Finding(NamedTuple):
    """Something that the source does not support: `kind`, and the words of the rephrased text (`value`)."""

    kind: Kind
    value: str


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of one pair, and which kinds the language allowed to judge."""

    found: tuple[Finding, ...] = ()
    names_judged: bool = True
    grammar_judged: bool = True  # negation and roles

    def count(self, kind: Kind) -> int:
        """Return how many findings are of `kind`."""
        return sum(finding.kind == kind for finding in self.found)
