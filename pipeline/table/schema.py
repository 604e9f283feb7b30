"""The tables of a workspace: names, columns, types and closed lists. The contract of DESIGN.md section 3 in code.

Schemas are fixed here and never inferred from data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.table.errors import SchemaError

DOC_ID = "doc_id"
TEXT = "text"
HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(?P<host>\[[^\]/]*\]|[^/:?#]+)"
"""RE2, of Arrow and DuckDB alike: the host of a URL, without user and port, as it is written."""

TOKEN_COLUMNS = ("token_count", "estimated_tokens")
"""What counts tokens, the best first: exact where a tokenizer was configured."""

TIMESTAMP = pa.timestamp("us", tz="UTC")
ORIGIN = pa.struct([("file", pa.string()), ("offset", pa.int64()), ("record_id", pa.string())])


class Column(NamedTuple):
    """A column where it is defined: its Arrow type, what it means (for the reference), whether it may be null."""

    type: pa.DataType
    meaning: str
    nullable: bool = True


def arrow(columns: Mapping[str, Column]) -> pa.Schema:
    """Return the Arrow schema of columns: names, types and whether they may be null, nothing else."""
    return pa.schema([pa.field(name, column.type, column.nullable) for name, column in columns.items()])


ID_COLUMN = {DOC_ID: Column(pa.string(), "the document: 32 hex digits, a hash of source, origin and text", False)}
DOCUMENT_COLUMNS = ID_COLUMN | {
    "source": Column(pa.string(), "the source's name", False),
    "url": Column(pa.string(), "address of the page or row, null when it has none"),
    TEXT: Column(pa.string(), "the extracted text", False),
    "title": Column(pa.string(), "title, null when none was found"),
    "date": Column(
        TIMESTAMP,
        "publication date in UTC, null when the page names none that is plausible; never the crawl's date",
    ),
    "licence": Column(
        pa.string(),
        "SPDX identifier of the page, null when nothing names exactly one, when it is that of a picture, a theme or a "
        "comment, or when all rights are reserved; a corpus's own value is taken as it is",
    ),
    "parent_id": Column(pa.string(), "the document that this one was made from by rephrasing; null for all others"),
    "origin": Column(
        ORIGIN,
        "`file` (name of the input), `offset` (byte of the record or line, number of a Parquet row), `record_id`",
        False,
    ),
    "metadata": Column(
        pa.string(),
        "JSON: for pages `captured`, `charset` and what spoke for it in `charset_source` (`bom`, `header`, `meta`, "
        "`content`: the bytes themselves, `default`), `media_type`, `language` (the page's own claim), `date_source`, "
        "`truncated`, and `code_lost`, `formulas_lost`: how many blocks of code and formulas of the page are not in "
        "`text`, absent when none. For corpora the other fields, with `_unfit` (columns whose values did not fit) and "
        "`_omitted` (fields that were left out); for files `modified`; for further formats what is said of them. For "
        "rephrasings what `signals_rephrase` says of the request, with `style_version`, `prompt_hash`, `parameters`, "
        "`revision`, `segment_start` and `segment_end` (in the parent's text), `body_start` (where the model's own "
        "text begins), `parent_licence`, `model_licence`",
    ),
}
DOCUMENTS = arrow(DOCUMENT_COLUMNS)

KeptType = Literal["text", "int", "float", "bool", "date", "text[]", "int[]", "float[]", "bool[]", "date[]"]
"""Types of a corpus's own columns. A date is a point in time, as `documents.date`; `[]` makes a list of values."""
_KEPT = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "date": TIMESTAMP}
KEEP_COLUMNS = "keep_columns"
"""Where the index of `documents` says which columns of a corpus's own they have: name to `KeptType`, in their order."""

RejectReason = Literal[
    "not_html",
    "http_status",
    "redirect",
    "empty",
    "truncated_input",
    "damaged",
    "oversize",
    "charset",
    "too_deep",
    "timeout",
    "crash",
    "memory",
    "duplicate_record",
    "language",
    "encrypted",
    "namespace",
    "deleted",
    "licence",
    "unsupported",
]
REJECT_REASONS: Mapping[RejectReason, str] = {
    "not_html": "another media type by header or content, a feed, a sitemap",
    "http_status": "a status that is neither 2xx nor 3xx",
    "redirect": "status 3xx, or a page of a wiki that leads to another; `detail` has the target",
    "empty": "no body, no text left after extraction, an empty text field or file, or a revisit record, which has no "
    "body",
    "truncated_input": "the input ends in the middle of a record, or of a file in an archive",
    "damaged": "a record, row or file that cannot be read: bad compression, wrong length, invalid JSON, no text field, "
    "no permission; an answer or comment without what it belongs to",
    "oversize": "over `extract.limits` in bytes or elements, or over the format's `max_bytes` or `max_pages`",
    "charset": "too many characters cannot be decoded, the text is mojibake in every charset that comes into question, "
    "or the label is one that browsers refuse (UTF-7, HZ, ISO-2022-KR)",
    "too_deep": "nested deeper than `extract.limits.depth`, or than its format can be read",
    "timeout": "it took more CPU time than `extract.limits.cpu_s`, or came to nothing for long",
    "crash": "the parser failed or its process died",
    "memory": "it took more than half of `extract.limits.memory_bytes`",
    "duplicate_record": "a record id that occurred before in the same file, with the same URL and payload; a post, "
    "comment, file or folder that was read already",
    "language": "refused by `extract.language_gate`; `detail` has language and probability",
    "encrypted": "cannot be read without a password",
    "namespace": "what the format's options leave out as a whole: a wiki's other namespaces, posts that are neither "
    "question nor answer, other subreddits, what is for adults, by bots, below the least score or unanswered",
    "deleted": "deleted, removed or withdrawn: a question, a submission, a comment that would be a document, a paper",
    "licence": "the licence that was found, or that none was, is not one of those that the option `licences` admits",
    "unsupported": "nothing here reads it; `detail` says what it is and what to do",
}
"""The closed list of why a unit did not become a document, and what each means."""

REJECT_COLUMNS = {
    "source": DOCUMENT_COLUMNS["source"],
    "url": DOCUMENT_COLUMNS["url"],
    "reason": Column(pa.string(), "why it did not become a document, of a closed list", False),
    "detail": Column(pa.string(), "what exactly"),
    "origin": DOCUMENT_COLUMNS["origin"],
}
REJECTS = arrow(REJECT_COLUMNS)

DUPLICATE_COLUMNS = ID_COLUMN | {
    "component_id": Column(
        pa.string(), "smallest `doc_id` of its component; a document without copies is its own", False
    ),
    "component_size": Column(pa.int64(), "documents in the component", False),
    "method": Column(
        pa.string(),
        "`exact`: another document has the same normalised words; `minhash`: only alike; null without copies",
    ),
    "text_hash": Column(pa.uint64(), "hash of the normalised words: equal means an exact duplicate", False),
}
DUPLICATES = arrow(DUPLICATE_COLUMNS)

_PAGE = {"start": pa.int64(), "end": pa.int64(), "route": pa.string(), "confidence": pa.float64()}
PAGE_COLUMNS = ID_COLUMN | {
    "pages": Column(
        pa.list_(pa.field("element", pa.struct(list(_PAGE.items())))),
        "of each page `start` and `end` (characters of `text`), `route` (`text`: the layer; `ocr`; `vlm`: a vision "
        "model; `blank`; `failed`) and `confidence` (0 to 1, null for `vlm` and `failed`); null for documents that "
        "have no pages",
    ),
    "page_count": Column(pa.int64(), "pages of the document; null when it has none, as are the next ones"),
    "ocr_pages": Column(pa.int64(), "pages that were read from their picture: `ocr` and `vlm`"),
    "ocr_confidence": Column(pa.float64(), "the mean confidence of those"),
    "failed_pages": Column(pa.int64(), "pages that could not be read"),
}
PAGES = arrow(PAGE_COLUMNS)
"""Columns of `signals/pages`."""

SCORE_COLUMNS = ID_COLUMN | {
    "score": Column(pa.float32(), "raw score of the classifier"),
    "probability": Column(pa.float32(), "the score, calibrated: probability of the class of good texts"),
    "rank": Column(pa.int8(), "0 to 19: twentieths of the source's tokens by score, after Nemotron-CC"),
}
SCORES = arrow(SCORE_COLUMNS)

RESERVED_SOURCES = frozenset(
    {"main", "mix", "train", "report", "temp", "system", "memory", "information_schema", "pg_catalog"}
)
"""Names that no source may have: folders of a workspace, and schemas of DuckDB's own."""


def documents_schema(kept: Mapping[str, str]) -> pa.Schema:
    """Return the schema of documents with a corpus's own columns behind the built-in ones."""
    fields = []
    for name, kind in kept.items():
        single = _KEPT[kind.removesuffix("[]")]
        fields.append(pa.field(name, pa.list_(pa.field("element", single)) if kind.endswith("[]") else single))
    return pa.schema([*DOCUMENTS, *fields])


def require(table: pa.Table, *columns: str) -> None:
    """Check that `table` has `columns`.

    Raises: SchemaError naming the missing column and those present.
    """
    for column in columns:
        if column not in table.column_names:
            raise SchemaError(f"column {column!r} is missing; the table has {', '.join(table.column_names)}")


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table` with exactly the columns and types of `schema`, in its order.

    Raises: SchemaError when a column is missing, cannot be cast without loss, or holds a forbidden null.
    """
    require(table, *schema.names)
    try:
        result = table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise SchemaError(f"table does not fit the schema: {error}") from error
    for field in schema:
        if not field.nullable and result[field.name].null_count:
            raise SchemaError(f"column {field.name!r} holds nulls, which its schema forbids")
    return result


def signals(documents: pa.Table, **columns: pa.Array) -> pa.Table:
    """Return `doc_id` of `documents` with `columns` beside it, row for row; no row can drop.

    Raises: SchemaError when a column's length differs from the number of documents.
    """
    for name, column in columns.items():
        if len(column) != documents.num_rows:
            raise SchemaError(f"signal {name!r} has {len(column)} values for {documents.num_rows} documents")
    fields = [pa.field(DOC_ID, pa.string(), nullable=False)]
    fields += [pa.field(name, column.type) for name, column in columns.items()]
    return pa.Table.from_arrays([documents[DOC_ID], *columns.values()], schema=pa.schema(fields))


def doc_id(source: str, file: str, offset: int, record_id: str | None, text: str) -> str:
    """Return the document's id: 32 hex digits of a 128-bit BLAKE2b over source, origin and text.

    The parts are length-prefixed, so that no two different tuples hash the same bytes.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (source, file, str(offset), record_id or "", text):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def names(items: Iterable[str]) -> str:
    """Return names as one readable list for a message."""
    return ", ".join(items)


def text_buffers(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the UTF-8 bytes (no copy) and the n + 1 offsets of a string array, sliced or not; a null is empty text.

    Raises: SchemaError for another type.
    """
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise SchemaError(f"text is {texts.type}, expected string")
    if texts.null_count:
        texts = texts.fill_null("")  # a null may still have bytes between its offsets
    if not len(texts):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    kind = np.dtype(np.int64 if pa.types.is_large_string(texts.type) else np.int32)
    _, offsets, data = texts.buffers()
    numbers = np.frombuffer(offsets, kind, count=len(texts) + 1, offset=texts.offset * kind.itemsize)
    return np.frombuffer(data if data is not None else b"", np.uint8), numbers.astype(np.int64)
