"""The tokenizer of a mix: trained on its slices, or a file of the user's.

Byte-level BPE with GPT-2's pattern (what is trained here, and files of that kind) goes through a table of pieces
(`pipeline.kernels.byte_pieces`): each distinct piece is merged once, by the library, so the tokens are the library's.
Every other file goes through the library itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.mix.config import TokenizerConfig
from pipeline.mix.material.texts import held_out, locate, read_texts, sample_order
from pipeline.mix.types import ChosenDocuments
from pipeline.table.errors import ConfigError, InputError, MissingDependencyError
from pipeline.table.kept import done, write_file, write_json
from pipeline.table.schema import text_buffers
from pipeline.table.shards import digest, made_from
from pipeline.table.sql import Session
from pipeline.table.storage import read_file

END_OF_DOCUMENT = "<|endoftext|>"
KNOWN_ENDS = (END_OF_DOCUMENT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<｜end▁of▁sentence｜>")
"""Names under which a file's end-of-document token is looked for, in this order."""
MAX_FILE_BYTES = 256 << 20
MAX_VOCABULARY = 1 << 22
SLOW_THREADS = 2
"""Threads that tokenise with the library; the table of pieces needs none."""

_SLOTS, _PIECES, _PIECE_BYTES, _PIECE_TOKENS = 1 << 20, 600_000, 16 << 20, 8 << 20
_CHUNK_BYTES = 4 << 20
_MISSING = 1 << 16
_log = logging.getLogger(__name__)

Tokens = NDArray[Any]


@dataclass(frozen=True)
class MixTokenizer:
    """Text to tokens and back. No special token is ever added, nor made from text that spells one."""

    text: str = field(repr=False)
    """The tokenizers file, as it is saved."""
    content_hash: str
    """32 hex digits over the file and the end-of-document token."""
    vocabulary: int
    """One more than the largest id."""
    eos: int
    _library: Any = field(repr=False, compare=False)
    _pieces: _Pieces | None = field(repr=False, compare=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 when every id fits, else uint32."""
        return np.dtype(np.uint16 if self.vocabulary <= 1 << 16 else np.uint32)

    def encode_batch(self, texts: Sequence[str] | pa.Array) -> list[Tokens]:
        """Return the tokens of each text, in order, without an end-of-document token."""
        flat, counts = self.encode_flat(texts)
        return np.split(flat, np.cumsum(counts)[:-1]) if len(counts) else []

    def encode_flat(self, texts: Sequence[str] | pa.Array) -> tuple[Tokens, NDArray[np.int64]]:
        """Return the tokens of all texts one after the other, and how many each has (int64)."""
        array = texts if isinstance(texts, pa.Array) else pa.array(list(texts), pa.large_string())
        encoded = [self._encode_chunk(chunk) for chunk in _chunks(array)]
        flat = [tokens for tokens, _ in encoded] or [np.empty(0, self.dtype)]
        return np.concatenate(flat), np.concatenate([np.empty(0, np.int64), *(counts for _, counts in encoded)])

    def decode(self, tokens: Sequence[int] | Tokens) -> str:
        """Return the text of tokens; the end-of-document token is spelled out."""
        return str(self._library.decode([int(token) for token in tokens], skip_special_tokens=False))

    def _encode_chunk(self, texts: pa.Array) -> tuple[Tokens, NDArray[np.int64]]:
        found = self._pieces.encode(texts) if self._pieces is not None else None
        flat, counts = found or (np.empty(0, np.uint32), np.full(len(texts), -1, np.int64))
        unsure = np.flatnonzero(counts < 0)
        if not unsure.size:
            return flat.astype(self.dtype), counts
        split = np.split(flat.astype(self.dtype), np.cumsum(np.maximum(counts, 0))[:-1])
        slow = _library_encode(self._library, [texts[int(i)].as_py() for i in unsure], self.dtype)
        for i, tokens in zip(unsure, slow, strict=True):
            split[i] = tokens
        return np.concatenate(split), np.array([tokens.size for tokens in split], np.int64)


class _Pieces:
    """The table of pieces of one tokenizer, which grows as texts come. Not for several threads at once."""

    def __init__(self, library: Any) -> None:
        self._model = library.model
        self._alphabet = _alphabet()
        self._missing: NDArray[np.int64] = np.empty((_MISSING, 2), np.int64)
        self._clear()

    def _clear(self) -> None:
        from pipeline.kernels import byte_pieces

        self._table = byte_pieces.empty_table(_SLOTS, _PIECE_BYTES, _PIECE_TOKENS)

    def encode(self, texts: pa.Array) -> tuple[NDArray[np.uint32], NDArray[np.int64]] | None:
        """Return tokens and counts (-1 for a text to be left to the library), or None for texts of too many pieces."""
        from pipeline.kernels import byte_pieces

        data, offsets = text_buffers(texts)
        out: NDArray[np.uint32] = np.empty(int(offsets[-1] - offsets[0]), np.uint32)
        counts: NDArray[np.int64] = np.empty(offsets.size - 1, np.int64)
        cleared = False
        while True:
            filled, lacking = byte_pieces.encode(data, offsets, self._table, out, counts, self._missing)
            if not lacking:
                return out[:filled], counts
            spans = self._missing[: min(lacking, _MISSING)].tolist()
            pieces = list(dict.fromkeys(data[start:end].tobytes() for start, end in spans))
            if self._add(pieces):
                continue
            if cleared:
                return None
            self._clear()
            cleared = True

    def _add(self, pieces: list[bytes]) -> bool:
        """Add pieces with the tokens that the library gives them; False when the table has no room for them."""
        from pipeline.kernels import byte_pieces

        tokens = [[token.id for token in self._model.tokenize(piece.decode("latin-1").translate(self._alphabet))]
                  for piece in pieces]  # fmt: skip
        ends = np.cumsum([len(piece) for piece in pieces])
        token_ends = np.cumsum([len(ids) for ids in tokens])
        used = self._table.used + np.array([len(pieces), ends[-1], token_ends[-1]])
        if np.any(used > (_PIECES, _PIECE_BYTES, _PIECE_TOKENS)):
            return False
        flat = np.array([token for ids in tokens for token in ids], np.uint32)
        byte_pieces.add(np.frombuffer(b"".join(pieces), np.uint8).copy(), ends, flat, token_ends, self._table)
        return True


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> MixTokenizer:
    """Return a byte-level BPE tokenizer trained on `texts`; the same texts give the same one, whatever their order.

    Little text can give a smaller vocabulary than was asked for.

    Raises: InputError when there is no text.
    Source: byte-level BPE of GPT-2 (Radford et al. 2019), trained by huggingface/tokenizers.
    """
    library = _library()
    tokenizer: Any = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    size = tokenizer.get_vocab_size()
    if size <= 257:
        raise InputError("tokenizer.train: the slices hold no text to train on; give `tokenizer: {file: ...}`")
    if size < vocabulary:
        _log.warning("tokenizer.train: the slices' text gave %d tokens of the %d asked for", size, vocabulary)
    return _from_text(tokenizer.to_str(), "tokenizer.train", None)


def load_tokenizer(path: Path, end_of_document: str | None = None) -> MixTokenizer:
    """Return the tokenizer of a tokenizers file; `end_of_document` names its token, otherwise `KNOWN_ENDS` are tried.

    Raises: ConfigError when the file has no such token or would make it of text; InputError when it cannot be read.
    """
    try:
        text = read_file(path, MAX_FILE_BYTES).decode("utf-8")
    except OSError as error:
        hint = "name a tokenizers file (.json); `hf download MODEL tokenizer.json --local-dir DIR` fetches one"
        raise InputError(f"tokenizer: {path}: {error.strerror or error}; {hint}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"tokenizer: {path} is not a tokenizers file: not UTF-8 at byte {error.start}") from error
    return _from_text(text, f"tokenizer: {path}", end_of_document)


def _from_text(text: str, where: str, end_of_document: str | None) -> MixTokenizer:
    library = _library()
    content, eos_name = _checked(text, where, end_of_document)
    try:
        tokenizer: Any = library.Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the Rust library raises plain Exception for a bad file
        raise InputError(f"{where} is not a tokenizers file: {' '.join(str(error).split())}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # what a text spells stays text
    ids = tokenizer.get_vocab(with_added_tokens=True)
    eos, vocabulary = tokenizer.token_to_id(eos_name), max(ids.values(), default=0) + 1
    if vocabulary > MAX_VOCABULARY:
        raise InputError(f"{where}: a vocabulary of {vocabulary} tokens; the limit is {MAX_VOCABULARY}")
    spelled = tokenizer.encode(f"a{eos_name} {eos_name}", add_special_tokens=False).ids
    if eos in spelled:
        raise ConfigError(f"{where}: text that spells {eos_name!r} would end a document; name another end_of_document")
    content_hash = hashlib.blake2b(f"{eos_name}\0{text}".encode(), digest_size=16).hexdigest()
    pieces = _Pieces(tokenizer) if _is_plain_byte_level(content) else None
    return MixTokenizer(text, content_hash, vocabulary, eos, tokenizer, pieces)


def _checked(text: str, where: str, end_of_document: str | None) -> tuple[dict[str, Any], str]:
    """Return a file's content, its end-of-document token marked as special, and the name of that token."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not a tokenizers file: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise InputError(f"{where} is not a tokenizers file: it has no `model`")
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise InputError(f"{where} is not a tokenizers file: `added_tokens` is no list of tokens")
    names = [str(token.get("content")) for token in added]
    wanted = KNOWN_ENDS if end_of_document is None else (end_of_document,)
    eos = next((name for name in wanted if name in names), None)
    if eos is None:
        listed = ", ".join(map(repr, names[:20])) or "none"
        raise ConfigError(
            f"{where}: no end-of-document token ({' or '.join(map(repr, wanted))}) among its added tokens "
            f"({listed}); name it with `end_of_document`"
        )
    content["added_tokens"] = [{**t, "special": t.get("special") or t.get("content") == eos} for t in added]
    return content, eos


def _is_plain_byte_level(content: dict[str, Any]) -> bool:
    """Tell whether text goes from bytes and GPT-2's pattern straight to BPE, so that pieces can be looked up."""
    model, pieces = content["model"], content.get("pre_tokenizer") or {}
    return (
        content.get("normalizer") is None
        and pieces.get("type") == "ByteLevel"
        and pieces.get("add_prefix_space") is False
        and pieces.get("use_regex", True) is True
        and model.get("type") == "BPE"
        and not model.get("dropout")
        and all(token["special"] for token in content["added_tokens"])
    )


def _chunks(texts: pa.Array) -> Iterable[pa.Array]:
    """Cut an array so that chunks have about 4 MB of text; a longer text is a chunk of its own."""
    _, offsets = text_buffers(texts)
    start = 0
    while start < len(texts):
        end = int(np.searchsorted(offsets, offsets[start] + _CHUNK_BYTES, side="right")) - 1
        end = max(end, start + 1)
        yield texts.slice(start, end - start)
        start = end


def _library_encode(tokenizer: Any, texts: list[str], dtype: np.dtype[Any]) -> list[Tokens]:
    def encode(some: list[str]) -> list[Tokens]:
        return [np.array(item.ids, dtype) for item in tokenizer.encode_batch_fast(some, add_special_tokens=False)]

    with ThreadPoolExecutor(SLOW_THREADS) as pool:  # the library releases the GIL
        parts = [texts[start : start + 64] for start in range(0, len(texts), 64)]
        return [tokens for found in pool.map(encode, parts) for tokens in found]


def _alphabet() -> dict[int, str]:
    """Return the character by which byte-level BPE writes each byte.

    Source: `bytes_to_unicode` of openai/gpt-2, `encoder.py`.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise MissingDependencyError(f"tokenizer: pip install 'tokenizers>=0.22,<1' ({error})") from error
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # our threads are the parallelism
    return tokenizers


VERSION = "tokenizer_v1"
SAMPLE_BYTES = 32 << 20
"""About so much text trains a tokenizer: as much of each slice as of any other, as far as it has so much."""

_FILE, _MANIFEST = "tokenizer.json", "tokenizer.manifest.json"


def slices_tokenizer(
    session: Session, config: TokenizerConfig, documents: ChosenDocuments, share: float, folder: Path
) -> MixTokenizer:
    """Return the tokenizer that a mix asks for: its file, or one trained on its slices and kept in `folder`.

    What decides a trained one: vocabulary, documents, their texts, `share` held out. The suite does not.

    Raises: ConfigError, InputError when the file or the text cannot be used.
    """
    found = kept_tokenizer(session, config, documents, share, folder)
    if found is None:
        assert config.train is not None
        found = train_tokenizer(tokenizer_sample(session, documents, share), config.train.vocabulary)
        write_file(folder / _FILE, found.text.encode())
        told = {"tokenizer": found.content_hash, "vocabulary": found.vocabulary}
        write_json(folder / _MANIFEST, {"key": _key(session, config, documents, share), **told})
    return found


def kept_tokenizer(
    session: Session, config: TokenizerConfig, documents: ChosenDocuments, share: float, folder: Path
) -> MixTokenizer | None:
    """Return the tokenizer's file, or the one kept in `folder`; None where it is to be trained.

    Raises: ConfigError, InputError when the file cannot be used.
    """
    if config.train is None:
        return load_tokenizer(Path(str(config.file)), config.end_of_document)
    manifest = done(folder / _MANIFEST, {"key": _key(session, config, documents, share)})
    if manifest is not None:
        with suppress(InputError, ConfigError):  # a damaged one: training gives the same one again
            found = load_tokenizer(folder / _FILE)
            if found.content_hash == manifest.get("tokenizer"):
                return found
    return None


def _key(session: Session, config: TokenizerConfig, documents: ChosenDocuments, share: float) -> str:
    assert config.train is not None
    parts = {name: [made_from(p) for p in session.catalog.group(name, "curated").parts()] for name in documents.sources}
    chosen = hashlib.blake2b(documents.keys.tobytes() + documents.slices.tobytes(), digest_size=16).hexdigest()
    sample = {"bytes": SAMPLE_BYTES, "documents": chosen, "curated": parts, "held_out": share}
    library = version("tokenizers")
    return digest({"version": VERSION, "train": config.train.model_dump(), "sample": sample, "tokenizers": library})


def tokenizer_sample(
    session: Session, documents: ChosenDocuments, share: float, limit_bytes: int = SAMPLE_BYTES
) -> Iterator[str]:
    """Yield the text that a tokenizer is trained on: about `limit_bytes`, held-out documents (`share`) left out.

    Each slice gives as much as any other (one that has less gives all), not its natural share: mixtures put weight on
    small slices, and a tokenizer that hardly saw code would make code look expensive. Documents come by a hash of their
    ids; how long they are is estimated from their row groups. The suite has no say in it.
    """
    located = locate(session.catalog, documents.sources, documents.keys)
    sizes = located.mean_bytes()
    by_slice = []
    for number in range(int(documents.slices.max(initial=-1)) + 1):
        positions = np.flatnonzero(documents.slices == number)
        by_slice.append(positions[~held_out(documents.keys[positions], share)])
    shares = _even_shares([float(sizes[positions].sum()) for positions in by_slice], limit_bytes)
    chosen = []
    for positions, size in zip(by_slice, shares, strict=True):
        ordered = positions[np.argsort(sample_order(documents.keys[positions]), kind="stable")]
        chosen.append(ordered[: 1 + int((np.cumsum(sizes[ordered]) <= size).sum())])
    for _, texts in read_texts(located, np.concatenate([np.empty(0, np.int64), *chosen])):
        yield from texts.to_pylist()


def _even_shares(sizes: Sequence[float], total: float) -> list[float]:
    """Return how much each gives so that all give alike, or everything they have."""
    shares = dict.fromkeys(range(len(sizes)), 0.0)
    for place, number in enumerate(sorted(shares, key=lambda number: sizes[number])):
        shares[number] = min(sizes[number], total / (len(sizes) - place))
        total -= shares[number]
    return list(shares.values())
