"""Documents in an order that has nothing to do with their content, origin or number: hashes of their ids.

Order, held-out text and the tokenizer's sample are decided by different hashes of the same id, without a seed: a
document keeps its place when others come and go, whatever the configuration.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.table.errors import SchemaError

Keys = NDArray[np.uint64]

_ORDER, _HELD_OUT, _SAMPLE = (
    np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
)
_PLACES = np.uint64(1) << (np.arange(15, -1, -1, dtype=np.uint64) * np.uint64(4))
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def id_keys(ids: pa.Array) -> Keys:
    """Return the 128 bits of each `doc_id` (string), shape (n, 2), high half first.

    Raises: SchemaError for what is not 32 hex digits in lower case.
    """
    fixed = ids.cast(pa.binary())
    if len(fixed) == 0:
        return np.empty((0, 2), np.uint64)
    joined = b"".join(fixed.to_pylist()) if fixed.null_count == 0 else b""
    digits = np.frombuffer(joined, np.uint8)
    values = np.searchsorted(_DIGITS, digits).clip(0, 15)
    if digits.size != 32 * len(fixed) or not np.array_equal(_DIGITS[values], digits):
        bad = next((each for each in ids.to_pylist() if each is None or len(each) != 32), ids[0].as_py())
        raise SchemaError(f"doc_id {bad!r} is not 32 hex digits; make the documents with `gristmill run`")
    keys: Keys = values.astype(np.uint64).reshape(-1, 2, 16) @ _PLACES
    return keys


def id_strings(keys: Keys) -> pa.Array:
    """Undo `id_keys`."""
    shifts = np.arange(60, -1, -4, dtype=np.uint64)
    digits = _DIGITS[((keys[:, :, None] >> shifts) & np.uint64(15)).astype(np.uint8)]
    offsets = pa.py_buffer(np.arange(0, 32 * len(keys) + 1, 32, dtype=np.int64).tobytes())
    return pa.LargeStringArray.from_buffers(len(keys), offsets, pa.py_buffer(digits.tobytes())).cast(pa.string())


def training_order(keys: Keys) -> Keys:
    """Return the hash by which a slice's documents are ordered."""
    return _mixed(keys, _ORDER)


def held_out_order(keys: Keys) -> Keys:
    """Return the hash that sets documents aside, the smallest first."""
    return _mixed(keys, _HELD_OUT)


def sample_order(keys: Keys) -> Keys:
    """Return the hash that draws the tokenizer's sample, the smallest first."""
    return _mixed(keys, _SAMPLE)


def held_out(keys: Keys, share: float) -> NDArray[np.bool_]:
    """Tell which documents are set aside: those whose hash is below `share`, as 0 to 1.

    At least one of two or more (with a share above zero), and never all: one is always left to train on.
    """
    order = held_out_order(keys)
    rank = np.lexsort((keys[:, 1], keys[:, 0], order))
    count = int((order < np.uint64(min(int(share * 2.0**64), 2**64 - 1))).sum())
    least = 1 if share > 0 and len(keys) >= 2 else 0
    chosen = np.zeros(len(keys), bool)
    chosen[rank[: min(max(count, least), max(len(keys) - 1, 0))]] = True
    return chosen


def _mixed(keys: Keys, salt: np.uint64) -> Keys:
    """Return MurmurHash3's finaliser over both halves and the salt."""
    return _finalised(_finalised(keys[:, 0] + salt) ^ keys[:, 1])


def _finalised(value: Keys) -> Keys:
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))
