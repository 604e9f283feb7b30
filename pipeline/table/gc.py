"""Deleting what no index lists: superseded parts, those of unfinished runs, half-written files."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.table.catalog import ANSWERS, group_folders, source_folders
from pipeline.table.errors import ShardError, WorkspaceError
from pipeline.table.integrity import VERIFIED
from pipeline.table.lock import LOCK
from pipeline.table.schema import RESERVED_SOURCES
from pipeline.table.shards import INDEX, PART_FILE, Group
from pipeline.table.storage import TEMPORARY, Storage


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
    doomed: list[str] = []
    unknown: list[str] = []
    try:
        listed = _listed(storage)
        for path in storage.files(""):
            if path.startswith(f"{TEMPORARY}/") or _is_superseded(path, listed):
                doomed.append(path)
            elif not _is_known(path, listed):
                unknown.append(path)
        size = sum(int(storage.fs.size(storage.path(path)) or 0) for path in doomed)
        if not dry_run:
            for path in doomed:
                storage.delete(path)
            storage.clear_temporary()
    except ShardError as error:
        raise WorkspaceError(f"nothing was deleted: {error}") from error
    except OSError as error:
        raise WorkspaceError(f"workspace {storage.url}: {error.strerror or error}; make it writable") from error
    return GcReport(tuple(doomed), size, tuple(unknown))


def _listed(storage: Storage) -> dict[str, frozenset[str]]:
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
                index = group.index()
                names = frozenset(part.name for part in index.parts) if index else frozenset()
                listed[group.folder] = listed[group.manifests] = names
    return listed


def _is_ours(group: Group) -> bool:
    names = group.storage.names(group.manifests)
    if INDEX in names:
        return True
    parts = [match["part"] for name in names if (match := PART_FILE.fullmatch(name))]
    return any(group.manifest(part) is not None for part in parts)


def _is_superseded(path: str, listed: dict[str, frozenset[str]]) -> bool:
    folder, _, name = path.rpartition("/")
    match = PART_FILE.fullmatch(name)
    return match is not None and folder in listed and match["part"] not in listed[folder]


def _is_known(path: str, listed: dict[str, frozenset[str]]) -> bool:
    """Tell whether Gristmill made a file that stays: a listed part, an index, the lock, another command's folder."""
    folder, _, name = path.rpartition("/")
    if path.split("/", 1)[0] in {*RESERVED_SOURCES, ANSWERS, VERIFIED} or path == LOCK:
        return True
    return folder in listed and (name == INDEX or PART_FILE.fullmatch(name) is not None)
