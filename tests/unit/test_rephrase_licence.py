"""A child's licence is the stricter of its parent's and of the model's terms."""

from __future__ import annotations

import pytest

from pipeline.extract.html import licences
from pipeline.rephrase.licence import Strictness, inherit, strictness

LEVELS = [
    ("CC0-1.0", "public_domain"),
    ("CC-PDM-1.0", "public_domain"),
    ("MIT", "permissive"),
    ("apache-2.0", "permissive"),
    ("BSD-3-Clause", "permissive"),
    ("CC-BY-4.0", "attribution"),
    ("CC-BY-3.0-IGO", "attribution"),
    ("OGL-UK-3.0", "attribution"),
    ("CC-BY-SA-4.0", "share_alike"),
    ("GFDL-1.3-only", "share_alike"),
    ("GPL-3.0-only", "share_alike"),
    ("AGPL-3.0-or-later", "share_alike"),
    ("MPL-2.0", "share_alike"),
    ("CC-BY-NC-4.0", "restricted"),
    ("CC-BY-ND-4.0", "restricted"),
    ("CC-BY-NC-SA-3.0-DE", "restricted"),
    ("CC-BY-NC-ND-4.0", "restricted"),
    ("LicenseRef-Llama-3", "unknown"),
    ("anything", "unknown"),
    ("", "unknown"),
    ("MIT OR GPL-2.0-only", "permissive"),
    ("MIT AND CC-BY-SA-4.0", "share_alike"),
    ("(MIT OR Apache-2.0)", "permissive"),
    ("GPL-2.0-only WITH Classpath-exception-2.0", "share_alike"),
    ("MIT AND (GPL-2.0-only OR X)", "unknown"),
    ("x" * 100_000, "unknown"),
]


@pytest.mark.parametrize(("licence", "level"), LEVELS)
def test_strictness(licence: str, level: str) -> None:
    assert strictness(licence) is Strictness[level]


def test_every_licence_that_extraction_names_has_a_strictness() -> None:
    deeds = ("by", "by-nc", "by-nd", "by-sa", "by-nc-nd", "by-nc-sa")
    urls = [f"https://creativecommons.org/licenses/{deed}/{version}/de" for deed in deeds for version in ("3.0", "4.0")]
    urls += [f"https://creativecommons.org/publicdomain/{name}/1.0/" for name in ("zero", "mark", "certification")]
    named = {licences.spdx_from_url(url) for url in urls} | {spdx.format(3) for _, spdx in licences._OTHER}
    assert len(named) > 25
    assert not [name for name in named if name is None or strictness(name) is Strictness.unknown]


@pytest.mark.parametrize(
    ("parent", "model", "child"),
    [
        ("CC0-1.0", "MIT", "MIT"),
        ("MIT", "CC0-1.0", "MIT"),
        ("CC-BY-4.0", "Apache-2.0", "CC-BY-4.0"),
        ("Apache-2.0", "MIT", "Apache-2.0"),
        ("CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-4.0"),
        ("CC-BY-SA-4.0", "LicenseRef-Vendor", "LicenseRef-Vendor"),
        ("MIT", None, "MIT"),
        (None, "LicenseRef-Vendor", None),
        (None, None, None),
    ],
)
def test_the_stricter_is_inherited(parent: str | None, model: str | None, child: str | None) -> None:
    assert inherit(parent, model).licence == child


@pytest.mark.parametrize(
    ("parent", "model"),
    [
        ("CC-BY-ND-4.0", None),
        ("CC-BY-NC-ND-4.0", "MIT"),
        ("MIT", "CC-BY-ND-4.0"),
        ("MIT AND CC-BY-ND-4.0", "MIT"),
        ("CC-BY-SA-4.0", "GPL-3.0-only"),
        ("CC-BY-SA-4.0", "CC-BY-NC-4.0"),
        ("CC-BY-NC-4.0", "GFDL-1.3-only"),
        (None, "CC-BY-ND-4.0"),
    ],
)
def test_what_cannot_both_be_obeyed_is_flagged(parent: str | None, model: str | None) -> None:
    conflict = inherit(parent, model).conflict
    assert conflict is not None
    assert "\n" not in conflict


@pytest.mark.parametrize(
    ("parent", "model"),
    [
        ("MIT", "Apache-2.0"),
        ("CC-BY-SA-3.0", "CC-BY-SA-4.0"),
        ("GPL-2.0-or-later", "LGPL-3.0-only"),
        ("CC-BY-NC-4.0", "MIT"),
        ("GPL-3.0-only", "MIT"),
        ("MIT OR CC-BY-ND-4.0", "MIT"),
        ("CC-BY-SA-4.0", None),
    ],
)
def test_what_goes_together_is_not(parent: str | None, model: str | None) -> None:
    assert inherit(parent, model).conflict is None
