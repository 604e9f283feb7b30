"""Exact token counts with a tokenizer file of the user's."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.table import schema
from pipeline.table.errors import InputError, MissingDependencyError
from pipeline.table.storage import read_file

VERSION = "tokens_v1"
COLUMNS = {
    "token_count": schema.Column(
        pa.int64(), "number of tokens of the text by the configured tokenizer, special tokens not added"
    )
}
SCHEMA = schema.arrow(schema.ID_COLUMN | COLUMNS)

# tiktoken's files hold only merge ranks; the split pattern belongs to the name. Source: tiktoken_ext/openai_public.py
_GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
_CL100K = "|".join(
    [
        r"""'(?i:[sdmt]|ll|ve|re)""",
        r"""[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+""",
        r""" ?[^\s\p{L}\p{N}]++[\r\n]*+""",
        r"""\s++$|\s*[\r\n]|\s+(?!\S)|\s""",
    ]
)
_O200K = "|".join(
    [
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}""",
        r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
        r"""\s*[\r\n]+""",
        r"""\s+(?!\S)""",
        r"""\s+""",
    ]
)
_PATTERNS = {"gpt2": _GPT2, "r50k": _GPT2, "p50k": _GPT2, "cl100k": _CL100K, "o200k": _O200K}


MAX_FILE_BYTES = 256 << 20


@dataclass(frozen=True)
class Tokenizer:
    """Counts the tokens of texts. `content_hash` identifies the file that it was read from."""

    count: Callable[[Sequence[str]], list[int]]
    content_hash: str


def load_tokenizer(path: str) -> Tokenizer:
    """Return the tokenizer in a tokenizers (.json) or tiktoken (.tiktoken) file.

    Raises: InputError when the file is absent or is neither; MissingDependencyError when its package is not installed.
    """
    try:
        content = read_file(path, MAX_FILE_BYTES)
    except OSError as error:
        hint = "give the path of a file"
        if not path.endswith((".json", ".tiktoken")):  # the name of a model, as the Hub has it
            hint = f"{hint}: `hf download {path} tokenizer.json --local-dir DIR` fetches that of a model on the Hub"
        raise InputError(f"annotate.tokenizer: {path}: {error.strerror or error}; {hint}") from error
    content_hash = hashlib.blake2b(content, digest_size=16).hexdigest()
    count = _tokenizers(path, content) if content.lstrip()[:1] == b"{" else _tiktoken(path, content)
    return Tokenizer(count, content_hash)


def token_counts(documents: pa.Table, tokenizer: Tokenizer) -> pa.Table:
    """Return `doc_id` and `token_count` (int64) for every row of `documents`, in order; no row can drop.

    Raises: SchemaError when `documents` has no `text` column.
    """
    schema.require(documents, schema.TEXT)
    counts = tokenizer.count(documents[schema.TEXT].to_pylist())
    return schema.signals(documents, token_count=pa.array(counts, pa.int64())).cast(SCHEMA)


def _tokenizers(path: str, content: bytes) -> Callable[[Sequence[str]], list[int]]:
    from tokenizers import Tokenizer as HubTokenizer

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # our threads are the parallelism
    try:
        tokenizer: Any = HubTokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the Rust library raises plain Exception for a bad file
        raise InputError(f"annotate.tokenizer: {path} is not a tokenizers file: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda texts: [len(item.ids) for item in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def _tiktoken(path: str, content: bytes) -> Callable[[Sequence[str]], list[int]]:
    try:
        import tiktoken
    except ImportError as error:
        hint = "pip install 'gristmill[tiktoken]'"
        raise MissingDependencyError(f"annotate.tokenizer: {path} needs an extra: {hint}") from error
    name = Path(path).name.split(".")[0].split("_")[0]
    if name not in _PATTERNS:
        raise InputError(
            f"annotate.tokenizer: {path}: the split pattern of {name!r} is not known; "
            f"name the file after its encoding ({', '.join(_PATTERNS)})"
        )
    try:
        pairs = [line.split() for line in content.splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
        encoding = tiktoken.Encoding(name, pat_str=_PATTERNS[name], mergeable_ranks=ranks, special_tokens={})
    except (ValueError, binascii.Error) as error:
        raise InputError(f"annotate.tokenizer: {path} is neither a tokenizers nor a tiktoken file: {error}") from error
    return lambda texts: [len(tokens) for tokens in encoding.encode_ordinary_batch(list(texts), num_threads=1)]
