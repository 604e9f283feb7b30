"""`gristmill check`: every part of every group is read and held against its digest; nothing remembered counts."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from pipeline.table.catalog import AGAINST, Catalog, check_layout, group_folders, source_folders
from pipeline.table.errors import ShardError
from pipeline.table.integrity import THREADS, content
from pipeline.table.shards import Group, Part
from pipeline.table.storage import Storage

_OTHER_ROWS = ("documents", "rejects", "curated", AGAINST)
"""Groups whose parts are not row-aligned with those of documents."""


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
            aligned = {} if folder.split("/")[0] in _OTHER_ROWS else ids
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
