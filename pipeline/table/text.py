"""Text columns as the buffers that kernels read, and lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.table.errors import InputError, SchemaError


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


def json_lines(stream: BinaryIO, name: str, limit: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `name:line` and the object of every JSON line that is not blank; memory does not grow with the file.

    Raises: InputError for a line of more than `limit` bytes, or one that is no JSON object; the lines before it have
    been yielded.
    """
    number = 0
    while line := stream.readline(limit + 1):
        number += 1
        where = f"{name}:{number}"
        if len(line) > limit:
            raise InputError(f"{where}: the line is longer than {limit} bytes; is it one JSON object a line?")
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON ({error}); each line is an object") from error
        if not isinstance(value, dict):
            raise InputError(f"{where}: a {type(value).__name__}, not an object")
        yield where, value
