"""Export: the kept documents of a source as files that other programs read, with a card and a manifest.

    rows -> files, in a folder of their own -> their names -> manifest, written last

A manifest with the same recipe and options means done.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal, get_args

import pyarrow as pa

from pipeline.export import files
from pipeline.export.card import Counted, card
from pipeline.export.made import how_made
from pipeline.export.rows import KeptDocuments, checked_where, chosen_columns, count_values, kept_documents, read_kept
from pipeline.table.errors import ShardError, UsageError, WorkspaceError, nearest
from pipeline.table.kept import as_written, lie_there, read_json, write_file, write_json
from pipeline.table.query import Expression
from pipeline.table.sql import reading
from pipeline.table.storage import LOCK, Storage, hold, remote_errors

VERSION = "export_v1"
Form = Literal["parquet", "jsonl.zst", "hf", "partitioned"]
FORMS: tuple[Form, ...] = get_args(Form)
SHARD_BYTES = 512_000_000
MANIFEST, CARD = "manifest.json", "README.md"
UNFINISHED = ".unfinished"
"""Folder with what is not finished: whatever lies in it is ours."""
MAX_VALUES, MAX_NAME_BYTES = 1_000, 255
_DATA = "data/"
"""The files' folder, which holds nothing else: other people's readers take a folder as it is."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export: its folder, the files below it, and how much they hold."""

    folder: str
    files: tuple[str, ...]
    rows: int
    tokens: int | None
    """None where nothing counted them."""
    bytes: int
    is_new: bool = True
    """Whether it was written now; it had been before when not."""


@reading
def export(
    storage: Storage,
    source: str,
    to: str,
    form: Form,
    *,
    by: str | None = None,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> Exported:
    """Write the documents that a source kept to the folder or URL `to`, in the order and with the text of `curated`.

    `columns` (all of `curated` by default), `by` and the predicate `where` name columns of `curated` and `outcomes`.
    A file has about `shard_bytes` when written, and never many more. No row drops but those that do not meet `where`.
    `progress` is told how many rows have passed. The same recipe and options again: nothing is written.

    Raises: UsageError for what cannot be asked for, and a folder that holds anything else; WorkspaceError when there is
    nothing to export, or the workspace does not say how it was made; ShardError when a part is damaged or a file cannot
    be written.
    """
    target = _target(storage, to)
    documents = kept_documents(storage, source)
    chosen = chosen_columns(documents, columns)
    _check(documents, form, by, chosen, shard_bytes)
    met = checked_where(documents, where)
    made = how_made(documents)
    options = {
        "as": form,
        "by": by,
        "columns": chosen,
        "where": met.sql if met else None,
        "shard_bytes": shard_bytes,
    }
    key = {"export": VERSION, "recipe": made.recipe, "source": source, "options": options}
    before = _manifest(target, MANIFEST)
    if before and key.items() <= before.items() and lie_there(target.url, before["files"]):
        return _exported(to, before, is_new=False)
    replaced = _ours(target, before, overwrite)
    if by is not None:
        _check_values(documents, by, met)
    staged = Storage.at(f"{target.url}/{UNFINISHED}")
    is_new = not target.exists("")
    inside = pa.schema([documents.schema.field(name) for name in chosen if name != by])
    remote = nullcontext() if target.is_local else remote_errors()
    with remote, hold(staged, f"gristmill export --to {target.url}"):
        try:
            _clear(target, staged, () if before else replaced)
            written, counted = _write(documents, staged, form, by, inside, met, shard_bytes, progress)
            if not counted.rows:
                raise UsageError(
                    f"{source}: none of its {documents.rows:,} kept documents meets --where; write another"
                )
            names = {file.path: _final_name(file.path, form, len(written)) for file in written}
            manifest = {
                **key,
                "gristmill": version("gristmill"),
                "rows": counted.rows,
                "tokens": counted.tokens,
                "bytes": sum(file.bytes for file in written),
                "columns": _described(documents, chosen, by),
                "files": {
                    name: {"rows": file.rows, "bytes": file.bytes, "sha256": file.sha256}
                    for name, file in sorted((names[file.path], file) for file in written)
                },
                "made": asdict(made),
            }
            write_file(f"{staged.url}/{CARD}", card(manifest, inside, made, counted).encode())
        except BaseException:
            with suppress(OSError):
                staged.fs.rm(staged.path(""), recursive=True)
                if is_new and target.is_local:
                    os.rmdir(target.root)
            raise
        _publish(target, names, manifest, replaced)
    return _exported(to, manifest, is_new=True)


def _exported(to: str, manifest: Mapping[str, Any], is_new: bool) -> Exported:
    with as_written(f"{to}/{MANIFEST}"):
        rows, tokens, size = manifest["rows"], manifest["tokens"], manifest["bytes"]
    return Exported(to, tuple(manifest["files"]), rows, tokens, size, is_new)


def size_bytes(text: str) -> int:
    """Return the bytes of a size as people write it. Raises: UsageError."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?) ?([KMG]I?B)", text.strip().upper(), re.ASCII)
    if match is None:
        raise UsageError(f"--shard-size {text}: write a number and a unit (KB, MB, GB, KiB, MiB, GiB), such as 512MB")
    return int(float(match[1]) * (1024 if "I" in match[2] else 1000) ** (1 + "KMG".index(match[2][0])))


# Before anything is written -------------------------------------------------------------------------------------------


def _target(storage: Storage, to: str) -> Storage:
    """Return the folder that is written to. Raises: UsageError when it cannot be, or belongs to the workspace."""
    if not to.strip():
        raise UsageError("--to is empty; name the folder that files are written to")
    try:
        target = Storage.at(to)
        target.check_writable()
        target = Storage.at(target.root) if target.is_local else target
    except WorkspaceError as error:
        raise UsageError(f"--to {str(error).removeprefix('workspace ')}") from error
    inside, whole = (os.path.realpath(each.root) if each.is_local else each.root for each in (target, storage))
    is_same = type(storage.fs) is type(target.fs)
    if is_same and (inside == whole or inside.startswith(f"{whole.rstrip('/')}/")):
        raise UsageError(f"--to {to}: lies in the workspace {storage.url}; name a folder outside it")
    return target


def _check(documents: KeptDocuments, form: str, by: str | None, columns: Sequence[str], shard_bytes: int) -> None:
    """Refuse options that do not go together. Raises: UsageError."""
    if form not in FORMS:
        raise UsageError(f"--as {form}: there are {', '.join(FORMS)}{nearest(form, FORMS)}")
    if shard_bytes < files.MIN_SHARD_BYTES:
        raise UsageError(f"--shard-size: {shard_bytes:,} bytes; give at least {files.MIN_SHARD_BYTES:,}")
    if (by is None) == (form == "partitioned"):
        hint = "needs --by COLUMN, such as --by language" if by is None else "has no folders; leave --by out"
        raise UsageError(f"--as {form} {hint}")
    if by is None:
        return
    if by not in documents.schema.names:
        raise UsageError(f"--by: {documents.source} has no column {by!r}{nearest(by, documents.schema.names)}")
    kind = documents.schema.field(by).type
    if not (pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise UsageError(
            f"--by {by}: {kind} makes no folders; choose a column of text, whole numbers or true and false"
        )
    if list(columns) == [by]:
        raise UsageError(f"--columns {by}: it is in the folders' names; name another column for the files")


def _check_values(documents: KeptDocuments, by: str, where: Expression | None) -> None:
    """Refuse a column whose values make no folders. Raises: UsageError."""
    for value in count_values(documents, by, where, MAX_VALUES):
        if value == files.HIVE_NULL:
            raise UsageError(f"--by {by}: the value {value!r} is Hive's name for null; leave it out by --where")
        if len(files.hive_folder(by, value).encode()) > MAX_NAME_BYTES:
            raise UsageError(
                f"--by {by}: the value {str(value)[:40]!r}... is too long for a folder's name; choose another column"
            )


def _manifest(target: Storage, name: str) -> dict[str, Any] | None:
    """Return the manifest of an export of ours; None when there is none."""
    try:
        found = read_json(f"{target.url}/{name}")
    except ShardError:
        return None
    if not isinstance(found, dict) or not str(found.get("export", "")).startswith("export_v"):
        return None
    return found if isinstance(found.get("files"), dict) else None


def _ours(target: Storage, before: Mapping[str, Any] | None, overwrite: bool) -> list[str]:
    """Return the files in the folder that an export wrote and the next may delete.

    Raises: UsageError when there are others, or they are of a finished export and `overwrite` is not asked for.
    """
    left = _manifest(target, f"{UNFINISHED}/{MANIFEST}")  # a kill came while files were given their names
    others = target.names("") - {UNFINISHED}
    there = [path for path in target.files("") if not path.startswith(f"{UNFINISHED}/")] if before or left else []
    listed = {MANIFEST, CARD, *(before or {}).get("files", ()), *(left or {}).get("files", ())}
    listed.update((left or {}).get("replaces", ()))
    foreign = sorted(set(there) - listed) if before or left else sorted(others)
    if foreign:
        raise UsageError(
            f"--to {target.url}: holds {foreign[0]!r}, which no export wrote; name an empty or a new folder"
        )
    if before and not overwrite:
        raise UsageError(
            f"--to {target.url}: holds another export, or what is left of one (source {before.get('source')!r}); "
            "--overwrite replaces it"
        )
    return there


# Written, then named --------------------------------------------------------------------------------------------------


def _clear(target: Storage, staged: Storage, left: Sequence[str]) -> None:
    """Delete what a killed export left: half-written files, and `left`, to which it gave their names already."""
    for path in left:
        target.delete(path)
    for path in staged.files(""):
        if path != LOCK:
            staged.delete(path)


def _write(
    documents: KeptDocuments,
    staged: Storage,
    form: Form,
    by: str | None,
    columns: pa.Schema,
    where: Expression | None,
    shard_bytes: int,
    progress: Callable[[int], None],
) -> tuple[list[files.Written], Counted]:
    """Write the rows, and count what passes."""
    counted = Counted(documents.schema)
    read = list(dict.fromkeys([*columns.names, *counted.columns, *([by] if by is not None else [])]))
    encoding = files.JsonLines if form == "jsonl.zst" else files.ParquetRows
    name = f"{'train' if form == 'hf' else 'part'}-{{:05d}}.{'jsonl.zst' if form == 'jsonl.zst' else 'parquet'}"
    with files.shards(staged, name, encoding, columns, shard_bytes) as shards:
        for rows in read_kept(documents, read, where):
            counted.add(rows)
            if by is None:
                shards.add(rows.select(columns.names), _DATA)
            else:
                for value, of_value in files.by_value(rows.select([*columns.names, by]), by):
                    shards.add(of_value, _DATA + files.hive_folder(by, value))
            progress(rows.num_rows)
    return shards.written, counted


def _described(documents: KeptDocuments, chosen: Sequence[str], by: str | None) -> list[dict[str, str]]:
    named = [*chosen, *([by] if by is not None and by not in chosen else [])]
    return [
        {
            "name": name,
            "type": str(documents.schema.field(name).type),
            "from": "outcomes" if name in documents.narrow else "curated",
        }
        for name in named
    ]


def _final_name(path: str, form: Form, count: int) -> str:
    return path.replace(".parquet", f"-of-{count:05d}.parquet") if form == "hf" else path


def _publish(target: Storage, names: Mapping[str, str], manifest: Mapping[str, Any], replaced: Sequence[str]) -> None:
    """Give files their names, the manifest last of all. Whenever a kill comes, the next export knows what is ours."""
    staged = f"{target.url}/{UNFINISHED}"
    write_json(f"{staged}/{MANIFEST}", {**manifest, "replaces": list(replaced)})
    for path in sorted(replaced, key=lambda path: path != MANIFEST):  # from now on nothing looks finished
        target.delete(path)
    if target.is_local:
        for path in replaced:
            with suppress(OSError):
                os.rmdir(os.path.dirname(target.path(path)))
    for path, name in names.items():
        target.move(f"{UNFINISHED}/{path}", name)
    target.move(f"{UNFINISHED}/{CARD}", CARD)
    write_json(f"{staged}/finished.json", manifest)
    target.move(f"{UNFINISHED}/finished.json", MANIFEST)
    target.fs.rm(target.path(UNFINISHED), recursive=True)
