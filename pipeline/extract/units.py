"""What extractors read and what they make of it: units in, documents and rejects out.

A unit is whatever an extractor promises to account for: a WARC response, a line of JSONL, a row. Each ends as exactly
one `Document` or one `Reject`. Readers yield an `Entry` for each, and for what is no unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO, NamedTuple, Protocol
from urllib.parse import quote

from pipeline.extract.config import ExtractLimits, FileOptions
from pipeline.extract.media import not_text
from pipeline.inputs.files import InputFile
from pipeline.table.config import StageConfig
from pipeline.table.schema import KeptType, RejectReason
from pipeline.table.storage import Storage

UNIT_TYPES = frozenset({"row", "response", "resource", "conversion", "revisit", "arc"})
MERGED = "merged"
"""Type of a record that went into the document of another: an answer, a comment. It is counted, and no unit."""
LEFT_OUT = "left_out"
"""Type of a file, or a part of a document, that options leave out, or that belongs to none. Counted, and no unit."""
SKIPPED = "skipped"
"""Type of a whole input of which nothing is used. It is counted, and no unit."""
DAMAGE = "damage"
MAX_DETAIL = 300


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a unit was found: the input's name, the byte offset (WARC: of the record) or row, the record's own id."""

    file: str
    offset: int
    record_id: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One HTML (or plain text) body waiting to be extracted.

    `payload` is the HTTP body with transfer and content codings undone. `media_type` and `charset` are what the HTTP
    header claims, lower case, None when it says nothing. `headers` has the response headers that metadata uses, with
    lower-case names; `kept` values of the format's own columns.
    """

    origin: Origin
    url: str | None
    payload: bytes
    media_type: str | None
    charset: str | None
    captured: datetime | None  # WARC-Date
    truncated: str | None  # WARC-Truncated, or segment, range, disconnect
    headers: dict[str, str] = field(default_factory=dict)
    kept: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PageText:
    """Where the text of a page stands in its document's (characters), how it was read, and how sure that is (0 to 1).

    `route` is "text" (the layer), "ocr", "vlm" (a model that was shown its picture), "blank" or "failed".
    """

    start: int
    end: int
    route: str
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A unit that became text. `metadata` is JSON-serialisable.

    `kept` are the values of the source's kept columns by name, `unfit` the names of those whose value did not fit;
    `pages` are those of a format that has pages, else None; `pictures`, of the first pages where somebody looks (fact
    `pictures`), PNG in base64.
    """

    origin: Origin
    url: str | None
    text: str
    title: str | None = None
    date: datetime | None = None
    licence: str | None = None
    metadata: dict[str, object] = field(default_factory=dict)
    kept: dict[str, object] = field(default_factory=dict)
    unfit: tuple[str, ...] = ()
    pages: tuple[PageText, ...] | None = None
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Raw:
    """Content that a worker process makes a document's text of: wikitext, LaTeX, anything whose parser may go astray.

    `document` is what is known before, its text empty; `facts` are what else the worker has to know, JSON-serialisable.
    """

    document: Document
    payload: bytes
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reject:
    """A unit, or a damaged stretch of input, that did not become a document, and why."""

    origin: Origin
    url: str | None
    reason: RejectReason
    detail: str


@dataclass(frozen=True, slots=True)
class Given:
    """What a reader is given beside the stream of its input.

    `beside` are further inputs that are read together with it (`Reader.together`); `options` the format's own settings.
    `address` is where the input lies; `storage`, where there is one, has room for scratch. Only to look at the input,
    `rows` of each file that is read are enough.
    """

    file: str
    limits: ExtractLimits
    options: StageConfig
    beside: tuple[InputFile, ...] = ()
    address: str = ""
    storage: Storage | None = None
    rows: int | None = None

    def refuse(self, offset: int, reason: RejectReason, detail: str, record_type: str = "row") -> Entry:
        """Return what cannot be read as a reject."""
        return refuse(self.file, offset, reason, detail, record_type)


@dataclass(frozen=True, slots=True)
class Entry:
    """What a reader found at a place of an input: a unit, a damaged stretch, or a record that is only counted.

    `offset` is where it begins: a raw byte of a web archive (for records that share a compressed member: at which that
    member begins), a byte of another decompressed file, a row of Parquet. When `resumable`, reading may begin again
    there. `record_type` is "row", the type of a WARC record in lower case, "arc", "filedesc", "unknown", "damage" for a
    stretch that cannot be read, or "file" for an input of which nothing can.
    """

    offset: int
    result: Page | Raw | Document | Reject | None
    record_type: str = "row"
    resumable: bool = True

    @property
    def is_unit(self) -> bool:
        """Whether this has to end as a document or a reject, and is not damage or a record that is only counted."""
        return self.record_type in UNIT_TYPES


def refuse(file: str, offset: int, reason: RejectReason, detail: str, record_type: str = "row") -> Entry:
    """Return what cannot be read as a reject."""
    return Entry(offset, Reject(Origin(file, offset), None, reason, detail[:MAX_DETAIL]), record_type)


class FileUnit(Protocol):
    """A file of an input, as `pipeline.extract.archives` finds it."""

    @property
    def number(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def problem(self) -> tuple[RejectReason, str] | None: ...
    def refusal(self) -> tuple[int, RejectReason, str, str]: ...
    @property
    def is_damage(self) -> bool: ...


def place_of(given: Given, file: FileUnit) -> tuple[Origin, str | None]:
    """Return where a file was found, and where it is on the web as far as the options say where its folder is."""
    assert isinstance(given.options, FileOptions), "the options of formats of files"
    base, path = given.options.base_url, file.path
    origin = Origin(given.file, file.number, path if path and path != given.file else None)
    return origin, f"{base.rstrip('/')}/{quote(path)}" if base and path else None


def unread(
    given: Given, file: FileUnit, path: str, origin: Origin, url: str | None, *, is_text: bool = True
) -> Entry | None:
    """Return the entry of a file that its format is not asked about: left out by the options, lost, or a reject.

    `path` is what the options choose by. None: the file is to be read.
    """
    assert isinstance(given.options, FileOptions), "the options of formats of files"
    if file.path and not given.options.chooses(path):
        return Entry(file.number, None, LEFT_OUT)
    if file.is_damage:
        return given.refuse(*file.refusal())
    problem = file.problem
    if problem is None and not file.data.strip():
        problem = "empty", "an empty file"
    if problem is None and is_text and (what := not_text(file.data)) is not None:
        problem = "encrypted" if "encrypted" in what else "unsupported", what
    return rejected(file, path, origin, url, *problem) if problem is not None else None


def rejected(file: FileUnit, path: str, origin: Origin, url: str | None, reason: RejectReason, detail: str) -> Entry:
    """Return a file as a reject whose detail begins with its path."""
    return Entry(file.number, Reject(origin, url, reason, f"{path}: {detail}"[:MAX_DETAIL]))


class OwnColumn(NamedTuple):
    """A column of a format's own: its type, and what it means (for the reference)."""

    type: KeptType
    meaning: str


@dataclass(frozen=True, slots=True)
class Reader:
    """How inputs of one format are read.

    `read` takes a stream, the place to begin at (that of a resumable entry) and what is `Given`. `own` are what the
    format knows beyond the schema, in the order of their names; `handler` names the function (`module:name`) that makes
    the handler of the workers for its `Raw` units. `libraries` are distributions whose version decides the text;
    `version` is raised when the reader would make other documents. `together` groups a source's inputs into those that
    are read together, the first of each group at the head; by default each is read alone. `of_files` says that a
    file is a document: then an empty one is a unit, too, and many share a shard, but for what `is_container` by its
    name (by default an archive); offsets of entries stay below 2^32. Names that begin with one of `skipped` are not
    looked for in folders. `worker_limits` are those of its workers (`isolation.WorkerLimits`) where they are not those
    of pages.
    """

    read: Callable[[BinaryIO, int, Given], Iterator[Entry]]
    own: Mapping[str, OwnColumn] = field(default_factory=dict)
    handler: str | None = None
    libraries: tuple[str, ...] = ()
    version: str = "v1"
    together: Callable[[Sequence[InputFile]], list[tuple[InputFile, ...]]] | None = None
    of_files: bool = False
    is_container: Callable[[str], bool] | None = None
    skipped: tuple[str, ...] = (".", "_")
    worker_limits: Callable[[ExtractLimits], Mapping[str, float]] | None = None

    @property
    def columns(self) -> dict[str, KeptType]:
        """The types of the format's own columns."""
        return {name: column.type for name, column in self.own.items()}
