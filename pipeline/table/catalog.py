"""What a workspace holds: its sources, their groups, and the index of each group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.table.errors import ShardError, WorkspaceError
from pipeline.table.schema import RESERVED_SOURCES
from pipeline.table.shards import INDEX, MANIFESTS, PART_FILE, Group, Index, Manifest
from pipeline.table.storage import Storage

FLAT_GROUPS = ("documents", "rejects", "signatures", "duplicates", "outcomes", "curated")
"""Groups that a source has once."""
_FIRST = ("documents", "rejects")
"""Groups that every source has."""
ANSWERS = "_answers"
"""Folder of a workspace that holds what language models answered."""
AGAINST = "against"
"""Components that documents of other sources share with this one's, a group for each of them."""
NESTED_GROUPS = ("signals", "predictions", "scores", AGAINST)
"""Folders that hold one group for each signal or classifier."""


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
