"""Training a quality classifier: gather distinct texts, set some aside, train fastText, calibrate, measure, save.

Everything that could be random is decided by a hash of the text keyed with the seed: the sample where a corpus has a
limit, what is held out, and the order of training. So the order of inputs does not matter, a text cannot be on both
sides of the split, and the same texts, configuration and seed give the same bytes (fastText runs on one thread for
that).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from classifiers import artefact, calibration, corpus, preprocess
from classifiers.artefact import NEGATIVE, POSITIVE, Artefact, ClassRecord, Measured, SourceRecord, Training
from classifiers.calibration import Calibration
from classifiers.config import Corpus, TrainConfig
from classifiers.evaluate import measure
from classifiers.score import score_lines
from classifiers.texts import Gathered, Span, Spans, gather
from pipeline.kernels import fasttext as kernel
from pipeline.kernels.fasttext import FastTextModel
from pipeline.table.errors import InputError
from pipeline.table.storage import scratch_folder, write_failure

MIN_TEXTS = 20
MAX_REPEATS = 50.0
_SCORE_BATCH = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Side:
    """The distinct texts of one class: those set aside for the test and for calibration, and those to train on."""

    sources: tuple[SourceRecord, ...]
    conflicting: int
    test: tuple[bytes, ...]
    calibration: tuple[bytes, ...]
    train: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """What training found out, for the artefact."""

    repeats: tuple[float, float]
    calibration: Calibration
    evaluation: Measured


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
        positives, negatives = _sides(config, run_sql, spill)
        spill.flush()
        repeats = _write_lines(scratch / "train.txt", config, (positives, negatives), spill)
        _run_fasttext(config, scratch / "train.txt", scratch / artefact.MODEL)
        model = kernel.load(scratch / artefact.MODEL)
        held_out = [_scores(model, side.calibration, spans, spill) for side, spans in (positives, negatives)]
        tested = [_scores(model, side.test, spans, spill) for side, spans in (positives, negatives)]
    fitted = calibration.fit(held_out[0], held_out[1])
    if fitted.method == "identity":
        logger.warning("%s: held-out positives do not score higher than negatives; not calibrated", config.name)
    probabilities = [calibration.calibrate(fitted, scores) for scores in tested]
    lengths = [np.array([spans[key].size for key in side.test], np.float64) for side, spans in (positives, negatives)]
    evaluation = measure((tested[0], tested[1]), (probabilities[0], probabilities[1]), (lengths[0], lengths[1]))
    sides = (positives[0], negatives[0])
    record = _artefact(config, scratch / artefact.MODEL, sides, Made(repeats, fitted, evaluation))
    artefact.save(folder, scratch / artefact.MODEL, record)
    trained = [len(side.train) for side in sides]
    content_hash = artefact.load(folder).content_hash
    return TrainReport(folder, content_hash, trained[0], trained[1], sides[0].conflicting, evaluation)


def _sides(
    config: TrainConfig, run_sql: corpus.RunSql, spill: BinaryIO
) -> tuple[tuple[Side, Spans], tuple[Side, Spans]]:
    """Gather both classes, drop what they share, and split each."""
    positive_sources, positives = _gather_class(config.positives, "positives", config, run_sql, spill)
    negative_sources, negatives = _gather_class(config.negatives, "negatives", config, run_sql, spill)
    shared = positives.keys() & negatives.keys()
    if shared:
        logger.warning("%s: %d texts are in both classes and are used for neither", config.name, len(shared))
    result = []
    for name, sources, spans in (
        ("positives", positive_sources, positives),
        ("negatives", negative_sources, negatives),
    ):
        kept = {digest: span for digest, span in spans.items() if digest not in shared}
        if len(kept) < MIN_TEXTS:
            raise InputError(
                f"{name}: {len(kept)} distinct texts ({len(shared)} more are in both classes); "
                f"training needs {MIN_TEXTS}, add texts"
            )
        result.append((_split(sources, sorted(kept), len(shared), config.hold_out), kept))
    return result[0], result[1]


def _gather_class(
    corpora: Sequence[Corpus], where: str, config: TrainConfig, run_sql: corpus.RunSql, spill: BinaryIO
) -> tuple[tuple[SourceRecord, ...], Spans]:
    records, spans = [], Spans()
    for number, item in enumerate(corpora):
        texts = corpus.read(item, f"{where}.{number}", run_sql)
        lines = (preprocess.preprocess(batch, config.preprocess) for batch in texts)
        gathered = gather(lines, spill, config.seed, item.limit)
        records.append(_source_record(item, gathered))
        spans.update(gathered.spans)
    return tuple(records), spans


def _source_record(item: Corpus, gathered: Gathered) -> SourceRecord:
    return SourceRecord(
        corpus=item,
        rows=gathered.rows,
        empty=gathered.empty,
        duplicates=gathered.duplicates,
        used=len(gathered.spans),
        content=gathered.content,
    )


def _split(sources: tuple[SourceRecord, ...], digests: list[bytes], conflicting: int, hold_out: float) -> Side:
    """Set the texts of the smallest hashes aside: half of them for the test, half for calibration."""
    held_out = max(4, round(hold_out * len(digests)))
    test = (held_out + 1) // 2
    return Side(sources, conflicting, tuple(digests[:test]), tuple(digests[test:held_out]), tuple(digests[held_out:]))


def _write_lines(
    path: Path, config: TrainConfig, sides: tuple[tuple[Side, Spans], tuple[Side, Spans]], spill: BinaryIO
) -> tuple[float, float]:
    """Write fastText's input, shuffled by hash; return how often the texts of each class occur on average."""
    sizes = [len(side.train) for side, _ in sides]
    repeats = [min(MAX_REPEATS, max(sizes) / size) if config.balance == "repeat" else 1.0 for size in sizes]
    order = sorted(
        (key, label, span)
        for label, (side, spans), times in zip((POSITIVE, NEGATIVE), sides, repeats, strict=True)
        for key, span in _occurrences(side.train, spans, times)
    )
    with path.open("wb") as target:
        for _, label, span in order:
            target.write(f"__label__{label} ".encode() + _line(spill, span) + b"\n")
    return repeats[0], repeats[1]


def _occurrences(digests: Sequence[bytes], spans: Spans, times: float) -> Iterator[tuple[bytes, Span]]:
    total = round(times * len(digests))
    for number in range(total):
        copy, index = divmod(number, len(digests))
        key = hashlib.blake2b(digests[index] + copy.to_bytes(4, "little"), digest_size=16).digest()
        yield key, spans[digests[index]]


def _line(spill: BinaryIO, span: Span) -> bytes:
    spill.seek(span.offset)
    return spill.read(span.size)


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
    batches = [digests[start : start + _SCORE_BATCH] for start in range(0, len(digests), _SCORE_BATCH)]
    scored = []
    for batch in batches:
        lines = [_line(spill, spans[digest]).decode("utf-8") for digest in batch]
        scored.append(score_lines(pa.array(lines, pa.large_string()), model)[0])
    return np.concatenate(scored)


def _artefact(config: TrainConfig, model_file: Path, sides: tuple[Side, Side], made: Made) -> Artefact:
    classes = [_class_record(side, times) for side, times in zip(sides, made.repeats, strict=True)]
    return Artefact(
        name=config.name,
        preprocess_version=preprocess.VERSION,
        preprocess=config.preprocess,
        calibration=made.calibration,
        training=Training(
            seed=config.seed,
            hold_out=config.hold_out,
            balance=config.balance,
            fasttext=config.fasttext,
            fasttext_version=version("fasttext-community"),
            positives=classes[0],
            negatives=classes[1],
            measured=made.evaluation,
        ),
        model_hash=artefact.file_hash(model_file),
    )


def _class_record(side: Side, repeats: float) -> ClassRecord:
    return ClassRecord(
        sources=side.sources,
        conflicting=side.conflicting,
        trained=len(side.train),
        calibrated=len(side.calibration),
        tested=len(side.test),
        repeats=repeats,
        test_below=side.calibration[0].hex(),
    )
