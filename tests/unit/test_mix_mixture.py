import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.mix.config import MixConfig, ProposeConfig, SliceConfig
from pipeline.mix.steps.choose import chosen_mixture, observed
from pipeline.mix.types import Difference, Estimate, RunSpec
from pipeline.mix.weights.mixture import (
    Mixture,
    MixtureStage,
    Verified,
    load_mixture,
    mixture_text,
    write_mixture,
)
from pipeline.mix.weights.objective import Problem
from pipeline.mix.weights.proposal import Proposal
from pipeline.mix.weights.propose import propose
from pipeline.mix.weights.rounding import round_weights, sums_to_one
from pipeline.mix.weights.space import Constraints, GroupLimit
from pipeline.mix.weights.verify import Fresh, Verification, verify_proposal
from pipeline.table.errors import ConfigError, WorkspaceError
from tests.mix_law import PowerLaw, capped, swarm

NAMES = ("web_high", "wiki", "code")
LIMITS = Constraints(NAMES, np.zeros(3), np.array([0.9, 0.8, 0.5]))
NATURAL = np.array([0.7, 0.2, 0.1])
TASK_WEIGHTS = {"humaneval": 2.0, "prose": 1.0}


def parts(**values: Any) -> Any:
    """Return something with these attributes: as much of a step's result as choosing reads."""
    return SimpleNamespace(**values)


MIX = parts(
    name="code",
    config=MixConfig(
        workspace="ws",
        slices={"all": SliceConfig(where="true")},
        suite="suites/code.yaml",
        budget_tokens=2_000_000_000,
    ),
)
MATERIAL = parts(
    names=NAMES,
    natural=NATURAL,
    constraints=LIMITS,
    suite=parts(path="suites/code.yaml"),
    suite_hash="ab" * 16,
    tokenizer_hash="cd" * 16,
    built=[
        parts(name=name, key="01", tokens=parts(n_tokens=n))
        for name, n in zip(NAMES, (700_000_000, 200_000_000, 250_000_000), strict=True)
    ],
    slices=[parts(config=parts(max_epochs=most)) for most in (4.0, 8.0, 4.0)],
)
FITTED = parts(
    folder=parts(name="bb16c63e", verification=Path("verification.json")),
    weights=TASK_WEIGHTS,
    results=parts(
        runs=[RunSpec("0", "natural", NATURAL, 1), RunSpec("1", "swarm", np.array([0.2, 0.3, 0.5]), 1)],
        tasks=tuple(TASK_WEIGHTS),
        values=np.array([[1.5, 1.0], [1.2, 1.0]]),
        variances=None,
    ),
    fit=parts(report={"metrics": [{"metric": "humaneval", "model": "gp"}]}),
)


@pytest.fixture(scope="module")
def proposal() -> Proposal:
    fit = PowerLaw(np.array([[0.1, 0.1, 0.4], [0.3, 0.3, 0.05]]), spread=0.05, noise=0.01)
    groups = {"humaneval": "code", "prose": "reading"}
    return propose(fit, Problem(LIMITS, NATURAL, swarm(3, 60), TASK_WEIGHTS, groups), ProposeConfig(), 1)


def verification(proposal: Proposal, natural: float) -> Verification:
    values = [[[level + 0.001 * seed, 1.0] for seed in (1, 2)] for level in (1.0, natural, 1.2)]
    fresh = Fresh(1.0, ("proposal", "natural", "best_seen"), (1, 2), np.array(values))
    return verify_proposal([fresh], TASK_WEIGHTS, proposal.tasks, proposal.metric)


def made(proposal: Proposal, verdict: Verification | None = None) -> Mixture:
    candidates = {"proposal": proposal.vector} | observed(MATERIAL, FITTED)
    return chosen_mixture(MIX, MATERIAL, FITTED, proposal, candidates, verdict).mixture


def test_a_written_mixture_is_read_back_and_its_text_is_readable(proposal, tmp_path):
    stage = MixtureStage(
        name="mid_training", share=0.1, tokens=200_000_000, suite="suites/maths.yaml", suite_hash="ef" * 16,
        weights={"maths": 0.75, "code": 0.25},
    )  # fmt: skip
    first = stage.model_copy(update={"name": "pretraining", "share": 0.9, "weights": proposal.weights})
    mixture = made(proposal, verification(proposal, 1.5)).model_copy(update={"stages": (first, stage)})
    write_mixture(tmp_path / "mixture.yaml", mixture)
    assert load_mixture(tmp_path / "mixture.yaml") == mixture
    text = (tmp_path / "mixture.yaml").read_text()
    assert text.startswith(
        "# The mixture code: 3 slices for 2,000,000,000 tokens.\n# Verified with fresh proxies: proposal"
    )
    assert f"  code:     {mixture.weights['code']:g}" in text
    assert f"{mixture.slices['code'].epochs:.3g} of 4 epochs" in text
    assert max(len(line) for line in text.splitlines()) <= 140
    assert not list(tmp_path.glob("*.tmp"))
    plain = yaml.safe_load(text)["weights"]
    assert sum(plain.values()) == 1.0
    assert math.fsum(plain.values()) == 1.0


def test_a_mixture_knows_caps_epochs_and_intervals(proposal):
    mixture = made(proposal)
    code = mixture.slices["code"]
    assert code.cap == pytest.approx(0.5)
    assert code.epochs == pytest.approx(mixture.weights["code"] * 8, rel=1e-5)
    assert code.low <= mixture.weights["code"] <= code.high
    assert mixture.weights == proposal.weights
    assert mixture.verified.uses is None
    assert mixture.evidence == "none"
    assert mixture.predicted.improvement.value == pytest.approx(proposal.improvement.value, rel=1e-5)
    assert mixture.predicted.metric.value == pytest.approx(proposal.metric.value, rel=1e-5)
    assert "Not verified" in mixture_text(mixture)


def test_another_candidate_is_written_with_its_own_intervals_and_what_was_proposed_is_kept(proposal):
    verdict = verification(proposal, 0.8)
    mixture = made(proposal, verdict)
    assert verdict.mixture == "natural"
    np.testing.assert_allclose(mixture.vector, NATURAL, atol=3e-4)  # 0.7 + 0.2 + 0.1 is 0.9999999999999999
    assert mixture.verified.uses == "natural"
    assert mixture.evidence == "none"
    assert mixture.verified.proposed == proposal.weights
    assert all(
        mixture.slices[name].low <= weight <= mixture.slices[name].high for name, weight in mixture.weights.items()
    )
    # (2 * 0.8015 + 1) / 3: what natural measured, not what was predicted of the proposal
    assert mixture.predicted.metric.value == pytest.approx(0.86767, abs=1e-4)
    assert mixture.predicted.improvement.value == 0.0
    assert mixture.predicted.natural == mixture.predicted.metric
    assert mixture.verified.sizes[0].metric["natural"] == pytest.approx(0.86767, abs=1e-4)
    assert "natural is expected to be best; evidence: none" in mixture_text(mixture).splitlines()[1]
    with pytest.raises(WorkspaceError, match=r"verification\.json chose 'corner'; there are proposal, natural"):
        made(proposal, replace(verdict, mixture="corner"))


def test_a_mixture_by_hand_needs_a_name_and_weights(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nweights: {web: 0.7, code: 0.3}\n")
    mixture = load_mixture(path)
    assert mixture.vector.tolist() == [0.7, 0.3]
    assert mixture.provenance is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nweights: {web: 0.7, code: 0.2998}\n", r"mine.yaml:2: weights: they add up to 0.9998, not 1"),
        ("name: a\nweights: {web: 1.5, code: -0.5}\n", r"mine.yaml:2: weights.web = 1.5: .*less than or equal to 1"),
        ("name: a\nweights: {web: .nan, code: 1}\n", r"mine.yaml:2: weights.web = nan"),
        ("name: a\nweights: {}\n", r"weights"),
        ("name: a\nweight: {web: 1}\n", r"unknown key 'weight' \(nearest: 'weights'\)"),
        ("name: a\nweights: {web: 1}\nslices: {wbe: {natural: 1, cap: 1, tokens: 1, epochs: 1, max_epochs: 1, "
         "low: 0, high: 1}}\n", r"mine.yaml:3: slices.wbe: no weight has that name \(nearest: 'web'\)"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_mixture(path)
    assert "\n" not in str(caught.value)


PREDICTED = """name: a
weights: {x: 0.5, y: 0.5}
predicted:
  metric: %s
  natural: {value: 1, low: 1.0, high: 2.0}
  improvement: {value: 1, low: 1.0, high: 2.0}
  tasks:
    t: %s
verified:
  differences: {natural: %s}
"""
PLAIN, PAIRED = "{value: 1, low: 0, high: 2}", "{value: 1, low: 0, high: 2, in_sd: null}"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("{value: .nan, low: 0, high: 2}", PLAIN, PAIRED), r"mine.yaml:4: predicted.metric.value = nan: .*finite"),
        ((PLAIN, "{value: 1, low: -.inf, high: 2}", PAIRED), r"mine.yaml:8: predicted.tasks.t.low = -inf: .*finite"),
        ((PLAIN, PLAIN, "{value: 1, low: 0, high: 2, in_sd: .inf}"), r":10: verified.*in_sd = inf: .*finite"),
        (("{value: 1, low: 0, high: 2, hihg: 3}", PLAIN, PAIRED),
         r"mine.yaml:4: unknown key 'predicted.metric.hihg' \(nearest: 'high'\)$"),
        ((PLAIN, "{value: 1, low: 0, high: 2, hihg: 3}", PAIRED),
         r"mine.yaml:8: unknown key 'predicted.tasks.t.hihg' \(nearest: 'high'\)$"),
        ((PLAIN, PLAIN, "{value: 1, low: 0, high: 2, in_ds: 3}"),
         r":10: unknown key 'verified.differences.natural.in_ds' \(nearest: 'in_sd'\)$"),
        ((PLAIN, PLAIN, "{value: 1, low: 0, high: 2, q: 3}"), r"natural.q' \(known: high, in_sd, low, value\)$"),
        (("{value: 1, low: 0}", PLAIN, PAIRED), r"mine.yaml:4: key 'predicted.metric.high' is missing$"),
        (("3", PLAIN, PAIRED), r"mine.yaml:4: predicted.metric = 3: Input should be a mapping$"),
    ],
)  # fmt: skip
def test_mistakes_in_what_is_predicted_are_told_like_all_others(tmp_path, parts, message):
    path = tmp_path / "mine.yaml"
    path.write_text(PREDICTED % (PLAIN, PLAIN, PAIRED))
    assert load_mixture(path).predicted.metric == Estimate(1, 0, 2)
    path.write_text(PREDICTED % parts)
    with pytest.raises(ConfigError, match=message):
        load_mixture(path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_mixture_is_made_of_numbers_that_are_none(proposal, value):
    with pytest.raises(ValueError, match="finite"):
        made(replace(proposal, metric=replace(proposal.metric, low=value)))
    with pytest.raises(ValueError, match="finite"):
        Verified(differences={"natural": Difference(0.0, 0.0, 0.0, value)})


def test_an_absent_mixture_says_what_writes_it(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.yaml does not exist; `gristmill mix propose` writes"):
        load_mixture(tmp_path / "absent.yaml")


def test_odd_names_and_tiny_weights_survive(tmp_path: Path):
    weights = {"no": 0.00001, "null": 0.49999, "on": 0.5}
    mixture = Mixture(name="odd", weights=weights)
    write_mixture(tmp_path / "m.yaml", mixture)
    assert load_mixture(tmp_path / "m.yaml") == mixture
    assert "0.00001\n" in (tmp_path / "m.yaml").read_text()


def test_rounding_literal_cases():
    assert round_weights(np.array([1 / 3, 1 / 3, 1 / 3]), capped(1, 1, 1)).tolist() == [0.3334, 0.3333, 0.3333]
    assert round_weights(np.array([0.0, 1.0]), capped(1, 1)).tolist() == [0.0, 1.0]
    assert round_weights(np.array([0.12344, 0.87656]), capped(0.12345, 1.0)).tolist() == [0.1234, 0.8766]
    assert round_weights(np.array([0.12346, 0.87654]), capped(0.12346, 1.0)).tolist() == [0.1234, 0.8766]
    # caps that four places cannot fill take more
    assert round_weights(np.array([0.33335, 0.66665]), capped(0.33335, 0.66665)).tolist() == [0.33335, 0.66665]


@pytest.mark.parametrize("k", [40, 80, 300])
def test_many_equal_weights_have_decimals_too(k: int):
    rounded = round_weights(np.full(k, 1 / k), capped(*[1] * k))
    assert sums_to_one(rounded)
    np.testing.assert_allclose(rounded, 1 / k, atol=2e-3)
    assert max(len(repr(each)) for each in rounded.tolist()) <= (22 if k == 300 else 11)


def test_bounds_that_no_decimals_meet_are_missed_by_next_to_nothing():
    caps = np.array([0.01977411, 0.98022589]) + np.array([1.1e-11, -1.1e-11])
    rounded = round_weights(caps, capped(*caps))
    assert sums_to_one(rounded)
    np.testing.assert_allclose(rounded, caps, atol=5e-12)
    assert rounded.tolist() == [round(each, 12) for each in rounded.tolist()]


def test_rounding_keeps_groups_and_fixed_weights():
    limits = Constraints(
        ("a", "b", "c"), np.array([0.25, 0, 0]), np.array([0.25, 1, 1]), (GroupLimit("g", (0, 1), 0.6, 0.6),)
    )
    rounded = round_weights(np.array([0.25, 0.35, 0.4]), limits)
    assert rounded.tolist() == [0.25, 0.35, 0.4]
    limits = Constraints(("a", "b", "c"), np.zeros(3), np.ones(3), (GroupLimit("g", (0, 1), 0.5, 1.0),))
    rounded = round_weights(np.array([0.25004, 0.24996, 0.5]), limits)
    assert rounded[:2].sum() == 0.5


def test_weights_that_are_no_mixture_are_refused():
    with pytest.raises(ConfigError, match=r"break a bound or their sum by 0.1"):
        round_weights(np.array([0.5, 0.4]), capped(1, 1))
    with pytest.raises(ConfigError, match=r"break a bound or their sum by 0.2"):
        round_weights(np.array([0.5, 0.5]), capped(0.3, 1.0))
    with pytest.raises(ConfigError, match="not finite"):
        round_weights(np.array([0.5, np.nan]), capped(1, 1))


@given(
    st.integers(1, 40), st.sampled_from([0.05, 0.3, 1.0, 10.0]), st.integers(0, 2**32 - 1), st.sampled_from([3, 4, 6])
)
@example(14, 10.0, 14, 3)  # moves of several units came together on one slice
@settings(max_examples=200, deadline=None)
def test_rounded_weights_sum_to_one_however_they_are_added_and_stay_under_caps(k, strength, seed, digits):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(k, strength))
    weights[rng.random(k) < 0.2] = 0
    if weights.sum() == 0:
        weights[0] = 1
    weights /= weights.sum()
    caps = np.where(rng.random(k) < 0.3, weights, np.minimum(1, weights + rng.random(k)))
    caps = np.maximum(caps, weights)
    rounded = round_weights(weights, capped(*caps), digits)
    assert sum(rounded.tolist()) == 1.0
    assert math.fsum(rounded.tolist()) == 1.0
    assert sum(sorted(rounded.tolist())) == 1.0
    assert (rounded <= np.minimum(caps, 1) + 4.1e-12).all()
    if np.minimum(caps, 1)[weights > 0].sum() > 1 + k * 10.0**-digits:
        assert (rounded <= caps).all()
    assert (rounded >= 0).all()
    assert (rounded[weights == 0] == 0).all()
    assert np.abs(rounded - weights).max() <= 8 * 10.0**-digits
    assert np.array_equal(rounded, round_weights(weights, capped(*caps), digits))


def test_a_sum_that_only_some_orders_reach_is_not_enough():
    assert not sums_to_one(np.array([0.1] * 10))  # fsum gives 1.0, the plain sum 0.9999999999999999
    found = round_weights(np.full(10, 0.1), capped(*[1] * 10))
    assert sums_to_one(found)
