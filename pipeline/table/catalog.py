"""What a workspace holds: its sources and the index of each group, whether they are sound, and what can be deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pipeline.table.errors import ShardError, WorkspaceError
from pipeline.table.schema import RESERVED_SOURCES
from pipeline.table.shards import INDEX, MANIFESTS, PART_FILE, THREADS, VERIFIED, Group, Index, Manifest, Part, content
from pipeline.table.storage import LOCK, TEMPORARY, Storage

FLAT_GROUPS = ("documents", "rejects", "signatures", "duplicates", "outcomes", "curated")
"""Groups that a source has once."""
_FIRST = ("documents", "rejects")
"""Groups that every source has."""
ANSWERS = "_answers"
"""Folder of a workspace that holds what language models answered."""
RUNS = "_runs"
"""Folder of a workspace with the record of each run."""
AGAINST = "against"
"""Components that documents of other sources share with this one's, a group for each of them."""
NESTED_GROUPS = ("signals", "predictions", "scores", AGAINST)
"""Folders that hold one group for each signal or classifier."""
OTHER_ROWS = ("documents", "rejects", "curated", AGAINST)
"""Groups whose parts are not row-aligned with those of documents."""
_KEPT_FOLDERS = {*RESERVED_SOURCES, ANSWERS, VERIFIED, RUNS}
"""Folders of a workspace in which other commands keep what they need."""


@dataclass(frozen=True, slots=True)
class Source:
    """One source and the indexes of its completed groups, by folder inside the source (`signals/language`)."""

    name: str
    groups: Mapping[str, Index]

    def nested(self, folder: str) -> dict[str, Index]:
        """Return the groups directly inside `folder` (`signals`, `scores`), by their own names, sorted."""
        prefix = f"{folder}/"
        return {path.removeprefix(prefix): index for path, index in self.groups.items() if path.startswith(prefix)}

    def rows(self, folder: str) -> int:
        """Return how many rows a group's index counts; none when the group was never completed."""
        index = self.groups.get(folder)
        return sum(part.rows for part in index.parts) if index else 0


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every source of a workspace, in name order."""

    storage: Storage
    sources: tuple[Source, ...]

    @classmethod
    def read(cls, storage: Storage) -> Catalog:
        """Return what the workspace's indexes list; no Parquet file is opened.

        Raises: WorkspaceError when there is no workspace, it is empty, or it cannot be read.
        """
        try:
            sources = [source for name in source_folders(storage) if (source := _source(storage, name))]
            check_layout(storage)
        except ShardError as error:
            raise WorkspaceError(str(error)) from error
        except OSError as error:
            reason = error.strerror or error
            raise WorkspaceError(f"workspace {storage.url} cannot be read: {reason}; make it readable") from error
        if not sources:
            raise WorkspaceError(_why_empty(storage))
        return cls(storage, tuple(sources))

    def group(self, source: str, folder: str) -> Group:
        """Return the group in `folder` of a source."""
        return Group(self.storage, f"{source}/{folder}")


def source_folders(storage: Storage) -> list[str]:
    """Return the top-level names that can be sources, sorted; reserved and hidden ones are not among them."""
    names = storage.names("")
    return sorted(name for name in names if name not in RESERVED_SOURCES and not name.startswith(("_", ".")))


def group_folders(storage: Storage, source: str) -> Iterator[str]:
    """Yield the folders of a source that can be groups, present or not, each relative to the source."""
    yield from FLAT_GROUPS
    for folder in NESTED_GROUPS:  # a group without a row has an index alone, one that was never completed no index
        names = storage.names(f"{source}/{folder}") | storage.names(f"{source}/{MANIFESTS}/{folder}")
        yield from (f"{folder}/{name}" for name in sorted(names))


def check_layout(storage: Storage) -> None:
    """Refuse a workspace of a former version, whose manifests lie beside the parts. Raises: WorkspaceError."""
    for source in source_folders(storage):
        if _is_of_former_layout(storage, source):
            raise WorkspaceError(
                f"workspace {storage.url}: {source} is laid out as a former version did; `gristmill run CONFIG` moves "
                "its manifests in a moment, and nothing is made again"
            )


def adopt(storage: Storage) -> None:
    """Move the manifests and indexes of a workspace of a former version, which lie beside the parts, to their place.

    Only the holder of the workspace's lock may call this. A kill does no harm: each group's index comes last, and each
    source's `rejects` and `documents`, which tell that there is something to move.
    """
    for source in source_folders(storage):
        if not _is_of_former_layout(storage, source):
            continue
        folders = [folder for folder in group_folders(storage, source) if folder not in _FIRST]
        for folder in (*folders, *reversed(_FIRST)):
            group = Group(storage, f"{source}/{folder}")
            for name in sorted(_misplaced(storage, group), key=lambda name: (name == INDEX, name)):
                storage.move(f"{group.folder}/{name}", f"{group.manifests}/{name}")


def _is_of_former_layout(storage: Storage, source: str) -> bool:
    groups = [Group(storage, f"{source}/{folder}") for folder in _FIRST]
    return any(_is_manifest(storage, f"{g.folder}/{name}") for g in groups for name in _misplaced(storage, g))


def _misplaced(storage: Storage, group: Group) -> list[str]:
    """Return what lies among a group's parts and is called as a manifest or an index."""
    names = (name for name in storage.names(group.folder) if name.endswith(".json"))
    return [name for name in names if name == INDEX or PART_FILE.fullmatch(name)]


def _is_manifest(storage: Storage, path: str) -> bool:
    """Tell a manifest or an index from a file of someone else's that has such a name."""
    try:
        model = Index if path.endswith(f"/{INDEX}") else Manifest
        model.model_validate_json(storage.read_bytes(path))
    except (ValueError, FileNotFoundError):
        return False
    return True


def _source(storage: Storage, name: str) -> Source | None:
    """Return a source, or None for a folder in which neither documents nor rejects were ever completed."""
    if not any(storage.exists(Group(storage, f"{name}/{folder}").index_path) for folder in _FIRST):
        return None
    groups: dict[str, Index] = {}
    for folder in group_folders(storage, name):
        try:
            index = Group(storage, f"{name}/{folder}").index()
        except NotADirectoryError:
            continue
        if index is not None:
            groups[folder] = index
    return Source(name, groups)


def _why_empty(storage: Storage) -> str:
    make = "`gristmill run CONFIG` makes one"
    if not storage.exists(""):
        return f"workspace {storage.url} does not exist; check the path, {make}"
    if storage.fs.isfile(storage.path("")):
        return f"{storage.url} is a file; name the workspace's folder, {make}"
    return f"{storage.url} is not a workspace, or its first run has not finished `extract`; {make}"


# Is it sound? Nothing remembered counts -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CheckedGroup:
    """A group that was read from end to end, and what is wrong with it: a line each, which says what to do."""

    source: str
    group: str
    parts: int
    rows: int
    bytes: int
    problems: tuple[str, ...]


def check(storage: Storage) -> list[CheckedGroup]:
    """Check indexes, manifests and parts of every group that was ever completed, also those that no stage reads now.

    Raises: WorkspaceError when there is no workspace, or a former version laid it out.
    """
    check_layout(storage)
    found: list[CheckedGroup] = []
    for source in source_folders(storage):
        ids: dict[str, str] = {}
        for folder in group_folders(storage, source):
            group = Group(storage, f"{source}/{folder}")
            try:
                index = group.index()
            except ShardError as error:
                found.append(CheckedGroup(source, folder, 0, 0, 0, (str(error),)))
                continue
            if index is None:
                continue
            if folder == "documents":
                ids = {part.stem: part.ids for part in index.parts}
            aligned = {} if folder.split("/")[0] in OTHER_ROWS else ids
            with ThreadPoolExecutor(THREADS) as pool:
                found_in_parts = pool.map(partial(_problems, group, aligned), index.parts)
                problems = tuple(problem for each in found_in_parts for problem in each)
            rows, size = sum(part.rows for part in index.parts), sum(part.bytes for part in index.parts)
            found.append(CheckedGroup(source, folder, len(index.parts), rows, size, problems))
    if not found:
        Catalog.read(storage)  # says why
    return found


def _problems(group: Group, documents: Mapping[str, str], part: Part) -> list[str]:
    """Return what is wrong with one part; `documents` are the digests of the ids that its rows must have, by stem."""
    where, anew = group.storage.sql_path(group.path(part.name)), "run again, it will be made anew"
    found = []
    try:
        held = content(group.storage, group.folder, f"{part.name}.parquet")
        if held is None:
            found.append(f"{where} is missing; {anew}")
        elif held != part.content:
            found.append(f"{where} is damaged: its content is not what its manifest says; delete it and {anew}")
    except OSError as error:
        found.append(f"{where} cannot be read: {error.strerror or error}; make it readable, or delete it and {anew}")
    manifest = group.manifest(part.name)
    if manifest is None or manifest.part != part or manifest.rows_in != part.rows + manifest.rejects:
        found.append(
            f"{group.storage.sql_path(group.manifest_path(part.name))} is missing, damaged or another part's; {anew}"
        )
    if part.ids and documents.get(part.stem) not in (None, "", part.ids):
        found.append(f"{where}: its doc_ids are not those of the documents; delete it and {anew}")
    return found


# What no index lists: superseded parts, those of unfinished runs, half-written files ----------------------------------


@dataclass(frozen=True, slots=True)
class GcReport:
    """What was deleted (or would be, in a dry run), and what was left because Gristmill did not make it."""

    files: tuple[str, ...]
    bytes: int
    unknown: tuple[str, ...]


def collect(storage: Storage, dry_run: bool = False) -> GcReport:
    """Delete the parts and manifests that no index lists and temporary leftovers; report every file that it left alone.

    Parts of a run that was killed before its stage was complete go too: that run then starts those shards anew. Only
    the holder of the workspace's lock may call this.

    Raises: WorkspaceError when an index cannot be read (then nothing is deleted) or a file cannot be deleted.
    """
    unknown: list[str] = []
    try:
        listed = _listed(storage)
        doomed = _unlisted(storage, listed)
        for path in storage.files(""):
            folder, _, name = path.rpartition("/")
            is_part = folder in listed and (name == INDEX or PART_FILE.fullmatch(name) is not None)
            if not is_part and path != LOCK and path.split("/", 1)[0] not in {*_KEPT_FOLDERS, TEMPORARY}:
                unknown.append(path)
        size = _size(storage, doomed)
        if not dry_run:
            for path in doomed:
                storage.delete(path)
            storage.clear_temporary()
    except ShardError as error:
        raise WorkspaceError(f"nothing was deleted: {error}") from error
    except OSError as error:
        raise WorkspaceError(f"workspace {storage.url}: {error.strerror or error}; make it writable") from error
    return GcReport(tuple(doomed), size, tuple(unknown))


def superseded(storage: Storage, indexes: Mapping[str, Index]) -> tuple[int, int]:
    """Return how many files `collect` would delete, and their bytes; folders are listed.

    `indexes` are all that there are, by the folders of their groups. Raises: OSError.
    """
    paths = _unlisted(storage, _listed(storage, lambda group: indexes.get(group.folder)))
    return len(paths), _size(storage, paths)


def _unlisted(storage: Storage, listed: Mapping[str, frozenset[str]]) -> list[str]:
    """Return the parts and manifests that no index lists, and what is temporary, sorted."""
    found = storage.files(TEMPORARY)
    for folder, parts in listed.items():
        for name in storage.names(folder) - {f"{part}{ending}" for part in parts for ending in (".parquet", ".json")}:
            if PART_FILE.fullmatch(name) and name != folder.rpartition("/")[2]:  # some stores list a file as a folder
                found.append(f"{folder}/{name}")
    return sorted(found)


def _size(storage: Storage, paths: Iterable[str]) -> int:
    """Return the bytes of files; one that a run deletes meanwhile has none."""
    size = 0
    for path in paths:
        with suppress(FileNotFoundError):
            size += int(storage.fs.size(storage.path(path)) or 0)
    return size


def _listed(storage: Storage, index_of: Callable[[Group], Index | None] = Group.index) -> dict[str, frozenset[str]]:
    """Return the parts that each group's index lists, by its two folders; an unfinished group lists none.

    Groups are sought only in folders that Gristmill made: those where an index or a manifest of ours lies.

    Raises: ShardError when an index is damaged.
    """
    listed: dict[str, frozenset[str]] = {}
    for source in source_folders(storage):
        groups = [Group(storage, f"{source}/{folder}") for folder in group_folders(storage, source)]
        present = [group for group in groups if storage.names(group.folder) or storage.names(group.manifests)]
        if any(_is_ours(group) for group in present):
            for group in present:
                index = index_of(group)
                names = frozenset(part.name for part in index.parts) if index else frozenset()
                listed[group.folder] = listed[group.manifests] = names
    return listed


def _is_ours(group: Group) -> bool:
    names = group.storage.names(group.manifests)
    if INDEX in names:
        return True
    parts = [match["part"] for name in names if (match := PART_FILE.fullmatch(name))]
    return any(group.manifest(part) is not None for part in parts)
