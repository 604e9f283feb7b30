"""The licence of a rephrased document: the stricter of its parent's and of what the model's licence asks of its output.

| strictness    | licences (SPDX)                                                                                     |
| ------------- | --------------------------------------------------------------------------------------------------- |
| public_domain | CC0-1.0, CC-PDM-1.0, CC-PDDC, PDDL-1.0, Unlicense, 0BSD, MIT-0, WTFPL                               |
| permissive    | MIT, Apache-2.0, BSD-*, ISC, Zlib, BSL-1.0, BlueOak-1.0.0, PSF-2.0, Artistic-2.0 and their like     |
| attribution   | CC-BY-*, ODC-By-1.0, OGL-*, etalab-2.0, NLOD-*                                                      |
| share_alike   | CC-BY-SA-*, CC-SA-1.0, GFDL-*, GPL-*, LGPL-*, AGPL-*, MPL-*, EPL-*, EUPL-*, CDDL-*, ODbL-1.0, OSL-* |
| restricted    | anything of Creative Commons with NC or ND, PolyForm-Noncommercial-1.0.0                            |
| unknown       | everything else: LicenseRef-*, a vendor's own terms                                                 |

`A OR B` is as lenient as its more lenient side, `A AND B` as strict as its stricter, a `WITH` changes nothing.
A parent without a known licence has a child without one. A model without a stated licence binds nothing: say in the
endpoint's `licence` when its terms do. This is bookkeeping, not legal advice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache


class Strictness(IntEnum):
    """How much a licence asks of whoever passes a text on."""

    public_domain = 0
    permissive = 1
    attribution = 2
    share_alike = 3
    restricted = 4
    unknown = 5


@dataclass(frozen=True, slots=True)
class Inherited:
    """A child's licence, and why its parent's and the model's terms do not go together, if they do not."""

    licence: str | None
    conflict: str | None


_PUBLIC_DOMAIN = frozenset(["cc0-1.0", "cc-pdm-1.0", "cc-pddc", "pddl-1.0", "unlicense", "0bsd", "mit-0", "wtfpl"])
_PERMISSIVE = re.compile(
    r"mit|mit-cmu|mit-modern-variant|x11|apache-(1\.[01]|2\.0)|bsd-.*|isc|zlib|bsl-1\.0|blueoak-1\.0\.0|psf-2\.0|python-2\.0"
    r"|artistic-2\.0|postgresql|ncsa|upl-1\.0|ms-pl|afl-3\.0|ecl-2\.0|hpnd|unicode-3\.0|unicode-dfs-.*|w3c|curl|ijg|libpng"
    r"|cdla-permissive-[12]\.0|openssl|vim|ruby|tcl|fsfap"
)
_ATTRIBUTION = re.compile(r"cc-by-\d.*|odc-by-1\.0|ogl-.*|etalab-2\.0|nlod-[12]\.0")
_RESTRICTED = re.compile(r"cc-by-(nc|nd)\b.*|cc-(nc|nd)\b.*|polyform-noncommercial-1\.0\.0")
# Share-alike: a family's members go together; of two families the child can obey one alone, but for those named next.
_FAMILY = re.compile(
    r"(cc)-(?:by-sa-.*|sa-1\.0)|(agpl|lgpl|gpl|gfdl|mpl|epl|eupl|cddl)-.*|(odbl|cdla-sharing)-1\.0|(osl)-[123]\..*"
)
_TOGETHER = frozenset({"gpl", "lgpl", "agpl", "mpl"})
_MAX_EXPRESSION = 300
_OPERATOR = re.compile(r"\s+(AND|OR)\s+", re.IGNORECASE)
_EXCEPTION = re.compile(r"\s+WITH\s+\S+", re.IGNORECASE)


@lru_cache(maxsize=4096)
def strictness(licence: str) -> Strictness:
    """Return how strict an SPDX identifier or a flat expression (`A OR B`, `A AND B`) is."""
    return max(map(_strictness, _binding(licence)))


@lru_cache(maxsize=4096)
def inherit(parent: str | None, model: str | None) -> Inherited:
    """Return the licence of a text that a model under `model` made from one under `parent`: the stricter of the two.

    A conflict names the pair that cannot both be obeyed: a parent or model that allows no derivatives, two different
    share-alike licences, or share-alike on one side and other restrictions on the other. It is a flag: no row drops.
    """
    if parent is None:
        return Inherited(None, _no_derivatives(model, "the model's licence"))
    conflict = _no_derivatives(parent, "the parent's licence") or _no_derivatives(model, "the model's licence")
    if model is None:
        return Inherited(parent, conflict)
    stricter = model if strictness(model) > strictness(parent) else parent
    if not conflict and any(
        one != other and _clash(one, other) for one in _binding(parent) for other in _binding(model)
    ):
        conflict = f"the parent's {parent} and the model's {model} cannot both be obeyed"
    return Inherited(stricter, conflict)


def _no_derivatives(licence: str | None, whose: str) -> str | None:
    if licence is None or not any(re.search(r"^cc-.*\bnd\b", identifier) for identifier in _binding(licence)):
        return None
    return f"{whose} {licence} allows no derivatives"


def _clash(one: str, other: str) -> bool:
    families = {_family(one), _family(other)}
    if None not in families:
        return len(families) > 1 and not families <= _TOGETHER
    # Share-alike forbids to add what the other side demands; two restricted ones share-alike of their own apart.
    levels = {_strictness(one), _strictness(other)}
    if Strictness.restricted in levels and Strictness.share_alike in levels:
        return True
    alike = [re.search(r"^cc-.*\bnc-sa\b", identifier) is not None for identifier in (one, other)]
    return any(alike) and levels == {Strictness.restricted, Strictness.unknown}


def _family(identifier: str) -> str | None:
    match = _FAMILY.fullmatch(identifier)
    return next(filter(None, match.groups())) if match else None


def _strictness(identifier: str) -> Strictness:
    if identifier in _PUBLIC_DOMAIN:
        return Strictness.public_domain
    if _family(identifier) is not None:
        return Strictness.share_alike
    for pattern, level in (
        (_RESTRICTED, Strictness.restricted),
        (_ATTRIBUTION, Strictness.attribution),
        (_PERMISSIVE, Strictness.permissive),
    ):
        if pattern.fullmatch(identifier):
            return level
    return Strictness.unknown


def _binding(licence: str) -> tuple[str, ...]:
    """Return the identifiers, in lower case, that bind: all of an AND, the most lenient of an OR. Never empty."""
    text = _EXCEPTION.sub("", licence.strip()[:_MAX_EXPRESSION])
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    parts = _OPERATOR.split(text)
    identifiers = tuple(part.strip().lower().removesuffix("+") for part in parts[::2])
    operators = {operator.upper() for operator in parts[1::2]}
    if operators == {"OR"}:
        return (min(identifiers, key=_strictness),)
    if operators == {"AND"} or not operators:
        return identifiers
    return (text.lower(),)  # a nested expression is read by no one here: unknown
