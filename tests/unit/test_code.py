"""Repositories of code: which licences hold for a file, what it is, and what belongs together."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.extract.code import licences, source
from pipeline.extract.code.reader import CODE
from pipeline.extract.config import ExtractConfig, InputsConfig, KeepColumn
from pipeline.extract.conversion import RefusedError
from pipeline.extract.isolation import WorkerPool
from pipeline.extract.shard import ExtractJob, by_workers, page_pool, read
from pipeline.extract.units import Document, Reject
from pipeline.inputs.files import resolve
from pipeline.table.storage import Storage

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MIT = b"""MIT License. Permission is hereby granted, free of charge, to any person obtaining a copy ... subject to:
The above copyright notice and this permission notice shall be included."""
APACHE = b"Apache License\n  Version 2.0, January 2004"
GPL = b"GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007\n either version 3 of the License, or any later version"
BSD = b"""Redistributions of source code must retain the notice. Redistributions in binary form must reproduce it.
 Neither the name may be used to endorse or promote products derived from this."""
CODE_TEXT = b"def main():\n    return 'a function that says something'\n"

Run = Callable[..., list[Document | Reject]]


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    assert CODE.handler is not None
    with page_pool(1, ExtractConfig(), CODE.handler) as started:
        yield started


@pytest.fixture
def run(tmp_path: Path, pool: WorkerPool) -> Run:
    def made(files: dict[str, bytes], start: int = 0, **options: object) -> list[Document | Reject]:
        for name, data in files.items():
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_bytes(data)
        asked = InputsConfig(format="code", inputs=(str(tmp_path / "in"),), options=options)
        keep = {name: KeepColumn(path=name, type=kind) for name, kind in CODE.columns.items()}
        assert CODE.together is not None
        found: list[Document | Reject] = []
        for head, *beside in CODE.together(resolve(asked.inputs, "inputs", CODE.skipped)):
            storage = Storage.at(str(tmp_path))
            job = ExtractJob(storage, "s", head, "code", {}, ExtractConfig(), keep, asked.format_options(), (*beside,))
            with head.open() as stream:
                entries = [entry.result for entry in read(stream, job, start, ()) if entry.result is not None]
            found += by_workers(job, entries, lambda _: pool)
        return found

    return made


def packed(files: dict[str, bytes], commit: str | None = None) -> tuple[bytes, bytes]:
    """Return a .tar.gz as `git archive` writes it, and a zip as GitHub does."""
    tar, archive = io.BytesIO(), io.BytesIO()
    headers = {"comment": commit} if commit else {}
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as writer:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            writer.addfile(header, io.BytesIO(data))
    with zipfile.ZipFile(archive, "w") as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
        zipped.comment = (commit or "").encode()
    return gzip.compress(tar.getvalue()), archive.getvalue()


def told(found: list[Document | Reject]) -> dict[str, str | None]:
    """Return the licence of each document, and the reason of each reject, by path."""
    return {
        str(each.kept["path"] if isinstance(each, Document) else each.origin.record_id or each.origin.file): (
            each.licence if isinstance(each, Document) else each.reason
        )
        for each in found
    }


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        ("LICENSE", MIT, ["MIT"]),
        ("LICENSE-APACHE", APACHE, ["Apache-2.0"]),
        ("COPYING", GPL, ["GPL-3.0-only"]),
        ("LICENCE.txt", BSD, ["BSD-3-Clause"]),
        ("LICENSE.md", MIT + BSD, ["NCSA"]),
        ("LICENSE", b"Ask my aunt.", ["LicenseRef-unknown"]),
        ("LICENSE", b"Licensed under either of Apache License 2.0 or MIT license.", ["Apache-2.0", "MIT"]),
        ("LICENSE", b"Under either of the licenses found in LICENSE.APACHE or LICENSE.BSD.", ["LicenseRef-unclear"]),
        ("LICENSE", b"YEAR: 2024\nCOPYRIGHT HOLDER: the authors\n", []),
        ("docs/licenses.rst", b"How an expression is parsed", ["LicenseRef-unclear"]),
        ("LICENSES/GPL-3.0-or-later.txt", GPL, ["GPL-3.0-or-later"]),
        ("LICENSES/MIT.txt", BSD, ["BSD-3-Clause", "MIT"]),
        ("LICENSES/LLVM-exception.txt", b"Permission is granted", []),
        ("LICENSES/LicenseRef-ours.txt", b"", ["LicenseRef-ours"]),
        ("a.json.license", b"SPDX-License-Identifier: CC0-1.0", ["CC0-1.0"]),
        ("LICENSES/Foo.txt", b"SPDX-License-Identifier: ISC", ["ISC"]),
        ("LICENSE", b"", []),
        ("Cargo.toml", b'[package]\nlicense = "MIT/Apache-2.0"', ["MIT OR Apache-2.0"]),
        ("pyproject.toml", b'[project]\nlicense = {file = "LICENSE"}', []),
        ("pyproject.toml", b'[project]\nlicense = {text = "BSD 3-Clause"}', ["BSD-3-Clause"]),
        ("setup.py", b"setup(license='LGPLv3+', name='x')", ["LGPL-3.0-or-later"]),
        ("PKG-INFO", b"Classifier: License :: OSI Approved :: BSD License", ["LicenseRef-unclear"]),
        ("DESCRIPTION", b"Package: a\nLicense: MIT + file LICENSE\n", ["MIT"]),
        ("DESCRIPTION", b"License: GPL (>= 2)\n", ["GPL-2.0-or-later"]),
        ("pom.xml", b"<licenses>\n<license>\n <name>Apache-2.0</name>", ["Apache-2.0"]),
        ("a.gemspec", b"  s.license = 'MIT'\n", ["MIT"]),
        ("a.cabal", b"license:      BSD-3-Clause\n", ["BSD-3-Clause"]),
        ("META.yml", b"license: perl\n", ["LicenseRef-unclear"]),
        ("package.json", b'{"license": {"type": "mit"}}', ["MIT"]),
        ("package.json", b'{"license": "UNLICENSED"}', ["LicenseRef-proprietary"]),
        ("package.json", b"[" * 100_000, []),
    ],
)
def test_what_a_file_states_about_its_folder(path: str, data: bytes, expected: list[str]) -> None:
    assert licences.is_statement(path)
    assert licences.stated(path, data) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("// SPDX-License-Identifier: (MIT OR GPL-2.0-only) */", ["MIT OR GPL-2.0-only"]),
        ("# SPDX-License-Identifier: Whatever", ["LicenseRef-unknown"]),
        ("/* Licensed under the Apache License,\n * Version 2.0 (the License) */", ["Apache-2.0"]),
        (
            "# it under the terms of the GNU General Public License as published by the FSF; either\n"
            "# version 2 of the License, or (at your option) any later version.",
            ["GPL-2.0-or-later"],
        ),
        ("print('no licence is named here')", []),
    ],
)
def test_what_a_file_says_of_itself(text: str, expected: list[str]) -> None:
    said = licences.in_header(text)
    assert [each.strip("()") for each in said] == expected


@pytest.mark.parametrize(
    ("policy", "expressions", "is_refused"),
    [
        ("permissive", [], True),
        ("permissive", ["MIT", "Apache-2.0 WITH LLVM-exception"], False),
        ("permissive", ["MIT", "GPL-3.0-only"], True),
        ("permissive", ["MIT OR GPL-2.0-only"], True),
        ("permissive", ["LicenseRef-unknown"], True),
        ("any", [], False),
        (["GPL-3.0-only"], ["GPL-3.0-only"], False),
        (["GPL-3.0-only"], [], True),
    ],
)
def test_every_licence_has_to_be_allowed_and_one_has_to_be_there(
    policy: str | list[str], expressions: list[str], is_refused: bool
) -> None:
    assert (licences.refused_by(policy, expressions) is not None) == is_refused


def test_files_of_a_folder_belong_to_their_repositories(run: Run) -> None:
    files = {
        "one/LICENSE": MIT,
        "one/src/__init__.py": CODE_TEXT,
        "one/src/b.py": b"# SPDX-License-Identifier: GPL-2.0-only\n" + CODE_TEXT,
        "one/lib/COPYING": BSD,
        "one/lib/c.py": CODE_TEXT,
        "two/LICENSE": MIT,
        "two/COPYING": GPL,
        "two/a.py": CODE_TEXT,
        "none/a.py": CODE_TEXT,
        "none/b.py": CODE_TEXT,
        "both.tar.gz": packed({"both-1/LICENSE-MIT": MIT, "both-1/LICENSE-APACHE": APACHE, "both-1/a.rs": CODE_TEXT})[
            0
        ],
    }
    found = run(files)
    assert told(found) == {
        "LICENSE": "licence",  # the second repository's
        "src/__init__.py": "MIT",
        "src/b.py": "licence",
        "lib/COPYING": "BSD-3-Clause AND MIT",
        "lib/c.py": "BSD-3-Clause AND MIT",
        "COPYING": "licence",
        "a.py": "licence",
        "b.py": "licence",
        "LICENSE-MIT": "Apache-2.0 AND MIT",
        "LICENSE-APACHE": "Apache-2.0 AND MIT",
        "a.rs": "Apache-2.0 AND MIT",
    }
    assert {str(each.kept["repository"]) for each in found if isinstance(each, Document)} == {"one", "both-1"}
    assert {type(each) for each in run(files, licences="any")} == {Document}


def test_a_choice_stays_one_and_what_holds_beside_it_is_said(run: Run) -> None:
    files = {
        "r/Cargo.toml": b'[package]\nlicense = "MIT OR Apache-2.0"',
        "r/LICENSE-MIT": MIT,
        "r/LICENSE-APACHE": APACHE,
        "r/a.rs": CODE_TEXT,
        "r/b.rs": b"// Licensed under the Apache License, Version 2.0, or the MIT license\n" + CODE_TEXT,
        "r/c.rs": b"// SPDX-License-Identifier: MIT\n" + CODE_TEXT,
        "r/d.json": b'{"name": "something"}',
        "r/d.json.license": b"SPDX-License-Identifier: CC0-1.0",
        "r/e.rs": b"// SPDX-License-Identifier: MIT AND ISC\n" + CODE_TEXT,
        "r/gpl/COPYING": GPL,
        "r/gpl/f.rs": CODE_TEXT,
    }
    found = told(run(files))
    choice = "MIT OR Apache-2.0"
    assert {found[name] for name in ("a.rs", "b.rs", "Cargo.toml", "LICENSE-MIT", "LICENSE-APACHE")} == {choice}
    assert (found["c.rs"], found["e.rs"], found["gpl/f.rs"]) == ("MIT", "MIT AND ISC", "licence")
    assert found["d.json"] == f"CC0-1.0 AND ({choice})"
    files["r/Cargo.toml"] = b'[package]\nlicense = "MIT OR GPL-2.0-only"'
    assert set(told(run(files)).values()) == {"licence"}


def test_generated_is_said_and_not_mentioned(run: Run) -> None:
    files = {
        "LICENSE": MIT,
        "a.rs": b"/*! They are of higher quality than those that are auto-generated. */\n" + CODE_TEXT,
        "b.txt": b"***** DO NOT MODIFY THIS FILE! *****\n",
        "c.go": b"// Code generated by stringer. DO NOT EDIT.\n",
        "d.py": b"# Auto-generated by a tool\n",
        "e.py": b"# This file is automatically generated; please leave it\n",
        "f.c": b"/* DO NOT EDIT: generated from f.y */\n",
    }
    generated = {path for path, reason in told(run(files)).items() if reason == "unsupported"}
    assert generated == {"c.go", "d.py", "e.py", "f.c"}


def test_an_archive_of_a_forge_names_its_commit(run: Run) -> None:
    files = {f"tool-{COMMIT}/a.py": CODE_TEXT, f"tool-{COMMIT}/LICENSE": MIT}
    tar, archive = packed(files, COMMIT)
    found = run({"t.tar.gz": tar, "z.zip": archive}, base_url="https://example.org/{repository}/{commit}/")
    assert [each.url for each in found] == [
        f"https://example.org/tool/{COMMIT}/{name}" for name in ("a.py", "LICENSE", "a.py", "LICENSE")
    ]
    first = found[0]
    assert isinstance(first, Document)
    assert (first.title, first.text, first.kept["commit"], first.kept["repository"]) == (
        "a.py", CODE_TEXT.decode(), COMMIT, "tool",
    )  # fmt: skip
    again = run({"t.tar.gz": tar}, start=1)
    assert [each.url for each in again][:1] == [None]  # without the option
    assert told(again)["LICENSE"] == "MIT"


def test_a_clone_says_where_it_is_from(run: Run, tmp_path: Path) -> None:
    clone = tmp_path / "in" / "clone"
    subprocess.run(["git", "init", "-q", "-b", "main", clone], check=True)
    remote = "https://user:secret@github.com/somebody/tool.git"
    subprocess.run(["git", "-C", clone, "remote", "add", "origin", remote], check=True)
    (clone / ".git" / "refs" / "heads" / "main").write_text(f"{COMMIT}\n")
    found = run({"clone/LICENSE": MIT, "clone/a.py": CODE_TEXT})
    assert [each.url for each in found] == [
        f"https://github.com/somebody/tool/blob/{COMMIT}/{name}" for name in ("LICENSE", "a.py")
    ]
    assert not any("user:" in str(each) for each in found)


def test_what_is_of_no_use_is_refused_with_how_to_take_it(run: Run) -> None:
    files = {
        "LICENSE": MIT,
        "x_pb2.py": CODE_TEXT,
        "lex.c": b"/* A lexical scanner generated by flex */\nint x;\n",
        "vendor/y.go": b"package y\n",
        "app.min.js": b"var a=1;\n",
        "wide.js": b"var a = 1;" * 100,
        "rows.csv": b"a,b\n1,2\n",
        "numbers.c": b"{0,1},\n" * 100 + b"-- ,, {} \n" * 300,
        "pic.png": b"\x89PNG\r\n\x1a\n\0\0",
        "empty.py": b"",
        "large.py": b"#" * 2000,
        "__pycache__/a.pyc": b"\0\1",
    }
    found = run(files, max_bytes=1500)
    assert told(found) == {
        "LICENSE": "MIT",
        "pic.png": "unsupported",
        "empty.py": "empty",
        "large.py": "oversize",
        **dict.fromkeys(("x_pb2.py", "lex.c", "vendor/y.go", "app.min.js", "wide.js", "rows.csv"), "unsupported"),
        "numbers.c": "oversize",
    }
    details = {each.origin.file: each.detail for each in found if isinstance(each, Reject)}
    assert details["lex.c"] == "generated; `options: {generated: true}` takes such files, too"
    kinds = dict.fromkeys(("generated", "vendored", "minified", "data"), True)
    assert sum(isinstance(each, Document) for each in run(files, **kinds)) == 9


@pytest.mark.parametrize(
    ("name", "text", "language"),
    [
        ("a.py", "x = 1", "Python"),
        ("a.h", "int f(void);", "C"),
        ("a.h", "namespace a {}", "C++"),
        ("a.h", "@interface A\n@end", "Objective-C"),
        ("a.r", "x <- 1", "R"),
        ("a.fs", "let x = 1", "F#"),
        ("A.pm", "", "Perl"),
        ("ASpec.hs", "", "Haskell"),
        ("go.mod", "module x", "Go Module"),
        ("run", "#!/usr/bin/env python3\nx = 1", "Python"),
        ("run", "#!/bin/sh\nls", "Bash"),
        ("Makefile", "all:", "Makefile"),
        ("a.unheard", "?", None),
    ],
)
def test_languages(name: str, text: str, language: str | None) -> None:
    assert source.language_of(name, text) == language


def test_secrets_are_counted_and_never_shown(run: Run) -> None:
    key, token = "AKIA" + "Q3EGRZ5VNXLSW7TD", "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
    text = f"aws = '{key}'\ngh = '{token}'\npassword = 'correcthorsebattery'\napi_key = 'zX9vQ2mL8rT4wY7nB3kD'\n"
    text += "-----BEGIN RSA PRIVATE KEY-----\n"
    found = run({"LICENSE": MIT, "a.py": text.encode(), "b.py": b"token = 'example-example-1'\n"})
    assert [each.kept["secrets"] for each in found if isinstance(each, Document)] == [0, 4, 0]


def test_text_is_as_it_is_in_its_charset() -> None:
    assert source.decoded(b"\xef\xbb\xbfa\r\nb\n") == ("a\r\nb\n", "utf-8")
    assert source.decoded("# -*- coding: koi8-r -*-\n# текст".encode("koi8-r"))[0].endswith("текст")
    assert source.decoded(b"\xff\xfe" + "höher".encode("utf-16-le"))[0] == "höher"
    assert source.decoded("/* Größe der Fläche, über alles gemessen */".encode("cp1252"))[0].startswith("/* Größe")
    with pytest.raises(RefusedError):
        source.decoded(bytes(range(256)) * 9)
    with pytest.raises(RefusedError):
        source.decoded(b"\0\1\2" * 99)


def test_hostile_archives_cost_themselves_alone(run: Run) -> None:
    good, _ = packed({"r/LICENSE": MIT, "r/a.py": CODE_TEXT})
    files = {
        "cut.tar.gz": good[:-40],
        "outside.tar.gz": packed({"../../etc/LICENSE": GPL, "r/LICENSE": MIT, "r/a.py": CODE_TEXT})[0],
        "deep.zip": packed({"a/" * 1000 + "LICENSE": MIT, "r/LICENSE": MIT, "r/a.py": CODE_TEXT})[1],
        "notzip.zip": b"PK\x03\x04 and nothing else",
        "nothing.tar": b"",
        "good.tar.gz": good,
    }
    found = run(files)
    assert sum(isinstance(each, Document) and each.text == CODE_TEXT.decode() for each in found) >= 2
    assert all(each.reason != "crash" for each in found if isinstance(each, Reject))
