"""How close a document came to each rule: every comparison of numbers in it, beside where it would turn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from math import isnan

from pipeline.table import query
from pipeline.table.errors import RuleError
from pipeline.table.query import Node

NEAR = 0.05
"""A rule is passed by little when its number lies within this share of where the rule would turn."""

_WANTS = {
    "COMPARE_GREATERTHANOREQUALTO": "at least",
    "COMPARE_GREATERTHAN": "above",
    "COMPARE_LESSTHANOREQUALTO": "at most",
    "COMPARE_LESSTHAN": "below",
}
_OPPOSITE = {"at least": "below", "below": "at least", "at most": "above", "above": "at most"}
_MIRRORED = {"at least": "at most", "at most": "at least", "above": "below", "below": "above"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison of a rule as it stands for one document. `value` is null where that is what fails.

    `margin` is the distance to the bound, negative where the comparison fails; `relative` to the larger of both.
    """

    expression: str
    wants: str
    value: float | None
    bound: float | None
    margin: float | None
    relative: float | None
    holds: bool

    def __str__(self) -> str:
        if self.value is None or self.bound is None or self.margin is None or self.relative is None:
            return f"{self.expression} or what it is compared with is null, and a null fails"
        short = "too little" if self.wants in ("at least", "above") else "too much"
        verdict = "to spare" if self.holds else short
        by = f"{abs(self.margin):.6g} ({100 * abs(self.relative):.1f} %) {verdict}"
        return f"{self.expression} is {self.value:.6g}, must be {self.wants} {self.bound:.6g}: {by}"


_Shape = int | tuple[bool, list["_Shape"]] | None
"""A predicate: the number of a comparison, parts of which all must hold or any, or what compares no numbers."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The comparisons of numbers in some rules, as they ran: their constants are in place."""

    shapes: Mapping[str, tuple[_Shape, range]]
    """Of each rule, and which comparisons are its own."""
    wants: tuple[str, ...]
    sides: tuple[str, ...]
    """SQL of the left and right side of each comparison."""

    @property
    def asked(self) -> str:
        """What to select of a document; nothing where there is no comparison."""
        return ", ".join(f"TRY({side}) AS s{number}" for number, side in enumerate(self.sides))

    def told(self, values: Sequence[object], failed: Collection[str]) -> dict[str, list[Comparison]]:
        """Return the comparisons that decided each rule about a document, for rules that have any.

        `values` are what `asked` gave. Of a rule in `failed` those that fail; of any other the one that is closest to
        its bound.
        """
        known = [
            _comparison(self.sides[2 * number], wants, values[2 * number], values[2 * number + 1])
            for number, wants in enumerate(self.wants)
        ]
        found: dict[str, list[Comparison]] = {}
        for name, (shape, numbers) in self.shapes.items():
            if name in failed:
                told = [each for each in known[numbers.start : numbers.stop] if each and not each.holds]
            else:
                closest = _closest(shape, known)
                told = [closest] if closest else []
            found |= {name: told} if told else {}
        return found


def compared(predicates: Mapping[str, str]) -> Compared:
    """Return the comparisons of numbers in `predicates`: rules as they ran."""
    shapes: dict[str, tuple[_Shape, range]] = {}
    found: list[tuple[Node, str, Node]] = []
    with query.sandbox() as connection:
        for name, predicate in predicates.items():
            first = len(found)
            with suppress(RuleError):  # an index that was written by hand or by another version
                (tree,) = query.parse(connection, {name: predicate})
                shapes[name] = _shape(tree, False, found), range(first, len(found))
        sides = query.render(connection, [side for left, _, right in found for side in (left, right)])
    return Compared(shapes, tuple(wants for _, wants, _ in found), tuple(sides))


def _shape(node: Node, negated: bool, compared: list[tuple[Node, str, Node]]) -> _Shape:
    """Return the shape of a predicate, with NOT worked into it, and append its comparisons to `compared`."""
    kind = str(node.get("type"))
    if node.get("class") == "CONJUNCTION":
        return (kind == "CONJUNCTION_AND") != negated, [_shape(child, negated, compared) for child in node["children"]]
    if kind == "OPERATOR_NOT":
        return _shape(node["children"][0], not negated, compared)
    if node.get("class") == "BETWEEN":
        limits = [(node["input"], "at least", node["lower"]), (node["input"], "at most", node["upper"])]
    elif node.get("class") != "COMPARISON" or kind not in _WANTS:
        return None
    elif query.columns_read(node["left"]):
        limits = [(node["left"], _WANTS[kind], node["right"])]
    else:
        limits = [(node["right"], _MIRRORED[_WANTS[kind]], node["left"])]
    compared += [(left, _OPPOSITE[wants] if negated else wants, right) for left, wants, right in limits]
    return not negated, list(range(len(compared) - len(limits), len(compared)))


def _comparison(expression: str, wants: str, value: object, bound: object) -> Comparison | None:
    """Return a comparison of these values, or None when they are no numbers."""
    if any(
        isinstance(side, bool) or not isinstance(side, (int, float, Decimal, type(None))) for side in (value, bound)
    ):
        return None
    left, right = (None if side is None or isnan(side) else float(side) for side in (value, bound))  # type: ignore[arg-type]
    if left is None or right is None:
        return Comparison(expression, wants, left, right, None, None, False)
    margin = left - right if wants in ("at least", "above") else right - left
    largest = max(abs(left), abs(right))
    holds = margin > 0 or (margin == 0 and wants in ("at least", "at most"))
    return Comparison(expression, wants, left, right, margin, margin / largest if largest else 0.0, holds)


def _closest(shape: _Shape, known: Sequence[Comparison | None]) -> Comparison | None:
    """Return the comparison that a predicate which holds would fail by first, or None when that cannot be told."""
    if shape is None or isinstance(shape, int):
        return None if shape is None else known[shape]
    all_must_hold, parts = shape
    told = [each for each in (_closest(part, known) for part in parts) if each and each.relative is not None]
    if all_must_hold:
        return min(told, key=_relative, default=None)
    return max(told, key=_relative) if told and len(told) == len(parts) else None


def _relative(comparison: Comparison) -> float:
    return comparison.relative or 0.0
