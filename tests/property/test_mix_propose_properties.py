import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.mix.weights.search import TrustRegion, usual_radius
from pipeline.mix.weights.space import Constraints, GroupLimit
from tests.mix_law import swarm


@st.composite
def limits(draw):
    """Constraints that hold some mixture: bounds and group ranges are drawn around one."""
    k = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    inside = rng.dirichlet(np.full(k, draw(st.sampled_from([0.2, 1.0, 5.0]))))
    lower = np.where(rng.random(k) < 0.5, inside * rng.random(k), 0.0)
    upper = np.where(rng.random(k) < 0.5, inside + (1 - inside) * rng.random(k), 1.0)
    fixed = rng.random(k) < 0.2
    lower, upper = np.where(fixed, inside, lower), np.where(fixed, inside, upper)
    groups = []
    owner = rng.integers(0, 3, k)
    for g in range(draw(st.integers(0, 2))):
        members = tuple(int(i) for i in np.flatnonzero(owner == g))
        if members:
            total = float(inside[list(members)].sum())
            groups.append(GroupLimit(f"g{g}", members, total * rng.random(), total + (1 - total) * rng.random()))
    return Constraints(tuple(f"s{i}" for i in range(k)), lower, upper, tuple(groups)), inside, rng


@given(limits())
@settings(max_examples=150, deadline=None)
def test_a_projection_is_allowed_and_no_allowed_mixture_is_nearer(case):
    allowed, inside, rng = case
    points = rng.normal(0.2, 0.7, (4, len(inside)))
    projected = allowed.project(points)
    assert allowed.violation(projected).max() < 1e-11
    others = np.concatenate([inside[None], allowed.sample(rng, np.tile(inside, (20, 1)), np.full(20, 3.0))])
    # For a convex set: the way to the point makes no sharp angle with the way to any other member.
    assert np.einsum("qk,qok->qo", points - projected, others[None] - projected[:, None]).max() < 1e-8
    np.testing.assert_allclose(allowed.project(others), others, atol=1e-9)


@given(limits())
@settings(max_examples=150, deadline=None)
def test_samples_and_rescaled_mixtures_are_allowed_and_zeros_stay(case):
    allowed, inside, rng = case
    k = len(inside)
    drawn = allowed.sample(rng, np.full((50, k), 1 / k), np.full(50, k / 2))
    assert allowed.violation(drawn).max() < 1e-9
    assert (drawn >= 0).all()
    kept = allowed.rescale(inside[None].copy())
    np.testing.assert_allclose(kept, inside[None], atol=1e-9)


@given(limits())
@settings(max_examples=60, deadline=None)
def test_what_a_space_repairs_is_allowed_and_near_a_run(case):
    allowed, _, rng = case
    k = len(allowed.names)
    runs = allowed.rescale(rng.dirichlet(np.ones(k), 12))
    region = TrustRegion.of(allowed, runs)
    points, fits = region.repair(rng.dirichlet(np.full(k, 0.3), 40))
    assert fits.all()
    assert allowed.violation(points).max() < 1e-7
    distance = np.sqrt(((np.sqrt(points)[:, None] - np.sqrt(runs)) ** 2).sum(2)).min(1)
    assert distance.max() <= region.radius + 2e-6


@given(st.integers(2, 12), st.integers(4, 40), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_most_runs_are_as_near_to_another_as_a_proposal_must_be(k, n, seed):
    runs = swarm(k, n, seed)
    radius = usual_radius(np.concatenate([runs, runs[:2]]))
    distance = np.sqrt(((np.sqrt(runs)[:, None] - np.sqrt(runs)) ** 2).sum(2))
    np.fill_diagonal(distance, np.inf)
    mixed = runs.max(1) < 0.95
    near = distance[np.ix_(mixed, mixed)].min(1) if mixed.sum() > 2 else np.array([])
    if near.size:
        assert np.mean(near <= radius + 1e-9) >= 0.6
