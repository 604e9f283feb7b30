"""What happens to a text before fastText sees it, and the distinct lines that come of it, on disk.

One function for training and scoring, its version in artefacts. Lines are found again by a keyed hash, so that the
order of inputs and their repeats cannot matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from classifiers.config import PreprocessConfig
from pipeline.table.schema import text_buffers

VERSION = 1

_SEPARATORS = b"\t\n\v\f\r\0"
_DIGITS = b"0123456789"
# Words with a meaning to fastText: a text must neither label itself nor end its own line.
_RESERVED = ("__label__", "</s>")

Spans = dict[bytes, tuple[int, int]]
"""Where distinct lines lie in a spill file, (offset, bytes) by digest."""


def preprocess(texts: pa.Array, config: PreprocessConfig) -> pa.LargeStringArray:
    """Return one line for each text, in order, as fastText is to see it; a null becomes an empty line.

    In this order: cut to `max_characters` code points, lower case by Unicode, the words that fastText reserves become a
    space, every separator of fastText a space, digits 0 where asked for.

    Raises: SchemaError when `texts` are no strings.
    """
    if texts.null_count:
        texts = texts.fill_null("")
    if config.max_characters is not None:
        texts = pc.utf8_slice_codeunits(texts, 0, config.max_characters)
    if config.lowercase:
        texts = pc.utf8_lower(texts)
    for word in _RESERVED:
        if pc.any(pc.match_substring(texts, word)).as_py():
            texts = pc.replace_substring(texts, word, " ")
    data, offsets = text_buffers(texts)
    replaced = _table(config)[data[: offsets[-1]]]
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(replaced))


def _table(config: PreprocessConfig) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Return what each byte becomes: all of these are ASCII, which never occurs inside another UTF-8 character."""
    table = np.arange(256, dtype=np.uint8)
    table[list(_SEPARATORS)] = ord(" ")
    if config.normalise_digits:
        table[list(_DIGITS)] = ord("0")
    return table


def hashed(lines: pa.LargeStringArray, seed: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yield each line's 128-bit hash, keyed with `seed`, and its bytes; the hash decides sample, split and order."""
    data, offsets = text_buffers(lines)
    view, key = memoryview(data.data), seed.to_bytes(8, "little")
    for start, end in pairwise(offsets.tolist()):
        line = view[start:end]
        yield hashlib.blake2b(line, digest_size=16, key=key).digest(), line


def gather(
    batches: Iterable[pa.LargeStringArray], spill: BinaryIO, seed: int, limit: int | None
) -> tuple[Spans, dict[str, int | str]]:
    """Append the distinct lines of `batches` to `spill`; with `limit` the lines of the smallest hashes, an even sample.

    Returns where they lie and what was counted: lines without a word (`empty`) and repeats are left out; `content` is a
    hash over the distinct lines, whatever their order.
    """
    spans: Spans = {}
    rows, empty, duplicates = 0, 0, 0
    ceiling = b"\xff" * 16
    for lines in batches:
        rows += len(lines)
        for digest, line in hashed(lines, seed):
            if not bytes(line).strip():
                empty += 1
            elif digest in spans:
                duplicates += 1
            elif digest <= ceiling:
                spans[digest] = (spill.tell(), len(line))
                spill.write(line)
        if limit is not None and len(spans) >= 2 * limit:
            spans = {digest: spans[digest] for digest in sorted(spans)[:limit]}
            ceiling = max(spans)
    chosen = sorted(spans)[:limit]
    content = hashlib.blake2b(b"".join(chosen), digest_size=16).hexdigest()
    counts = {"rows": rows, "empty": empty, "duplicates": duplicates, "used": len(chosen), "content": content}
    return {digest: spans[digest] for digest in chosen}, counts
