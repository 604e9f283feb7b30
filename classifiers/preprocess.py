"""What happens to a text before fastText sees it: one function for training and scoring, its version in artefacts."""

from __future__ import annotations

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
