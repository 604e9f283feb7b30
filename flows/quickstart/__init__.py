"""The quickstart's data, made from what every machine with Python has: no download, no network.

    python -m flows.quickstart .quickstart

writes `crawl/*.warc.gz` (the standard library's documentation as a small crawl of two sites), `sources/code.jsonl.gz`
(its sources), `sources/readmes.parquet` (the descriptions of the installed packages), `eval/*.jsonl` (two evaluation
tasks for the mix) and `quickstart.json`, which says what was made and which duplicates were planted. On one machine the
same bytes come out each time; a second call leaves the files alone.
"""

from __future__ import annotations

import ast
import base64
import gzip
import hashlib
import html
import importlib.metadata
import json
import logging
import re
import struct
import sys
import sysconfig
import tokenize
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from pydoc_data.topics import topics

import pyarrow as pa
import pyarrow.parquet as pq

from flows.quickstart.pages import render_modules, standard_modules

log = logging.getLogger(__name__)

LAYOUT = 2  # raised when the same machine should make other files
WARC_FILES = 3
MAX_PAGE_BYTES = 80_000  # a page's HTML; the few larger ones would take half of the quickstart's time
MIN_PAGE_BYTES = 1_000
MAX_CODE_FILES = 1_000
MAX_CODE_BYTES = 100_000
MIRROR_EVERY, EDITED_EVERY, REDIRECT_EVERY, COMPRESSED_EVERY = 17, 19, 40, 5
SITE = "https://docs.python.example"  # .example is reserved (RFC 2606): nobody owns these pages
MIRROR = "https://mirror.example"
CRAWLED = datetime(2024, 1, 1, tzinfo=UTC)
ITEMS = 150
"""Items of each evaluation task."""
MAX_FUNCTION_FILE_BYTES = 60_000
FUNCTION_PACKAGES = ("rich", "pydantic", "httpx", "trafilatura", "anyio", "jinja2", "click", "starlette")
_SENTENCE = re.compile(r"(?<=[.:])\s+(?=[A-Z])")

LICENCE_FIELDS = {
    "MIT": "MIT",
    "MIT License": "MIT",
    "The MIT License": "MIT",
    "BSD-2-Clause": "BSD-2-Clause",
    "BSD-3-Clause": "BSD-3-Clause",
    "BSD 3-Clause": "BSD-3-Clause",
    "Apache-2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
}  # "BSD License" names no single licence and stays null


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of the crawl and its answer. `planted` says what was done to the page on purpose, `of` to which."""

    url: str
    body: bytes
    media_type: str = "text/html; charset=utf-8"
    status: str = "200 OK"
    location: str | None = None
    compressed: bool = False
    truncated: bool = False
    planted: str | None = None
    of: str | None = None


def make(folder: Path) -> None:
    """Write the quickstart's data into `folder`, or leave it alone when the same machine made it before."""
    made_by = {
        "layout": LAYOUT,
        "python": sys.version,
        "packages": sorted(f"{d.name} {d.version}" for d in importlib.metadata.distributions()),
    }
    record = folder / "quickstart.json"
    if record.exists() and json.loads(record.read_text())["made_by"] == made_by:
        log.info("%s holds the quickstart's data already; delete it to make it again", folder)
        return
    log.info("rendering the standard library's documentation with pydoc (about 10 s)")
    visits = crawl(render_modules(standard_modules()))
    (folder / "crawl").mkdir(parents=True, exist_ok=True)
    (folder / "sources").mkdir(exist_ok=True)
    for number in range(WARC_FILES):
        path = folder / "crawl" / f"pydoc-{number:02d}.warc.gz"
        _log_size(path, write_warc(path, visits[number::WARC_FILES]), "pages visited")
    code = folder / "sources" / "code.jsonl.gz"
    _log_size(code, write_code(code), "source files")
    readmes = folder / "sources" / "readmes.parquet"
    _log_size(readmes, write_readmes(readmes), "package descriptions")
    for name, items in write_suites(folder / "eval").items():
        log.info("%s: %d items", folder / "eval" / f"{name}.jsonl", items)
    planted = [{"url": visit.url, "kind": visit.planted, "of": visit.of} for visit in visits if visit.planted]
    record.write_text(json.dumps({"made_by": made_by, "planted": planted}, indent=1) + "\n")


def _log_size(path: Path, rows: int, what: str) -> None:
    log.info("%s: %d %s, %.1f MB", path, rows, what, path.stat().st_size / 1e6)


# The crawl ------------------------------------------------------------------------------------------------------------


def crawl(fragments: dict[str, str]) -> list[Visit]:
    """Return the crawl of a documentation site and its mirror, in the order of the visits.

    Every 17th page stands on the mirror too, every 19th slightly edited. The other planted visits are what real crawls
    hold: redirects, a missing page, files that are no HTML, a page in another charset than its header says, a page cut
    short.
    """
    modules = [name for name in sorted(fragments) if MIN_PAGE_BYTES <= len(fragments[name]) <= MAX_PAGE_BYTES]
    visits: list[Visit] = []
    for number, name in enumerate(modules):
        visit = Visit(_address(SITE, name), _page(SITE, name, fragments[name], modules))
        visits.append(replace(visit, compressed=number % COMPRESSED_EVERY == 0))
        if number % MIRROR_EVERY == 1:
            page = _page(MIRROR, name, fragments[name], modules)
            visits.append(Visit(_address(MIRROR, name), page, planted="mirror", of=visit.url))
        if number % EDITED_EVERY == 2:
            page = _page(MIRROR, name, edited(fragments[name]), modules)
            visits.append(Visit(_address(MIRROR, f"{name}-old"), page, planted="edited", of=visit.url))
        if number % REDIRECT_EVERY == 3:
            old = f"{SITE}/lib/module-{name}.html"
            visits.append(Visit(old, b"", status="301 Moved Permanently", location=visit.url, planted="redirect"))
    return visits + _oddities(modules, fragments)


def _oddities(modules: list[str], fragments: dict[str, str]) -> list[Visit]:
    """Return one visit each of what every crawl meets."""
    missing = b"<html><head><title>404</title></head><body><h1>Not found</h1><p>No such page.</p></body></html>"
    first, last = modules[0], modules[-1]
    whole = _page(SITE, last, fragments[last], modules)
    latin = _page(MIRROR, first, f"<p>Caf\xe9, na\xefve, \xa9 and \xb5.</p>{fragments[first]}", modules)
    index = json.dumps({"modules": modules}).encode()
    return [
        Visit(f"{SITE}/3/library/string-old.html", missing, status="404 Not Found", planted="missing"),
        Visit(f"{SITE}/static/dot.png", _png(), media_type="image/png", planted="not_html"),
        Visit(f"{SITE}/searchindex.json", index, media_type="application/json", planted="not_html"),
        Visit(f"{MIRROR}/latin.html", latin.decode().encode("latin-1", "replace"), planted="wrong_charset"),
        Visit(f"{MIRROR}/cut.html", whole[: len(whole) * 3 // 4], truncated=True, planted="truncated"),
    ]


def edited(fragment: str) -> str:
    """Return the fragment with every tenth 'the' replaced: another text that a reader would call the same."""
    count = 0

    def change(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return "that" if count % 10 == 0 else match.group()

    return re.sub(r"\bthe\b", change, fragment) + "<p>This copy belongs to an older release.</p>"


def _address(site: str, name: str) -> str:
    return f"{site}/{'3/library' if site == SITE else 'python'}/{name}.html"


def _page(site: str, name: str, fragment: str, modules: list[str]) -> bytes:
    """Return the fragment in the site's template: the boilerplate that extraction is there to remove."""
    brand = "Python documentation" if site == SITE else "A mirror of many manuals"
    near = modules.index(name)
    neighbours = modules[max(0, near - 12) : near + 13]
    links = "".join(f'<li><a href="{html.escape(n)}.html">{html.escape(n)}</a></li>' for n in neighbours)
    top = "".join(
        f'<a href="/{word.lower()}">{word}</a> ' for word in ("Home", "Download", "News", "Community", "Shop")
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{html.escape(name)} - {brand}</title>
<meta name="description" content="Reference of the module {html.escape(name)}">
<link rel="canonical" href="{_address(SITE, name)}">
<link rel="license" href="https://docs.python.org/3/license.html">
<script>window.analytics = {{"page": "{html.escape(name)}"}};</script>
</head>
<body>
<header class="banner"><a href="/">{brand}</a><nav>{top}</nav></header>
<div class="cookie-notice"><p>We use cookies to improve your experience. <button>Accept all</button></p></div>
<nav class="breadcrumbs"><a href="/">Home</a> &raquo; <a href="./">Library</a> &raquo; {html.escape(name)}</nav>
<aside class="sidebar"><h3>Modules</h3><ul>{links}</ul></aside>
<main><article>
{fragment}
</article></main>
<div class="newsletter"><p>Sign up to our newsletter and never miss a release!</p></div>
<footer><p>&copy; {brand}.</p><p><a href="/privacy">Privacy</a> | <a href="/terms">Terms</a></p></footer>
</body>
</html>
""".encode()


def _png() -> bytes:
    """Return the smallest PNG: one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\x7f")) + chunk(b"IEND", b"")
    )


# The WARC -------------------------------------------------------------------------------------------------------------


def write_warc(path: Path, visits: Iterable[Visit]) -> int:
    """Write visits as WARC/1.1, one gzip member a record, and return their number.

    Source: ISO 28500:2017, https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/
    """
    count = 0
    with path.open("wb") as out:
        fields = b"software: gristmill quickstart\r\nformat: WARC File Format 1.1\r\n"
        head = {"WARC-Filename": path.name, "Content-Type": "application/warc-fields"}
        out.write(_record("warcinfo", path.name, CRAWLED, head, fields))
        for count, visit in enumerate(visits, start=1):
            out.writelines(_visit_records(visit, CRAWLED + timedelta(seconds=count)))
    return count


def _visit_records(visit: Visit, when: datetime) -> Iterator[bytes]:
    """Yield the request record and the response record of a visit."""
    host, _, target = visit.url.removeprefix("https://").partition("/")
    request = f"GET /{target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: gristmill-quickstart\r\nAccept: text/html\r\n\r\n"
    uri = {"WARC-Target-URI": visit.url}
    kind = {
        "Content-Type": "application/http; msgtype=request",
        "WARC-Concurrent-To": _record_id("response", visit.url),
    }
    yield _record("request", visit.url, when, uri | kind, request.encode())
    payload = gzip.compress(visit.body, mtime=0) if visit.compressed else visit.body
    lines = [f"HTTP/1.1 {visit.status}", f"Content-Type: {visit.media_type}", f"Content-Length: {len(payload)}"]
    lines += [f"Date: {when:%a, %d %b %Y %H:%M:%S} GMT", "Server: nginx"]
    lines += ["Content-Encoding: gzip"] if visit.compressed else []
    lines += [f"Location: {visit.location}"] if visit.location else []
    digest = base64.b32encode(hashlib.sha1(payload, usedforsecurity=False).digest()).decode()
    kind = {"Content-Type": "application/http; msgtype=response", "WARC-Payload-Digest": f"sha1:{digest}"}
    kind |= {"WARC-Truncated": "length"} if visit.truncated else {}
    answer = "\r\n".join(lines).encode() + b"\r\n\r\n" + payload
    yield _record("response", visit.url, when, uri | kind, answer)


def _record_id(kind: str, name: str) -> str:
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{kind} {name}')}>"


def _record(kind: str, name: str, when: datetime, fields: dict[str, str], block: bytes) -> bytes:
    """Return one record as a gzip member."""
    lines = [f"WARC-Type: {kind}", f"WARC-Record-ID: {_record_id(kind, name)}", f"WARC-Date: {when:%Y-%m-%dT%H:%M:%SZ}"]
    lines += [f"{key}: {value}" for key, value in fields.items()]
    head = "\r\n".join(["WARC/1.1", *lines, f"Content-Length: {len(block)}"]).encode()
    return gzip.compress(head + b"\r\n\r\n" + block + b"\r\n\r\n", compresslevel=6, mtime=0)


# Code and package descriptions ----------------------------------------------------------------------------------------


def write_code(path: Path) -> int:
    """Write standard-library sources as JSON lines (`body`, `path`) and return their number."""
    library = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "__pycache__"}
    names = [p.relative_to(library).as_posix() for p in library.rglob("*.py") if not skipped.intersection(p.parts)]
    names.sort(key=lambda name: hashlib.blake2b(name.encode()).digest())  # a fair sample, the same each time
    lines: list[str] = []
    for name in names:
        if len(lines) < MAX_CODE_FILES and (body := _read_code(library / name)) is not None:
            lines.append(json.dumps({"body": body, "path": f"Lib/{name}"}, ensure_ascii=False) + "\n")
    path.write_bytes(gzip.compress("".join(sorted(lines)).encode(), mtime=0))
    return len(lines)


def _read_code(path: Path) -> str | None:
    """Return the source, or None when it is too large or not in its declared encoding, as some tests are."""
    if path.stat().st_size > MAX_CODE_BYTES:
        return None
    try:
        with tokenize.open(path) as source:
            body = source.read()
        body.encode()
    except (SyntaxError, UnicodeError):
        return None
    return body


def write_readmes(path: Path) -> int:
    """Write the installed packages' descriptions as Parquet (`text`, `name`, `url`, `licence`); return their number."""
    rows: dict[str, dict[str, str | None]] = {}
    for package in importlib.metadata.distributions():
        fields = package.metadata.json
        text = _field(fields, "description")
        if text and text != "UNKNOWN":
            licence = spdx(
                _field(fields, "license_expression"), _field(fields, "license"), _lines(fields, "classifier")
            )
            rows[package.name] = {"text": text, "name": package.name, "url": _home_page(fields), "licence": licence}
    columns = pa.schema([(name, pa.string()) for name in ("text", "name", "url", "licence")])
    table = pa.Table.from_pylist([rows[name] for name in sorted(rows)], schema=columns)
    pq.write_table(table, path, compression="zstd")
    return len(rows)


def _field(fields: dict[str, str | list[str]], name: str) -> str:
    return str(fields.get(name, "")).strip()


def _lines(fields: dict[str, str | list[str]], name: str) -> list[str]:
    lines = fields.get(name, [])
    return lines if isinstance(lines, list) else [lines]


def spdx(expression: str, field: str, classifiers: list[str]) -> str | None:
    """Return a package's licence as an SPDX expression, or None when its metadata does not name exactly one."""
    if expression:
        return expression
    if field in LICENCE_FIELDS:
        return LICENCE_FIELDS[field]
    named = {LICENCE_FIELDS.get(line) for line in classifiers if line.startswith("License ::")}
    return named.pop() if len(named) == 1 else None


def _home_page(fields: dict[str, str | list[str]]) -> str:
    """Return the package's home page, else a made-up address that names the package."""
    pairs = [line.partition(",") for line in _lines(fields, "project_url")]
    links = {label.strip().lower(): url.strip() for label, _, url in pairs}
    for url in (_field(fields, "home_page"), links.get("homepage"), links.get("repository"), links.get("source")):
        if url and url != "UNKNOWN":
            return url
    return f"https://packages.example/{_field(fields, 'name')}/"


# Evaluation tasks ---------------------------------------------------------------------------------------------------


def write_suites(folder: Path) -> dict[str, int]:
    """Write two evaluation tasks as JSON lines (`id`, `prompt`, `continuation`); return the number of items of each.

    `reference.jsonl` asks for the next sentence of Python's language reference (`pydoc_data.topics`), `functions.jsonl`
    for the body of a function of an installed package, given its head and docstring. Neither text is among the
    quickstart's sources, and the check for contamination would drop what is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for name, rows in (("reference", list(_reference())), ("functions", list(_functions()))):
        rows.sort(key=lambda row: hashlib.blake2b(row["id"].encode()).digest())  # a fair sample, the same each time
        kept = rows[:ITEMS]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
        counts[name] = len(kept)
    return counts


def _reference() -> Iterator[dict[str, str]]:
    """Yield paragraphs of the language reference, split after the first sentence."""
    for topic, text in sorted(topics.items()):
        for number, paragraph in enumerate(re.split(r"\n\s*\n", text)):
            sentences = _SENTENCE.split(" ".join(paragraph.split()))
            if len(sentences) >= 2 and len(sentences[0]) > 40 and 40 <= len(sentences[1]) <= 400:
                yield {"id": f"{topic}-{number}", "prompt": sentences[0], "continuation": f" {sentences[1]}"}


def _functions() -> Iterator[dict[str, str]]:
    """Yield functions with a docstring: the head and docstring, then the body."""
    for package in FUNCTION_PACKAGES:
        for name, source in _sources(package):
            lines = source.splitlines(keepends=True)
            for node in ast.walk(ast.parse(source)):
                if not isinstance(node, ast.FunctionDef) or not ast.get_docstring(node) or len(node.body) < 3:
                    continue
                cut, end = node.body[0].end_lineno or 0, node.end_lineno or 0
                prompt, body = "".join(lines[node.lineno - 1 : cut]), "".join(lines[cut:end])
                if len(prompt) <= 1_000 and 80 <= len(body) <= 600:
                    yield {"id": f"{name}:{node.lineno}", "prompt": prompt, "continuation": body}


def _sources(package: str) -> Iterator[tuple[str, str]]:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in sorted(files, key=str):
        path = Path(str(file.locate()))
        if file.suffix == ".py" and path.is_file() and path.stat().st_size <= MAX_FUNCTION_FILE_BYTES:
            try:
                source = path.read_text("utf-8")
                ast.parse(source)
            except (SyntaxError, UnicodeDecodeError, RecursionError):
                continue
            yield str(file), source
