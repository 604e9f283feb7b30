"""The law L(N, D) = E + A / N^alpha + B / D^beta, fitted to losses of models of N parameters trained on D tokens.

The fit minimises a Huber loss of the log loss (Hoffmann et al. 2022, approach 3). Two things differ, since they
measured better. The Huber delta is 1e-3 as there, but never below 1.345 robust standard deviations of the residuals: at
a delta far below the noise the fit is one of absolute errors, which is less exact, and whose bootstrap intervals cover
too little. And the search solves E, A and B by least squares on a grid of exponents and polishes the best of them by
Levenberg-Marquardt with analytic gradients, on all starts, or all bootstrap tables, at once.

Source: Hoffmann et al. 2022 (arXiv 2203.15556), section 3.3 and appendix D.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.types import Floats, one_blas_thread
from pipeline.table.errors import InputError

NAMES = ("E", "A", "alpha", "B", "beta")
MIN_RUNS, MIN_DISTINCT = 6, 3
INTERVAL = 0.9
LEAST_DELTA, EFFICIENT = 1e-3, 1.345

_EXPONENTS = (0.01, 4.0)
_STARTS = 8
_LARGEST = 1e30  # beyond, A and B would overflow
_CHUNK = 2_000_000


@dataclass(frozen=True)
class ScalingRuns:
    """Trained models: their parameters, training tokens and losses, each of shape (n,) and positive."""

    parameters: Floats
    tokens: Floats
    loss: Floats


@dataclass(frozen=True)
class ScalingLaw:
    """A fitted law. `theta` (5,) and `draws` (bootstrap, 5) hold E, A, alpha, B, beta.

    `noise` is the standard deviation of one run's log loss around the law; the ranges are those of the fitted runs.
    """

    theta: Floats
    draws: Floats
    noise: float
    delta: float
    n_runs: int
    parameters_range: tuple[float, float]
    tokens_range: tuple[float, float]
    notes: tuple[str, ...] = ()

    def intervals(self) -> Floats:
        """Return the 90 % intervals of E, A, alpha, B, beta, shape (5, 2)."""
        return quantiles(self.draws).T


@dataclass(frozen=True)
class Predicted:
    """Predicted losses, each of shape (m,): the law's, its 90 % interval, and that of the loss of a single new run."""

    loss: Floats
    lo: Floats
    hi: Floats
    run_lo: Floats
    run_hi: Floats


@dataclass(frozen=True)
class _Design:
    """Centred logarithms of parameters and tokens, and bounds of the free values, each (5,).

    Free values: log E, the logs of both other terms at the centre, and the log exponents, in the order
    (e, a, log alpha, b, log beta).
    """

    x: Floats
    z: Floats
    centre: tuple[float, float]
    lower: Floats
    upper: Floats


@dataclass
class _Search:
    """State of the searches that run side by side, each of shape (m, ...)."""

    free: Floats
    objective: Floats
    damping: Floats
    calm: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.calm = np.zeros(len(self.free))


@one_blas_thread()
def fit_law(runs: ScalingRuns, bootstrap: int = 200, seed: int = 1) -> ScalingLaw:
    """Fit the law to runs and refit it to `bootstrap` tables drawn around it, for 90 % intervals.

    Tables are drawn by a wild bootstrap: each residual, inflated by its leverage (HC3), gets a random sign; a random
    scale, common to a table, widens the intervals as Student's t does for few runs.

    Raises: InputError when the runs cannot identify the law (see `check_identifiable`).
    Source: Davidson and Flachaire 2008, "The wild bootstrap, tamed at last".
    """
    check_identifiable(runs)
    y = np.log(runs.loss)
    design = _design(runs, y)
    free, delta = _fit_free(design, y)
    noise = _scale(y - _terms(free[None], design)[0][0])
    draws = _bootstrap(design, y, free, delta, bootstrap, np.random.default_rng(np.random.SeedSequence(seed)))
    return ScalingLaw(
        theta=_natural(free[None], design)[0],
        draws=_natural(draws, design),
        noise=noise,
        delta=delta,
        n_runs=y.size,
        parameters_range=(float(runs.parameters.min()), float(runs.parameters.max())),
        tokens_range=(float(runs.tokens.min()), float(runs.tokens.max())),
        notes=_notes(runs, free, design),
    )


def check_identifiable(runs: ScalingRuns) -> None:
    """Check that the runs can identify the law's five values.

    Raises: InputError that says what they leave open: fewer than six runs, or fewer than three sizes or token counts.
    """
    n = runs.loss.size
    if not runs.parameters.shape == runs.tokens.shape == runs.loss.shape == (n,):
        shapes = f"{runs.parameters.shape}, {runs.tokens.shape}, {runs.loss.shape}"
        raise InputError(f"parameters, tokens and loss have shapes {shapes}; they need the same length")
    for name, values in (("parameters", runs.parameters), ("tokens", runs.tokens), ("loss", runs.loss)):
        bad = np.flatnonzero(~((values >= 1 / _LARGEST) & (values <= _LARGEST)))
        if bad.size:
            raise InputError(
                f"{name} of run {bad[0]} is {values[bad[0]]:g}; give values above zero and at most {_LARGEST:g}"
            )
    if n < MIN_RUNS:
        raise InputError(
            f"{n} runs cannot identify the law's five values (E, A, alpha, B, beta); give {MIN_RUNS} or more"
        )
    for name, term, values in (("parameters", "A and alpha", runs.parameters), ("tokens", "B and beta", runs.tokens)):
        distinct = np.unique(values).size
        if distinct < MIN_DISTINCT:
            raise InputError(
                f"{n} runs with {distinct} distinct value{'s' * (distinct > 1)} of {name}: E, {term} are not "
                f"identifiable; give runs with {MIN_DISTINCT} values or more"
            )
    pairs = np.unique(np.column_stack([runs.parameters, runs.tokens]), axis=0).shape[0]
    if pairs < len(NAMES):
        raise InputError(
            f"{n} runs at {pairs} places (parameters, tokens): five values need {len(NAMES)} places or more"
        )


def evaluate(theta: Floats, parameters: Floats, tokens: Floats) -> Floats:
    """Return the losses (t, m) of laws (t, 5) for models (m,)."""
    e, a, alpha, b, beta = (column[:, None] for column in np.atleast_2d(theta).T)
    log_n, log_d = np.log(parameters), np.log(tokens)
    losses: Floats = e + np.exp(np.log(a) - alpha * log_n) + np.exp(np.log(b) - beta * log_d)
    return losses


def predict(law: ScalingLaw, parameters: Floats, tokens: Floats) -> Predicted:
    """Predict the losses of models of `parameters` and `tokens`, both (m,), with 90 % intervals."""
    loss = evaluate(law.theta, parameters, tokens)[0]
    lo, hi = quantiles(evaluate(law.draws, parameters, tokens))
    lo, hi = np.minimum(lo, loss), np.maximum(hi, loss)
    own = 1.645 * law.noise * loss
    return Predicted(loss, lo, hi, loss - np.hypot(loss - lo, own), loss + np.hypot(hi - loss, own))


def quantiles(values: Floats) -> Floats:
    """Return both ends of the 90 % interval of draws (t, m), shape (2, m).

    Ranks count from t + 1: so a fresh value falls between the ends nine times in ten, however few the draws are.
    """
    tail = (1 - INTERVAL) / 2
    ends: Floats = np.quantile(values, [tail, 1 - tail], axis=0, method="weibull")
    return ends


# The fit --------------------------------------------------------------------------------------------------------------


def _design(runs: ScalingRuns, y: Floats) -> _Design:
    log_n, log_d = np.log(runs.parameters), np.log(runs.tokens)
    centre = float(log_n.mean()), float(log_d.mean())
    least, most = np.log(_EXPONENTS)
    floor, top = y.min() - 7, y.max() + 1
    lower = np.array([floor, floor, least, floor, least])
    return _Design(log_n - centre[0], log_d - centre[1], centre, lower, np.array([y.min(), top, most, top, most]))


def _natural(free: Floats, design: _Design) -> Floats:
    """Return (m, 5) of E, A, alpha, B, beta for free values (m, 5)."""
    e, a, log_alpha, b, log_beta = free.T
    alpha, beta = np.exp(log_alpha), np.exp(log_beta)
    columns = [np.exp(e), np.exp(a + alpha * design.centre[0]), alpha, np.exp(b + beta * design.centre[1]), beta]
    return np.column_stack(columns)


def _terms(free: Floats, design: _Design) -> tuple[Floats, Floats]:
    """Return the log losses (m, n) of free values (m, 5), and each term's share of the loss (m, 3, n)."""
    e, a, log_alpha, b, log_beta = (column[:, None] for column in free.T)
    terms = np.stack([e + 0 * design.x, a - np.exp(log_alpha) * design.x, b - np.exp(log_beta) * design.z], axis=1)
    top = terms.max(axis=1)
    parts = np.exp(terms - top[:, None])
    total = parts.sum(axis=1)
    return top + np.log(total), parts / total[:, None]


def _jacobian(free: Floats, shares: Floats, design: _Design) -> Floats:
    """Return the derivative of the log losses by the free values, shape (m, n, 5)."""
    alpha, beta = np.exp(free[:, 2:3]), np.exp(free[:, 4:5])
    by_alpha, by_beta = -shares[:, 1] * design.x * alpha, -shares[:, 2] * design.z * beta
    return np.stack([shares[:, 0], shares[:, 1], by_alpha, shares[:, 2], by_beta], axis=2)


def _huber(residuals: Floats, delta: float) -> Floats:
    size = np.abs(residuals)
    total: Floats = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)).sum(axis=1)
    return total


def _minimise(free: Floats, y: Floats, delta: float, design: _Design) -> tuple[Floats, Floats]:
    """Minimise the Huber loss from starts (m, 5) for log losses (m, n); return free values and objectives."""
    free = np.clip(free, design.lower, design.upper)
    search = _Search(free, _huber(y - _terms(free, design)[0], delta), np.full(len(free), 1e-2))
    active = np.arange(len(free))
    for _ in range(200):
        _step(search, active, y[active], delta, design)
        active = active[search.calm[active] < 2]
        if not active.size:
            break
    return search.free, search.objective


def _step(search: _Search, active: NDArray[np.intp], y: Floats, delta: float, design: _Design) -> None:
    """Take one damped, reweighted Gauss-Newton step in every active search; steps that do not help are not taken."""
    free = search.free[active]
    values, shares = _terms(free, design)
    residuals = y - values
    jacobian = _jacobian(free, shares, design)
    weighted = np.swapaxes(jacobian * (delta / np.maximum(np.abs(residuals), delta))[:, :, None], 1, 2)
    hessian, gradient = weighted @ jacobian, weighted @ residuals[:, :, None]
    diagonal = np.einsum("mii->mi", hessian)
    ridge = search.damping[active, None] * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300
    step = np.linalg.solve(hessian + ridge[:, :, None] * np.eye(5), gradient)[:, :, 0]
    tried = np.clip(free + np.clip(step, -1, 1), design.lower, design.upper)
    objective = _huber(y - _terms(tried, design)[0], delta)
    before = search.objective[active]
    better = objective < before
    stuck = np.where(better, before - objective < 1e-9 * before, search.damping[active] > 1e6)
    search.calm[active] = np.where(stuck, search.calm[active] + 1, np.where(better, 0, search.calm[active]))
    search.free[active[better]] = tried[better]
    search.objective[active[better]] = objective[better]
    search.damping[active] = np.clip(search.damping[active] * np.where(better, 0.25, 5.0), 1e-9, 1e8)


def _starts(design: _Design, y: Floats) -> Floats:
    """Return the best of a grid of exponents, E, A and B solved for by least squares, as free values (_STARTS, 5)."""
    grid = np.geomspace(0.05, 1.5, 12)
    alpha, beta = (axis.ravel() for axis in np.meshgrid(grid, grid, indexing="ij"))
    inverse = np.exp(-y)
    by_n, by_d = np.exp(-np.outer(alpha, design.x)), np.exp(-np.outer(beta, design.z))
    columns = np.stack([np.ones_like(by_n), by_n, by_d], axis=2) * inverse[:, None]  # residuals relative to the loss
    gram = np.swapaxes(columns, 1, 2) @ columns
    ridge = 1e-10 * np.einsum("mii->mi", gram)[:, :, None] * np.eye(3)
    scales = np.linalg.solve(gram + ridge, columns.sum(axis=1)[:, :, None])[:, :, 0]
    scales = np.maximum(scales, 1e-2 * np.exp(y.min()))
    misfit = np.abs((columns @ scales[:, :, None])[:, :, 0] - 1).sum(axis=1)
    best = np.argsort(misfit, kind="stable")[:_STARTS]
    logs = np.log(scales[best])
    return np.column_stack([logs[:, 0], logs[:, 1], np.log(alpha[best]), logs[:, 2], np.log(beta[best])])


def _fit_free(design: _Design, y: Floats) -> tuple[Floats, float]:
    starts = _starts(design, y)
    found, objective = _minimise(starts, np.broadcast_to(y, (len(starts), y.size)), LEAST_DELTA, design)
    free, delta = found[objective.argmin()], LEAST_DELTA
    for _ in range(2):
        delta = max(LEAST_DELTA, EFFICIENT * _scale(y - _terms(free[None], design)[0][0]))
        free = _minimise(free[None], y[None], delta, design)[0][0]
    return free, delta


def _scale(residuals: Floats) -> float:
    """Return the robust standard deviation of residuals that five values were fitted to."""
    return float(np.median(np.abs(residuals)) / 0.6745 * np.sqrt(residuals.size / (residuals.size - len(NAMES))))


def _bootstrap(design: _Design, y: Floats, free: Floats, delta: float, count: int, rng: np.random.Generator) -> Floats:
    values, shares = _terms(free[None], design)
    basis, _ = np.linalg.qr(_jacobian(free[None], shares, design)[0])
    leverage = np.minimum((basis**2).sum(axis=1), 0.95)
    residuals = (y - values[0]) / (1 - leverage)
    freedom = y.size - len(NAMES)
    drawn = []
    rows = max(1, _CHUNK // y.size)
    signs = rng.integers(0, 2, (count, y.size), dtype=np.int8)
    scale = np.sqrt(freedom / rng.chisquare(freedom, count))
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        tables = values + residuals * (2.0 * signs[part] - 1) * scale[part, None]
        drawn.append(_minimise(np.repeat(free[None], len(tables), 0), tables, delta, design)[0])
    return np.concatenate(drawn)


def _notes(runs: ScalingRuns, free: Floats, design: _Design) -> tuple[str, ...]:
    """Return what a reader of the fit has to know: values at their bounds, runs that leave terms confounded."""
    notes = []
    if abs(np.corrcoef(design.x, design.z)[0, 1]) > 0.99:
        notes.append("parameters and tokens move together in these runs: the two terms can hardly be told apart")
    for name, value, least, most in zip(NAMES, free, design.lower, design.upper, strict=True):
        if value <= least + 1e-6 or (value >= most - 1e-6 and name != "E"):
            notes.append(f"{name} is at a bound of the search: these runs do not identify it")
    for name, values in (("parameters", runs.parameters), ("tokens", runs.tokens)):
        if values.max() < 4 * values.min():
            notes.append(f"{name} span a factor of {values.max() / values.min():.3g} only: extrapolate with care")
    return tuple(notes)
