"""What the rules found: one list, each finding with its kind and the words that gave rise to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Kind = Literal["number", "date", "unit", "name", "negation", "role"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Finding(NamedTuple):
    """Something that the source does not support: `kind`, and the words of the rephrased text (`value`)."""

    kind: Kind
    value: str


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of one pair, and the kinds that could be judged in full."""

    found: tuple[Finding, ...] = ()
    judged: frozenset[Kind] = frozenset(KINDS)

    def count(self, kind: Kind) -> int | None:
        """Return how many findings are of `kind`; None where there are none, but not all could be judged."""
        count = sum(finding.kind == kind for finding in self.found)
        return count if count or kind in self.judged else None
