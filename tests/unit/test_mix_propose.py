import json
import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.mix.config import GroupBounds, ProposeConfig, SliceConfig
from pipeline.mix.types import from_json, plain_json
from pipeline.mix.weights.objective import Problem
from pipeline.mix.weights.proposal import Proposal
from pipeline.mix.weights.propose import propose, undominated
from pipeline.mix.weights.search import TrustRegion, usual_radius
from pipeline.mix.weights.space import Constraints, GroupLimit, constraints_of
from pipeline.table.errors import ConfigError, WorkspaceError
from tests.mix_law import Linear, PowerLaw, capped, swarm

FREE = ProposeConfig(kl=0.0)


def problem(k: int = 4, count: int = 60, tasks: int = 2, **changes) -> Problem:
    made = Problem(
        constraints=capped(*[1.0] * k),
        natural=np.full(k, 1 / k),
        runs=swarm(k, count),
        task_weights={f"t{i}": 1.0 for i in range(tasks)},
        task_groups={f"t{i}": ("code", "prose")[i % 2] for i in range(tasks)},
    )
    return replace(made, **changes)


def law(k: int = 4, tasks: int = 2, **changes) -> PowerLaw:
    return replace(PowerLaw(np.random.default_rng(3).uniform(0.1, 0.4, (tasks, k))), **changes)


def within(limits: Constraints, weights: np.ndarray) -> bool:
    return float(limits.violation(weights[None])[0]) < 1e-9


def test_the_known_optimum_of_a_law_is_found():
    truth, asked = law(), problem()
    best = truth.optimum(asked.weights)
    near = TrustRegion.of(asked.constraints, asked.runs).nearest(best[None])[1][0]
    assert near <= usual_radius(asked.runs), "the test needs an optimum near a run"
    found = propose(truth, asked, FREE, 1)
    np.testing.assert_allclose(found.vector, best, atol=2e-3)
    assert found.metric.value == pytest.approx(float((truth.mean(best[None]) @ asked.weights)[0]), abs=1e-5)


def test_task_weights_decide():
    truth = PowerLaw(np.array([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9]]))
    first = propose(truth, problem(3, 200, task_weights={"t0": 8.0, "t1": 1.0}), FREE, 1)
    last = propose(truth, problem(3, 200, task_weights={"t0": 1.0, "t1": 8.0}), FREE, 1)
    assert first.weights["s0"] > 0.6 > 0.3 > first.weights["s2"]
    assert last.weights["s2"] > 0.6 > 0.3 > last.weights["s0"]
    assert first.task_weights == {"t0": pytest.approx(8 / 9), "t1": pytest.approx(1 / 9)}


def test_a_strong_penalty_returns_the_natural_mixture():
    natural = np.array([0.4, 0.3, 0.2, 0.1])
    asked = problem(natural=natural, runs=np.concatenate([natural[None], swarm(4, 60)]))
    found = propose(law(), asked, ProposeConfig(kl=1000.0), 1)
    np.testing.assert_allclose(found.vector, natural, atol=2e-3)
    weak = propose(law(), asked, ProposeConfig(kl=0.05), 1)
    none = propose(law(), asked, FREE, 1)
    away = [float(np.abs(each.vector - natural).sum()) for each in (none, weak, found)]
    assert away[0] > away[1] > away[2]


@pytest.mark.parametrize("corners", [False, True])
def test_the_optimum_of_a_linear_fit_stays_near_the_runs(corners):
    runs = swarm(5, 50)
    if corners:
        runs = np.concatenate([runs, np.eye(5)])
    asked = problem(5, tasks=1, runs=runs)
    found = propose(Linear(np.array([[-1.0, 0.5, 0.4, 0.3, 0.2]])), asked, FREE, 1)
    distance = np.sqrt(((np.sqrt(runs) - np.sqrt(found.vector)) ** 2).sum(1))
    assert distance.min() <= usual_radius(runs) + 1e-3
    assert found.metric.value < (1 + runs @ [-1.0, 0.5, 0.4, 0.3, 0.2]).min() + 1e-3
    if not corners:
        assert "trust_region" in {a.kind for a in found.active}
        assert found.weights["s0"] < 0.99


def test_bounds_fixed_weights_and_groups_hold_and_are_named_where_they_bind():
    limits = Constraints(
        ("s0", "s1", "s2", "s3"),
        np.array([0.0, 0.25, 0.1, 0.0]),
        np.array([0.2, 0.25, 1.0, 1.0]),
        (GroupLimit("web", (0, 1), 0.0, 0.4),),
    )
    truth = PowerLaw(np.array([[2.0, 0.1, 0.05, 0.2]]))
    found = propose(truth, problem(tasks=1, constraints=limits), FREE, 1)
    assert within(limits, found.vector)
    assert found.weights["s1"] == 0.25
    kinds = {(a.kind, a.name) for a in found.active}
    assert ("fixed", "s1") in kinds
    assert ("group_upper", "web") in kinds
    assert found.weights["s0"] == pytest.approx(0.15, abs=1e-3)


def test_the_upper_bound_avoids_what_is_unsure():
    class Unsure(Linear):
        def draws(self, weights):
            noise = np.random.default_rng(1).normal(0, 1, (64, 1, 1)) * weights[None, :, :1] * 0.5
            return 1.0 + (weights @ self.slope.T)[None] + noise

    asked, fit = problem(3, tasks=1), Unsure(np.array([[-0.3, -0.2, 0.0]]))
    expected = propose(fit, asked, FREE, 1)
    upper = propose(fit, asked, ProposeConfig(kl=0.0, objective="upper"), 1)
    assert expected.weights["s0"] > 0.8
    assert upper.weights["s0"] < 0.2


def test_an_interval_of_a_weight_follows_the_draws():
    asked = problem(4, 300)
    sure, unsure = propose(law(), asked, FREE, 1), propose(law(spread=0.2), asked, FREE, 1)
    truth = law(spread=0.2)
    factors = np.exp(np.random.default_rng(5).normal(0, 0.2, (64, *truth.a.shape)))
    best = np.array([replace(truth, a=truth.a * f).optimum(asked.weights) for f in factors])
    for i, name in enumerate(sure.names):
        assert sure.slices[name].weight.high - sure.slices[name].weight.low < 0.01
        width = unsure.slices[name].weight.high - unsure.slices[name].weight.low
        assert width == pytest.approx(np.subtract(*np.quantile(best[:, i], [0.95, 0.05])), rel=0.35)


def test_improvement_is_paired_and_intervals_of_a_run_hold_its_noise():
    truth = law(spread=0.1, noise=0.05)
    asked = problem(natural=np.array([0.85, 0.05, 0.05, 0.05]))
    found = propose(truth, asked, FREE, 1)
    natural = found.baselines["natural"]
    assert found.improvement.value == pytest.approx(natural.value - found.metric.value, abs=1e-9)
    assert found.improvement.low <= found.improvement.value <= found.improvement.high
    assert found.metric.high - found.metric.value >= 1.645 * 0.05 * 0.99
    assert found.improvement.high - found.improvement.low < found.metric.high - found.metric.low


def test_sensitivity_at_an_optimum_is_a_cost_and_slopes_are_those_of_the_law():
    truth, asked = law(), problem(seed_sd=0.002)
    found = propose(truth, asked, FREE, 1)
    assert found.flat_tolerance == 0.001
    for name, answer in found.slices.items():
        for change in (answer.less, answer.more):
            assert change is None or change > -1e-5
        assert answer.flat_low < found.weights[name] < answer.flat_high
        end = found.vector.copy()
        i = found.names.index(name)
        end *= (1 - answer.flat_high) / (1 - end[i])
        end[i] = answer.flat_high
        cost = float(((truth.mean(end[None]) - truth.mean(found.vector[None])) @ asked.weights)[0])
        assert 0.0005 < cost <= 0.001 + 1e-9


def test_a_cap_that_binds_has_a_slope_and_moves_past_it():
    limits = capped(0.2, 1, 1)
    found = propose(PowerLaw(np.array([[0.9, 0.1, 0.1]])), problem(3, tasks=1, constraints=limits), FREE, 1)
    answer = found.slices["s0"]
    assert found.weights["s0"] == pytest.approx(0.2, abs=1e-4)
    assert answer.more < -0.02
    assert answer.less > 0.02
    assert ("upper", "s0") in {(a.kind, a.name) for a in found.active}


def test_the_front_trades_one_group_against_the_other():
    truth = PowerLaw(np.array([[0.9, 0.05, 0.1], [0.05, 0.9, 0.1]]))
    found = propose(truth, problem(3, 300), FREE, 1)
    code = [point.metrics["code"] for point in found.pareto]
    prose = [point.metrics["prose"] for point in found.pareto]
    assert len(found.pareto) >= 8
    assert code == sorted(code)
    assert prose == sorted(prose, reverse=True)
    assert all(math.fsum(point.weights.values()) == pytest.approx(1, abs=1e-9) for point in found.pareto)
    assert code[0] < found.groups["code"] < code[-1]


def test_one_group_has_no_front():
    assert propose(law(tasks=1), problem(tasks=1), FREE, 1).pareto == ()


def test_undominated_keeps_each_row_that_no_other_beats():
    metrics = np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 2.5], [3.0, 1.0], [3.0, 1.0]])
    assert undominated(metrics) == [0, 1, 3]


def test_the_same_seed_gives_the_same_proposal_and_json_returns_it():
    truth = law(spread=0.1)
    first, second = (propose(truth, problem(), ProposeConfig(), 7) for _ in range(2))
    text = json.dumps(plain_json(first), allow_nan=False)
    assert text == json.dumps(plain_json(second), allow_nan=False)
    assert from_json(Proposal, json.loads(text), "proposal.json", "propose") == first


def test_a_model_without_gradients_is_searched_too():
    class Steps(PowerLaw):
        def mean(self, weights):
            return np.round(super().mean(weights), 2)

        def draws(self, weights):
            return np.repeat(self.mean(weights)[None], 2, 0)

    truth, asked = law(), problem()
    found = propose(Steps(truth.a), asked, FREE, 1)
    best = truth.optimum(asked.weights)
    assert found.metric.value <= float((truth.mean(best[None]) @ asked.weights)[0]) + 0.01


def test_bounds_away_from_all_runs_widen_the_region_and_say_so():
    limits = Constraints(("s0", "s1", "s2"), np.array([0.9, 0.0, 0.0]), np.ones(3))
    centre = swarm(3, 40) * 0.1 + 0.3
    found = propose(law(3), problem(3, constraints=limits, runs=centre), FREE, 1)
    assert found.weights["s0"] >= 0.9
    assert "Run the swarm again" in found.notes[0]
    assert propose(law(3), problem(3), FREE, 1).notes == ()


def test_a_damaged_proposal_is_one_line():
    value = plain_json(propose(law(), problem(), FREE, 1))
    del value["metric"]["low"]
    with pytest.raises(WorkspaceError, match=r"proposal.json: metric.low: .*mix propose"):
        from_json(Proposal, value, "proposal.json", "propose")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"natural": np.array([0.5, 0.5, 0.0, 0.0])}, "s2 holds no tokens"),
        ({"natural": np.array([0.5, 0.6, 0.0, 0.0])}, "natural: not mixtures"),
        ({"runs": np.full((3, 4), np.nan)}, "runs: not mixtures"),
        ({"runs": np.full((3, 3), 1 / 3)}, "do not fit 4 slices"),
        ({"task_weights": {"t0": 0.0, "t1": 0.0}}, "one of them not zero"),
        ({"task_groups": {"t0": "a"}}, "'t1' has no group"),
    ],
)
def test_problems_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        problem(**changes)


def test_a_fit_of_other_metrics_or_of_infinite_values_is_refused():
    with pytest.raises(ConfigError, match="predicts 3 metrics, the suite has 2"):
        propose(law(tasks=3), problem(), FREE, 1)
    with pytest.raises(ConfigError, match="not finite"):
        propose(PowerLaw(np.full((2, 4), np.inf)), problem(), FREE, 1)


def slices(**changes) -> dict[str, SliceConfig]:
    return {name: SliceConfig(where="true", **value) for name, value in changes.items()}


def test_constraints_come_from_slices_caps_and_groups():
    made = constraints_of(
        slices(
            web={"max_weight": 0.8, "group": "prose"}, code={"min_weight": 0.1}, wiki={"weight": 0.2, "group": "prose"}
        ),
        {"web": 9.0, "code": 0.4, "wiki": 0.3},
        {"prose": GroupBounds(min_weight=0.5, max_weight=0.7)},
    )
    assert made.lower.tolist() == [0.0, 0.1, 0.2]
    assert made.upper.tolist() == [0.8, 0.4, 0.2]
    assert made.groups == (GroupLimit("prose", (0, 2), 0.5, 0.7),)


@pytest.mark.parametrize(
    ("given", "caps", "groups", "message"),
    [
        (
            {"a": {}, "b": {}},
            {"a": 0.3, "b": 0.4},
            {},
            r"slices.a, slices.b: largest weights add up to 0.7, .*max_epochs",
        ),
        (
            {"a": {"min_weight": 0.6}, "b": {"min_weight": 0.6}},
            {"a": 1, "b": 1},
            {},
            "slices.a, slices.b: least .* 1.2",
        ),
        ({"a": {"min_weight": 0.6}, "b": {}}, {"a": 0.5, "b": 1}, {}, r"slices.a: min_weight 0.6 .*max_epochs.*0.5"),
        ({"a": {"weight": 0.6}, "b": {}}, {"a": 0.5, "b": 1}, {}, r"slices.a.weight = 0.6 is above its cap 0.5"),
        (
            {"a": {"group": "g"}, "b": {}},
            {"a": 0.3, "b": 1},
            {"g": (0.5, 1)},
            r"propose.groups.g asks .*slices.a allow 0",
        ),
        ({"a": {"group": "g"}, "b": {}}, {"a": 1, "b": 0.4}, {"g": (0, 0.5)}, r"slices.b, propose.groups.g: largest"),
    ],
)
def test_contradictions_name_their_keys(given, caps, groups, message):
    bounds = {g: GroupBounds(min_weight=low, max_weight=high) for g, (low, high) in groups.items()}
    with pytest.raises(ConfigError, match=message):
        constraints_of(slices(**given), caps, bounds)
