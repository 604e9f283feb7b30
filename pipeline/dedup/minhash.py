"""Signatures of documents as tables, compatible with datasketch.

A signature is made with datasketch's own permutations, so a stored one can be loaded into `datasketch.MinHash` and
compared there with others of the same seed and scheme, if their shingles are hashed as ours are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.kernels import minhash
from pipeline.kernels.characters import UNICODE_VERSION
from pipeline.table import schema
from pipeline.table.schema import text_buffers

if TYPE_CHECKING:
    import datasketch

SCHEME: Final = "affine32"
"""datasketch's name of the permutations."""
Numbers = Literal["exact", "any"]
SIGNATURE = "signature"
HASH_VERSION = f"words-2 unicode-{UNICODE_VERSION}"
"""What decides word and shingle hashes besides the parameters; part of the identity of all signatures."""

Permutations = tuple[NDArray[np.uint32], NDArray[np.uint32]]


@lru_cache(maxsize=8)
def permutations(num_perm: int, seed: int = 1) -> Permutations:
    """Return datasketch's permutation parameters (a, b), each (num_perm,)."""
    import datasketch  # a second, of which a run with nothing to do needs none

    a, b = datasketch.MinHash(num_perm=num_perm, seed=seed, scheme=SCHEME).permutations
    return np.array(a), np.array(b)


def signatures_schema(num_perm: int) -> pa.Schema:
    """Return the schema of a signatures part."""
    return schema.arrow(signature_columns(num_perm))


def signature_columns(num_perm: int) -> dict[str, schema.Column]:
    """Return the columns of a signatures part."""
    signature = pa.list_(pa.field("item", pa.uint32(), nullable=False), num_perm)
    return schema.ID_COLUMN | {
        "text_hash": schema.DUPLICATE_COLUMNS["text_hash"],
        "shingles": schema.Column(pa.int32(), "number of its shingles", False),
        SIGNATURE: schema.Column(signature, "num_bands × rows_per_band values of 32 bits", False),
    }


def sign_table(
    documents: pa.Table,
    num_bands: int,
    rows_per_band: int,
    shingle_words: int,
    perms: Permutations | None = None,
    numbers: Numbers = "exact",
) -> pa.Table:
    """Return `doc_id`, `text_hash`, `shingles` and `signature` for every row of `documents`, in order.

    A signature has num_bands * rows_per_band values; `shingles` is 0 for a text without words, whose signature is all
    ones. `perms` defaults to `permutations(num_perm)`. With `numbers` "any" one in a shingle stands for any number. A
    null text counts as empty. Memory beyond the result is a few KiB.

    Raises: SchemaError when `doc_id` or `text` is missing or `text` is not a string column.
    """
    schema.require(documents, schema.DOC_ID, schema.TEXT)
    num_perm = num_bands * rows_per_band
    a, b = perms or permutations(num_perm)
    out = signatures_schema(num_perm)
    pieces = []
    for chunk in documents[schema.TEXT].chunks:
        signed = minhash.sign(*text_buffers(chunk), shingle_words, a, b, numbers == "any")
        values = pa.array(signed.signatures.reshape(-1))
        signatures = pa.FixedSizeListArray.from_arrays(values, type=out.field(SIGNATURE).type)
        pieces.append((pa.array(signed.text_hashes), pa.array(signed.shingles), signatures))
    columns = [pa.chunked_array([piece[i] for piece in pieces], type=out.field(i + 1).type) for i in range(3)]
    return pa.Table.from_arrays([documents[schema.DOC_ID], *columns], schema=out)


def signature_matrix(signatures: pa.Array) -> NDArray[np.uint32]:
    """Return a `signature` array as (n_docs, num_perm) without a copy."""
    values: NDArray[np.uint32] = signatures.flatten().to_numpy(zero_copy_only=True)
    return values.reshape(len(signatures), signatures.type.list_size)


def to_datasketch(signature: NDArray[np.uint32], seed: int = 1) -> datasketch.MinHash:
    """Return a signature as a `datasketch.MinHash` that was made with the same seed."""
    import datasketch

    return datasketch.MinHash(seed=seed, hashvalues=signature, scheme=SCHEME)
