"""The tokenizer of a mix's slices: the text that trains it, and the one that was trained before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pipeline.mix.config import TokenizerConfig
from pipeline.mix.curated_texts import locate, read_texts
from pipeline.mix.hashing import held_out, sample_order
from pipeline.mix.slices import ChosenDocuments
from pipeline.mix.tokenizer import MixTokenizer, load_tokenizer, train_tokenizer
from pipeline.table.errors import ConfigError, InputError
from pipeline.table.kept import done, write_file, write_json
from pipeline.table.shards import digest, made_from
from pipeline.table.sql import Session

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
    found, key = kept_tokenizer(session, config, documents, share, folder)
    if found is not None:
        return found
    assert config.train is not None
    trained = train_tokenizer(tokenizer_sample(session, documents, share), config.train.vocabulary)
    write_file(folder / _FILE, trained.text.encode())
    write_json(folder / _MANIFEST, {"key": key, "tokenizer": trained.content_hash, "vocabulary": trained.vocabulary})
    return trained


def kept_tokenizer(
    session: Session, config: TokenizerConfig, documents: ChosenDocuments, share: float, folder: Path
) -> tuple[MixTokenizer | None, str]:
    """Return the tokenizer's file, or the one kept in `folder`, None where it is to be trained; and its key.

    Raises: ConfigError, InputError when the file cannot be used.
    """
    if config.train is None:
        assert config.file is not None
        return load_tokenizer(Path(config.file), config.end_of_document), ""
    parts = {name: [made_from(p) for p in session.catalog.group(name, "curated").parts()] for name in documents.sources}
    chosen = hashlib.blake2b(documents.keys.tobytes() + documents.slices.tobytes(), digest_size=16).hexdigest()
    sample = {"bytes": SAMPLE_BYTES, "documents": chosen, "curated": parts, "held_out": share}
    library = version("tokenizers")
    key = digest({"version": VERSION, "train": config.train.model_dump(), "sample": sample, "tokenizers": library})
    known = done(folder / _MANIFEST, {"key": key})
    if known is not None and (folder / _FILE).is_file():
        with suppress(InputError, ConfigError):  # a damaged file is made again: training gives the same one
            kept = load_tokenizer(folder / _FILE)
            if kept.content_hash == known.get("tokenizer"):
                return kept, key
    return None, key


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
