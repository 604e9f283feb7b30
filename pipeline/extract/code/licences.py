"""Which licences hold for the files of a repository, as SPDX expressions, and which of them are permissive.

A licence is told by an SPDX identifier or expression, by its name in the metadata of a package, and by phrases that
only its text has. What is a licence but none that is known is `LicenseRef-unknown`, which no list of permissive ones
has.
Light on purpose: workers import this module.

Source: SPDX License List 3.27; Blue Oak Council's list, version 15 (https://blueoakcouncil.org/list).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

UNKNOWN, UNCLEAR = "LicenseRef-unknown", "LicenseRef-unclear"
"""A licence that is none of the known, and a name that may be several: this one says nothing where others are known."""
MAX_STATEMENT_BYTES = 1 << 20
HEADER_CHARACTERS = 8_000
_PROPRIETARY = "LicenseRef-proprietary"
_MAX_EXPRESSION = 300
_SHORT = 2_500  # characters of a file that only names a licence

# Rated bronze or better.
_PERMISSIVE = """
BlueOak-1.0.0 BSD-2-Clause-Patent ADSL Apache-2.0 APAFML BSD-1-Clause BSD-2-Clause BSD-2-Clause-FreeBSD
BSD-2-Clause-NetBSD BSD-2-Clause-Views BSL-1.0 DSDP ECL-1.0 ECL-2.0 hdparm ImageMagick Intel-ACPI ISC Linux-OpenIB MIT
MIT-Modern-Variant MIT-testregex MIT-Wu MS-PL MulanPSL-1.0 Mup PostgreSQL SHL-0.5 Spencer-99 UPL-1.0 Xerox Xfig 0BSD
AFL-1.1 AFL-1.2 AFL-2.0 AFL-2.1 AFL-3.0 AMDPLPA AML AMPAS ANTLR-PD ANTLR-PD-fallback Apache-1.0 Apache-1.1 Artistic-2.0
Bahyph Barr bcrypt-Solar-Designer BSD-3-Clause BSD-3-Clause-Attribution BSD-3-Clause-Clear BSD-3-Clause-HP
BSD-3-Clause-LBNL BSD-3-Clause-Modification BSD-3-Clause-No-Nuclear-License-2014 BSD-3-Clause-No-Nuclear-Warranty
BSD-3-Clause-Open-MPI BSD-3-Clause-Sun BSD-4-Clause BSD-4-Clause-Shortened BSD-4-Clause-UC BSD-Source-Code bzip2-1.0.5
bzip2-1.0.6 CC0-1.0 CFITSIO Clips CNRI-Jython CNRI-Python CNRI-Python-GPL-Compatible Cube curl eGenix Entessa FTL fwlw
HPND-Fenneberg-Livingston HPND-sell-regexpr HTMLTIDY IBM-pibs ICU Info-ZIP Intel JasPer-2.0 Libpng libpng-2.0 libtiff
LPPL-1.3c LZMA-SDK-9.22 MIT-0 MIT-advertising MIT-CMU MIT-enna MIT-feh MIT-open-group MITNFA MTLL MulanPSL-2.0 Multics
Naumen NCSA Net-SNMP NetCDF NICTA-1.0 NIST-Software NTP OGL-Canada-2.0 OLDAP-2.0 OLDAP-2.0.1 OLDAP-2.1 OLDAP-2.2
OLDAP-2.2.1 OLDAP-2.2.2 OLDAP-2.3 OLDAP-2.4 OLDAP-2.5 OLDAP-2.6 OLDAP-2.7 OLDAP-2.8 OML OpenSSL PHP-3.0 PHP-3.01 Plexus
PSF-2.0 Python-2.0 Ruby Saxpath SGI-B-2.0 SMLNJ SunPro SWL Symlinks TCL TCP-wrappers UCAR Unicode-DFS-2015
Unicode-DFS-2016 UnixCrypt Unlicense VSL-1.0 W3C X11 XFree86-1.1 xlock Xnet xpp Zlib zlib-acknowledgement ZPL-2.0
ZPL-2.1
"""
PERMISSIVE = frozenset(_PERMISSIVE.split())

# Phrases of texts and notices, as `_plain` leaves them: all of a row must be there.
_TEXTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("0BSD", ("with or without fee is hereby granted", "and or distribute this software for any purpose")),
    ("AFL-3.0", ("academic free license version 3.0",)),
    ("AGPL-3.0-only", ("gnu affero general public license version 3 19 november 2007",)),
    ("Apache-1.1", ("redistributions in binary form", "apache software foundation", "must not be used to endorse")),
    ("Apache-2.0", ("apache license version 2.0",)),
    ("Artistic-1.0", ("the artistic license preamble",)),
    ("Artistic-2.0", ("artistic license 2.0",)),
    ("BSL-1.0", ("boost software license version 1.0",)),
    ("BlueOak-1.0.0", ("blue oak model license",)),
    ("BUSL-1.1", ("business source license 1.1",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("CDDL-1.0", ("common development and distribution license", "version 1.0")),
    ("CDDL-1.1", ("common development and distribution license", "version 1.1")),
    ("ECL-2.0", ("educational community license version 2.0",)),
    ("Elastic-2.0", ("elastic license 2.0",)),
    ("EPL-1.0", ("eclipse public license v 1.0",)),
    ("EPL-1.0", ("eclipse public license v1.0",)),
    ("EPL-2.0", ("eclipse public license v 2.0",)),
    ("EPL-2.0", ("eclipse public license 2.0",)),
    ("EUPL-1.1", ("european union public license v 1.1",)),
    ("EUPL-1.2", ("european union public license v 1.2",)),
    ("GFDL-1.3-only", ("gnu free documentation license version 1.3 3 november 2008",)),
    ("GPL-1.0-only", ("gnu general public license version 1 february 1989",)),
    ("GPL-2.0-only", ("gnu general public license version 2 june 1991",)),
    ("GPL-3.0-only", ("gnu general public license version 3 29 june 2007",)),
    ("ISC", ("this software for any purpose with or without fee is hereby granted provided that",)),
    ("JSON", ("shall be used for good not evil",)),
    ("LGPL-2.0-only", ("gnu library general public license version 2 june 1991",)),
    ("LGPL-2.1-only", ("gnu lesser general public license version 2.1 february 1999",)),
    ("LGPL-3.0-only", ("gnu lesser general public license version 3 29 june 2007",)),
    ("Libpng", ("png reference library", "altered source versions must be plainly marked")),
    ("LPPL-1.3c", ("latex project public license", "1.3c")),
    ("MIT", ("is hereby granted free of charge to any person obtaining a copy", "and this permission notice")),
    ("MIT-0", ("is hereby granted free of charge to any person obtaining a copy", "without restriction")),
    ("MIT-CMU", ("and its associated documentation for any purpose and without fee is hereby granted",)),
    ("MPL-1.1", ("mozilla public license version 1.1",)),
    ("MPL-2.0", ("mozilla public license version 2.0",)),
    ("MPL-2.0", ("mozilla public license v 2.0",)),
    ("MS-PL", ("microsoft public license",)),
    ("MS-RL", ("microsoft reciprocal license",)),
    ("MulanPSL-2.0", ("mulan psl v2",)),
    ("NCSA", ("is hereby granted free of charge to any person", "redistributions of source code must retain")),
    ("OFL-1.1", ("sil open font license version 1.1",)),
    ("OpenSSL", ("openssl toolkit", "redistributions of source code must retain")),
    ("OSL-3.0", ("open software license version 3.0",)),
    ("PHP-3.01", ("the php license version 3.01",)),
    ("PostgreSQL", ("documentation for any purpose without fee and without a written agreement is hereby granted",)),
    ("PSF-2.0", ("psf license agreement for python",)),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("Python-2.0", ("beopen.com license agreement",)),
    ("SSPL-1.0", ("server side public license",)),
    ("Unicode-3.0", ("unicode license v3",)),
    ("Unicode-DFS-2016", ("unicode inc license agreement data files and software",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("UPL-1.0", ("universal permissive license",)),
    ("Vim", ("vim license",)),
    ("WTFPL", ("do what the fuck you want to public license",)),
    ("Zlib", ("altered source versions must be plainly marked as such", "origin of this software must not be")),
    ("ZPL-2.1", ("zope public license zpl version 2.1",)),
    ("LicenseRef-Commons-Clause", ("commons clause license condition",)),
    ("LicenseRef-PolyForm", ("polyform", "noncommercial")),
    ("BSD-2-Clause", ("redistributions of source code must retain", "redistributions in binary form must reproduce")),
    ("BSD-3-Clause", ("redistributions of source code must retain", "endorse or promote products derived")),
    ("BSD-4-Clause", ("redistributions of source code must retain", "all advertising materials mentioning features")),
    ("BSD-3-Clause-Clear", ("no express or implied licenses to any party s patent rights",)),
)
# What a text says that another's phrases are part of.
_COVERS = {
    "Apache-1.1": ("BSD-2-Clause", "BSD-3-Clause"),
    "BSD-3-Clause": ("BSD-2-Clause",),
    "BSD-3-Clause-Clear": ("BSD-2-Clause", "BSD-3-Clause"),
    "BSD-4-Clause": ("BSD-2-Clause", "BSD-3-Clause"),
    "ECL-2.0": ("Apache-2.0",),
    "ISC": ("0BSD",),
    "JSON": ("MIT", "MIT-0"),
    "Libpng": ("Zlib",),
    "MIT": ("MIT-0",),
    "NCSA": ("MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause"),
    "OpenSSL": ("BSD-2-Clause", "BSD-3-Clause", "BSD-4-Clause"),
    "PHP-3.01": ("BSD-2-Clause", "BSD-3-Clause"),
    "ZPL-2.1": ("BSD-2-Clause", "BSD-3-Clause"),
}
_NAME_OTHERS = ("AGPL", "CC", "CDDL", "EPL", "EUPL", "GFDL", "GPL", "LGPL", "MPL", "OSL", "SSPL")  # in their texts
_GNU = re.compile(
    r"(?:terms of|under|licensed|conditions of) (?:the |this )?(?:version (?P<first>[1-3](?:\.[01])?) of the )?"
    r"gnu (?P<kind>lesser |library |affero )?general public licen[cs]e(?P<after>.{0,220})"
)
_VERSION = re.compile(r"\b(?:version|v)\.? ?([1-3](?:\.[01])?)\b")
_LATER = re.compile(r"\b(?:or|and) (?:at your option )?(?:any )?(?:later|newer|greater)\b")
_CC = re.compile(
    r"\b(?:creative commons |cc )(?P<by>by|attribution)(?P<terms>(?: (?:noncommercial|non commercial|nc|noderivatives|"
    r"noderivs|nd|sharealike|share alike|sa))*) (?P<version>[1-4]\.[05])\b"
    r"|\battribution(?P<long>(?: (?:noncommercial|noderivatives|noderivs|sharealike))*) (?P<new>[34]\.0) (?:int|unp)"
)
_UNDER = re.compile(
    r"(?:licen[cs]ed|released|distributed|available|published|redistributed) under (?:the |an? |both |either )?"
    r"(?:terms (?:and conditions )?of (?:the |an? )?)?(.{1,60})"
)
# Names in metadata, classifiers and sentences; the first that is found in a place.
_NAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"\b(?:{pattern})"), spdx)
    for pattern, spdx in (
        (r"mit no attribution|mit 0\b", "MIT-0"),
        (r"mit\b|expat\b", "MIT"),
        (r"apache ?(?:software )?(?:licen[cs]e )?(?:version |v ?)?2|asl ?2", "Apache-2.0"),
        (r"(?:0|zero)[ -]?(?:clause )?bsd|bsd zero clause", "0BSD"),
        (r"bsd ?2|2 clause bsd|simplified bsd|two clause bsd|freebsd licen", "BSD-2-Clause"),
        (r"bsd ?3|3 clause bsd|modified bsd|new bsd|revised bsd|three clause bsd", "BSD-3-Clause"),
        (r"isc\b", "ISC"),
        (r"mozilla public licen[cs]e (?:version |mpl )?(?:v ?)?2|mpl ?(?:v ?)?2", "MPL-2.0"),
        (r"mozilla public licen[cs]e (?:version |mpl )?(?:v ?)?1.1|mpl ?(?:v ?)?1.1", "MPL-1.1"),
        (r"python software foundation|psf\b", "PSF-2.0"),
        (r"boost software|bsl 1", "BSL-1.0"),
        (r"unlicen[cs]e\b", "Unlicense"),
        (r"cc0\b", "CC0-1.0"),
        (r"zlib\b", "Zlib"),
        (r"wtfpl\b", "WTFPL"),
        (r"zope public|zpl 2.1", "ZPL-2.1"),
        (r"eclipse public licen[cs]e (?:version |v )?2|epl ?2", "EPL-2.0"),
        (r"eclipse public licen[cs]e (?:version |v )?1|epl ?1", "EPL-1.0"),
        (r"artistic licen[cs]e 2|artistic 2", "Artistic-2.0"),
        (r"proprietary|unlicensed\b|commercial\b|all rights reserved", _PROPRIETARY),
    )
)
_GNU_NAME = re.compile(
    r"\b(?:gnu )?(?P<kind>lesser |library |affero |l|a)?(?:general public licen[cs]e|gpl)\b ?(?:(?:l|a)?gpl ?)?"
    r"(?:(?:version |v ?)?(?P<version>[1-3](?:\.[01])?))?(?P<after>.{0,30})"
    r"|\b(?P<short>l|a)?gplv?(?P<number>[1-3](?:\.[01])?)(?P<plus>\+| or later)?"
)

# What a text about its use has; a page of documentation that is called `add-license-option.md` has none of it.
_TERMS = re.compile(
    r"\b(?:copyright|all rights|permi(?:ssion|tted)|may not|redistribut|warrant|licensed|public domain)"
)
_POINTER = re.compile(r"\b(?:LICEN[CS]E|COPYING)[-._][A-Z0-9][\w.-]*|\bLICEN[CS]ES/")  # to other files, which say more
_STUB = re.compile(r"(?:\s*(?:YEAR|COPYRIGHT HOLDER|ORGANIZATION):[^\n]*)+\s*")  # of R's packages: see DESCRIPTION
_CODE_SUFFIX = re.compile(r"\.(?!te?xt$|md$|markdown$|rst$|adoc$|org$|html?$|tex$|rtf$)[a-z][a-z0-9]{0,5}$")
_LICENCE_NAME = re.compile(r"(?:[a-z0-9.]+[-_])?(?:un)?(?:licen[cs](?:es?|ing)|copying)(?:[-_.][a-z0-9+_.-]*)?", re.I)
_REUSE_FOLDER = re.compile(r"(?:^|/)LICENSES/[^/]+$")
_SIDECAR = ".license"
_LICENCE_FOLDER = re.compile(r"(?:^|/)licen[cs]es?/[^/]+$", re.I)
_METADATA = frozenset(
    {
        *("pyproject.toml", "setup.cfg", "setup.py", "pkg-info", "metadata", "package.json", "bower.json"),
        *("composer.json", "cargo.toml", "description", "meta.yml", "meta.json", "pom.xml"),
    }
)
_METADATA_SUFFIXES = (".gemspec", ".podspec", ".cabal", ".rockspec", ".opam", ".nuspec")
_BARE = ("pkg-info", "metadata", "description", "setup.cfg", "meta.yml")  # and `.cabal`: values without quotes
_MANIFESTS = _METADATA | {"go.mod", "cmakelists.txt", "configure.ac", "build.gradle", "gemfile"}
_FIELD = re.compile(
    r"""(?:^|[(,{;])[ \t]*(?:s\.|spec\.)?["']?licen[cs]e(?:[-_]expression|\.text)?["']?"""
    r"""[ \t]*[:=][ \t]*(?P<value>[^\n]{1,300})""",
    re.MULTILINE | re.IGNORECASE,
)
_QUOTED = re.compile(r"""["']([^"'\n]{1,200})["']""")
_CLASSIFIER = re.compile(r"License :: (?:OSI Approved :: )?([^\"'\n]{1,120})")
_XML_FIELD = re.compile(r"<license\b[^>]*>\s*(?:<name>)?\s*([^<\n]{1,200})<")
_FILE_NAME = re.compile(r"(?:licen[cs]es?|copying)(?:[-_./][\w./-]*)?|[\w./-]+\.(?:txt|md|rst)", re.IGNORECASE)
_SPDX_LINE = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9(][A-Za-z0-9.+() :-]{0,299})")
_TOKEN = re.compile(r"[A-Za-z0-9.+:-]+")


def is_statement(path: str) -> bool:
    """Whether a file states the licence of its folder: a licence's text, or the metadata of a package."""
    name = path.rpartition("/")[2]
    return name.lower() in _METADATA or path.endswith((*_METADATA_SUFFIXES, _SIDECAR)) or is_licence_text(path)


def is_licence_text(path: str) -> bool:
    """Whether a file is a licence by its name, such as `COPYING` or `LICENSES/MIT.txt`."""
    name = path.rpartition("/")[2]
    is_named = _LICENCE_NAME.fullmatch(name) is not None or _LICENCE_FOLDER.search(path) is not None
    return is_named and _CODE_SUFFIX.search(name) is None


def is_manifest(path: str) -> bool:
    """Whether a file is one that lies at the top of a repository."""
    return path.rpartition("/")[2].lower() in _MANIFESTS or is_licence_text(path)


def scope_of(path: str) -> str:
    """Return the folder for whose files a statement holds, empty for the whole; of `a.json.license` it is `a.json`."""
    folder = path.rpartition("/")[0]
    if path.endswith(_SIDECAR) and path.rpartition("/")[2] != _SIDECAR:
        return path.removesuffix(_SIDECAR)
    return folder.rpartition("/")[0] if _LICENCE_FOLDER.search(path) else folder


def stated(path: str, data: bytes) -> list[str]:
    """Return the expressions that a statement's file makes; a licence that is none of the known is `UNKNOWN`."""
    text = data[:MAX_STATEMENT_BYTES].decode("utf-8", "replace")
    name = path.rpartition("/")[2]
    if path.endswith(_SIDECAR) and name != _SIDECAR:
        return sorted(set(identifiers(text)))
    if not is_licence_text(path):
        return _of_metadata(name.lower(), text)
    plain = _plain(text)
    found = _of_texts(plain)
    said = name.rpartition(".")[0] if _REUSE_FOLDER.search(path) else ""
    if said and expression(f"MIT WITH {said}"):
        return []  # an exception allows more
    stem = expression(said) if said else None
    if stem is not None:  # the licence is its file's name, and a GNU text says no more than the version
        version = stem.removesuffix("-or-later")
        return sorted({stem, *(each for each in found if each.removesuffix("-only") != version)})
    if not found and plain.strip() and len(plain) < _SHORT:
        found = _named(plain, None)
    found.update(identifiers(text))
    if found or not plain.strip() or _STUB.fullmatch(text):
        return sorted(found)
    is_certain = name.lower().startswith(("licen", "copying")) and not _POINTER.search(text)
    return [UNKNOWN if (is_certain and not name.islower()) or _TERMS.search(plain) else UNCLEAR]


def in_header(text: str, repository: Sequence[str] = ()) -> list[str]:
    """Return the expressions that the beginning of a file of code makes about itself.

    A notice that names some of those among which the files of its `repository` are offered says no less than that
    choice; an identifier does.
    """
    head = text[:HEADER_CHARACTERS]
    plain = _plain(head)
    found = _of_texts(plain)
    for match in _UNDER.finditer(plain):
        found |= _named(match[1], None)
    found -= set(ids(each for each in repository if " OR " in each))
    return sorted({*found, *identifiers(head)})


def identifiers(text: str) -> list[str]:
    """Return what lines of `SPDX-License-Identifier` say."""
    return [expression(match[1].rstrip(" -:")) or UNKNOWN for match in _SPDX_LINE.finditer(text)]


def expression(said: str) -> str | None:
    """Return a statement as an SPDX expression, None when it is none."""
    if len(said) > _MAX_EXPRESSION:
        return None
    for form in (said, re.sub(r"(?<=[0-9A-Za-z.])/(?=[A-Z0-9])", " OR ", said)):
        try:
            return str(canonicalize_license_expression(form))
        except (InvalidLicenseExpression, ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def ids(expressions: Iterable[str]) -> list[str]:
    """Return every licence that expressions name, whether all or one of them holds; exceptions are none."""
    found: set[str] = set()
    for each in expressions:
        tokens = re.sub(r"\bWITH\s+[A-Za-z0-9.+-]+", "", each)
        found.update(token for token in _TOKEN.findall(tokens) if token not in ("AND", "OR"))
    return sorted(found)


def joined(expressions: Sequence[str]) -> str | None:
    """Return one expression that says that all of some hold, None of none."""
    single = {each for each in expressions if " OR " not in each}
    alone = set(ids(single))
    choices = {each for each in expressions if each not in single and not alone & set(ids([each]))}
    parts = sorted(single) + sorted(f"({each})" if len(expressions) > 1 else each for each in choices)
    return " AND ".join(dict.fromkeys(parts)) or None


def refused_by(policy: str | Sequence[str], expressions: Sequence[str]) -> str | None:
    """Return why a file must not be used, None when it may: each licence has to be allowed, and one to be there."""
    if policy == "any":
        return None
    if not expressions:
        return "no licence is stated, neither in the file nor in its repository"
    allowed = PERMISSIVE if policy == "permissive" else frozenset(policy)
    refused = [each for each in ids(expressions) if each not in allowed and each.removesuffix("+") not in allowed]
    return f"{', '.join(refused[:5])}: not {'permissive' if policy == 'permissive' else 'allowed'}" if refused else None


def simplified(stated: Iterable[str]) -> set[str]:
    """Return what the files of one folder state; texts of all licences of a choice are that choice."""
    found = set(stated)
    for choice in [each for each in found if " OR " in each and " AND " not in each]:
        if set(ids([choice])) <= found:
            found -= set(ids([choice]))
    return found


def _plain(text: str) -> str:
    """Return words in lower case with one space between them: what comments, lists and lines put there is gone."""
    return re.sub(r"\.+(?= |$)", "", re.sub(r"[^a-z0-9.+]+", " ", text.lower().replace("licence", "license")))


def _of_texts(plain: str) -> set[str]:
    """Return the licences whose phrases are in a text, as identifiers."""
    found = {spdx for spdx, phrases in _TEXTS if all(phrase in plain for phrase in phrases)}
    found -= {covered for spdx in found for covered in _COVERS.get(spdx, ())}
    if any(spdx.startswith(_NAME_OTHERS) for spdx in found):
        return found
    for match in _GNU.finditer(plain):
        said = _VERSION.search(match["after"])
        version = match["first"] or (said[1] if said else None)
        if version or not found:  # a text says in passing what another release was under
            found.add(_gnu(match["kind"], version, _LATER.search(match["after"]) is not None))
    for match in _CC.finditer(plain):
        terms = match["terms"] or match["long"] or ""
        marks = [
            mark
            for mark, word in (("NC", r"non|nc"), ("ND", r"noder|nd"), ("SA", r"sha|sa"))
            if re.search(rf" (?:{word})", terms)
        ]
        found.add("-".join(["CC-BY", *marks, match["version"] or match["new"]]))
    return found


def _gnu(kind: str | None, version: str | None, is_later: bool) -> str:
    name = {"l": "LGPL", "a": "AGPL"}.get((kind or " ")[0], "GPL")
    if version is None:
        return {"LGPL": "LGPL-2.0-or-later", "AGPL": "AGPL-3.0-or-later", "GPL": "GPL-1.0-or-later"}[name]
    number = version if "." in version else f"{version}.0"
    return f"{name}-{number}-{'or-later' if is_later else 'only'}"


def _named(plain: str, otherwise: str | None) -> set[str]:
    """Return the licences that a name or a sentence names; `otherwise` alone when none is known."""
    found = {spdx for pattern, spdx in _NAMES if pattern.search(plain)}
    for match in _GNU_NAME.finditer(plain):
        later = match["plus"] or _LATER.search(match["after"] or "") or (match["after"] or "").startswith("+")
        found.add(_gnu(match["kind"] or match["short"], match["version"] or match["number"], bool(later)))
    return found or ({otherwise} if otherwise else set())


def _of_metadata(name: str, text: str) -> list[str]:
    """Return what a package's metadata says; what names no licence for sure is `UNCLEAR`."""
    if name.endswith(".json"):
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            return []
        said = [fields.get("license"), fields.get("licenses")] if isinstance(fields, dict) else []
        said = [each for item in said for each in (item if isinstance(item, list) else [item])]
        values = [each.get("type") if isinstance(each, dict) else each for each in said]
        statements = [each for each in values[:20] if isinstance(each, str) and not each.startswith("SEE ")]
    else:
        text = re.sub(r"\(>= ?([\d.]+)\)", r"\1 or later", text) if name == "description" else text
        statements = [*_CLASSIFIER.findall(text)[:20], *_XML_FIELD.findall(text)[:20]]
        for match in list(_FIELD.finditer(text))[:20]:
            value = match["value"].strip()
            quoted = _QUOTED.findall(re.sub(r"\bfile\s*=\s*[\"'][^\"']*[\"']", "", value))
            is_bare = value[:1].isalnum() and (name in _BARE or name.endswith(".cabal")) and "::" not in value
            statements += [value] if is_bare and not value.startswith("file:") else quoted[:1]
    found: set[str] = set()
    for each in statements:
        if each.strip() and not _FILE_NAME.fullmatch(each.strip()):
            known = expression(each.strip())
            found |= {known} if known else _named(_plain(each), UNCLEAR)
    return sorted(found)
