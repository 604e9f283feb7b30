"""The fastText model file (`.bin`, `.ftz`), parsed with every length checked against the file.

A file is untrusted: counts and sizes are compared with the bytes that are left before anything is allocated, indices
are compared with the tables that they point into, and weights must be finite. All damage is a `ValueError` that names
the file, the part and the byte. Little-endian, as fastText writes on every platform that it is released for.

Source: `Args::load`, `Dictionary::load`, `DenseMatrix::load`, `QuantMatrix::load` and `ProductQuantizer::load` of
facebookresearch/fastText 0.9.2 (file version 12; version 11 had no character n-grams in supervised models).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.kernels import entry

MAGIC = 793712314
NEWEST_VERSION = 12
SUPERVISED = 3
HIERARCHICAL, NEGATIVE_SAMPLING, SOFTMAX, ONE_VS_ALL = 1, 2, 3, 4

MAX_ENTRIES = 30_000_000  # fastText's own MAX_VOCAB_SIZE
MAX_LABELS = 1_000_000
MAX_DIMENSION = 4_096
MAX_NGRAM = 32
MAX_WORD_BYTES = 1 << 20
MAX_PRUNED_BUCKETS = 1 << 27  # a pruned model needs an int32 for each bucket
MAX_LABEL_COUNT = 10**15  # what fastText's Huffman code takes for infinity
CENTROIDS = 256
BLOCK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Header:
    """What decides how text becomes features and features become probabilities."""

    dimension: int
    word_ngrams: int
    loss: int
    bucket: int
    min_gram: int
    max_gram: int


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Words, then labels: `blob[starts[i] : starts[i] + lengths[i]]` is entry i; the first `n_words` are words."""

    blob: np.ndarray[Any, Any]
    starts: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]
    counts: np.ndarray[Any, Any]
    n_words: int
    labels: tuple[str, ...]
    is_pruned: bool
    pruned: np.ndarray[Any, Any]  # bucket -> row after the words, -1 where the bucket was pruned; empty: none is left


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix whose float32 rows come in `blocks`, to be iterated once while the file is open."""

    n_rows: int
    dimension: int
    blocks: Iterator[np.ndarray[Any, Any]]


class Reader:
    """Reads a file of known size; never more than is left."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.size = path.stat().st_size
        self.position = 0

    def left(self) -> int:
        return self.size - self.position

    def fail(self, part: str, problem: str) -> ValueError:
        """Return the error that names file, part and byte."""
        return ValueError(f"{self.path}: not a usable fastText model: {part} at byte {self.position}: {problem}")

    def take(self, size: int, part: str) -> bytes:
        if size > self.left():
            raise self.fail(part, f"{size} bytes are needed and {self.left()} are left; the file is cut or damaged")
        data = self.file.read(size)
        if len(data) != size:
            raise self.fail(part, f"{size} bytes were there and {len(data)} could be read; the file changed")
        self.position += size
        return data

    def seek(self, position: int) -> None:
        self.position = position
        self.file.seek(position)

    def values(self, layout: str, part: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout), part))

    def array(self, dtype: str, count: int, part: str) -> np.ndarray[Any, Any]:
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize, part), dtype=dtype)

    def check(self, ok: bool, part: str, problem: str) -> None:
        if not ok:
            raise self.fail(part, problem)


def read_header(reader: Reader) -> Header:
    """Read magic number, version and arguments.

    Raises: ValueError when it is no fastText file, not a classifier, or an argument is out of range.
    """
    magic, version = reader.values("<ii", "header")
    reader.check(magic == MAGIC, "header", f"the magic number is {magic}, not {MAGIC}")
    reader.check(11 <= version <= NEWEST_VERSION, "header", f"file version {version}; 11 and 12 are known")
    (dimension, _, _, _, _, ngrams, loss, model, bucket, min_gram, max_gram, _, _) = reader.values("<12id", "arguments")
    if version == 11:
        max_gram = 0
    for name, value, low, high in (
        ("dim", dimension, 1, MAX_DIMENSION),
        ("wordNgrams", ngrams, 0, MAX_NGRAM),
        ("maxn", max_gram, 0, MAX_NGRAM),
        ("minn", min_gram, 0, 2**31 - 1),
        ("bucket", bucket, 0, 2**31 - 1),
        ("loss", loss, HIERARCHICAL, ONE_VS_ALL),
    ):
        reader.check(low <= value <= high, "arguments", f"{name} {value} is not between {low} and {high}")
    reader.check(model == SUPERVISED, "arguments", f"model kind {model} is no classifier (supervised is {SUPERVISED})")
    reader.check(bucket > 0 or (ngrams <= 1 and max_gram == 0), "arguments", "n-grams need buckets and bucket is 0")
    return Header(dimension, ngrams, loss, bucket, min_gram, max_gram)


def read_dictionary(reader: Reader, header: Header) -> Dictionary:
    """Read words, labels and the table of pruned buckets.

    Raises: ValueError when counts do not add up, an entry is damaged, or an index points outside its table.
    """
    size, n_words, n_labels, _, pruned_size = reader.values("<iiiqq", "dictionary")
    reader.check(0 < size <= MAX_ENTRIES, "dictionary", f"{size} entries")
    reader.check(n_words >= 0 and n_labels > 0 and n_words + n_labels == size, "dictionary", "its counts do not add up")
    reader.check(n_labels <= MAX_LABELS, "dictionary", f"{n_labels} labels are more than {MAX_LABELS}")
    reader.check(
        size * 10 <= reader.left(), "dictionary", f"{size} entries do not fit into the {reader.left()} bytes left"
    )
    blob, starts, lengths, counts, kinds = _read_entries(reader, size)
    in_order = not kinds[:n_words].any() and bool((kinds[n_words:] == 1).all())
    reader.check(in_order, "dictionary", "words and labels are not in order")
    label_counts = counts[n_words:]
    possible = bool((label_counts >= 0).all()) and bool((label_counts < MAX_LABEL_COUNT).all())
    reader.check(possible, "dictionary", "a label's count is impossible")
    words = (blob[starts[i] : starts[i] + lengths[i]].tobytes() for i in range(n_words, size))
    labels = tuple(word.decode("utf-8", "replace").removeprefix("__label__") for word in words)
    pruned = _read_pruned(reader, header, pruned_size)
    return Dictionary(blob, starts, lengths, counts, n_words, labels, pruned_size >= 0, pruned)


def _read_entries(reader: Reader, size: int) -> tuple[np.ndarray[Any, Any], ...]:
    starts, lengths, counts = (np.zeros(size, np.int64) for _ in range(3))
    kinds = np.zeros(size, np.uint8)
    origin = reader.position
    data = bytearray()
    entry, position = 0, 0
    while entry < size:
        block = reader.take(min(BLOCK_BYTES, reader.left()), "dictionary")
        reader.check(
            len(block) > 0, "dictionary", f"it ends after {entry} of {size} entries; the file is cut or damaged"
        )
        data += block
        view = np.frombuffer(data, np.uint8)
        entry, position = _scan_entries(view, position, entry, starts, lengths, counts, kinds)
        del view  # a bytearray cannot grow while an array looks into it
        reader.check(position >= 0, "dictionary", f"entry {entry} is longer than {MAX_WORD_BYTES} bytes")
    reader.seek(origin + position)
    return np.frombuffer(bytes(data[:position]), np.uint8), starts, lengths, counts, kinds


@entry
def _scan_entries(
    data: Any, position: int, first: int, starts: Any, lengths: Any, counts: Any, kinds: Any
) -> tuple[int, int]:
    """Fill the entries from `first` on that lie wholly in `data`; return the next and its position (-1: too long)."""
    for number in range(first, starts.size):
        end = position
        while end < data.size and data[end] != 0:
            end += 1
        if end - position > MAX_WORD_BYTES:
            return number, -1
        if end + 10 > data.size:
            return number, position
        starts[number], lengths[number], kinds[number] = position, end - position, data[end + 9]
        count = np.uint64(0)
        for i in range(8):
            count |= np.uint64(data[end + 1 + i]) << np.uint64(8 * i)
        counts[number] = np.int64(count)
        position = end + 10
    return starts.size, position


def _read_pruned(reader: Reader, header: Header, size: int) -> np.ndarray[Any, Any]:
    if size <= 0:
        return np.empty(0, np.int32)
    reader.check(header.bucket <= MAX_PRUNED_BUCKETS, "pruned buckets", f"bucket {header.bucket} is too large")
    reader.check(size <= header.bucket, "pruned buckets", f"{size} of {header.bucket} buckets")
    pairs = reader.array("<i4", 2 * size, "pruned buckets").reshape(size, 2)
    inside = bool((pairs[:, 0] >= 0).all()) and bool((pairs[:, 0] < header.bucket).all())
    reader.check(inside, "pruned buckets", "a bucket is out of range")
    reader.check(bool((pairs[:, 1] >= 0).all()), "pruned buckets", "a row is negative")
    table = np.full(header.bucket, -1, np.int32)
    table[pairs[:, 0]] = pairs[:, 1]
    return table


def read_input(reader: Reader, header: Header, dictionary: Dictionary) -> tuple[Matrix, bool]:
    """Return the input matrix (words, then buckets) and whether it is quantised.

    Raises: ValueError when it lacks rows that words or buckets point to, or is cut.
    """
    quantised = reader.values("<?", "input matrix")[0]
    reader.check(quantised or not dictionary.is_pruned, "input matrix", "pruned but not quantised")
    matrix = _matrix(reader, header.dimension, quantised, "input matrix")
    uses_buckets = header.word_ngrams > 1 or header.max_gram > 0
    if dictionary.pruned.size:
        needed = dictionary.n_words + int(dictionary.pruned.max()) + 1
    elif uses_buckets and not dictionary.is_pruned:
        needed = dictionary.n_words + header.bucket
    else:
        needed = dictionary.n_words
    reader.check(matrix.n_rows >= needed, "input matrix", f"{matrix.n_rows} rows; words and buckets need {needed}")
    return matrix, quantised


def read_output(reader: Reader, header: Header, n_labels: int, input_quantised: bool) -> np.ndarray[Any, Any]:
    """Return the output matrix, float32 of shape (labels, dimension).

    Raises: ValueError when its shape is not that, or it is cut.
    """
    quantised = reader.values("<?", "output matrix")[0]
    matrix = _matrix(reader, header.dimension, quantised and input_quantised, "output matrix")
    reader.check(matrix.n_rows == n_labels, "output matrix", f"{matrix.n_rows} rows for {n_labels} labels")
    return np.concatenate(list(matrix.blocks))


def _matrix(reader: Reader, dimension: int, quantised: bool, part: str) -> Matrix:
    if quantised:
        return _quantised(reader, dimension, part)
    n_rows, columns = reader.values("<qq", part)
    reader.check(columns == dimension, part, f"{columns} columns for dimension {dimension}")
    fits = n_rows > 0 and n_rows * columns * 4 <= reader.left()
    reader.check(fits, part, f"{n_rows} x {columns} floats do not fit into the {reader.left()} bytes left")
    origin = reader.position
    reader.seek(origin + n_rows * columns * 4)
    return Matrix(n_rows, columns, _dense_blocks(reader, origin, (n_rows, columns), part))


def _dense_blocks(reader: Reader, origin: int, shape: tuple[int, int], part: str) -> Iterator[np.ndarray[Any, Any]]:
    after = reader.position
    reader.seek(origin)
    n_rows, columns = shape
    step = max(1, BLOCK_BYTES // (4 * columns))
    for start in range(0, n_rows, step):
        rows = min(step, n_rows - start)
        block = reader.array("<f4", rows * columns, part).reshape(rows, columns)
        reader.check(bool(np.isfinite(block).all()), part, "it holds a NaN or an infinity")
        yield block
    reader.seek(after)


def _quantised(reader: Reader, dimension: int, part: str) -> Matrix:
    with_norms, n_rows, columns, code_size = reader.values("<?qqi", part)
    reader.check(columns == dimension, part, f"{columns} columns for dimension {dimension}")
    reader.check(n_rows > 0 and code_size >= 0 and code_size % n_rows == 0, part, f"{code_size} codes, {n_rows} rows")
    codes = reader.array("u1", code_size, part).reshape(n_rows, -1)
    centroids = _read_quantiser(reader, dimension, codes.shape[1], part)
    norms = None
    if with_norms:
        norm_codes = reader.array("u1", n_rows, part)
        norms = _read_quantiser(reader, 1, 1, part)[0][norm_codes]
    return Matrix(n_rows, columns, _quantised_blocks(codes, centroids, norms))


def _read_quantiser(reader: Reader, dimension: int, n_codes: int, part: str) -> list[np.ndarray[Any, Any]]:
    """Return the centroids of each sub-quantiser, each (256, its width)."""
    stored, n_parts, width, last_width = reader.values("<4i", part)
    consistent = stored == dimension and n_parts == n_codes and width > 0 and 0 < last_width <= width
    consistent = consistent and (n_parts - 1) * width + last_width == dimension
    problem = f"quantiser {stored}, {n_parts} x {width}, {last_width} for dimension {dimension} and {n_codes} codes"
    reader.check(consistent, part, problem)
    values = reader.array("<f4", stored * CENTROIDS, part)
    reader.check(bool(np.isfinite(values).all()), part, "a centroid is a NaN or an infinity")
    split = (n_parts - 1) * width * CENTROIDS
    heads = values[:split].reshape(n_parts - 1, CENTROIDS, width)
    return [*heads, values[split:].reshape(CENTROIDS, last_width)]


def _quantised_blocks(
    codes: np.ndarray[Any, Any], centroids: list[np.ndarray[Any, Any]], norms: np.ndarray[Any, Any] | None
) -> Iterator[np.ndarray[Any, Any]]:
    step = max(1, BLOCK_BYTES // (4 * sum(part.shape[1] for part in centroids)))
    for start in range(0, codes.shape[0], step):
        block = codes[start : start + step]
        rows = np.concatenate([part[block[:, i]] for i, part in enumerate(centroids)], axis=1)
        yield rows if norms is None else rows * norms[start : start + step]
