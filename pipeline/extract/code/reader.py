"""Repositories in folders and archives to raw files for the workers, each with what is known of its repository."""

from __future__ import annotations

import configparser
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import quote

from pipeline.extract.archives import ArchivedFile, is_archive, read_files
from pipeline.extract.code import licences
from pipeline.extract.config import CodeOptions
from pipeline.extract.units import LEFT_OUT, Document, Entry, Given, Origin, OwnColumn, Raw, Reader, Reject, unread
from pipeline.inputs.files import InputFile
from pipeline.table.errors import UnreadableInputError
from pipeline.table.schema import RejectReason

COLUMNS: dict[str, OwnColumn] = {
    "alphanumeric_share": OwnColumn("float", "share of the characters that are letters or digits"),
    "code_language": OwnColumn("text", "language of the code, by the names of Pygments"),
    "commit": OwnColumn("text", "commit of the repository, where a clone or an archive says it"),
    "is_data": OwnColumn("bool", "a table, a drawing, large JSON, YAML or XML, or of few letters"),
    "is_generated": OwnColumn("bool", "a program wrote it"),
    "is_minified": OwnColumn("bool", "a script or style sheet made small"),
    "is_test": OwnColumn("bool", "a test, by its path"),
    "is_vendored": OwnColumn("bool", "a copy of another project"),
    "licences": OwnColumn("text[]", "SPDX ids of all licences that hold for the file"),
    "lines": OwnColumn("int", "lines of the file"),
    "max_line_length": OwnColumn("int", "code points of the longest line"),
    "path": OwnColumn("text", "path in the repository"),
    "repository": OwnColumn("text", "name of the repository"),
    "secrets": OwnColumn("int", "what looks like a key, a token, a private key or a random password"),
}
_MAX_STATEMENTS = 20_000
_MAX_GIT_BYTES = 1 << 20
_OF_TOOLS = re.compile(r"(?:^|/)(?:\.git|\.hg|\.svn|\.bzr|CVS|__pycache__|\.DS_Store|__MACOSX)(?:/|$)|\.py[co]$")
_REMOTE = re.compile(r"(?:[\w+.-]+://(?:[^/@\s]*@)?|(?:[\w.-]+@)?)([\w.-]+)(?::\d+)?[:/]+([\w./~-]+?)(?:\.git)?/?")


@dataclass(slots=True)
class _Repository:
    """What is known of the files that belong together; `stated` are the licences of each of its folders."""

    name: str | None = None
    commit: str | None = None
    web: str | None = None
    """Where its files are on the web."""
    top: str = ""
    """The folder of its files' paths in which all of it lies, with its `/`: paths of documents do not say it."""
    stated: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    count: int = 0

    def state(self, path: str, data: bytes) -> None:
        """Take what a file says of the licences of its folder."""
        if self.count < _MAX_STATEMENTS:
            self.count += 1
            self.stated[licences.scope_of(path)].update(licences.stated(path, data))
        else:
            self.stated[""].add(licences.UNKNOWN)

    def licences(self, path: str) -> list[str]:
        """Return the expressions that hold for a file: those of all folders in which it lies, and its own."""
        folders = [path[:end] for end, character in enumerate(path) if character == "/"]
        scopes = [scope for scope in ("", *folders, path) if scope in self.stated]
        found = {each for scope in scopes for each in licences.simplified(self.stated[scope])}
        return sorted(found - {licences.UNCLEAR} or found)


def together(files: Sequence[InputFile]) -> list[tuple[InputFile, ...]]:
    """Group the files of each repository; an archive is one, and so is what is known to be unreadable."""
    plain = [file for file in files if file.problem is None]
    roots = _roots(plain)
    groups: dict[tuple[str, str], list[InputFile]] = defaultdict(list)
    for file in plain:
        root, is_certain = roots[file.name]
        alone = is_archive(file.name) and not is_certain
        groups["archive" if alone else "folder", file.name if alone else root].append(file)
    alone_too = [(file,) for file in files if file.problem is not None]
    return sorted([*map(tuple, groups.values()), *alone_too], key=lambda group: group[0].name)


def _roots(files: Sequence[InputFile]) -> dict[str, tuple[str, bool]]:
    """Return the folder of the repository of each file by name, and whether it is one for certain, if not the whole.

    That is the innermost with a `.git`, else the outermost with a licence or a package's metadata, else the first.
    """
    marked = {file.name.rpartition("/")[0] for file in files if licences.is_manifest(file.name)}
    loose = any("/" not in file.name and not is_archive(file.name) for file in files)
    git: dict[str, bool] = {}
    found: dict[str, tuple[str, bool]] = {}
    for file in files:
        above = ["", *(file.name[:end] for end, character in enumerate(file.name) if character == "/")]
        base = file.url.removesuffix(file.name) if "://" not in file.url and file.url.endswith(file.name) else None
        for folder in above if base is not None else ():
            where = os.path.join(base or "", folder)
            if where not in git:
                git[where] = os.path.exists(os.path.join(where, ".git"))
        of_git = [folder for folder in above if base is not None and git[os.path.join(base, folder)]]
        of_marks = [folder for folder in above if folder in marked]
        root = of_git[-1] if of_git else of_marks[0] if of_marks else "" if loose else file.name.partition("/")[0]
        found[file.name] = (root if root != file.name else "", bool(of_git or (of_marks and root)))
    return found


def read_code(stream: BinaryIO, start: int, given: Given) -> Iterator[Entry]:
    """Yield one entry for each file of a repository, or of an archive of one or several; none can drop."""
    options = given.options
    assert isinstance(options, CodeOptions), "the options of this format"
    limit = min(given.limits.payload_bytes, options.max_bytes)
    if given.beside:
        yield from _of_folder(stream, start, given, options, limit)
        return
    known, is_flat = _Repository(), False
    tops: set[str] = set()
    for file in read_files(stream, given.file, 0, licences.MAX_STATEMENT_BYTES):
        top, _, below = file.path.partition("/")
        is_flat = is_flat or (not below and bool(file.path))
        tops |= {top} if len(tops) < 2 else set()
        known.commit = known.commit or _commit(file.comment)
        if file.data and licences.is_statement(file.path):
            known.state(file.path, file.data)
    known.top = f"{tops.pop()}/" if len(tops) == 1 and not is_flat else ""
    for file in read_files(stream, given.file, start, limit):
        top = "" if is_flat else file.path.partition("/")[0]
        known.name = _without_commit(top, known.commit) or None
        yield _entry(given, options, file, known, given.file)


def _of_folder(stream: BinaryIO, start: int, given: Given, options: CodeOptions, limit: int) -> Iterator[Entry]:
    """Yield the entries of the files that are read together as one repository."""
    base = given.address.removesuffix(given.file) if given.address.endswith(given.file) else ""
    head = InputFile(given.address, given.file, 0, "")
    root = _roots([head, *given.beside])[given.file][0] if base else ""
    known = _of_git(os.path.join(base, root)) if base and "://" not in base else _Repository()
    known.name = known.name or os.path.basename(os.path.join(base, root).rstrip("/")) or None
    known.top = f"{root}/" if root else ""

    def read(file: InputFile, number: int, size: int) -> bytes:
        if number == 0:
            stream.seek(0)
            return stream.read(size)
        with file.open() as other:
            return other.read(size)

    for number, file in enumerate((head, *given.beside)):
        if licences.is_statement(file.name):
            try:
                known.state(file.name, read(file, number, licences.MAX_STATEMENT_BYTES))
            except UnreadableInputError:
                continue
    for number, file in enumerate((head, *given.beside)):
        if number < start:
            continue
        try:
            data = read(file, number, limit + 1)
        except UnreadableInputError as error:
            yield Entry(number, Reject(Origin(file.name, 0), None, "damaged", str(error)[:300]))
            continue
        problem: tuple[RejectReason, str] | None = None
        if len(data) > limit:
            data, problem = b"", ("oversize", f"a file of over {limit} bytes")
        yield _entry(given, options, ArchivedFile(number, file.name, data, problem=problem), known, file.name)


def _entry(given: Given, options: CodeOptions, file: ArchivedFile, known: _Repository, name: str) -> Entry:
    """Return a file as raw content, or why it is none."""
    path = file.path.removeprefix(known.top)
    web = options.base_url or known.web
    url = None
    if web and file.path:
        web = web.replace("{commit}", known.commit or "HEAD").replace("{repository}", known.name or "")
        url = f"{web.rstrip('/')}/{quote(path)}"
    if _OF_TOOLS.search(file.path):
        return Entry(file.number, None, LEFT_OUT)
    origin = Origin(name, file.number if name == given.file else 0, path if path and path != name else None)
    if (entry := unread(given, file, path, origin, url)) is not None:
        return entry
    kept: dict[str, object] = {"path": path, "repository": known.name, "commit": known.commit}
    facts: dict[str, object] = {"path": path, "licences": known.licences(file.path), "policy": options.licences}
    facts |= {"generated": options.generated, "vendored": options.vendored}
    facts |= {"minified": options.minified, "data": options.data}
    return Entry(file.number, Raw(Document(origin, url, "", path, metadata=file.metadata, kept=kept), file.data, facts))


def _commit(comment: str | None) -> str | None:
    return comment.lower() if comment and re.fullmatch(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}", comment) else None


def _without_commit(name: str, commit: str | None) -> str:
    """Return the name of an archive's folder without the commit that its forge put behind it."""
    head, _, tail = name.rpartition("-")
    return head if commit and head and len(tail) >= 7 and commit.startswith(tail.lower()) else name


def _of_git(folder: str) -> _Repository:
    """Return what a clone says of itself: the name of where it is from, and its commit."""
    git = os.path.join(folder, ".git")
    head = _said(git, "HEAD").strip()
    commit = _commit(head)
    if reference := re.fullmatch(r"ref: (refs/[\w./-]{1,200})", head):
        packed = re.search(rf"^([0-9a-f]{{40,64}}) {re.escape(reference[1])}$", _said(git, "packed-refs"), re.MULTILINE)
        is_inside = ".." not in reference[1].split("/")
        commit = (
            _commit(_said(git, reference[1]).strip() if is_inside else "") or (packed and _commit(packed[1])) or None
        )
    config = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        config.read_string(re.sub(r"^[ \t]+", "", _said(git, "config"), flags=re.MULTILINE))
        remote = _REMOTE.fullmatch(config.get('remote "origin"', "url", fallback="") or "")
    except configparser.Error:
        remote = None
    web = f"https://github.com/{remote[2]}/blob/{commit}" if remote and remote[1] == "github.com" and commit else None
    return _Repository(remote[2].strip("/") if remote else None, commit, web)


def _said(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    try:
        if not os.path.isfile(path):
            return ""
        with open(path, "rb") as file:
            return file.read(_MAX_GIT_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


CODE = Reader(
    read_code,
    COLUMNS,
    "pipeline.extract.code.source:make_handler",
    ("Pygments", "packaging"),
    together=together,
    of_files=True,
    skipped=(".",),  # `__init__.py` is code like any other
)
