"""Text columns as the buffers that kernels read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.table.errors import SchemaError


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
