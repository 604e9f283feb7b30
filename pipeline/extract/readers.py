"""The reader of each input format, chosen by what the source says or by what the input holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from pipeline.extract.columnar import read_csv, read_parquet
from pipeline.extract.content import Content, identify
from pipeline.extract.jsonl import read_jsonl
from pipeline.extract.rows import file_reject, row_damage
from pipeline.extract.shard import ExtractJob, Item
from pipeline.extract.warc import read_warc
from pipeline.table.errors import InputError

_CORPORA = {"jsonl": read_jsonl, "parquet": read_parquet, "csv": read_csv}
FORMATS = "WARC, JSON lines or arrays, Parquet or CSV"


def format_of(stream: BinaryIO, job: ExtractJob) -> str:
    """Return how an input is to be read: as its source says, or by its content; `auto` when it cannot be read."""
    if job.format != "auto":
        return job.format
    kind = identify(stream, job.input.name, job.columns).kind
    return "jsonl" if kind == "damaged" else kind if kind == "warc" or kind in _CORPORA else "auto"


def read(stream: BinaryIO, job: ExtractJob, start: int, earlier: Iterable[tuple[str, int]]) -> Iterator[Item]:
    """Yield the items of a raw input from `start` on; `earlier` is for `read_warc`.

    An input that holds nothing has no items. One that cannot be read is one item of the type "file", and one that is
    shorter than it was when it was listed ends with damage.
    """
    name, limits = job.input.name, job.config.limits
    content = identify(stream, name, job.columns)
    if content.kind == "empty":
        return
    form = format_of(stream, job)
    refused = _refused(content, form, job)
    if refused is not None:
        yield refused
        return
    try:
        if form == "warc":
            yield from read_warc(stream, name, start, limits, earlier)
        else:
            yield from _CORPORA[form](stream, name, start, job.columns, limits, job.keep)
    except InputError as error:
        yield file_reject(name, "unsupported", str(error).removeprefix(f"{name}: "))
        return
    size = stream.seek(0, 2)
    if size < job.input.size:
        yield row_damage(name, size, f"the file has {size} bytes, when it was listed it had {job.input.size}", cut=True)


def _refused(content: Content, form: str, job: ExtractJob) -> Item | None:
    """Return the reject of an input that is known not to be readable, before a reader makes many of it."""
    name = job.input.name
    if content.kind == "unreadable":
        return file_reject(name, content.reason, content.detail)
    if content.kind == "binary" and form != "warc":  # where records may be found behind it
        return file_reject(name, "unsupported", f"binary data of no known format; it must be {FORMATS}")
    if form == "auto":
        hint = f"{FORMATS} with a column {job.columns.get('text', 'text')!r}"
        return file_reject(name, "unsupported", f"text, but not {hint}; name its column (`columns: {{text: NAME}}`)")
    if form in ("jsonl", "csv") and content.kind in ("warc", "parquet"):
        what = "a WARC file" if content.kind == "warc" else "a Parquet file"
        return file_reject(name, "unsupported", f"this is {what}; set `format: {content.kind}`, or `auto` for any")
    if form == "jsonl" and content.kind in ("csv", "text"):
        return file_reject(name, "unsupported", "text without a line that is a JSON object; set `format: auto`")
    return None
