"""How much of what a metric shows between mixtures is the seed's doing: signal, noise and what their ratio is worth.

Source: the pooled variance and the F interval of one-way analysis of variance; the ratio of spread over configurations
to spread over seeds as in Signal and Noise (arXiv 2508.13144).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.types import Floats, RunSpec
from pipeline.table.errors import InputError

LEAST_RATIO = 3.0
"""A metric with a smaller signal-to-noise ratio is flagged, and weighted down where that is sure."""
CONFIDENCE = 0.9


@dataclass(frozen=True)
class Noise:
    """Seed noise and signal of m metrics. Arrays have shape (m,); NaN is what could not be measured.

    `seed_std`: pooled standard deviation between seeds of the same mixture, with `degrees` of freedom. `signal_std`:
    standard deviation across swarm mixtures with the seeds' part taken out. `ratio`: signal_std / seed_std, infinite
    where seeds differ in nothing; `ratio_lo` and `ratio_hi` bound it with 90 % confidence. `factor`: what a metric's
    weight is multiplied by.
    """

    metrics: tuple[str, ...]
    seed_std: Floats
    degrees: NDArray[np.int64]
    signal_std: Floats
    mixtures: NDArray[np.int64]
    ratio: Floats
    ratio_lo: Floats
    ratio_hi: Floats
    factor: Floats

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Metrics whose ratio is known and too small."""
        return np.asarray(self.ratio < LEAST_RATIO)

    def rows(self) -> list[dict[str, object]]:
        """Return one JSON-serialisable row a metric; null stands for what is not measured, and for infinite."""
        columns = ("seed_std", "signal_std", "ratio", "ratio_lo", "ratio_hi", "factor")
        rows: list[dict[str, object]] = []
        for i, name in enumerate(self.metrics):
            numbers = {c: float(getattr(self, c)[i]) for c in columns}
            row: dict[str, object] = {"metric": name}
            row |= {c: value if np.isfinite(value) else None for c, value in numbers.items()}
            row |= {"degrees": int(self.degrees[i]), "mixtures": int(self.mixtures[i])}
            rows.append(row | {"flagged": bool(self.flagged[i])})
        return rows


def measure_noise(runs: Sequence[RunSpec], values: Floats, metrics: Sequence[str]) -> Noise:
    """Return signal and noise of each metric from runs (n) and their `values` (n, m); NaN: not measured.

    The same mixture with other seeds gives noise, pooled over all such mixtures: sum of squares about each mixture's
    mean, over the degrees of freedom (runs less mixtures). Distinct swarm mixtures (all, where there are fewer than two
    swarm runs) give the spread. Noise is assumed equal for all mixtures: replicates of one mixture alone, as a
    swarm has them, cannot tell.

    With V the variance across mixtures (n - 1 degrees) and S the seeds' (d degrees), V / S over its true value follows
    F(n - 1, d) for normal data; the interval of the ratio sqrt(V / S - 1) comes from that. With three seeds it is wide.

    The factor of a metric's weight is min(1, (ratio_hi / 3)^2): the share of information that is left when noise grows,
    since precision goes with the inverse variance. It is 1 where noise was not measured, and it takes the interval's
    upper end, so that only a metric which surely is mostly noise counts less: what a user asked for changes no more
    than it must, and not with the luck of a few seeds.

    Raises: InputError when the shapes differ.
    """
    values = np.asarray(values, np.float64)
    if values.shape != (len(runs), len(metrics)):
        raise InputError(
            f"{values.shape} values for {len(runs)} runs and {len(metrics)} metrics; give a row for each run"
        )
    seed_std, degrees = seed_noise(runs, values)
    spread, mixtures = _spread(runs, values)
    noisy = (seed_std > 0) & (mixtures > 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.where(noisy, (spread / seed_std) ** 2, np.nan)
        ratio = np.sqrt(np.maximum(variance - 1, 0))
    low, high = _interval(variance, mixtures - 1, degrees)
    exact = (seed_std == 0) & (spread > 0)
    ratio, low, high = (np.where(exact, np.inf, bound) for bound in (ratio, low, high))
    signal = np.where(np.isnan(seed_std), spread, np.sqrt(np.maximum(spread**2 - np.nan_to_num(seed_std) ** 2, 0)))
    factor = np.where(np.isnan(high), 1.0, np.minimum(1.0, (high / LEAST_RATIO) ** 2))
    return Noise(tuple(metrics), seed_std, degrees, signal, mixtures, ratio, low, high, factor)


def seed_noise(runs: Sequence[RunSpec], values: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return the pooled standard deviation between seeds (m,), NaN without replicates, and its degrees of freedom."""
    squares = np.zeros(values.shape[1])
    degrees = np.zeros(values.shape[1], np.int64)
    for rows in _by_mixture(runs):
        for column in range(values.shape[1]):
            group = values[rows, column]
            group = group[np.isfinite(group)]
            if group.size > 1:
                squares[column] += ((group - group.mean()) ** 2).sum()
                degrees[column] += group.size - 1
    std = np.sqrt(np.divide(squares, degrees, out=np.full(squares.shape, np.nan), where=degrees > 0))
    return std, degrees


def _by_mixture(runs: Sequence[RunSpec]) -> list[list[int]]:
    """Return the positions of the runs of each mixture."""
    groups: dict[bytes, list[int]] = {}
    for i, run in enumerate(runs):
        groups.setdefault(np.round(run.weights, 9).tobytes(), []).append(i)
    return list(groups.values())


def _spread(runs: Sequence[RunSpec], values: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return the standard deviation across mixtures (m,) of one run each, and the number of mixtures."""
    firsts = [rows[0] for rows in _by_mixture(runs)]
    swarm = [i for i in firsts if runs[i].kind == "swarm"]
    one_each = values[swarm if len(swarm) > 1 else firsts]
    std, count = np.full(values.shape[1], np.nan), np.zeros(values.shape[1], np.int64)
    for column in range(values.shape[1]):
        known = one_each[np.isfinite(one_each[:, column]), column]
        count[column] = known.size
        if known.size > 1:
            std[column] = known.std(ddof=1)
    return std, count


def _interval(variance: Floats, above: NDArray[np.int64], below: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the bounds of sqrt(true variance ratio - 1), given the measured ratio and its degrees of freedom."""
    from scipy.special import fdtri

    tail = (1 - CONFIDENCE) / 2
    known = np.isfinite(variance) & (above > 0) & (below > 0)
    bounds = []
    for probability in (1 - tail, tail):
        quantile = fdtri(np.maximum(above, 1), np.maximum(below, 1), probability)
        scaled = np.where(known, variance, np.nan) / quantile
        bounds.append(np.sqrt(np.maximum(scaled - 1, 0)))
    return bounds[0], bounds[1]
