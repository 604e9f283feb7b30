"""Other people's Parquet, read in bounded memory: what a page decodes to is judged by its header before it is decoded.

PyArrow allocates whatever a file says, and some kilobytes can say hundreds of gigabytes: a dictionary word of 60 MB in
each of a thousand rows, a list of a billion nulls. The footer may lie; the headers of the pages cannot, since pages are
decoded by them. So those are read first. Then batches are made so small that they fit, dictionaries stay dictionaries,
and a column that cannot be bounded is left out, unless it has to be there.

Source: parquet.thrift (PageHeader) and the Thrift compact protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

BATCH_ROWS = 256
FLAT_BYTES = 384 << 20  # of all columns with one value a row, for a batch of one row
HONEST_BYTES = 1 << 30  # the same of columns whose pages are in the file what they decode to, but for compression
NESTED_BYTES = 384 << 20  # of all lists and maps, in a row group: how much of it a row has cannot be known before
MAX_COLUMNS = 4096  # read besides those that were asked for
_BATCH_BYTES = 128 << 20  # of a batch of more rows, which are copied, and become Python's
_HONEST_RATIO = 16  # of decompressed to stored bytes; PyArrow puts 1,024 values in a page, of books that is much
_DENSE_BYTES = 8 << 20  # above it, the words of a dictionary are not copied to every row
_ITEM_BYTES = 32  # of an item of a list, at least, once it is Python's
_HEADER_BYTES = 1 << 20
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3
_HEADERS = {_DATA_PAGE: 5, _DICTIONARY_PAGE: 7, _DATA_PAGE_V2: 8}  # where each kind of page has its own fields
_PLAIN, _DICTIONARY, _DELTA_BYTE_ARRAY = 0, {2, 8}, 7


@dataclass(frozen=True, slots=True)
class _Column:
    """One leaf of a row group, and what its pages say that it decodes to."""

    index: int
    path: str
    asked: bool
    nested_bytes: int = 0
    """At most this for the whole row group; 0 when it has one value a row."""
    page_bytes: int = 0
    """The largest page, decompressed: what a value can have at most, and what is decompressed at a time."""
    pages: int = 0
    page_rows: int = 1
    """In the smallest page but the last."""
    row_bytes: int = 0
    """What every row may have, beyond its share of the pages: a fixed width, or the longest word that can repeat."""
    as_dictionary: bool = False
    is_honest: bool = False

    def burden(self) -> int:
        """Return what the column takes of `FLAT_BYTES`."""
        return self.flat_bytes(1) * FLAT_BYTES // HONEST_BYTES if self.is_honest else self.flat_bytes(1)

    def flat_bytes(self, rows: int) -> int:
        """Return at most how much so many rows take; 0 of lists and maps."""
        pages = min(rows, self.pages, rows // self.page_rows + 2)
        return pages * self.page_bytes + rows * self.row_bytes


def read_group(
    parquet: pq.ParquetFile, stream: BinaryIO, group: int, asked: Collection[str], *, only: bool = False
) -> tuple[list[str], Iterator[pa.RecordBatch]]:
    """Return the paths of the columns that are left out of a row group, and its rows in batches of bounded memory.

    What is at, below or above a path of `asked` is read before other columns, or `only` that, and then no text comes as
    a dictionary.

    Raises: OSError and ArrowException when it is damaged, also while batches are read.
    """
    kept = [_weigh(parquet, stream, group, index, asked, only) for index in range(parquet.metadata.num_columns)]
    paths = [column.path for column in kept]
    kept.sort(key=lambda column: not column.asked)  # stable: else in the order of the file
    del kept[sum(column.asked for column in kept) + (0 if only else MAX_COLUMNS) :]
    _drop_until(kept, NESTED_BYTES, lambda column: column.nested_bytes)
    _drop_until(kept, FLAT_BYTES, _Column.burden)
    rows = BATCH_ROWS
    while rows > 1 and sum(column.flat_bytes(rows) for column in kept) > _BATCH_BYTES:
        rows //= 2
    indices = sorted(column.index for column in kept)
    words = [column.path for column in kept if column.as_dictionary]
    if words:
        parquet = pq.ParquetFile(
            stream, metadata=parquet.metadata, read_dictionary=words, buffer_size=1 << 20, pre_buffer=False
        )
    left_out = [path for index, path in enumerate(paths) if index not in set(indices)]
    # Without indices PyArrow would read all columns.
    reader = parquet.reader.iter_batches(rows, row_groups=[group], column_indices=indices) if indices else iter(())
    return left_out, reader


def _drop_until(columns: list[_Column], limit: int, weight: Callable[[_Column], int]) -> None:
    """Leave columns out until the others are within the limit: the heaviest first, of those that were not asked for."""
    total = sum(map(weight, columns))
    for column in sorted(columns, key=lambda column: (column.asked, -weight(column))):
        if total > limit and weight(column):
            columns.remove(column)
            total -= weight(column)


def _weigh(
    parquet: pq.ParquetFile, stream: BinaryIO, group: int, index: int, asked: Collection[str], only: bool
) -> _Column:
    leaf = parquet.metadata.schema.column(index)
    chunk = parquet.metadata.row_group(group).column(index)
    is_asked = any(f"{leaf.path}.".startswith(f"{path}.") or path.startswith(f"{leaf.path}.") for path in asked)
    if only and not is_asked:
        return _Column(index, leaf.path, False)
    is_text = leaf.physical_type == "BYTE_ARRAY"
    width = leaf.length if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS.get(leaf.physical_type, 0)
    sizes, counts, dictionary_bytes, encodings, is_honest = [0], [], 0, set(), True
    for kind, size, stored_bytes, values, encoding in _pages(stream, chunk):
        sizes.append(size)
        is_honest = is_honest and size <= _HONEST_RATIO * stored_bytes + (64 << 10)
        if kind == _DICTIONARY_PAGE:
            dictionary_bytes = size
        elif values:
            counts.append(values)
            encodings.add(encoding)
    count, page_bytes = sum(counts), max(sizes)
    repeats = page_bytes if _DELTA_BYTE_ARRAY in encodings and is_text else 0  # a value may repeat that before it
    words = dictionary_bytes if encodings & _DICTIONARY and is_text else 0
    copies = count if leaf.max_repetition_level else BATCH_ROWS
    as_dictionary = not only and words * copies > _DENSE_BYTES and encodings <= {_PLAIN, *_DICTIONARY}
    row_bytes = width + repeats + (4 if as_dictionary else words)
    if not leaf.max_repetition_level:
        page_rows = max(1, min(counts[:-1] or counts, default=1))
        return _Column(
            index, leaf.path, is_asked, 0, page_bytes, len(counts), page_rows, row_bytes, as_dictionary, is_honest
        )
    nested_bytes = sum(sizes) + count * (row_bytes + _ITEM_BYTES)
    return _Column(index, leaf.path, is_asked, nested_bytes, as_dictionary=as_dictionary)


def _pages(stream: BinaryIO, chunk: pq.ColumnChunkMetaData) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield kind, decompressed and stored bytes, values and encoding of a chunk's pages, as far as its values go.

    Raises: OSError when a header is damaged.
    """
    position = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset > 0:  # some writers say 0 for none
        position = min(position, chunk.dictionary_page_offset)
    left, end = chunk.num_values, position + chunk.total_compressed_size
    while left > 0 and position < end:
        header, header_bytes = _read_header(stream, position)
        try:
            kind, size, stored_bytes = header[1], header[2], header[3]
            fields = header[_HEADERS[kind]] if kind in _HEADERS else {}
            values = fields[1] if kind in (_DATA_PAGE, _DATA_PAGE_V2) else 0
            encoding = fields[2 if kind == _DATA_PAGE else 4] if values else 0
            if min(size, stored_bytes, values, encoding) < 0:
                raise ValueError
        except (LookupError, TypeError, ValueError) as error:
            raise OSError(f"a damaged page at byte {position}") from error
        position += header_bytes + stored_bytes
        left -= values
        yield kind, size, stored_bytes, values, encoding


def _read_header(stream: BinaryIO, position: int) -> tuple[dict[int, Any], int]:
    """Return a page's header and its size in bytes; statistics may make it long."""
    size = 256
    while True:
        stream.seek(position)
        data = stream.read(size)
        try:
            return _thrift_struct(data, 0)
        except IndexError as error:
            if len(data) < size or size >= _HEADER_BYTES:
                raise OSError(f"no page's header at byte {position}") from error
            size *= 16


def _thrift_struct(data: bytes, place: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Return the numbers and structs in a struct of Thrift's compact protocol by field number, and where it ends.

    Raises: IndexError when the data ends before it does; OSError when it is none.
    """
    fields: dict[int, Any] = {}
    number = 0
    while data[place]:
        kind, step = data[place] & 15, data[place] >> 4
        place += 1
        if step:
            number += step
        else:
            value, place = _varint(data, place)
            number = value >> 1 ^ -(value & 1)
        if kind in (1, 2):  # true and false are all of a boolean
            fields[number] = kind == 1
        elif kind == 3:
            place += 1
        elif kind in (4, 5, 6):
            value, place = _varint(data, place)
            fields[number] = value >> 1 ^ -(value & 1)
        elif kind == 7:
            place += 8
        elif kind == 8:
            size, place = _varint(data, place)
            place += size
        elif kind == 12 and depth < 8:
            fields[number], place = _thrift_struct(data, place, depth + 1)
        else:
            raise OSError(f"a page's header holds a field of type {kind}")
    return fields, place + 1


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise OSError("a page's header holds a number of over 64 bits")
