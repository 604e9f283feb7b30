"""Dumps of MediaWiki sites, in whatever compression, to pages: XML read in a stream, one page in memory at a time.

Of a dump with histories a document is a page's last revision. Where the XML is broken, reading goes on at the next
page; what declares a document type is broken there, so no entity is ever expanded.

Source: https://www.mediawiki.org/xml/export-0.11.xsd; the licence of Wikimedia's texts, CC BY-SA 4.0 since 7 June 2023,
https://foundation.wikimedia.org/wiki/Policy:Terms_of_Use.
"""

from __future__ import annotations

import bz2
import re
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import BinaryIO
from urllib.parse import quote, urlsplit
from xml.parsers import expat

from pipeline.extract.config import WikipediaOptions
from pipeline.extract.members import BZ2_BLOCKS, UNIT_BYTES, DamagedMember, RawInput, content, detect, read_head
from pipeline.extract.units import DAMAGE, Document, Entry, Given, Origin, OwnColumn, Raw, Reader, Reject
from pipeline.table.errors import InputError
from pipeline.table.schema import RejectReason

MAX_FIELD = 4096
"""Characters of a title, a name, a date: what is longer is cut."""
MAX_DEPTH = 16
MAX_NAMESPACES = 1000
DECODERS = 4
"""Threads that decode a dump of many bzip2 streams: each decodes about 16 MB/s, a core makes text of about 8."""
STREAM_BYTES = 4 << 20
"""Of a compressed stream that is decoded as a whole; those of Wikipedia hold 100 pages in about 500 KB."""
MAX_TOKEN_BYTES = 4 << 20
"""Of a tag or a comment, which the parser holds until it ends."""

_NAMESPACES = {  # numbers, and names that hold in every wiki beside its own
    "file": (("6", "-2"), ("file", "image", "media")),
    "category": (("14",), ("category",)),
    "template": (("10",), ("template",)),
}
_FIELDS = {
    **{("page", name): name for name in ("title", "ns", "id")},
    **{("revision", name): f"revision_{name}" for name in ("id", "timestamp", "model", "text")},
}
_PROJECTS = re.compile(
    r"(?:^|\.)(?:wikipedia|wiktionary|wikibooks|wikisource|wikiquote|wikivoyage|wikiversity|wikimedia|mediawiki)\.org$"
)
_CREATIVE_COMMONS = re.compile(r"creativecommons\.org/(?:licenses/([a-z-]{2,12})/(\d\.\d)|publicdomain/zero/)", re.I)
_CC_BY_SA_4 = datetime(2023, 6, 7, tzinfo=UTC)
_REDIRECT = re.compile(r"\s*#[^\s\[\]#*:;]{3,30}\s*:?\s*\[\[")
_ROOT = b"<mediawiki>"
_PAGE = b"<page>"
_BARE = re.compile(rb"(?:\s|<\?[^>]*>)*<page>")
"""Pages that a tool cut out of a dump."""


class _Broken(Exception):
    """Well-formed XML that no dump holds."""


class _Site:
    """What a dump says about its wiki, before its first page."""

    def __init__(self) -> None:
        self.is_known = False
        self.language = self.base = ""
        self.dbname: str | None = None
        self.licence: str | None = None
        self.namespaces: dict[str, str] = {}  # names by number

    def learn(self, name: str, text: str, attributes: Mapping[str, str]) -> None:
        """Take an element of the dump's `siteinfo`."""
        if name == "base":
            self.base = text.strip()
        elif name == "dbname":
            self.dbname = text.strip() or None
        elif name == "namespace" and len(self.namespaces) < MAX_NAMESPACES:
            self.namespaces[attributes.get("key", "")] = text.strip()
        licence = _CREATIVE_COMMONS.search(" ".join([text, *attributes.values()])[:MAX_FIELD])
        if licence is not None:
            self.licence = f"CC-{licence[1].upper()}-{licence[2]}" if licence[1] else "CC0-1.0"

    def url(self, title: str) -> str | None:
        """Return a page's address: that of the main page with the title in the place of its own."""
        found = re.match(r"https?://[^/\s]+/(?:[^\s]*/wiki/|[^\s]*[?&]title=|wiki/|[^\s]*/|)", self.base)
        return found[0] + quote(title.replace(" ", "_"), safe="/:;@$!*(),~") if found and title else None

    def licence_of(self, date: datetime | None) -> str | None:
        """Return what the dump says, or what binds the texts of Wikimedia's projects at a revision's date."""
        host = urlsplit(self.base).hostname if self.base.startswith("http") else None
        if self.licence is not None or date is None or host is None or not _PROJECTS.search(host):
            return self.licence
        return "CC-BY-SA-4.0" if date >= _CC_BY_SA_4 else "CC-BY-SA-3.0"

    def namespace(self, page: _Page) -> int | None:
        """Return the number of a page's namespace; in dumps of before 2012 its title alone says it."""
        number = page.fields.get("ns")
        if number is None:
            prefix, colon, _ = page.fields.get("title", "").partition(":")
            named = {name.lower(): key for key, name in self.namespaces.items() if name}
            number = named.get(prefix.replace("_", " ").lower(), "0") if colon else "0"
        return _integer(number)

    def facts(self, title: str) -> dict[str, object]:
        """Return what the worker has to know of a page."""
        names = {
            kind: sorted({*english, *(self.namespaces[key].lower() for key in keys if self.namespaces.get(key))})
            for kind, (keys, english) in _NAMESPACES.items()
        }
        return {"language": self.language, "title": title, **names}


@dataclass
class _Page:
    """A page as far as it has been read; `fields` are those of the page and of its last revision."""

    offset: int
    depth: int
    fields: dict[str, str] = field(default_factory=dict)
    is_redirect: bool = False
    is_deleted: bool = False
    is_over: bool = False

    def begin_revision(self) -> None:
        self.is_deleted = self.is_over = False
        for name in [name for name in self.fields if name.startswith("revision_")]:
            del self.fields[name]


class _Parser:
    """Turns the XML from a place of a dump on into entries. `broken` says what ended it early, `reached` where."""

    def __init__(self, site: _Site, given: Given, offset: int, *, in_root: bool = False) -> None:
        self.page: _Page | None = None
        self.is_over = False
        self.has_root = False
        self.broken: str | None = None
        self.reached = offset
        self.site, self._given = site, given
        self._entries: list[Entry] = []
        self._path: list[str] = []
        self._attributes: Mapping[str, str] = {}
        self._text: list[str] = []
        self._room = 0
        self._xml = expat.ParserCreate("utf-8")  # whatever it declares: it has been decoded
        self._xml.buffer_text, self._xml.buffer_size = True, 1 << 16
        self._xml.StartElementHandler, self._xml.EndElementHandler = self._start, self._end
        self._xml.StartDoctypeDeclHandler = self._refuse_doctype
        self._offset = offset
        self._fed = 0
        if in_root:
            self._offset -= len(_ROOT)
            self.feed(_ROOT)

    def feed(self, piece: bytes) -> list[Entry]:
        """Return the entries of the pages that end in the next bytes."""
        self._entries = []
        try:
            self._fed += len(piece)
            self._xml.Parse(piece, False)
            if self._fed - self._xml.CurrentByteIndex > MAX_TOKEN_BYTES:
                raise _Broken(f"a tag or comment of over {MAX_TOKEN_BYTES} bytes")
        except expat.ExpatError as error:
            self._break(expat.ErrorString(error.code), self._xml.ErrorByteIndex)
        except _Broken as error:
            self._break(str(error), self._xml.CurrentByteIndex)
        return self._entries

    def _break(self, why: str, index: int) -> None:
        self.broken, self.reached = why, self._offset + max(index, 0)

    def _refuse_doctype(self, *_: object) -> None:
        raise _Broken("a document type is declared")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        path = self._path
        if not path:
            if name != "mediawiki":
                raise _Broken(f"the root element is {name[:100]!r}")
            self.has_root = True
            self.site.language = self.site.language or attributes.get("xml:lang", "")
        path.append(name)
        if len(path) > MAX_DEPTH:
            raise _Broken(f"elements are nested over {MAX_DEPTH} deep")
        if self.page is not None:
            self._start_in_page(self.page, name, attributes)
        elif name == "page":
            self.page = _Page(self._offset + self._xml.CurrentByteIndex, len(path))
            self.site.is_known = True
        elif path[1:2] == ["siteinfo"]:
            self._attributes = attributes
            self._collect(MAX_FIELD)

    def _start_in_page(self, page: _Page, name: str, attributes: Mapping[str, str]) -> None:
        if name == "revision":
            page.begin_revision()
        elif name == "redirect":
            page.is_redirect = True
        elif (self._path[-2], name) in _FIELDS:
            is_text = name == "text"
            page.is_deleted = page.is_deleted or (is_text and "deleted" in attributes)
            self._collect(self._given.limits.payload_bytes if is_text else MAX_FIELD)

    def _collect(self, room: int) -> None:
        self._text, self._room = [], room
        self._xml.CharacterDataHandler = self._characters

    def _characters(self, data: str) -> None:
        self._room -= len(data)
        if self._room >= 0:
            self._text.append(data)
        elif self._path[-1] == "text" and self.page is not None:
            self.page.is_over, self._text = True, []

    def _end(self, name: str) -> None:
        path = self._path
        self._xml.CharacterDataHandler = None
        page = self.page
        if page is None:
            if path[1:2] == ["siteinfo"] and not self.site.is_known:
                self.site.learn(name, "".join(self._text), self._attributes)
            self._text = []
        elif (key := _FIELDS.get((path[-2], name))) is not None:
            page.fields[key] = "".join(self._text)
            self._text = []
        path.pop()
        if page is not None and len(path) < page.depth:
            self._entries.append(_entry(self.site, self._given, page))
            self.page = None
        self.is_over = not path


def _entry(site: _Site, given: Given, page: _Page) -> Entry:
    """Return a page as what a worker makes a document of, or as a reject."""
    fields = page.fields
    title, text = fields.get("title", ""), fields.get("revision_text", "")
    origin = Origin(given.file, page.offset, fields.get("id"))
    url, namespace = site.url(title), site.namespace(page)
    model = fields.get("revision_model") or "wikitext"
    assert isinstance(given.options, WikipediaOptions)
    limit = given.limits.payload_bytes
    reason: RejectReason | None = None
    detail = ""
    if namespace is None:
        reason, detail = "damaged", f"no number of a namespace: {fields.get('ns')!r}"
    elif namespace not in given.options.namespaces:
        name = site.namespaces.get(str(namespace))
        reason, detail = "namespace", f"{namespace}{f' ({name})' if name else ''}"
    elif page.is_redirect or (
        _REDIRECT.match(text) and ("ns" not in fields or text.lstrip()[:9].lower() == "#redirect")
    ):
        reason, detail = "redirect", "a redirect"
    elif page.is_deleted:
        reason, detail = "deleted", "the text of the revision is deleted"
    elif model != "wikitext":
        reason, detail = "unsupported", f"the content model is {model}"
    elif page.is_over or len(payload := text.encode()) > limit:
        reason, detail = "oversize", f"over {limit} bytes of wikitext"
    elif not text.strip():
        reason, detail = "empty", "the dump has no text of this page"
    if reason is not None:
        return Entry(page.offset, Reject(origin, url, reason, detail))
    try:
        date = datetime.fromisoformat(fields.get("revision_timestamp", "")).astimezone(UTC)
    except (ValueError, OverflowError):
        date = None
    kept: dict[str, object] = {
        "namespace": namespace,
        "page_id": _integer(fields.get("id")),
        "revision_id": _integer(fields.get("revision_id")),
        "wiki": site.dbname,
    }
    document = Document(origin, url, "", title or None, date, site.licence_of(date), kept=kept)
    return Entry(page.offset, Raw(document, payload, site.facts(title)))


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", text) else None


def read_dump(stream: BinaryIO, start: int, given: Given) -> Iterator[Entry]:
    """Yield one entry for every page from the byte `start` of the decompressed dump on; none can drop.

    Raises: InputError when the content is no dump.
    """
    raw, site = RawInput(stream), _Site()
    is_bare = _BARE.match(read_head(RawInput(stream, whole=False))[0]) is not None
    if start and not is_bare:  # what the dump says of its wiki stands before the first page
        head = _Parser(site, given, 0)
        for piece in content(RawInput(stream), 0):
            head.feed(piece)
            if site.is_known or head.broken is not None:
                break
    site.is_known = site.is_known or start > 0
    parser = None if is_bare else _Parser(site, given, start, in_root=start > 0)
    position, tail = start, b""  # behind what was read; the end of it while a page is sought
    damage: DamagedMember | None = None
    try:
        for piece in _decoded(stream, raw, start):
            begin, position = position - len(tail), position + len(piece)
            piece, tail = tail + piece, b""
            while piece:
                if parser is None:
                    found = piece.find(_PAGE)
                    if found < 0:
                        tail = piece[-len(_PAGE) + 1 :]
                        break
                    begin, piece = begin + found, piece[found:]
                    parser = _Parser(site, given, begin, in_root=True)
                for entry in parser.feed(piece):
                    raw.spend(UNIT_BYTES)
                    yield entry
                if parser.broken is None:
                    break
                yield _unfinished(parser, given, "damaged", f"invalid XML: {parser.broken}")
                skipped = max(parser.reached - begin, 0) + 1
                begin, piece, parser = begin + skipped, piece[skipped:], None
    except DamagedMember as error:
        damage = error
    if damage is not None:
        where = parser or _Parser(site, given, position, in_root=True)
        yield _unfinished(where, given, damage.reason, str(damage), position)
    elif parser is not None and not parser.has_root:
        raise InputError(f"{given.file}: no MediaWiki dump: it has no element")
    elif parser is not None and (parser.page is not None or not (parser.is_over or is_bare)):
        yield _unfinished(parser, given, "truncated_input", "the dump ends before </mediawiki>", position)


def _decoded(stream: BinaryIO, raw: RawInput, start: int) -> Iterator[bytes]:
    """Yield the content from its byte `start` on; of a dump in many bzip2 streams, several are decoded at once.

    Raises: DamagedMember.
    """
    position = 0
    if detect(raw).codec == "bz2":
        with ThreadPoolExecutor(DECODERS) as pool:
            waiting: deque[Future[bytes]] = deque()
            streams = _bz2_streams(raw)
            while True:
                waiting += (
                    pool.submit(_decode_stream, packed) for packed in islice(streams, 2 * DECODERS - len(waiting))
                )
                piece = waiting.popleft().result() if waiting else b""
                if not piece.startswith(b"<") and position == 0:
                    break  # one stream, or text in UTF-16
                if not piece:
                    break  # the end, or what has to be read step by step
                raw.spend(UNIT_BYTES + len(piece))
                if position + len(piece) > start:
                    yield piece[max(0, start - position) :]
                position += len(piece)
    yield from content(RawInput(stream), max(start, position))


def _bz2_streams(raw: RawInput) -> Iterator[bytes]:
    """Yield what may be the streams of a file that has several, up to the first that is not small."""
    begin = 0
    while begin < raw.size:
        end = begin + 1
        while (end := raw.find(b"BZh", end, begin + STREAM_BYTES)) >= 0 and raw.exactly(end, 10)[4:] not in BZ2_BLOCKS:
            end += 1
        end = end if end >= 0 else raw.size
        if end - begin > STREAM_BYTES or (begin == 0 and end == raw.size):
            return
        yield raw.exactly(begin, end - begin)
        begin = end


def _decode_stream(packed: bytes) -> bytes:
    """Return the content of a whole, sound bzip2 stream; of any other nothing."""
    decoder = bz2.BZ2Decompressor()
    try:
        piece = decoder.decompress(packed, 8 * STREAM_BYTES)
    except OSError:
        return b""
    return piece if decoder.eof and not decoder.unused_data else b""


def _unfinished(parser: _Parser, given: Given, reason: RejectReason, why: str, place: int | None = None) -> Entry:
    """Return the page that cannot be read to its end, or a stretch between pages. Raises: InputError: it is no dump."""
    page = parser.page
    if page is not None:
        origin = Origin(given.file, page.offset, page.fields.get("id"))
        return Entry(page.offset, Reject(origin, parser.site.url(page.fields.get("title", "")), reason, why))
    if not parser.has_root and place is None:
        raise InputError(f"{given.file}: no MediaWiki dump: {parser.broken}")
    return replace(given.refuse(parser.reached if place is None else place, reason, why, DAMAGE), resumable=False)


READER = Reader(
    read_dump,
    own={
        "categories": OwnColumn("text[]", "categories of the page"),
        "namespace": OwnColumn("int", "number of its namespace: 0 are articles"),
        "page_id": OwnColumn("int", "id of the page"),
        "revision_id": OwnColumn("int", "id of the revision that was read"),
        "templates": OwnColumn("text[]", "names of the templates that it uses"),
        "wiki": OwnColumn("text", "the dump's `dbname`, such as `enwiki`"),
    },
    handler="pipeline.extract.wiki.wikitext:make_handler",
)
