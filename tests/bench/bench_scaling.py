"""Coverage of the scaling law's 90 % intervals over generated tables, by design and noise, and seconds a fit.

    python tests/bench/bench_scaling.py [--tables 200] [--bootstrap 200] [DESIGN ...]

A table's law is drawn at random (E 0.5 to 2, exponents 0.2 to 0.5, terms 0.3 to 1.5 at 1e8 parameters and 2e9 tokens).
Designs: `few` 12 runs at random places, `random` 40, `heavy` 40 with t-distributed noise (3 degrees of freedom), `grid`
5 x 5, `isoflop` 6 budgets of 6 sizes. Predictions are held against the law's own value, at the centre of the runs and
at 10 times the largest size and tokens; `new` is a fresh noisy run at the centre.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from pipeline.mix.scaling.allocate import compute_optimal
from pipeline.mix.scaling.law import ScalingRuns, evaluate, fit_law, predict
from pipeline.mix.types import Floats
from tests.bench.tables import Table, bench_parser

DESIGNS = {"few": 0.003, "random": 0.005, "heavy": 0.005, "grid": 0.005, "isoflop": 0.003}
WHAT = ("E", "alpha", "beta", "inside", "beyond", "new", "optimum")


@dataclass(frozen=True)
class Generated:
    """Generated runs and the law, (5,), that they were generated from."""

    runs: ScalingRuns
    theta: Floats
    noise: float


def generate(design: str, seed: int, noise: float | None = None) -> Generated:
    """Return a table of a design; `noise` is the standard deviation of the log loss."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, sorted(DESIGNS).index(design)]))
    sd = DESIGNS[design] if noise is None else noise
    alpha, beta = rng.uniform(0.2, 0.5, 2)
    a, b = rng.uniform(0.3, 1.5, 2) * np.array([1e8**alpha, 2e9**beta])
    theta = np.array([rng.uniform(0.5, 2), a, alpha, b, beta])
    sizes, tokens = _places(design, rng)
    errors = rng.standard_t(3, sizes.size) if design == "heavy" else rng.standard_normal(sizes.size)
    loss = evaluate(theta, sizes, tokens)[0] * np.exp(sd * errors)
    return Generated(ScalingRuns(sizes, tokens, loss), theta, sd)


def _places(design: str, rng: np.random.Generator) -> tuple[Floats, Floats]:
    if design == "grid":
        sizes, tokens = np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(3e8, 3e10, 5))
        return sizes.ravel(), tokens.ravel()
    if design == "isoflop":
        budgets = np.geomspace(1e17, 1e20, 6)
        sizes = np.concatenate([np.sqrt(c / 120) * np.geomspace(0.25, 4, 6) for c in budgets])
        return sizes, np.repeat(budgets, 6) / 6 / sizes
    sizes = 10 ** rng.uniform(6.5, 9.2, 12 if design == "few" else 40)
    return sizes, sizes * 10 ** rng.uniform(0.3, 2.3, sizes.size)


def covered(table: Generated, bootstrap: int, seed: int) -> list[bool]:
    """Return whether the 90 % intervals of `WHAT` hold the truth."""
    runs = table.runs
    law = fit_law(runs, bootstrap, seed)
    sizes = np.array([np.exp(np.log(runs.parameters).mean()), runs.parameters.max() * 10])
    tokens = np.array([np.exp(np.log(runs.tokens).mean()), runs.tokens.max() * 10])
    truth = evaluate(table.theta, sizes, tokens)[0]
    ends = law.intervals()
    hits = [bool(ends[i, 0] <= table.theta[i] <= ends[i, 1]) for i in (0, 2, 4)]
    said = predict(law, sizes, tokens)
    hits += [bool(lo <= value <= hi) for lo, value, hi in zip(said.lo, truth, said.hi, strict=True)]
    fresh = truth[0] * np.exp(table.noise * np.random.default_rng([seed, 1]).standard_normal())
    hits.append(bool(said.run_lo[0] <= fresh <= said.run_hi[0]))
    best = compute_optimal(law, 1e21).parameters
    _, a, alpha, b, beta = table.theta
    optimum = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (1e21 / 6) ** (beta / (alpha + beta))
    return [*hits, bool(best.low <= optimum <= best.high)]


def coverage(design: str, tables: int, bootstrap: int, noise: float | None = None) -> tuple[Floats, float]:
    """Return the share of tables whose intervals hold the truth, (7,), and the CPU seconds a table."""
    start = time.process_time()
    hits = np.array([covered(generate(design, seed, noise), bootstrap, seed) for seed in range(tables)])
    return hits.mean(axis=0), (time.process_time() - start) / tables


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("designs", nargs="*", metavar="DESIGN", help=", ".join(DESIGNS))
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--bootstrap", type=int, default=200)
    options = parser.parse_args()
    table = Table("scaling", options.csv, "design E alpha beta inside beyond new optimum cpu_s_a_fit")
    for design in options.designs or DESIGNS:
        shares, seconds = coverage(design, options.tables, options.bootstrap)
        table.row(design, *shares.tolist(), seconds)


if __name__ == "__main__":
    main()
