"""Licence statements, as URLs or as words, to SPDX identifiers.

Only statements that name a licence without doubt are mapped; everything else is None, never a guess.

Source: SPDX License List 3.27; Creative Commons deed URLs, https://creativecommons.org/licenses/.
"""

from __future__ import annotations

import re

_CC_URL = re.compile(
    r"^(?:https?:)?//(?:www\.|[a-z]{2}\.)?creativecommons\.org/"
    r"(?:licenses/([a-z-]{2,20})/(\d\.\d)(?:/([a-z]{2,3}))?|publicdomain/(zero|mark|certification)(?:/1\.0)?)"
    r"(?=[/?#.]|$)",
    re.IGNORECASE,
)
_CC_TEXT = re.compile(
    r"\b(?:cc|creative[ -]commons)[ -:]{0,3}((?:by|attribution)(?:[ -/]{0,3}"
    r"(?:nc|nd|sa|non-?commercial|no[ -]?deriv(?:ative)?s?(?:[ -]works?)?|share[ -]?alike)){0,2})"
    r"[ -]{0,3}(?:licen[cs]e,? ?)?(?:international |unported |generic )?(?:v(?:ersion)?[ .]?)?([1-4]\.[05])\b",
    re.IGNORECASE,
)
_CC_ZERO_TEXT = re.compile(r"\b(?:cc[ -]?0|cc[ -]zero|creative commons zero)(?:[ -]1\.0)?\b", re.IGNORECASE)
_CC_VERSIONS = frozenset({"1.0", "2.0", "2.1", "2.5", "3.0", "4.0"})

# Deeds adapted to a jurisdiction that have an SPDX identifier of their own; others get the unported one.
_CC_PORTED = frozenset(
    f"{name}-{jurisdiction}"
    for name, jurisdictions in {
        "BY-2.5": ("AU",),
        "BY-3.0": ("AT", "AU", "DE", "IGO", "NL", "US"),
        "BY-NC-3.0": ("DE",),
        "BY-NC-ND-3.0": ("DE", "IGO"),
        "BY-NC-SA-2.0": ("DE", "FR", "UK"),
        "BY-NC-SA-3.0": ("DE", "IGO"),
        "BY-ND-3.0": ("DE",),
        "BY-SA-2.0": ("UK",),
        "BY-SA-2.1": ("JP",),
        "BY-SA-3.0": ("AT", "DE", "IGO"),
    }.items()
    for jurisdiction in jurisdictions
)

# A GNU licence's URL names a version and not "or any later", so it is read as the narrower grant.
_OTHER_URLS = (
    (r"apache\.org/licenses/license-2\.0", "Apache-2.0"),
    (r"opensource\.org/licen[cs]es?/mit(?:-license)?\b", "MIT"),
    (r"opensource\.org/licen[cs]es?/apache-2\.0", "Apache-2.0"),
    (r"opensource\.org/licen[cs]es?/bsd-2-clause", "BSD-2-Clause"),
    (r"opensource\.org/licen[cs]es?/bsd-3-clause", "BSD-3-Clause"),
    (r"opensource\.org/licen[cs]es?/isc\b", "ISC"),
    (r"mozilla\.org/(?:en-us/)?mpl/2\.0", "MPL-2.0"),
    (r"gnu\.org/licenses/(?:old-licenses/)?fdl-1\.2", "GFDL-1.2-only"),
    (r"gnu\.org/licenses/fdl-1\.3", "GFDL-1.3-only"),
    (r"gnu\.org/licenses/(?:old-licenses/)?gpl-2\.0", "GPL-2.0-only"),
    (r"gnu\.org/licenses/gpl-3\.0", "GPL-3.0-only"),
    (r"gnu\.org/licenses/agpl-3\.0", "AGPL-3.0-only"),
    (r"opendatacommons\.org/licenses/odbl\b", "ODbL-1.0"),
    (r"opendatacommons\.org/licenses/by\b", "ODC-By-1.0"),
    (r"opendatacommons\.org/licenses/pddl\b", "PDDL-1.0"),
    (r"nationalarchives\.gov\.uk/doc/open-government-licence/version/([123])\b", "OGL-UK-{}.0"),
)
_OTHER = tuple((re.compile(pattern, re.IGNORECASE), spdx) for pattern, spdx in _OTHER_URLS)
_PLAIN_IDS = {
    spdx.lower(): spdx for spdx in ("MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MPL-2.0", "ODbL-1.0")
}
MAX_STATEMENT_CHARACTERS = 500


def spdx_from_url(url: str) -> str | None:
    """Return the SPDX identifier of a licence's URL, None when it names none that is known."""
    url = url.strip()[:MAX_STATEMENT_CHARACTERS]
    match = _CC_URL.match(url)
    if match:
        elements, version, jurisdiction, public_domain = match.groups()
        if public_domain:
            return {"zero": "CC0-1.0", "mark": "CC-PDM-1.0", "certification": "CC-PDDC"}[public_domain.lower()]
        return _creative_commons(elements.split("-"), version, jurisdiction)
    for pattern, spdx in _OTHER:
        found = pattern.search(url)
        if found:
            return spdx.format(*found.groups())
    return None


def spdx_from_text(statement: str) -> str | None:
    """Return the SPDX identifier of a licence given as a URL or in words ("CC BY-SA 4.0"), None when in doubt."""
    statement = " ".join(statement[:MAX_STATEMENT_CHARACTERS].split())
    if "://" in statement or statement.startswith("//"):
        found = {spdx_from_url(word.strip("()<>\"',;")) for word in statement.split() if "//" in word} - {None}
        return found.pop() if len(found) == 1 else None
    named = {_creative_commons(_elements(words), version, None) for words, version in _CC_TEXT.findall(statement)}
    if named:
        return named.pop() if len(named) == 1 else None
    if _CC_ZERO_TEXT.search(statement):
        return "CC0-1.0"
    return _PLAIN_IDS.get(statement.lower())


def _elements(words: str) -> list[str]:
    """Return the elements by, nc, nd, sa that the words of a licence's name stand for."""
    words = words.lower().replace(" ", "").replace("-", "")
    present = ["by"]
    for element, spelt in (("nc", "noncommercial"), ("nd", "noderiv"), ("sa", "sharealike")):
        if spelt in words or re.search(rf"(?:by|attribution|nc|nd|sa|commercial|/){element}", words):
            present.append(element)
    return present


def _creative_commons(elements: list[str], version: str, jurisdiction: str | None) -> str | None:
    parts = {element.lower() for element in elements}
    if version not in _CC_VERSIONS or not parts <= {"by", "nc", "nd", "sa"} or {"nd", "sa"} <= parts:
        return None
    if parts == {"sa"}:
        return "CC-SA-1.0" if version == "1.0" else None
    if "by" not in parts:
        return None
    name = "-".join(element.upper() for element in ("by", "nc", "nd", "sa") if element in parts)
    ported = f"{name}-{version}-{jurisdiction.upper()}" if jurisdiction else ""
    return f"CC-{ported}" if ported in _CC_PORTED else f"CC-{name}-{version}"
