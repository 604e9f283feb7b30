"""The tables of a workspace: names, columns, types and closed lists. The contract of DESIGN.md section 3 in code.

Schemas are fixed here and never inferred from data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

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

DOCUMENTS = pa.schema(
    [
        pa.field(DOC_ID, pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        ("url", pa.string()),
        pa.field(TEXT, pa.string(), nullable=False),
        ("title", pa.string()),
        ("date", TIMESTAMP),
        ("licence", pa.string()),
        ("parent_id", pa.string()),
        pa.field("origin", ORIGIN, nullable=False),
        ("metadata", pa.string()),
    ]
)

KeptType = Literal["text", "int", "float", "bool", "date", "text[]", "int[]", "float[]", "bool[]", "date[]"]
"""Types of a corpus's own columns. A date is a point in time, as `documents.date`; `[]` makes a list of values."""
_KEPT = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "date": TIMESTAMP}
KEEP_COLUMNS = "keep_columns"
"""Where the index of `documents` says which columns of a corpus's own they have: name to `KeptType`, in their order."""

REJECTS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        ("url", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        ("detail", pa.string()),
        pa.field("origin", ORIGIN, nullable=False),
    ]
)

DUPLICATES = pa.schema(
    [
        pa.field(DOC_ID, pa.string(), nullable=False),
        pa.field("component_id", pa.string(), nullable=False),  # smallest doc_id of the component; a single is its own
        pa.field("component_size", pa.int64(), nullable=False),
        ("method", pa.string()),  # exact, minhash, or null for a single
        pa.field("text_hash", pa.uint64(), nullable=False),  # of the normalised text: equal means an exact duplicate
    ]
)

PAGES = pa.schema(
    [
        pa.field(DOC_ID, pa.string(), nullable=False),
        (
            "pages",
            pa.list_(
                pa.field(
                    "element",
                    pa.struct(
                        [
                            ("start", pa.int64()),
                            ("end", pa.int64()),
                            ("route", pa.string()),  # text, ocr, vlm, blank, failed
                            ("confidence", pa.float64()),
                        ]
                    ),
                )
            ),
        ),
        ("page_count", pa.int64()),
        ("ocr_pages", pa.int64()),  # read from their picture, by whatever
        ("ocr_confidence", pa.float64()),  # mean of those pages
        ("failed_pages", pa.int64()),
    ]
)
"""Columns of `signals/pages`: null for documents that have none. Offsets count characters of `text`."""

SCORES = pa.schema(
    [
        pa.field(DOC_ID, pa.string(), nullable=False),
        ("score", pa.float32()),
        ("probability", pa.float32()),
        ("rank", pa.int8()),
    ]
)

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
REJECT_REASONS: frozenset[str] = frozenset(get_args(RejectReason))

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
