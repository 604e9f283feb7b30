"""What one file is, before a run: its format and what says so, its schema, its first rows, a source that reads it.

The readers of a run read it, a bounded beginning of it; nothing is written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, BinaryIO, get_args

import yaml

from pipeline.extract.archives import read_files
from pipeline.extract.config import OPTIONS, ExtractConfig, ExtractLimits, Format
from pipeline.extract.content import identify, marked_format
from pipeline.extract.corpora.parquet import find_type, natural_type, open_parquet, paths, read_parquet, shown
from pipeline.extract.corpora.rows import CorpusFile
from pipeline.extract.corpora.text import read_csv, read_jsonl
from pipeline.extract.formats import READERS
from pipeline.extract.media import looks_like_html
from pipeline.extract.members import DamagedMember, RawInput, detect, read_head
from pipeline.extract.shard import ExtractJob, read
from pipeline.extract.units import Document, Entry, Origin, Page, Raw, Reject
from pipeline.inputs.files import InputFile, resolve
from pipeline.inputs.shipped import preset_names, preset_path
from pipeline.table.config import StageConfig
from pipeline.table.errors import HIDDEN, InputError
from pipeline.table.format import cell, text_table
from pipeline.table.kept import read_yaml
from pipeline.table.storage import Storage

MAX_ENTRIES = 100
"""Rows, records or files that are looked at."""
ROW_BYTES = 4 << 20
"""Of a row, a page, a file: what is larger is not looked at."""
EXAMPLE_CHARACTERS = 80
ROWS_SHOWN, COLUMNS_SHOWN = 3, 8

_TABLES = "postlinks|posthistory|posts|comments|submissions|tags|votes|users|badges|R[CS](?=_)"
_TABLE = re.compile(_TABLES, re.IGNORECASE)
_OTHER_TABLE = re.compile(
    rb"\s*(?:<\?xml[^>]*>)?\s*<(comments|postlinks|posthistory|tags|votes|users|badges)>\s*<row\s", re.IGNORECASE
)
_SUBMISSION, _COMMENT = {"subreddit", "title", "created_utc", "permalink"}, {"subreddit", "body", "link_id"}
_OURS = {
    "text": ("text", "content", "contents", "body", "raw_content", "article", "document", "selftext"),
    "url": ("url", "uri", "link", "source_url", "permalink"),
    "title": ("title", "headline"),
    "date": ("date", "timestamp", "created", "created_utc", "published"),
    "licence": ("licence", "license"),
    "id": ("id", "doc_id", "uuid"),
}
"""Columns of corpora that are ours under other names, where no published corpus is known by its columns."""
_CODE = (
    *("py", "js", "ts", "java", "c", "h", "cpp", "cc", "hpp", "cs", "go", "rs", "rb", "php", "swift", "kt", "scala"),
    *(
        "sh",
        "pl",
        "pm",
        "r",
        "jl",
        "lua",
        "sql",
        "hs",
        "ml",
        "ps1",
        "jsx",
        "tsx",
        "mjs",
        "cjs",
        "vue",
        "css",
        "m",
        "mm",
    ),
    *(
        "cxx",
        "hh",
        "hxx",
        "cu",
        "f90",
        "f",
        "asm",
        "ex",
        "exs",
        "erl",
        "clj",
        "dart",
        "nim",
        "zig",
        "pyx",
        "fs",
        "vb",
        "el",
    ),
)
_SUFFIXES = {
    **dict.fromkeys(("tex", "ltx", "bbl", "sty"), "latex"),
    **dict.fromkeys(("html", "htm", "xhtml"), "html"),
    **dict.fromkeys(("md", "markdown", "mdx", "qmd", "rmd"), "markdown"),
    **dict.fromkeys(("txt", "text"), "text"),
    "pdf": "pdf",
    **dict.fromkeys(_CODE, "code"),
}
_CORPORA = {"jsonl": read_jsonl, "csv": read_csv, "parquet": read_parquet}
_SITEINFO = ("sitename", "dbname", "base", "generator")
_PACKED = re.compile(r"\.(gz|bz2|xz|zst|lz4)$", re.IGNORECASE)
_PAPER = re.compile(r"(^|/)([a-z-]+)?\d{4}[.]?\d{3,5}(v\d+)?\.(gz|tar\.gz)$")


@dataclass(frozen=True)
class Peeked:
    """What is known of a file. `format` is None where nothing reads it; then `why` says so, and what to do."""

    file: str
    bytes: int
    compression: str | None
    container: str | None
    encoding: str | None
    format: str | None
    sure: str
    """`certain`: by what it holds; `likely`: by its name, or by what most of it is; `no`: nothing reads it."""
    why: str
    facts: dict[str, Any] = field(default_factory=dict)
    """What its beginning says of the whole: a wiki's name, types of records, the corpus whose columns it has."""
    columns: list[dict[str, Any]] = field(default_factory=list)
    """Name, type and an example."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What of its beginning would be rejected."""
    sources: str | None = None
    """YAML of a source that reads it."""

    def as_text(self) -> str:
        """Return what people read; the block of YAML comes last."""
        parts = [self.compression, self.container, self.encoding]
        lines = [f"{self.file}: {self.bytes:,} bytes, {', '.join(part for part in parts if part) or 'no text'}"]
        lines.append(f"format: {self.format or 'none'} ({self.sure}: {self.why})" if self.format else self.why)
        lines += [f"{name}: {cell(value, 200)}" for name, value in self.facts.items()]
        if self.columns:
            lines += ["", text_table(self.columns).rstrip("\n")]
        if self.rows:
            narrow = [dict(islice(row.items(), COLUMNS_SHOWN)) for row in self.rows[:ROWS_SHOWN]]
            lines += ["", text_table(narrow, 40).rstrip("\n")]
        lines += [f"rejected: {problem}" for problem in self.problems]
        return "\n".join(lines) + "\n" + (f"\n{self.sources}" if self.sources else "")


def single(entry: str) -> InputFile:
    """Return the one file that a path or URL names. Raises: InputError."""
    files = resolve([entry], "FILE")
    if len(files) != 1 or files[0].name.endswith("/"):
        hint = f"such as {files[0].shown_url}" if files else "it is empty"
        kinds = Counter(_SUFFIXES.get(file.name.rpartition(".")[2].lower()) for file in files[:MAX_ENTRIES])
        if kinds["code"] and kinds["code"] == max(count for kind, count in kinds.items() if kind is not None):
            hint += "; `format: code` reads the folder as a repository"
        raise InputError(f"{entry} names {len(files):,} files; name one of them, {hint}")
    if files[0].problem is not None:
        raise InputError(f"{entry}: {files[0].problem[1]}")
    return files[0]


def beside(file: InputFile, form: str) -> list[InputFile]:
    """Return a file and those of its folder that are read with it: they are called the same but for the table."""
    reader = READERS.get(form)
    folder, _, name = file.url.rpartition("/")
    if reader is None or reader.together is None or "://" in file.url or _TABLE.search(name) is None:
        return [file]
    alike = [each for each in resolve([folder or "."], "FILE") if each.problem is None and "/" not in each.name]
    bare = _TABLE.sub("", name).lower()
    alike = [each for each in alike if _TABLE.sub("", each.name).lower() == bare]
    groups = reader.together(alike)
    return next((list(group) for group in groups if any(each.name == file.name for each in group)), [file])


def recognise(stream: BinaryIO, name: str) -> tuple[str | None, str, str]:
    """Return the format of a seekable file, how sure that is, and why; without one, what the file is and what to do."""
    head, _ = read_head(RawInput(stream, whole=False))
    if (marked := marked_format(head)) is not None:
        return marked[0], "certain", marked[1]
    if (table := _OTHER_TABLE.match(head)) is not None:
        what = f"the table {table[1].decode()} of a dump of Stack Exchange, which is read beside Posts.xml"
        return None, "no", f"{what}; give that file, in the same folder"
    content = identify(stream, name, {})
    if content.kind == "jsonl" and _is_reddit(stream):
        return "reddit", "certain", "its rows have the fields of Reddit's submissions or comments"
    if content.kind in ("warc", "parquet", "jsonl"):
        return content.kind, "certain", "by how it begins"
    kind = _SUFFIXES.get(_PACKED.sub("", name).rpartition(".")[2].lower())
    if content.kind == "csv" or (content.kind == "text" and re.search(r"\.[ct]sv(\.|$)", name, re.IGNORECASE)):
        return "csv", "certain" if content.kind == "csv" else "likely", "its first row names columns"
    if content.kind == "damaged":
        return None, "no", "damaged: not one byte of it can be decoded; fetch or write it again"
    if content.kind == "empty":
        return None, "no", "empty: nothing but spaces; it holds no documents"
    if re.match(r"(\w+ around )?a tar archive|a ZIP archive", content.detail):
        return _archive(stream, name)
    if looks_like_html(head) and not head.lstrip().startswith(b"<?xml"):
        return "html", "certain" if kind in ("html", None) else "likely", "it begins as HTML does"
    if content.kind == "text" and kind in get_args(Format):
        return kind, "likely", "by its name"
    if content.kind == "text":
        return "text", "likely", "text of no known format: the whole file would be one document"
    what = content.detail or "binary data of no known format"
    return None, "no", f"{'encrypted' if content.reason == 'encrypted' else content.kind}: {what}"


def _archive(stream: BinaryIO, name: str) -> tuple[str | None, str, str]:
    """Tell an archive by the names of its first files."""
    kinds: Counter[str] = Counter()
    names: list[str] = []
    for file in islice(read_files(stream, name, 0, ROW_BYTES), MAX_ENTRIES):
        if file.problem is not None and file.problem[0] == "encrypted":
            return None, "no", "encrypted: an archive whose files are encrypted; decrypt it"
        names.append(file.path)
        kind = "latex" if _PAPER.search(file.path) else _SUFFIXES.get(file.path.rpartition(".")[2].lower())
        if kind is not None and kind in get_args(Format):
            kinds[kind] += 1
    if "latex" in kinds and any(path.endswith(".tex") for path in names):
        kinds["latex"] += kinds["text"] + kinds["pdf"]  # of data and figures
    if not kinds:
        listed = ", ".join(names[:5]) or "nothing"
        return None, "no", f"an archive of files that nothing here reads ({listed}); unpack it and name what it holds"
    kind, count = kinds.most_common(1)[0]
    return kind, "likely", f"an archive: of its first {len(names):,} files {count:,} are {kind} by their names"


def peek(entry: str) -> Peeked:
    """Return what a file is. Raises: InputError when there is no such file, or more than one; ShardError."""
    file = single(entry)
    with file.open() as stream:
        raw = RawInput(stream, whole=False)
        compression = detect(raw).codec
        head, _ = read_head(raw)
        form, sure, why = recognise(stream, file.name)
        found = Peeked(
            file.shown_url,
            file.size,
            None if compression == "plain" else compression,
            _container(head, raw),
            _encoding(head, raw, compression),
            form,
            sure,
            why,
        )
        if form is None:
            return found
        try:
            known = _corpus(stream, file.name, form) if form in _CORPORA else _units(stream, file, form)
        except (InputError, DamagedMember) as error:
            return replace(found, problems=[str(error)], sources=None)
        source: dict[str, Any] = {"format": form, "inputs": [each.shown_url for each in beside(file, form)]}
        source |= known.pop("mapping", {})
    if form == "wikipedia":
        known["facts"] = _siteinfo(head)
    if source.pop("unread", False):
        return replace(found, **known)
    source_name = "corpus" if form in _CORPORA else form
    block = {"sources": {source_name: source}}
    written = yaml.safe_dump(block, sort_keys=False, width=120, allow_unicode=True, default_flow_style=None)
    if HIDDEN in written:
        written = f"# {HIDDEN} stands for a secret of the address\n{written}"
    return replace(found, **known, sources=written)


def _container(head: bytes, raw: RawInput) -> str | None:
    if head.startswith(b"PAR1"):
        return "Parquet"
    if head[257:262] == b"ustar":
        return "tar"
    if raw.exactly(0, 2) == b"PK":
        return "zip"
    marked = marked_format(head)
    if marked and marked[0] == "pdf":
        return "PDF"
    return "XML" if head.startswith(b"<?xml") or (marked and marked[0] != "latex") else None


def _encoding(head: bytes, raw: RawInput, compression: str) -> str | None:
    """Return the encoding of a text: what is in UTF-16 or UTF-32 is read as UTF-8, too."""
    start = raw.exactly(0, 4) if compression == "plain" else b""
    if start.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        return "UTF-32" if b"\0\0" in start else "UTF-16"
    if not head or 50 * len(head.translate(None, bytes({*range(32)} - {*b"\t\n\v\f\r\x1b"}))) < 49 * len(head):
        return None
    try:
        head[: max(0, len(head) - 4)].decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    return "UTF-8"


def _siteinfo(head: bytes) -> dict[str, Any]:
    text = head.decode(errors="replace")
    found = {name: re.search(rf"<{name}>([^<]{{1,200}})<", text) for name in _SITEINFO}
    language = re.search(r'<mediawiki[^>]*\bxml:lang="([^"]{1,20})"', text)
    return {name: match[1] for name, match in [*found.items(), ("language", language)] if match}


# Corpora --------------------------------------------------------------------------------------------------------------


class _AsItIs(CorpusFile):
    """A corpus whose rows are shown with their own columns."""

    __slots__ = ()

    def check(self, known: Sequence[str], lookup: object) -> None:
        """Accept any columns."""

    def entry(self, offset: int, fields: Mapping[str, object]) -> Entry:
        """Return a row's own fields."""
        return Entry(offset, Document(Origin(self.file, offset), None, "", metadata=dict(fields)))


def _fields(stream: BinaryIO, name: str, form: str) -> Iterator[dict[str, object] | str]:
    """Yield the fields of the first rows, flat, and what would be rejected of them."""
    limits = ExtractLimits(record_bytes=ROW_BYTES)
    columns: dict[str, str] = {}
    if form == "parquet":
        _, tree = open_parquet(stream, name)
        texts = [path for path in paths(tree) if natural_type(find_type(tree, path)[1]) == "text"]
        if not texts:
            return
        columns = {"text": "text" if "text" in texts else texts[0]}
    with closing(_CORPORA[form](stream, 0, _AsItIs(name, columns, limits))) as entries:  # type: ignore[type-var]
        for item in islice(entries, MAX_ENTRIES):
            if isinstance(item.result, Document):
                yield dict(_flat(item.result.metadata))
            elif isinstance(item.result, Reject):
                yield f"{item.result.reason}: {item.result.detail}"


def _flat(fields: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in fields.items():
        if isinstance(value, Mapping) and value and prefix.count(".") < 3:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_reddit(stream: BinaryIO) -> bool:
    rows = [row for row in islice(_fields(stream, "", "jsonl"), 5) if isinstance(row, dict)]
    return bool(rows) and all(row.keys() >= _SUBMISSION or row.keys() >= _COMMENT for row in rows)


def _corpus(stream: BinaryIO, name: str, form: str) -> dict[str, Any]:
    """Return columns, rows, problems, and which columns are ours."""
    found = list(_fields(stream, name, form))
    rows = [row for row in found if isinstance(row, dict)]
    types: dict[str, str] = {}
    if form == "parquet":
        _, tree = open_parquet(stream, name)
        types = {path: shown(find_type(tree, path)[1]) for path in paths(tree) if find_type(tree, path)[0]}
    examples: dict[str, object] = dict.fromkeys(types)
    seen = Counter(key for row in rows for key in row)
    for row in rows:
        for key, value in row.items():
            if len(rows) > 4 and seen[key] == 1 and "." in key and key not in types:
                continue  # an object by somebody's ids: its keys are no columns
            if examples.get(key) is None:
                examples[key] = value
    columns = [
        {"name": key, "type": types.get(key) or _type(value), "example": _example(value)}
        for key, value in islice(examples.items(), 200)
    ]
    mapping, corpus = _mapping(examples, rows)
    names = [key for key in examples if any(key in row for row in rows[:ROWS_SHOWN])]
    shown_rows = [{key: _example(row.get(key)) for key in names} for row in rows[:ROWS_SHOWN]]
    problems = list(dict.fromkeys(row for row in found if isinstance(row, str)))[:5]
    if "unread" in mapping:
        problems.append("no column holds text: there is nothing that could become documents")
    facts = {"columns_of": corpus} if corpus else {}
    return {"columns": columns, "rows": shown_rows, "problems": problems, "facts": facts, "mapping": mapping}


def _mapping(examples: Mapping[str, object], rows: Sequence[Mapping[str, object]]) -> tuple[dict[str, Any], str | None]:
    """Return which columns are ours: as the published corpus says whose columns they are, or by their names."""
    best: tuple[int, str, dict[str, Any]] = (0, "", {})
    for name in preset_names("corpora"):
        path = preset_path("corpora", name)
        assert path is not None, "it is listed"
        (source,) = read_yaml(path)[0]["sources"].values()
        kept = [each["path"] for each in source.get("keep_columns", {}).values()]
        wanted = {*source["columns"].values(), *kept}
        if wanted <= examples.keys() and len(wanted) > best[0]:
            best = len(wanted), name, {key: source[key] for key in ("columns", "keep_columns") if source.get(key)}
    if best[0]:
        return best[2], best[1]
    columns = {}
    for ours, theirs in _OURS.items():
        found = [key for each in theirs for key in examples if key.rpartition(".")[2].lower() == each]
        if ours == "text":
            found = [key for key in found if isinstance(examples[key], str)] or _longest(rows)
        if found:
            columns[ours] = found[0]
    return ({"columns": columns}, None) if "text" in columns else ({"unread": True}, None)


def _longest(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the column with the longest texts."""
    sizes: Counter[str] = Counter()
    for row in rows:
        sizes.update({key: len(value) for key, value in row.items() if isinstance(value, str)})
    return [key for key, size in sizes.most_common(1) if size > 20 * len(rows)]


def _type(value: object) -> str:
    if isinstance(value, list):
        return f"{_type(value[0])}[]" if value else "array"
    names = {str: "text", bool: "bool", int: "int", float: "float", type(None): "null", dict: "object"}
    return names.get(type(value), type(value).__name__)


def _example(value: object) -> str | None:
    return None if value is None else cell(value, EXAMPLE_CHARACTERS)


# Everything else ------------------------------------------------------------------------------------------------------


def _units(stream: BinaryIO, file: InputFile, form: str) -> dict[str, Any]:
    """Return the format's own columns, the first units as the reader sees them, and types of records."""
    options = OPTIONS.get(form, StageConfig)()
    limits = ExtractLimits(payload_bytes=ROW_BYTES, record_bytes=ROW_BYTES)
    job = ExtractJob(Storage.at("."), "peek", file, form, {}, ExtractConfig(limits=limits), options=options)
    kinds: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    columns: dict[str, object] = dict.fromkeys(READERS[form].columns) if form in READERS else {}
    with closing(read(stream, job, 0, (), MAX_ENTRIES)) as entries:  # type: ignore[type-var]
        for item in islice(entries, MAX_ENTRIES):
            kinds[item.record_type] += 1
            result = item.result
            if isinstance(result, Reject):
                problems.append(f"{result.reason}: {result.detail}")
            elif result is not None:
                rows.append(_seen(result))
                kept = result.document.kept if isinstance(result, Raw) else result.kept
                columns |= {key: value for key, value in kept.items() if columns.get(key) in (None, [], "")}
    types = READERS[form].columns if form in READERS else {}
    listed = [{"name": key, "type": types[key], "example": _example(value)} for key, value in columns.items()]
    facts: dict[str, Any] = {"records": dict(sorted(kinds.items()))} if form == "warc" else {}
    problems = list(dict.fromkeys(problems))[:5]
    mapping = {"unread": True} if not rows and kinds["file"] else {}
    return {"columns": listed, "rows": rows[:ROWS_SHOWN], "problems": problems, "facts": facts, "mapping": mapping}


def _seen(result: Page | Raw | Document) -> dict[str, Any]:
    """Return a unit in a row: where it was found, and what is known before its text is made."""
    known = result.document if isinstance(result, Raw) else result
    what = {"offset": known.origin.offset, "id": known.origin.record_id, "url": known.url}
    title = None if isinstance(known, Page) else known.title
    size = len(result.payload) if isinstance(result, (Page, Raw)) else len(result.text)
    return what | {"title": title, "bytes": size}
