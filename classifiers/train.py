"""Training a quality classifier: gather distinct texts, set some aside, train fastText, calibrate, measure, save.

Everything that could be random is decided by a hash of the text keyed with the seed: the sample where a corpus has a
limit, what is held out, and the order of training. So the order of inputs does not matter, a text cannot be on both
sides of the split, and the same texts, configuration and seed give the same bytes (fastText runs on one thread for
that).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from classifiers import artefact, calibration, corpus, preprocess
from classifiers.artefact import (
    NEGATIVE,
    POSITIVE,
    Artefact,
    ClassRecord,
    Measured,
    SourceRecord,
    Training,
    score_lines,
)
from classifiers.config import TrainConfig
from classifiers.evaluate import measure
from classifiers.preprocess import Spans
from pipeline.kernels import fasttext as kernel
from pipeline.kernels.fasttext import FastTextModel
from pipeline.table.errors import InputError
from pipeline.table.storage import scratch_folder, write_failure

MIN_TEXTS = 20
MAX_REPEATS = 50.0
_SCORE_BATCH = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Class:
    """The distinct texts of one class by their digests: for the test, for calibration, and to train on."""

    sources: tuple[SourceRecord, ...]
    spans: Spans
    test: list[bytes]
    calibration: list[bytes]
    train: list[bytes]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What `train` made. Counts are of distinct texts; `conflicting`: in both classes, used for neither."""

    folder: Path
    content_hash: str
    trained_positives: int
    trained_negatives: int
    conflicting: int
    evaluation: Measured


def train(config: TrainConfig, run_sql: corpus.RunSql) -> TrainReport:
    """Train the classifier of `config` and save it in its `output` folder, replacing what is there.

    Raises: InputError when a corpus cannot be read, a class has too few distinct texts, fastText gives up, or the
    folder cannot be written; what `run_sql` raises for bad SQL.
    """
    folder = Path(config.output)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(f".{folder.name}-", folder.parent) as scratch:
            return _train(config, run_sql, folder, Path(scratch))
    except OSError as error:
        raise InputError(write_failure(error.filename or str(folder), error)) from error


def _train(config: TrainConfig, run_sql: corpus.RunSql, folder: Path, scratch: Path) -> TrainReport:
    with (scratch / "texts").open("w+b") as spill:
        classes, conflicting = _classes(config, run_sql, spill)
        spill.flush()
        sizes = [len(each.train) for each in classes]
        repeats = [min(MAX_REPEATS, max(sizes) / size) if config.balance == "repeat" else 1.0 for size in sizes]
        _write_lines(scratch / "train.txt", classes, repeats, spill)
        _run_fasttext(config, scratch / "train.txt", scratch / artefact.MODEL)
        model = kernel.load(scratch / artefact.MODEL)
        held_out = [_scores(model, each.calibration, each.spans, spill) for each in classes]
        tested = [_scores(model, each.test, each.spans, spill) for each in classes]
    fitted = calibration.fit(held_out[0], held_out[1])
    if fitted.method == "identity":
        logger.warning("%s: held-out positives do not score higher than negatives; not calibrated", config.name)
    probabilities = [calibration.calibrate(fitted, scores) for scores in tested]
    lengths = [np.array([each.spans[key][1] for key in each.test], np.float64) for each in classes]
    measured = measure((tested[0], tested[1]), (probabilities[0], probabilities[1]), (lengths[0], lengths[1]))
    records = [
        ClassRecord(
            sources=each.sources,
            conflicting=conflicting,
            trained=len(each.train),
            calibrated=len(each.calibration),
            tested=len(each.test),
            repeats=times,
            test_below=each.calibration[0].hex(),
        )
        for each, times in zip(classes, repeats, strict=True)
    ]
    training = Training(
        seed=config.seed,
        hold_out=config.hold_out,
        balance=config.balance,
        fasttext=config.fasttext,
        fasttext_version=version("fasttext-community"),
        positives=records[0],
        negatives=records[1],
        measured=measured,
    )
    record = Artefact(
        name=config.name,
        preprocess_version=preprocess.VERSION,
        preprocess=config.preprocess,
        calibration=fitted,
        training=training,
        model_hash=artefact.file_hash(scratch / artefact.MODEL),
    )
    artefact.save(folder, scratch / artefact.MODEL, record)
    content_hash = artefact.load(folder).content_hash
    return TrainReport(folder, content_hash, *sizes, conflicting, measured)


def _classes(config: TrainConfig, run_sql: corpus.RunSql, spill: BinaryIO) -> tuple[list[_Class], int]:
    """Gather both classes, drop the texts that they share, which are counted, and split each.

    The texts of the smallest hashes are set aside: half of them for the test, half for calibration.
    """
    gathered = []
    for where, corpora in (("positives", config.positives), ("negatives", config.negatives)):
        records, spans = [], Spans()
        for number, item in enumerate(corpora):
            texts = corpus.read(item, f"{where}.{number}", run_sql)
            lines = (preprocess.preprocess(batch, config.preprocess) for batch in texts)
            found, counts = preprocess.gather(lines, spill, config.seed, item.limit)
            records.append(SourceRecord.model_validate({"corpus": item, **counts}))
            spans.update(found)
        gathered.append((where, tuple(records), spans))
    shared = gathered[0][2].keys() & gathered[1][2].keys()
    if shared:
        logger.warning("%s: %d texts are in both classes and are used for neither", config.name, len(shared))
    classes = []
    for where, sources, spans in gathered:
        digests = sorted(spans.keys() - shared)
        if len(digests) < MIN_TEXTS:
            raise InputError(
                f"{where}: {len(digests)} distinct texts ({len(shared)} more are in both classes); "
                f"training needs {MIN_TEXTS}, add texts"
            )
        held_out = max(4, round(config.hold_out * len(digests)))
        test = (held_out + 1) // 2
        classes.append(_Class(sources, spans, digests[:test], digests[test:held_out], digests[held_out:]))
    return classes, len(shared)


def _write_lines(path: Path, classes: Sequence[_Class], repeats: Sequence[float], spill: BinaryIO) -> None:
    """Write fastText's input, shuffled by hash; the texts of a class occur so often on average as `repeats` says."""
    order = []
    for label, each, times in zip((POSITIVE, NEGATIVE), classes, repeats, strict=True):
        for number in range(round(times * len(each.train))):
            copy, index = divmod(number, len(each.train))
            digest = each.train[index]
            key = hashlib.blake2b(digest + copy.to_bytes(4, "little"), digest_size=16).digest()
            order.append((key, label, each.spans[digest]))
    with path.open("wb") as target:
        for _, label, span in sorted(order):
            target.write(f"__label__{label} ".encode() + _line(spill, span) + b"\n")


def _line(spill: BinaryIO, span: tuple[int, int]) -> bytes:
    spill.seek(span[0])
    return spill.read(span[1])


def _run_fasttext(config: TrainConfig, lines: Path, model_file: Path) -> None:
    import fasttext

    options = config.fasttext
    try:
        model = fasttext.train_supervised(
            input=str(lines),
            lr=options.learning_rate,
            dim=options.dimension,
            epoch=options.epochs,
            minCount=options.min_count,
            minn=options.min_gram,
            maxn=options.max_gram,
            wordNgrams=options.word_ngrams,
            bucket=options.bucket,
            loss="softmax",
            thread=1,
            seed=config.seed,
            verbose=0,
        )
        model.save_model(str(model_file))
    except (RuntimeError, ValueError, MemoryError) as error:
        hint = "lower fasttext.learning_rate, fasttext.bucket or fasttext.min_count"
        raise InputError(f"{config.name}: fastText gave up: {error}; {hint}") from error


def _scores(model: FastTextModel, digests: Sequence[bytes], spans: Spans, spill: BinaryIO) -> NDArray[np.float64]:
    scored = []
    for start in range(0, len(digests), _SCORE_BATCH):
        lines = [_line(spill, spans[digest]).decode("utf-8") for digest in digests[start : start + _SCORE_BATCH]]
        scored.append(score_lines(pa.array(lines, pa.large_string()), model)[0])
    return np.concatenate(scored)
