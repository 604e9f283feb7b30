"""Parts, manifests and indexes: the one shape of shard work.

    expected parts -> those without a matching manifest -> work -> part -> manifest, written last -> index replaced

A part is one Parquet file, in its group's folder. Its manifest says what it was made from and proves that it is
complete. A group's index lists its current parts and is what every reader reads; a part that no index lists does not
exist. Manifests and indexes lie in `<source>/_manifests/<group>`, apart from the parts: other people's readers take a
folder or a glob, so a group's folder holds Parquet alone, and what they read of `PUBLISHED` groups is current once a
stage has completed. A part's name is `<stem>-<first 8 digits of its key>`: the stem comes from the part's origin and is
the same in every group that is row-aligned with it, and no part is ever overwritten by one that means something else.

Whether a file still holds what was written is found out once, by reading it, and again only when it has changed. What
was found sound is remembered in this process and in a small file a group, by size, times and inode (size and ETag
behind a URL). What changes under the same stamp, as on a disk that loses a bit, is found by `gristmill check` alone,
and by the checksums of pages, which pyarrow verifies whenever it reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.table.errors import ConservationError, GristmillError, ReplacedError, SchemaError, ShardError
from pipeline.table.schema import DOC_ID
from pipeline.table.storage import Storage

INDEX = "_index.json"
MANIFESTS = "_manifests"
PART_FILE = re.compile(r"(?P<part>.+-[0-9a-f]{8})\.(parquet|json)")
PUBLISHED = ("outcomes", "curated")
"""Groups that other people's readers read: what an index has replaced is deleted at once."""
ROW_GROUP_BYTES = 16 << 20
"""Uncompressed bytes a row group aims at: a reader of one group stays small, and statistics still prune."""
ROW_GROUP_ROWS = 64_000
VERIFIED = "_verified"
"""Folder of a workspace with what was found sound, a file a group; whoever deletes it pays with time alone."""
_JUST_WRITTEN = ""
"""Stamp of what this process put behind a URL: asking for the real one would cost a request a file."""
THREADS = min(8, os.cpu_count() or 1)
_SEAL = re.compile(rb'\{\n "digest": "(?P<digest>[0-9a-f]{32})",')


class Part(BaseModel):
    """One line of an index: a part, what it was made for, and what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    key: str
    rows: int
    bytes: int
    content: str
    """128-bit BLAKE2b of the file, so that what is made from it is keyed by its content."""
    ids: str = ""
    """The same of its `doc_id`s in order. An id is a hash of the text, too: what is made from texts is keyed by these,
    and stays when another column of the documents changes."""

    @property
    def stem(self) -> str:
        """The name without its key: equal in all groups that are row-aligned with one another."""
        return self.name.rsplit("-", 1)[0]


class Manifest(BaseModel):
    """The proof that a part is complete: identity of inputs, resolved config, versions, counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: Part
    stage: str
    version: str
    inputs: list[dict[str, Any]]
    config: dict[str, Any]
    libraries: dict[str, str]
    rows_in: int
    rows_out: int
    rejects: int = 0
    counts: dict[str, int] = {}
    details: dict[str, Any] = {}
    """What later steps need to know of this part and no table holds (where the next part of a file begins, say)."""


class Index(BaseModel):
    """The current parts of a group, in name order, and what the stage found out about the group as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    key: str = ""
    """Identity of the whole group, for stages that look at all parts at once."""
    parts: list[Part] = []
    counts: dict[str, int] = {}
    details: dict[str, Any] = {}


@dataclass(frozen=True)
class Identity:
    """What decides a stage's output besides its input: name, version, resolved config, libraries and models."""

    stage: str
    version: str
    config: Mapping[str, Any] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)

    def key(self, inputs: Sequence[Mapping[str, Any]]) -> str:
        """Return the manifest key for `inputs`: 32 hex digits."""
        return digest(
            {
                "stage": self.stage,
                "version": self.version,
                "config": dict(self.config),
                "libraries": dict(self.libraries),
                "inputs": [dict(item) for item in inputs],
            }
        )


@dataclass(frozen=True)
class Work:
    """One part to be made: its stem, what decides its content, and what it is made from."""

    stem: str
    identity: Identity
    inputs: tuple[Mapping[str, Any], ...]

    @cached_property
    def key(self) -> str:
        """The key that the part's manifest must carry."""
        return self.identity.key(self.inputs)

    @property
    def name(self) -> str:
        return f"{self.stem}-{self.key[:8]}"


@dataclass(frozen=True)
class Tally:
    """A part's row counts, checked for conservation when its manifest is written."""

    rows_in: int
    rejects: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


class Memory:
    """Which files of a group were found to hold what their digests say."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path = storage, path
        self._lock = threading.Lock()
        self._is_saved = True
        self._seen: dict[str, tuple[str, str]] = {}
        """Stamp and digest by name."""
        try:
            stored = json.loads(storage.read_bytes(path))
            self._seen = {str(name): (str(stamp), str(digest)) for name, (stamp, digest) in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):  # absent or damaged: that costs time alone
            self._seen = {}

    def proven(self, folder: str, expected: Mapping[str, str], measure: Callable[[str], str | None]) -> dict[str, bool]:
        """Tell of each file of `folder` whose digest is expected, and that is there, whether `measure` finds it."""
        stamps = self._storage.stamps(folder, list(expected))
        found: dict[str, str | None] = {}
        asked = []
        with self._lock:
            for name, stamp in stamps.items():
                seen = self._seen.get(name)
                if seen == (stamp, expected[name]) or seen == (_JUST_WRITTEN, expected[name]):
                    found[name] = expected[name]
                    self._seen[name] = stamp, expected[name]
                else:
                    asked.append(name)
        if asked:
            with ThreadPoolExecutor(THREADS) as pool:
                found.update(zip(asked, pool.map(measure, asked), strict=True))
            with self._lock:
                self._seen |= {name: (stamps[name], expected[name]) for name in asked if found[name] == expected[name]}
                self._is_saved = False
        return {name: digest == expected[name] for name, digest in found.items() if digest is not None}

    def note(self, folder: str, name: str, digest: str) -> None:
        """Take a file that this process has just written as proven."""
        stamp = self._storage.stamps(folder, [name])[name] if self._storage.is_local else _JUST_WRITTEN
        with self._lock:
            self._seen[name] = stamp, digest
            self._is_saved = False

    def save(self, names: Collection[str] | None = None) -> None:
        """Write down what is known, of these names alone if any are given; a workspace may be read-only."""
        with self._lock:
            if names is not None and not self._seen.keys() <= set(names):
                self._seen = {name: value for name, value in self._seen.items() if name in names}
                self._is_saved = False
            if self._is_saved:
                return
            text = json.dumps(dict(sorted(self._seen.items())), separators=(",", ":"))
            self._is_saved = True
        try:
            self._storage.write_bytes(self._path, text.encode())
        except (GristmillError, OSError):
            return


_memories: dict[str, Memory] = {}
_opening = threading.Lock()


def content(storage: Storage, folder: str, name: str) -> str | None:
    """Return the 128-bit BLAKE2b of a file, or None when it is gone. Raises: OSError."""
    try:
        with storage.open(f"{folder}/{name}") as stream:
            return hashlib.file_digest(cast(Any, stream), _blake2b).hexdigest()
    except FileNotFoundError:
        return None


def _blake2b() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


@dataclass(frozen=True)
class Group:
    """A folder of parts, such as `web/documents`."""

    storage: Storage
    folder: str

    @property
    def manifests(self) -> str:
        """The folder of its manifests and its index."""
        source, _, group = self.folder.partition("/")
        return f"{source}/{MANIFESTS}/{group}"

    def path(self, name: str) -> str:
        """Return the path of a part inside the storage."""
        return f"{self.folder}/{name}.parquet"

    def manifest_path(self, name: str) -> str:
        """Return the path of a part's manifest inside the storage."""
        return f"{self.manifests}/{name}.json"

    @property
    def index_path(self) -> str:
        return f"{self.manifests}/{INDEX}"

    @property
    def memory(self) -> Memory:
        """What this process and those before it know of the soundness of its files."""
        path = f"{VERIFIED}/{self.folder}.json"
        key = self.storage.sql_path(path)
        with _opening:
            if key not in _memories:
                _memories[key] = Memory(self.storage, path)
            return _memories[key]

    def index(self) -> Index | None:
        """Return the index, or None when the group was never completed.

        Raises: ShardError when it is unreadable.
        """
        try:
            return Index.model_validate_json(_unsealed(self.storage.read_bytes(self.index_path)))
        except FileNotFoundError:
            return None
        except ValueError as error:
            where = self.storage.sql_path(self.index_path)
            why = f"{error.error_count()} errors" if isinstance(error, ValidationError) else error
            raise ShardError(f"{where} is damaged ({why}); delete it and run again") from error

    def parts(self) -> list[Part]:
        """Return the current parts in name order, each verified; none when the group was never completed.

        Raises: ShardError when the index or a part is damaged.
        """
        index = self.index()
        if index is None:
            return []
        self.verify(index.parts)
        return list(index.parts)

    def verify(self, parts: Iterable[Part]) -> set[str]:
        """Check that parts hold what was written, and return the names of those that are there.

        Raises: ShardError naming a file that holds something else, or cannot be read.
        """
        expected = {f"{part.name}.parquet": part.content for part in parts}
        try:
            held = self.memory.proven(self.folder, expected, lambda name: content(self.storage, self.folder, name))
        except OSError as error:
            where = self.storage.sql_path(self.folder)
            raise ShardError(f"{where}: a part cannot be read: {error}; make it readable") from error
        wrong = sorted(name for name, is_sound in held.items() if not is_sound)
        if wrong:
            where = self.storage.sql_path(f"{self.folder}/{wrong[0]}")
            more = f" (and {len(wrong) - 1:,} more of this folder: `gristmill check` lists them)" if wrong[1:] else ""
            raise ShardError(
                f"{where} is damaged: its content is not what its manifest says; delete it{more} and run again, "
                "it will be made anew"
            )
        return {name.removesuffix(".parquet") for name in held}

    def manifest(self, name: str) -> Manifest | None:
        """Return a part's manifest, or None when it is absent or unreadable: then the part is not done."""
        try:
            return Manifest.model_validate_json(_unsealed(self.storage.read_bytes(self.manifest_path(name))))
        except (FileNotFoundError, ValueError):
            return None

    def present(self) -> dict[str, Part]:
        """Return the listed parts that lie there with sound manifests, by name: files may have been lost or deleted.

        Raises: ShardError when the index or a part is damaged.
        """
        index = self.index()
        if index is None:
            return {}
        there = self.verify(index.parts)
        listed = {f"{part.name}.json": part for part in index.parts if part.name in there}

        def measure(name: str) -> str:
            manifest = self.manifest(listed[name].name)
            return manifest.part.content if manifest and manifest.part == listed[name] else "damaged"

        expected = {name: part.content for name, part in listed.items()}
        proven = self.memory.proven(self.manifests, expected, measure)
        return {listed[name].name: listed[name] for name, is_sound in proven.items() if is_sound}

    def is_complete(self, key: str) -> bool:
        """Tell whether the group as a whole was made for `key`, and every part that it lists is still there."""
        index = self.index()
        return index is not None and index.key == key and len(self.present()) == len(index.parts)

    def complete(self, parts: Iterable[Part], index: Index) -> None:
        """Replace the index by one that lists `parts`: from now on readers see exactly these.

        Raises: ShardError when a part is damaged, or the index cannot be written.
        """
        listed = sorted(parts, key=lambda part: part.name)
        self.verify(listed)
        self.memory.save({f"{part.name}.{ending}" for part in listed for ending in ("parquet", "json")})
        self.storage.write_bytes(self.index_path, _sealed(index.model_copy(update={"parts": listed})))
        self.prune()

    def prune(self) -> None:
        """Delete what the index of a published group does not list; only the workspace's holder may call this.

        What a run that was killed left behind goes as well: so call it only when no part is waiting to be listed.
        """
        index = self.index()
        if index is None or self.folder.rpartition("/")[2] not in PUBLISHED:
            return
        listed = {part.name for part in index.parts}
        for folder in (self.manifests, self.folder):  # a part without its manifest is none
            for name in sorted(self.storage.names(folder)):
                if (match := PART_FILE.fullmatch(name)) and match["part"] not in listed:
                    self.storage.delete(f"{folder}/{name}")


@dataclass(frozen=True)
class RowMap:
    """How a part of `target` follows from a part of another group, row for row."""

    target: Group
    work: Work
    schema: pa.Schema
    columns: Sequence[str]
    """Columns of the source that `function` needs, `doc_id` among them."""
    function: Callable[[pa.Table], pa.Table]


def made_from(part: Part) -> dict[str, Any]:
    """Return the identity of a part of ours as an input: its stem and content, never its folder."""
    return {"part": part.stem, "content": part.content}


def made_from_texts(part: Part) -> dict[str, Any]:
    """Return the identity of a documents part as an input of what reads nothing of it but `doc_id` and `text`."""
    return {"part": part.stem, "ids": part.ids} if part.ids else made_from(part)


def finished(group: Group, works: Sequence[Work]) -> dict[str, Part]:
    """Return the parts of `works` that are already made, by stem: a matching manifest means done.

    Raises: ShardError when the index or a part is damaged.
    """
    listed = group.present()
    manifests = group.storage.names(group.manifests)
    done: dict[str, Part] = {}
    unlisted: dict[str, Part] = {}
    for work in works:
        part = listed.get(work.name)
        if part is not None and part.key == work.key:
            done[work.stem] = part
        elif f"{work.name}.json" in manifests:
            manifest = group.manifest(work.name)
            if manifest and manifest.part.name == work.name and manifest.part.key == work.key:
                unlisted[work.stem] = manifest.part
    there = group.verify(unlisted.values())
    return done | {stem: part for stem, part in unlisted.items() if part.name in there}


class PartWriter:
    """Writes one part in row groups of bounded size. Use as a context manager; `finish` writes the manifest.

    The schema is fixed and every table given must conform to it.
    """

    def __init__(self, group: Group, work: Work, schema: pa.Schema) -> None:
        self.group, self.work, self.name, self.schema = group, work, work.name, schema
        self.rows = 0
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self._pending_rows = 0
        self._context = group.storage.create(group.path(work.name))
        self._written: tuple[int, str] | None = None
        self._ids = hashlib.blake2b(digest_size=16) if DOC_ID in schema.names else None

    def __enter__(self) -> PartWriter:
        with ExitStack() as stack:
            self._file = stack.enter_context(self._context)
            self._writer = pq.ParquetWriter(self._file, self.schema, **write_options(self.schema))
            stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None:
            self._writer.is_open = False  # closing would write a footer to a file that is thrown away
            self._context.__exit__(kind, error, traceback)
            return
        with ExitStack() as stack:  # the last rows can fail as any others: that, too, must throw the file away
            stack.push(self._context)
            stack.callback(setattr, self._writer, "is_open", False)
            self._flush()
            self._writer.close()
            self._file.flush()
            self._file.seek(0)
            held = hashlib.file_digest(cast(Any, self._file), _blake2b).hexdigest()
            self._written = self._file.seek(0, os.SEEK_END), held

    def write(self, table: pa.Table) -> None:
        """Append rows in order; a row group that has become large enough ends behind them.

        Raises: SchemaError when the table's schema is another.
        """
        if not table.schema.equals(self.schema):
            raise SchemaError(f"{self.group.folder}/{self.name}: got schema {table.schema}, expected {self.schema}")
        if self._ids:
            self._ids.update("\n".join([*table[DOC_ID].to_pylist(), ""]).encode())
        self._pending.append(table)
        self._pending_bytes += table.nbytes
        self._pending_rows += table.num_rows
        self.rows += table.num_rows
        if self._pending_bytes >= ROW_GROUP_BYTES or self._pending_rows >= ROW_GROUP_ROWS:
            self._flush()

    def finish(self, tally: Tally) -> Part:
        """Write the manifest, last of all, and return the part.

        Raises: ConservationError when `rows_in` differs from rows written plus rejects.
        """
        if self._written is None:
            raise ShardError(f"{self.group.folder}/{self.name}: finish() before the part was closed")
        size, digest = self._written
        ids = self._ids.hexdigest() if self._ids else ""
        part = Part(name=self.name, key=self.work.key, rows=self.rows, bytes=size, content=digest, ids=ids)
        if tally.rows_in != part.rows + tally.rejects:
            raise ConservationError(
                f"{self.group.folder}/{self.name}: {tally.rows_in} rows in, but {part.rows} out and {tally.rejects} "
                "rejected; this is a bug in Gristmill, the part was not counted as done"
            )
        identity = self.work.identity
        manifest = Manifest(
            part=part,
            stage=identity.stage,
            version=identity.version,
            inputs=[dict(item) for item in self.work.inputs],
            config=dict(identity.config),
            libraries=dict(identity.libraries),
            rows_in=tally.rows_in,
            rows_out=part.rows,
            rejects=tally.rejects,
            counts=dict(tally.counts),
            details=dict(tally.details),
        )
        memory = self.group.memory
        memory.note(self.group.folder, f"{self.name}.parquet", digest)
        self.group.storage.write_bytes(self.group.manifest_path(self.name), _sealed(manifest))
        memory.note(self.group.manifests, f"{self.name}.json", digest)
        return part

    def _flush(self) -> None:
        if not self._pending_rows:
            return
        # What was freed goes back to the system between the steps, else each would come on top of the one before.
        release = pa.default_memory_pool().release_unused
        release()
        # One chunk a column: row groups must not depend on how rows arrived.
        table = pa.concat_tables(self._pending).combine_chunks()
        self._pending, self._pending_bytes, self._pending_rows = [], 0, 0  # first: both at once are memory
        release()
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        del table
        release()


def _sealed(model: BaseModel) -> bytes:
    """Return a model as JSON whose first key is the digest of the rest, so that a flipped bit does not pass."""
    text = model.model_dump_json(indent=1).encode()
    return b'{\n "digest": "%s",%s' % (hashlib.blake2b(text, digest_size=16).hexdigest().encode(), text[1:])


def _unsealed(data: bytes) -> bytes:
    """Return the JSON that was sealed. What a former version wrote has no digest and is returned as it is.

    Raises: ValueError when it is not what was sealed.
    """
    match = _SEAL.match(data)
    if match is None:
        return data
    text = b"{" + data[match.end() :]
    if hashlib.blake2b(text, digest_size=16).hexdigest().encode() != match["digest"]:
        raise ValueError("its content is not what its digest says")
    return text


def write_options(schema: pa.Schema) -> dict[str, Any]:
    """Return the Parquet settings of every part: Zstandard, and dictionaries where values repeat."""
    repeating = [f.name for f in schema if f.name in {"source", "reason", "language", "licence", "method", "outcome"}]
    return {"compression": "zstd", "compression_level": 3, "use_dictionary": repeating, "write_page_checksum": True}


def read_batches(group: Group, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield a part's rows in order, a row group at a time; at least one table, so that an empty part has a schema.

    Raises: ShardError when the part cannot be read.
    """
    with open_part(group, name) as file:
        if not file.num_row_groups:
            yield file.read(columns=columns)
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=columns, use_threads=False)


def read_rows(group: Group, name: str, rows: NDArray[np.int64], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the given rows (ascending) of a part in order; row groups that hold none of them are not read.

    Raises: ShardError when the part cannot be read.
    """
    first = 0
    with open_part(group, name) as file:
        for number in range(file.num_row_groups):
            after = first + file.metadata.row_group(number).num_rows
            begin, end = np.searchsorted(rows, [first, after])
            if begin < end:
                table = file.read_row_group(number, columns=columns, use_threads=False)
                yield table.take(pa.array(rows[begin:end] - first))
            first = after


@contextmanager
def open_part(group: Group, name: str) -> Iterator[pq.ParquetFile]:
    """Open a part; the checksum of each page is verified as it is read. Raises: ReplacedError, ShardError."""
    try:
        path = group.path(name)
        # Arrow's own file costs no call into Python for each column of each row group.
        local = pa.OSFile(os.fsencode(group.storage.path(path))) if group.storage.is_local else None
        with (
            local or group.storage.open(path) as stream,
            pq.ParquetFile(stream, page_checksum_verification=True) as file,
        ):
            yield file
    except (OSError, pa.ArrowInvalid) as error:
        where = group.storage.sql_path(group.path(name))
        index = group.index() if isinstance(error, FileNotFoundError) else None
        if index is not None and name not in {part.name for part in index.parts}:
            raise ReplacedError(f"{where} was replaced by a run while it was read; do it again") from error
        raise ShardError(f"{where} cannot be read: {error}; delete it and run again, it will be made anew") from error


def map_part(
    source: Group, part: Part, row_maps: Sequence[RowMap], tell: Callable[[int], None] = lambda rows: None
) -> list[Part]:
    """Make a part of each target from one part of `source`, in one pass; rows neither drop nor move.

    `tell` gets the number of rows of each batch as it is done.

    Raises: ConservationError when a function returns other rows than it was given.
    """
    columns = list(dict.fromkeys(column for row_map in row_maps for column in row_map.columns))
    with ExitStack() as stack:
        writers = [stack.enter_context(PartWriter(m.target, m.work, m.schema)) for m in row_maps]
        for table in read_batches(source, part.name, columns):
            for row_map, writer in zip(row_maps, writers, strict=True):
                result = row_map.function(table)
                aligned(table, result, f"{row_map.target.folder}/{row_map.work.name}")
                writer.write(result)
            tell(table.num_rows)
    return [writer.finish(Tally(rows_in=part.rows)) for writer in writers]


def aligned(left: pa.Table, right: pa.Table, where: str) -> None:
    """Check that two row-aligned tables hold the same `doc_id`s in the same order.

    Raises: ConservationError naming the part.
    """
    if not left["doc_id"].equals(right["doc_id"]):
        raise ConservationError(f"{where}: doc_ids differ from those of the documents; delete the part and run again")


def digest(value: Any) -> str:
    """Return 32 hex digits that identify a JSON-serialisable value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
