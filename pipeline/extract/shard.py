"""Raw inputs, in whatever format they are, to their shards of documents and rejects.

A container (an archive, a corpus, a dump) has shards of its own. Files that are documents, and small repositories, are
gathered by the hash of their name into a fixed number of buckets, which have shards: a folder of a million pages makes
no million shards, and a file that comes, changes or goes concerns its bucket alone, whatever else is there.

A large input, or bucket, becomes several shards, cut where the decoded bytes read so far reach `part_bytes`. Each
manifest says where the next shard begins, so a killed run goes on after the last complete one, and cutting never
depends on where it went on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, BinaryIO, get_args

import pyarrow as pa

from pipeline.extract.archives import is_archive
from pipeline.extract.config import OPTIONS, PAGES_FOLDER, ExtractConfig, KeepColumn, PdfConfig, VisionConfig, has_pages
from pipeline.extract.content import Content, Marked, identify
from pipeline.extract.conversion import converted
from pipeline.extract.corpora.parquet import read_parquet
from pipeline.extract.corpora.rows import CorpusFile
from pipeline.extract.corpora.text import read_csv, read_jsonl
from pipeline.extract.formats import READERS
from pipeline.extract.html.messages import HANDLER, HtmlOptions
from pipeline.extract.html.pages import extract_pages
from pipeline.extract.isolation import WorkerLimits, WorkerPool
from pipeline.extract.pdf.reader import check_engine
from pipeline.extract.units import DAMAGE, Document, Entry, Given, Page, Raw, Reject, refuse
from pipeline.extract.warc.archive import read_warc
from pipeline.inputs.files import InputFile
from pipeline.inputs.shipped import lid_model_hash
from pipeline.table import schema
from pipeline.table.catalog import ANSWERS
from pipeline.table.config import StageConfig
from pipeline.table.errors import ConfigError, InputError, ShardError, UnreadableInputError
from pipeline.table.schema import RejectReason
from pipeline.table.shards import Group, Identity, Manifest, Part, PartWriter, Tally, Work, digest, read_batches
from pipeline.table.storage import Storage

VERSION = "extract_v2"
MAX_UNITS = 200_000
"""Units of one shard at most, for inputs whose units are tiny or all rejected."""
BUCKETS = 64
"""Those of a source. One file that changes has as many others as a 64th read again; few files make few shards."""
ALONE_BYTES = 256 << 20
"""What fills a shard has its own, whatever it is called."""
MAX_NAMED = 5
"""Inputs that cannot be read of which a manifest says why."""
FORMATS = "WARC, JSON lines or arrays, Parquet or CSV"

_CORPORA = {"jsonl": read_jsonl, "parquet": read_parquet, "csv": read_csv}
_MARKED = frozenset(get_args(Marked))
_TELL_ROWS = 16
_PLACES = 1 << 32  # of each of the inputs of a bucket, numbered through
_BUFFER_ROWS, _BUFFER_CHARACTERS = 1_000, 8 << 20  # what is written at once, by which row groups are cut
_PIECE_ROWS, _PIECE_CHARACTERS = 100, 1 << 20  # what is held as objects, which take up to eight times a table's memory

Result = Page | Raw | Document | Reject
Pools = Callable[[str], WorkerPool]
"""Gives the workers of a handler (`module:function`), started at the first call."""
Shown = Callable[[Iterable[Result], Callable[[Raw], Page | Document | Reject], VisionConfig, str], Iterator[Result]]
"""Has a model read the pictures of pages: `pipeline.extract.pdf.vision.shown`, which imports the network's client."""
Watch = Callable[[int, int], None]
"""Called with the number of rows finished since the last call and the place in the input's bytes; raises to stop."""


@dataclass(frozen=True)
class ExtractJob:
    """One raw input of a source, or a bucket of them, and how to read it.

    `format` is `auto` until the content has been looked at.
    """

    storage: Storage
    source: str
    input: InputFile
    format: str
    columns: Mapping[str, str]
    config: ExtractConfig
    keep: Mapping[str, KeepColumn] = field(default_factory=dict)
    """Columns of the corpus's own, or of the format's, in the order of their names, each with its type."""
    options: StageConfig = field(default_factory=StageConfig)
    beside: tuple[InputFile, ...] = ()
    """Inputs that are read together with this one."""
    bucket: int | None = None
    others: tuple[tuple[InputFile, ...], ...] = ()
    """Of a bucket, its further inputs, each with those that are read together with it."""
    is_found: bool = False
    """Whether the format was told by the content: then the source has not its columns, and `metadata` has them."""
    shown: Shown | None = None
    has_pages: bool = field(init=False)

    def __post_init__(self) -> None:
        given = "auto" if self.is_found else self.format
        object.__setattr__(self, "has_pages", has_pages(given, self.config))

    def read_as(self, form: str) -> ExtractJob:
        """Return the job with the format that `format_of` found, where its source names none."""
        if self.format != "auto":
            return self
        told = self.config.pdf.model_dump() if form == "pdf" and self.config.pdf is not None else {}
        return replace(self, format=form, options=OPTIONS.get(form, StageConfig)(**told), is_found=True)

    @property
    def kept_types(self) -> dict[str, str]:
        return {name: column.type or "text" for name, column in self.keep.items()}

    @property
    def groups(self) -> tuple[tuple[InputFile, ...], ...]:
        """The inputs, those that are read together side by side."""
        return (self.input, *self.beside), *self.others

    @property
    def files(self) -> list[InputFile]:
        return [file for group in self.groups for file in group]

    @property
    def name(self) -> str:
        """What people call it."""
        if self.bucket is None:
            return self.input.name
        count = len(self.files)
        return f"{count:,} file{'s' * (count != 1)} (bucket {self.bucket + 1} of {BUCKETS})"

    @property
    def size(self) -> int:
        """Bytes of all inputs."""
        return sum(file.size for file in self.files)

    def only(self, group: Sequence[InputFile]) -> ExtractJob:
        """Return the job of one group of a bucket, as if there were no buckets."""
        return replace(self, input=group[0], beside=tuple(group[1:]), bucket=None, others=())

    @property
    def documents(self) -> Group:
        return Group(self.storage, f"{self.source}/documents")

    @property
    def rejects(self) -> Group:
        return Group(self.storage, f"{self.source}/rejects")

    @property
    def pages(self) -> Group | None:
        """Where it is written how the pages of each document were read; None where documents have no pages."""
        return Group(self.storage, f"{self.source}/{PAGES_FOLDER}") if self.has_pages else None

    def stem(self, number: int) -> str:
        """Return the stem of the parts of shard `number`; no name of an input is that of a bucket."""
        named = self.input.name if self.bucket is None else f"\0{self.bucket}"
        origin = hashlib.blake2b(f"{self.source}\0{named}".encode(), digest_size=6).hexdigest()
        return f"part-{origin}-{number:05d}"

    def work(self, number: int) -> Work:
        """Return the work of shard `number`. Of a bucket the first names the inputs, the others a digest of them."""
        if self.bucket is None:
            first, *beside = self._described()
            return Work(self.stem(number), self._identity(), ({**first, "shard": number}, *beside))
        whole = {"bucket": self.bucket, "identity": self._inputs_digest, "shard": number}
        return Work(self.stem(number), self._identity(), (whole, *([] if number else self._described())))

    def _described(self) -> list[dict[str, Any]]:
        return [{"url": f.shown_url, "name": f.name, "size": f.size, "identity": f.identity} for f in self.files]

    @cached_property
    def _inputs_digest(self) -> str:
        return digest(self._described())

    def _identity(self) -> Identity:
        config: dict[str, Any] = {"source": self.source, "format": self.format, "part_bytes": self.config.part_bytes}
        config |= {} if self.bucket is None else {"buckets": BUCKETS}
        if (reader := READERS.get(self.format)) is not None:
            limits = {"payload_bytes", "record_bytes"}
            options = self.options
            said = options.identity() if isinstance(options, PdfConfig) else options.model_dump(mode="json")
            config |= {"options": said, "reader": reader.version}
            if reader.handler != HANDLER:
                config |= {"columns": {} if self.is_found else dict(reader.columns)}
                config |= self.config.model_dump(mode="json", include={"limits": limits, "language_gate": True})
                return Identity("extract", VERSION, config, _versions(reader.libraries))
        elif self.keep:
            config[schema.KEEP_COLUMNS] = {name: [item.path, item.type] for name, item in self.keep.items()}
        if self.format != "warc" and reader is None:  # what concerns pages alone must not re-read a corpus
            config |= {"columns": dict(self.columns), "record_bytes": self.config.limits.record_bytes}
            return Identity("extract", VERSION, config)
        nets = {"cpu_s", "memory_bytes", "record_bytes"}
        settings = self.config.model_dump(mode="json", exclude={"limits": nets, "retry": True})
        libraries = _libraries() | ({"lid.176": lid_model_hash()} if self.config.language_gate else {})
        if self.config.pdf is None or not self.has_pages:
            del settings["pdf"]
        else:
            settings["pdf"] = self.config.pdf.identity()
            libraries |= _versions(READERS["pdf"].libraries) | {"pdf": READERS["pdf"].version}
        return Identity("extract", VERSION, {**config, **settings}, libraries)


@cache
def _libraries() -> dict[str, str]:
    """Return the versions that decide a page's text; once, since a look-up reads files and a crawl has many inputs."""
    return _versions(("trafilatura", "resiliparse", "lxml", "justext", "fasttext-community"))


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    """Return what decides texts and is installed: what an extra brings changes them, too."""
    found = {}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def gathered(form: str, files: Sequence[InputFile]) -> list[tuple[int | None, list[tuple[InputFile, ...]]]]:
    """Group a source's inputs by what is read together, and these groups by their bucket; None: shards of its own.

    Nothing but a group's own names and sizes decides where it goes.
    """
    reader = READERS.get(form)
    groups = reader.together(files) if reader and reader.together else [(file,) for file in files]
    is_archived = (reader and reader.is_container) or is_archive
    alone: list[tuple[InputFile, ...]] = []
    buckets: defaultdict[int, list[tuple[InputFile, ...]]] = defaultdict(list)
    for group in groups:
        # What belongs together has a folder in common, which stays when one file of it comes or goes.
        levels = zip(*(file.name.split("/") for file in group), strict=False)
        name = "/".join(level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, levels))
        is_container = reader is None or not reader.of_files or (len(group) == 1 and is_archived(name))
        if is_container or sum(file.size for file in group) >= ALONE_BYTES:
            alone.append(group)
        else:
            buckets[int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) % BUCKETS].append(group)
    return [*((None, [group]) for group in alone), *sorted(buckets.items())]


@dataclass(frozen=True)
class Shard:
    """One finished shard of an input, or of a bucket: its parts and its counts."""

    documents: Part
    rejects: Part
    pages: Part | None
    next_offset: int | None
    reasons: Mapping[str, int]
    """Rejects by reason."""
    counts: Mapping[str, int]
    """Among them `null:NAME` and `unfit:NAME`: documents whose kept column is null, and whose value does not fit it."""
    format: str
    unread: Sequence[tuple[str, str]]
    """Inputs of which nothing could be read, and why: some, `counts` has their number as `records_file`."""


def page_pool(workers: int, config: ExtractConfig, handler: str = HANDLER) -> WorkerPool:
    """Start the isolated workers of a handler, by default that of pages; close them by leaving the `with` block."""
    own = next((reader.worker_limits for reader in READERS.values() if reader.handler == handler), None)
    limits = {"cpu_s": config.limits.cpu_s, "memory_bytes": config.limits.memory_bytes}
    nets = {**limits, **own(config.limits)} if own else limits
    return WorkerPool(handler, workers, WorkerLimits(**nets))  # type: ignore[arg-type]


def finished_shards(job: ExtractJob) -> list[Shard]:
    """Return the input's finished shards, from the first one on."""
    shards: list[Shard] = []
    for number in itertools.count():
        work = job.work(number)
        documents, rejects = _proof(job.documents, work), _proof(job.rejects, work)
        pages = _proof(job.pages, work) if job.pages else None
        if documents is None or rejects is None or (job.pages and pages is None):
            break
        if not rejects.counts.keys().isdisjoint(job.config.retry):
            break
        next_offset = documents.details["next_offset"]
        unread = documents.details.get("unread", [])
        if isinstance(unread, str):  # of the one input, as version 0.2.0 wrote it
            unread = [(documents.details["file"], unread)]
        parts = documents.part, rejects.part, pages.part if pages else None
        shards.append(Shard(*parts, next_offset, rejects.counts, documents.counts, job.format, unread))
        if next_offset is None:
            break
    return shards


def _proof(group: Group, work: Work) -> Manifest | None:
    """Return the manifest that proves a part done, or None when it is missing or the part itself is."""
    manifest = group.manifest(work.name)
    if manifest is None or manifest.part.key != work.key or not group.verify([manifest.part]):
        return None
    return manifest


def extract_input(job: ExtractJob, pools: Pools, watch: Watch) -> list[Shard]:
    """Make the shards of a job that are not there yet; every unit ends as exactly one document or reject.

    `pools` is called only where a format has workers. An input that cannot be opened, or read
    as what it is, ends as one reject.

    Raises: ShardError when reading fails midway, or the shard cannot be written.
    """
    while True:
        try:
            return _extract(recognised(job), pools, watch)
        except UnreadableInputError:  # all were sound when they were listed: the next run looks again
            others = tuple(tuple(map(_looked_at, group)) for group in job.others)
            beside = tuple(map(_looked_at, job.beside))
            job = replace(job, input=_looked_at(job.input), beside=beside, others=others)


def _looked_at(file: InputFile) -> InputFile:
    """Return an input as it is now; one that cannot be opened any more has an identity that no listing gives."""
    try:
        if file.problem is None:
            file.open().close()
    except UnreadableInputError as error:
        return replace(file, identity=f"unread: {error}", problem=("damaged", str(error)))
    return file


def _extract(job: ExtractJob, pools: Pools, watch: Watch) -> list[Shard]:
    shards = finished_shards(job)
    start = shards[-1].next_offset if shards else 0
    if start is None:
        return shards
    earlier = itertools.chain.from_iterable([_places(job, shard) for shard in shards])  # read by who needs it
    reading = Reading(job, start, earlier)
    with closing(reading.entries) as entries:
        feed = _Feed(entries)
        while start is not None:
            shards.append(_make_shard(job, len(shards), feed, pools, lambda rows: watch(rows, reading.position)))
            start = shards[-1].next_offset
    return shards


def recognised(job: ExtractJob) -> ExtractJob:
    """Return the job with its format, where that is `auto` and the input can be read. Raises: as `Reading`."""
    if job.format != "auto" or job.input.problem is not None:
        return job
    try:
        with job.input.open() as stream:
            return job.read_as(format_of(stream, job))
    except OSError as error:
        raise ShardError(f"{job.input.shown_url} cannot be read: {error.strerror or error}") from error


class Reading:
    """The entries of a job from the place `start` on, one input after the other, and how far reading is.

    `earlier` and `rows` are for `read`. The entries raise UnreadableInputError for an input that cannot be opened any
    more, ShardError when reading fails midway.
    """

    def __init__(
        self, job: ExtractJob, start: int = 0, earlier: Iterable[tuple[str, int]] = (), rows: int | None = None
    ) -> None:
        self._job, self._start, self._earlier, self._rows = job, start, earlier, rows
        self._passed = 0
        self._stream: BinaryIO | None = None
        self.entries: Generator[Entry, None, None] = self._of_groups()

    @property
    def position(self) -> int:
        """How many bytes of the inputs have been read."""
        return self._passed + (self._stream.tell() if self._stream is not None else 0)

    def _of_groups(self) -> Generator[Entry, None, None]:
        first, start = (0, self._start) if self._job.bucket is None else divmod(self._start, _PLACES)
        for number, group in enumerate(self._job.groups):
            if number >= first:
                for entry in self._of_group(group, start if number == first else 0):
                    yield replace(entry, offset=number * _PLACES + entry.offset) if number else entry
            self._passed += sum(file.size for file in group)

    def _of_group(self, group: Sequence[InputFile], start: int) -> Iterator[Entry]:
        """Yield the entries of inputs that are read together: first each that is lost, then what the reader finds."""
        lost = 0
        while group and group[0].problem is not None:
            if start <= lost:
                yield refuse(group[0].name, lost, *group[0].problem, "file")
            lost, group = lost + 1, group[1:]
        if not group:
            return
        try:
            with group[0].open() as self._stream:
                alone = self._job.only(group)
                for entry in read(self._stream, alone, max(0, start - lost), self._earlier, self._rows):
                    yield replace(entry, offset=lost + entry.offset) if lost else entry
        except OSError as error:
            raise ShardError(f"{group[0].shown_url} cannot be read: {error.strerror or error}") from error
        finally:
            self._stream = None


def format_of(stream: BinaryIO, job: ExtractJob) -> str:
    """Return how an input is to be read: as its source says, or by its content; `auto` when it cannot be read."""
    if job.format != "auto":
        return job.format
    kind = identify(stream, job.input.name, job.columns).kind
    is_read = kind == "warc" or kind in _CORPORA or kind in _MARKED
    return "jsonl" if kind == "damaged" else kind if is_read else "auto"


def read(
    stream: BinaryIO, job: ExtractJob, start: int, earlier: Iterable[tuple[str, int]], rows: int | None = None
) -> Iterator[Entry]:
    """Yield the entries of a raw input, no bucket, from `start` on.

    `earlier` is for `read_warc`, `rows` for who only looks.

    An input that holds nothing has none. One that cannot be read is one entry of the type "file", and one that is
    shorter than it was when it was listed ends with damage.
    """
    name, limits = job.input.name, job.config.limits
    content = identify(stream, name, job.columns)
    form = format_of(stream, job)
    if content.kind == "empty" and not job.beside and not (form in READERS and READERS[form].of_files):
        return
    complaint = _complaint(content, form, job)
    if complaint is not None:
        yield refuse(name, 0, *complaint, "file")
        return
    try:
        if form == "warc":
            if job.config.pdf is not None:
                check_engine(job.config.pdf)
            yield from read_warc(stream, name, start, limits, earlier, job.config.pdf)
        elif form in READERS:
            address = job.input.shown_url
            given = Given(name, limits, job.read_as(form).options, job.beside, address, job.storage, rows)
            yield from READERS[form].read(stream, start, given)
        else:
            yield from _CORPORA[form](stream, start, CorpusFile(name, job.columns, limits, job.keep))
    except InputError as error:
        yield refuse(name, 0, "unsupported", str(error).removeprefix(f"{name}: "), "file")
        return
    size = stream.seek(0, 2)
    if size < job.input.size:
        shrunk = f"the file has {size} bytes, when it was listed it had {job.input.size}"
        yield refuse(name, size, "truncated_input", shrunk, DAMAGE)


def _complaint(content: Content, form: str, job: ExtractJob) -> tuple[RejectReason, str] | None:
    """Return why an input is known not to be readable, before a reader makes many rejects of it."""
    if form in READERS:  # which know best what they can read
        return None
    if content.kind in _MARKED:
        return "unsupported", f"set `format: {content.kind}`, which this is, or `auto` for any"
    if content.kind == "unreadable":
        return content.reason, content.detail
    if content.kind == "binary" and form != "warc":  # where records may be found behind it
        return "unsupported", f"binary data of no known format; it must be {FORMATS}"
    if form == "auto":
        hint = f"{FORMATS} with a column {job.columns.get('text', 'text')!r}"
        return "unsupported", f"text, but not {hint}; name its column (`columns: {{text: NAME}}`)"
    if form in ("jsonl", "csv") and content.kind in ("warc", "parquet"):
        what = "a WARC file" if content.kind == "warc" else "a Parquet file"
        return "unsupported", f"this is {what}; set `format: {content.kind}`, or `auto` for any"
    if form == "jsonl" and content.kind in ("csv", "text"):
        return "unsupported", "text without a line that is a JSON object; set `format: auto`"
    return None


class _Feed:
    """The entries of an input, handed out a shard at a time."""

    def __init__(self, entries: Iterator[Entry]) -> None:
        self._entries = entries
        self._next = next(entries, None)
        self.counts: Counter[str] = Counter()  # of the shard
        self.unread: list[tuple[str, str]] = []  # of the shard

    def shard(self, part_bytes: int) -> Iterator[Result]:
        """Yield the results of one shard: up to the first resumable entry after enough bytes or units."""
        self.counts, self.unread = Counter(units=0, damage=0), []
        decoded_bytes = 0
        while (entry := self._next) is not None:
            if entry.resumable and (decoded_bytes >= part_bytes or self.counts["units"] >= MAX_UNITS):
                return
            self._next = next(self._entries, None)
            self.counts[f"records_{entry.record_type}"] += 1
            if entry.record_type == "file" and isinstance(entry.result, Reject) and len(self.unread) < MAX_NAMED:
                self.unread.append((entry.result.origin.file, f"{entry.result.reason}: {entry.result.detail}"))
            if entry.result is not None:
                self.counts["units" if entry.is_unit else "damage"] += 1
                decoded_bytes += _size(entry.result)
                yield entry.result

    @property
    def next_offset(self) -> int | None:
        """Where the next shard begins, or None at the end of the input."""
        return self._next.offset if self._next is not None else None


def _make_shard(job: ExtractJob, number: int, feed: _Feed, pools: Pools, watch: Callable[[int], None]) -> Shard:
    work = job.work(number)
    results = by_workers(job, feed.shard(job.config.part_bytes), pools)
    with ExitStack() as parts:
        documents = parts.enter_context(PartWriter(job.documents, work, schema.documents_schema(job.kept_types)))
        rejects = parts.enter_context(PartWriter(job.rejects, work, schema.REJECTS))
        pages = parts.enter_context(PartWriter(job.pages, work, schema.PAGES)) if job.pages else None
        buffer = _Buffer(job.source, documents, rejects, pages)
        told = 0
        for result in results:
            buffer.add(result)
            if buffer.rows - told >= _TELL_ROWS:
                watch(buffer.rows - told)
                told = buffer.rows
        buffer.flush()
        watch(buffer.rows - told)
    counts = dict(feed.counts) | dict(sorted(buffer.kept.items()))
    rejected = rejects.finish(Tally(rows_in=rejects.rows, counts=buffer.reasons))
    paged = pages.finish(Tally(rows_in=pages.rows)) if pages else None
    details: dict[str, Any] = {"next_offset": feed.next_offset, "file": job.name}
    details |= {"unread": feed.unread} if feed.unread else {}
    tally = Tally(rows_in=counts["units"] + counts["damage"], rejects=rejects.rows, counts=counts, details=details)
    made = documents.finish(tally), rejected, paged
    return Shard(*made, feed.next_offset, buffer.reasons, counts, job.format, feed.unread)


def by_workers(job: ExtractJob, results: Iterable[Result], pools: Pools) -> Iterator[Document | Reject]:
    """Yield a document or reject for each result, in order: pages and raw content go through their format's workers."""
    reader = READERS.get(job.format)
    handler = HANDLER if job.format == "warc" else reader.handler if reader else None
    made: Iterable[Result] = results
    pdf, columns = job.config.pdf if job.format == "warc" else job.options, READERS["pdf"].columns
    if isinstance(pdf, PdfConfig):
        assert READERS["pdf"].handler is not None, "PDFs are read by workers"
        pool = pools(READERS["pdf"].handler)
        if pdf.vision is not None and pdf.ocr != "off":
            if not job.storage.is_local:
                where = f"{job.source}: workspace {job.storage.url}"
                raise ConfigError(f"{where}: a model's answers are stored durably on a local disk; use a local one")
            folder = job.storage.path(ANSWERS)
            assert job.shown is not None, "who makes jobs of PDFs says who shows them"
            made = job.shown(made, lambda unit: next(converted(pool, [unit], columns)), pdf.vision, folder)
        made = converted(pool, made, columns)
    if handler == HANDLER:
        made = extract_pages(pools(handler), made, html_options(job.config))
    elif handler is not None and handler != READERS["pdf"].handler:
        made = converted(pools(handler), made, READERS[job.format].columns)
    for result in made:
        assert isinstance(result, (Document, Reject)), f"{job.format} has no workers"
        if reader is not None and job.is_found and isinstance(result, Document):
            facts = {name: value for name, value in result.kept.items() if value is not None}
            if result.pages is not None and not job.has_pages:
                facts["pages"] = [asdict(page) for page in result.pages]
            yield replace(result, metadata=result.metadata | facts, kept=dict.fromkeys(job.keep))
        else:
            yield result


def html_options(config: ExtractConfig) -> HtmlOptions:
    """Return what a worker has to know of the configuration."""
    return HtmlOptions(
        engine=config.engine,
        favor=config.favor,
        language_gate=config.language_gate,
        metadata=config.metadata,
        max_payload_bytes=config.limits.payload_bytes,
        max_nodes=config.limits.nodes,
        max_depth=config.limits.depth,
    )


class _Buffer:
    """Documents and rejects on their way into the two parts of a shard, in order."""

    def __init__(self, source: str, documents: PartWriter, rejects: PartWriter, pages: PartWriter | None) -> None:
        self._source = source
        self._writers = documents, rejects, pages
        self._documents: list[Document] = []
        self._pieces: list[pa.Table] = []
        self._paged: list[pa.Table] = []
        self._rejects: list[Reject] = []
        self._characters = self._piece_characters = self._held = 0
        self.rows = 0
        self.reasons: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()

    def add(self, result: Document | Reject) -> None:
        self.rows += 1
        self._held += 1
        if isinstance(result, Reject):
            self.reasons[result.reason] += 1
            self._rejects.append(result)
        else:
            self._documents.append(result)
            self._characters += len(result.text)
            self._piece_characters += len(result.text)
            self.kept.update(f"unfit:{name}" for name in result.unfit)
            self.kept.update(f"null:{name}" for name, value in result.kept.items() if value is None)
        if self._characters >= _BUFFER_CHARACTERS or self._held >= _BUFFER_ROWS:
            self.flush()
        elif self._piece_characters >= _PIECE_CHARACTERS or len(self._documents) >= _PIECE_ROWS:
            self._tabulate()

    def flush(self) -> None:
        """Write what is held, each kind as one table: rounded up in pieces, its size would end row groups elsewhere."""
        self._tabulate()
        documents, rejects, pages = self._writers
        for writer, pieces in ((documents, self._pieces), (pages, self._paged)):
            if writer is not None and pieces:
                writer.write(pa.concat_tables(pieces).combine_chunks())
            pieces.clear()
        if self._rejects:
            rejects.write(rejects_table(self._source, self._rejects))
        self._rejects, self._characters, self._held = [], 0, 0

    def _tabulate(self) -> None:
        documents, _, pages = self._writers
        if self._documents:
            self._pieces.append(documents_table(self._source, self._documents, documents.schema))
            if pages is not None:
                self._paged.append(pages_table(self._pieces[-1][schema.DOC_ID], self._documents))
        self._documents, self._piece_characters = [], 0


def documents_table(source: str, documents: Sequence[Document], columns: pa.Schema = schema.DOCUMENTS) -> pa.Table:
    """Return documents as rows of `columns`, with their ids: `schema.DOCUMENTS` and the source's kept columns."""
    rows = [
        {
            "doc_id": schema.doc_id(source, d.origin.file, d.origin.offset, d.origin.record_id, d.text),
            "source": source,
            "url": d.url,
            "text": d.text,
            "title": d.title,
            "date": d.date,
            "licence": d.licence,
            "parent_id": None,
            "origin": asdict(d.origin),
            "metadata": json.dumps(d.metadata, ensure_ascii=False, sort_keys=True, allow_nan=False),
            **d.kept,
        }
        for d in documents
    ]
    return pa.Table.from_pylist(rows, columns)


def pages_table(ids: pa.ChunkedArray, documents: Sequence[Document]) -> pa.Table:
    """Return how the pages of documents were read as rows of `schema.PAGES`, beside their ids."""
    rows: list[dict[str, object]] = []
    for d in documents:
        if d.pages is None:
            rows.append(dict.fromkeys(schema.PAGES.names))
            continue
        seen = [page for page in d.pages if page.route in ("ocr", "vlm")]
        sure = [page.confidence for page in seen if page.confidence is not None]
        rows.append(
            {
                "pages": [asdict(page) for page in d.pages],
                "page_count": len(d.pages),
                "ocr_pages": len(seen),
                "ocr_confidence": sum(sure) / len(sure) if sure else None,
                "failed_pages": sum(page.route == "failed" for page in d.pages),
            }
        )
    return pa.Table.from_pylist(rows, schema.PAGES).set_column(0, schema.PAGES.field(0), ids)


def rejects_table(source: str, rejects: Sequence[Reject]) -> pa.Table:
    """Return rejects as rows of `schema.REJECTS`."""
    rows = [
        {"source": source, "url": r.url, "reason": r.reason, "detail": r.detail, "origin": asdict(r.origin)}
        for r in rejects
    ]
    return pa.Table.from_pylist(rows, schema.REJECTS)


def _places(job: ExtractJob, shard: Shard) -> Iterator[tuple[str, int]]:
    """Yield record id and offset of a finished shard's units, so that one that repeats later is known."""
    for group, part in ((job.documents, shard.documents), (job.rejects, shard.rejects)):
        for table in read_batches(group, part.name, ["origin"]):
            origins = table["origin"].to_pylist()
            yield from ((origin["record_id"], origin["offset"]) for origin in origins if origin["record_id"])


def _size(result: Result) -> int:
    if isinstance(result, (Page, Raw)):
        return len(result.payload)
    return len(result.text) if isinstance(result, Document) else 0
