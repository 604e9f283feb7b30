"""How well a classifier tells positives from negatives: AUC with a 95 % interval, and its probabilities' error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from classifiers import corpus
from classifiers.artefact import CLOSE, Classifier, Measured, Reliable, score_texts
from classifiers.config import Corpus, EvaluateConfig
from classifiers.preprocess import hashed, preprocess
from pipeline.table.errors import InputError

Z = 1.959963984540054
"""Standard errors on each side of an interval that holds 95 %."""
_TENTHS = 10

Floats = NDArray[np.float64]


def evaluate(classifier: Classifier, positives: Iterable[pa.Array], negatives: Iterable[pa.Array]) -> Measured:
    """Return how well `classifier` separates two sets of texts, given as string arrays.

    Raises: InputError when either set has fewer than two texts.
    """
    sides = [
        [(*score_texts(texts, classifier), _lengths(texts)) for texts in arrays] for arrays in (positives, negatives)
    ]
    raw, calibrated, lengths = (
        tuple(np.concatenate([np.empty(0), *(values[column] for values in side)]) for side in sides)
        for column in range(3)
    )
    return measure((raw[0], raw[1]), (calibrated[0], calibrated[1]), (lengths[0], lengths[1]))


def _lengths(texts: pa.Array) -> Floats:
    counts = pc.fill_null(pc.binary_length(texts), 0)
    return np.asarray(counts.to_numpy(zero_copy_only=False), np.float64)


def evaluate_corpora(classifier: Classifier, config: EvaluateConfig, run_sql: corpus.RunSql) -> Measured:
    """Return how well `classifier` separates corpora; with `held_out`, only texts that it set aside for its test.

    Raises: InputError when a corpus cannot be read or a class has fewer than two texts.
    """
    training = classifier.artefact.training
    below = (training.positives.test_below, training.negatives.test_below) if config.held_out else (None, None)
    positives = _texts(config.positives, "positives", run_sql, classifier, below[0])
    negatives = _texts(config.negatives, "negatives", run_sql, classifier, below[1])
    return evaluate(classifier, positives, negatives)


def _texts(
    corpora: Sequence[Corpus], where: str, run_sql: corpus.RunSql, classifier: Classifier, below: str | None
) -> Iterable[pa.Array]:
    """Yield the texts of corpora; where `below` is given only those whose hash is below it, else each one's `limit`."""
    for number, item in enumerate(corpora):
        left = item.limit if below is None else None
        for texts in corpus.read(item, f"{where}.{number}", run_sql):
            if below is not None:
                lines = preprocess(texts, classifier.artefact.preprocess)
                keep = [digest.hex() < below for digest, _ in hashed(lines, classifier.artefact.training.seed)]
                texts = texts.filter(pa.array(keep, pa.bool_()))
            yield texts if left is None else texts[:left]
            left = None if left is None else max(0, left - len(texts))


def measure(
    scores: tuple[Floats, Floats], probabilities: tuple[Floats, Floats], lengths: tuple[Floats, Floats]
) -> Measured:
    """Return the evaluation of scores, probabilities and bytes of texts, each (of positives, of negatives).

    Raises: InputError when either class has fewer than two.
    """
    positives, negatives = scores
    for name, values in (("positives", positives), ("negatives", negatives)):
        if values.size < 2:
            raise InputError(f"{name}: {values.size} texts to evaluate on; an interval needs at least 2, add texts")
    auc, low, high = auc_interval(positives, negatives)
    brier = 0.5 * float(np.mean((1 - probabilities[0]) ** 2)) + 0.5 * float(np.mean(probabilities[1] ** 2))
    correlation, least, most = rank_correlation(np.concatenate(scores), np.concatenate(lengths))
    return Measured(
        auc=auc,
        auc_low=low,
        auc_high=high,
        brier=brier,
        n_positives=positives.size,
        n_negatives=negatives.size,
        close_share=_close_share(positives, negatives),
        length_correlation=correlation,
        length_low=least,
        length_high=most,
        length_auc=auc_interval(*lengths)[0],
        reliability=tuple(_reliability(*probabilities)),
    )


def _close_share(positives: Floats, negatives: Floats) -> float:
    """Return the largest share of texts whose scores lie within `CLOSE` of one another; both classes weigh the same."""
    scores = np.concatenate([positives, negatives])
    weights = np.concatenate([np.full(side.size, 0.5 / side.size) for side in (positives, negatives)])
    order = np.argsort(scores, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(weights[order])])
    ends = np.searchsorted(scores[order], scores[order] + CLOSE, side="right")
    return round(float(np.max(below[ends] - below[:-1])), 6)


def _reliability(positives: Floats, negatives: Floats) -> Iterator[Reliable]:
    """Yield, for each tenth of probability, the share of positives as it would be with equally many of both classes."""
    tenths = [np.minimum((side * _TENTHS).astype(np.int64), _TENTHS - 1) for side in (positives, negatives)]
    times = positives.size / negatives.size  # how much more a negative weighs than a positive
    for tenth in range(_TENTHS):
        n, m = (int(np.sum(side == tenth)) for side in tenths)
        said: float | None = None
        found: list[float | None] = [None] * 3
        if n + m:
            sums = [float(np.sum(side[own == tenth])) for side, own in zip((positives, negatives), tenths, strict=True)]
            said = round((sums[0] + times * sums[1]) / (n + times * m), 6)
            found = [round(p / (p + times * (1 - p)), 6) for p in (n / (n + m), *share_interval(n, n + m))]
        yield Reliable(
            at_least=tenth / _TENTHS,
            below=(tenth + 1) / _TENTHS,
            positives=n,
            negatives=m,
            probability=said,
            share=found[0],
            low=found[1],
            high=found[2],
        )


def share_interval(found: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, `found` of `of` (one at least). Source: Wilson 1927."""
    share, spread = found / of, Z * Z / of
    centre = (share + spread / 2) / (1 + spread)
    half = Z * float(np.sqrt(share * (1 - share) / of + spread / (4 * of))) / (1 + spread)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def rank_correlation(left: Floats, right: Floats) -> tuple[float, float, float]:
    """Return Spearman's correlation and its 95 % interval; 0 where either side is constant.

    Source: Fisher's transformation with the variance of Fieller, Hartley and Pearson 1957.
    """
    ranks = [_midranks(side) - (side.size + 1) / 2 for side in (left, right)]
    scale = float(np.sqrt(np.sum(ranks[0] ** 2) * np.sum(ranks[1] ** 2)))
    found = float(np.sum(ranks[0] * ranks[1])) / scale if scale else 0.0
    if left.size < 5:
        return round(found, 6), -1.0, 1.0
    centre, error = np.arctanh(np.clip(found, -1 + 1e-12, 1 - 1e-12)), Z * np.sqrt(1.06 / (left.size - 3))
    return round(found, 6), round(float(np.tanh(centre - error)), 6), round(float(np.tanh(centre + error)), 6)


def auc_interval(positives: Floats, negatives: Floats) -> tuple[float, float, float]:
    """Return the AUC (ties count half) and its 95 % interval: DeLong's variance on the logit scale.

    An AUC of exactly 0 or 1 has no variance; its interval then reaches as far as the smaller class allows, by the exact
    (Clopper-Pearson) bound for that many trials without a miss.

    Source: DeLong et al. 1988 in the midrank form of Sun and Xu 2014; the logit scale after Pepe 2003, section 5.2.
    """
    n, m = positives.size, negatives.size
    ranks = _midranks(np.concatenate([positives, negatives]))
    above = (ranks[:n] - _midranks(positives)) / m  # for each positive, the share of negatives below it
    below = 1.0 - (ranks[n:] - _midranks(negatives)) / n
    auc = float(above.mean())
    variance = float(above.var(ddof=1) / n + below.var(ddof=1) / m)
    if variance <= 0.0 or auc in (0.0, 1.0):
        bound = 0.025 ** (1 / min(n, m))
        return auc, min(auc, bound if auc > 0.5 else 0.0), max(auc, 1.0 if auc > 0.5 else 1.0 - bound)
    logit, error = np.log(auc / (1 - auc)), np.sqrt(variance) / (auc * (1 - auc))
    low, high = (1 / (1 + np.exp(-(logit + side * Z * error))) for side in (-1, 1))
    return auc, float(low), float(high)


def _midranks(values: Floats) -> Any:
    """Return the rank of each value from 1 on; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
