"""A proposal's CPU time, and how near its optimum is to a known one; beside the best of as many random candidates.

    python tests/bench/bench_propose.py [--slices 5 10 20 50] [--tasks 13] [--draws 64]

The fit is a sum of power laws whose parameters are known, over Dirichlet runs, four a slice. The optimum within the
trust region has no formula, so `gap` is to the law's optimum on the whole simplex, as a share of what natural loses to
it; where that optimum is outside the region, no search can close it.
"""

from __future__ import annotations

import time

import numpy as np

from pipeline.mix.config import ProposeConfig
from pipeline.mix.weights.objective import Objective, Problem
from pipeline.mix.weights.propose import CANDIDATES, propose
from pipeline.mix.weights.search import TrustRegion
from pipeline.mix.weights.space import Constraints
from tests.bench.tables import Table, bench_parser
from tests.mix_law import PowerLaw, swarm


def measure(k: int, m: int, draws: int) -> tuple[object, ...]:
    """Return a row for `k` slices and `m` tasks."""
    rng = np.random.default_rng(k)
    law = PowerLaw(rng.lognormal(-2.5, 0.7, (m, k)), spread=0.05, noise=0.01, draw_count=draws)
    natural = rng.dirichlet(np.full(k, 5.0))
    names = tuple(f"s{i}" for i in range(k))
    groups = {f"t{i}": f"g{i % 3}" for i in range(m)}
    limits = Constraints(names, np.zeros(k), np.ones(k))
    problem = Problem(limits, natural, swarm(k, 4 * k), dict.fromkeys(groups, 1.0), groups)
    times = {}
    for objective in ("expected", "upper"):
        config = ProposeConfig(kl=0.0, objective=objective)
        start = time.process_time()
        found = propose(law, problem, config, 1)
        times[objective] = time.process_time() - start
        if objective == "expected":
            reached = found.metric.value
    score = Objective(law, problem, ProposeConfig(kl=0.0))
    region = TrustRegion.of(limits, problem.runs)
    points, fits = region.repair(rng.dirichlet(np.ones(k), CANDIDATES))
    optimum = law.optimum(problem.weights)
    best, base = float(score(optimum[None])[0]), float(score(natural[None])[0])
    inside = "inside" if region.nearest(optimum[None])[1][0] <= region.radius else "outside"
    gap, random_gap = (reached - best) / (base - best), (float(score(points[fits]).min()) - best) / (base - best)
    return k, m, times["expected"], times["upper"], gap, random_gap, inside


def main() -> None:
    """Measure each number of slices."""
    parser = bench_parser(__doc__)
    parser.add_argument("--slices", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--tasks", type=int, default=13)
    parser.add_argument("--draws", type=int, default=64)
    given = parser.parse_args()
    measure(3, 2, 8)  # imports
    table = Table("propose", given.csv, "slices tasks expected_cpu_s upper_cpu_s gap random_gap optimum")
    for k in given.slices:
        table.row(*measure(k, given.tasks, given.draws))


if __name__ == "__main__":
    main()
