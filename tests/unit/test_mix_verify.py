import json
import math

import numpy as np
import pytest

from pipeline.mix.types import Estimate, from_json, plain_json
from pipeline.mix.weights.verify import WEIGHTED, Belief, Fresh, Verification, pooled_sd, verify_proposal
from pipeline.table.errors import InputError, WorkspaceError

WEIGHTS = {"a": 3.0, "b": 1.0}
PREDICTED = {"a": Estimate(1.0, 0.97, 1.03), "b": Estimate(2.0, 1.9, 2.1)}
NAMES = ("proposal", "natural", "uniform", "best_seen")


def fresh(levels: dict[str, float], noise=(-0.01, 0.0, 0.01), size: float = 1.0) -> Fresh:
    """One run a seed: task `a` at the mixture's level and seed's noise, task `b` at twice the level."""
    values = [[[level + e, 2 * level + e] for e in noise] for level in levels.values()]
    return Fresh(size, tuple(levels), tuple(range(100, 100 + len(noise))), np.array(values))


def one_task(levels: dict[str, list[float]]) -> list[Fresh]:
    """One task `a`, with each mixture's values seed by seed."""
    values = np.array(list(levels.values()))
    return [Fresh(1.0, tuple(levels), tuple(range(values.shape[1])), values[:, :, None])]


def verdict(levels, **kwargs) -> Verification:
    return verify_proposal([fresh(levels, **kwargs)], WEIGHTS, PREDICTED, Estimate(1.25, 1.2, 1.3))


def test_a_clear_win_is_confirmed():
    found = verdict({"proposal": 1.0, "natural": 1.2, "uniform": 1.1, "best_seen": 1.002})
    assert (found.mixture, found.evidence) == ("proposal", "confirmed")
    size = found.sizes[0]
    assert size.pooled_sd == pytest.approx(0.01)
    assert size.degrees_of_freedom == 8
    assert size.mean["proposal"] == pytest.approx(1.25)  # (3 * 1 + 2) / 4
    assert size.differences["natural"].value == pytest.approx(-0.25)
    assert size.differences["natural"].in_sd == pytest.approx(-25)
    assert "beats natural (-0.2500, -25.0 sd) and uniform" in found.why
    assert found.gain.value == pytest.approx(0.25)
    assert found.notes == ()


def test_what_all_mixtures_share_of_a_seed_does_not_hide_a_difference():
    """Measured in the quickstart: the proposal is better with every seed, by less than three deviations of a seed."""
    shared = [-0.006, 0.0, 0.006]
    found = verify_proposal(
        one_task({
            "proposal": [2.042 + e for e in shared],
            "natural": [2.113 + e for e in shared],
            "uniform": [2.042 + 0.0155 + shared[0], 2.042 + 0.0163 + shared[1], 2.042 + 0.0191 + shared[2]],
            "best_seen": [2.042 + 0.0148 + shared[0], 2.042 + 0.0121 + shared[1], 2.042 + 0.0139 + shared[2]],
        }),
        {"a": 1.0}, {},
    )  # fmt: skip
    assert (found.mixture, found.evidence) == ("proposal", "likely")
    best = found.sizes[0].differences["best_seen"]
    assert best.value == pytest.approx(-0.0136)
    # paired t with two degrees of freedom: 2.91999 * 0.0013748 / sqrt(3)
    assert best.high - best.value == pytest.approx(
        2.91999 * np.std([0.0148, 0.0121, 0.0139], ddof=1) / 3**0.5, rel=1e-4
    )
    assert "beats natural in paired runs" in found.why


def test_the_least_expected_is_written_whatever_it_is():
    assert verdict({"proposal": 1.0, "natural": 1.1, "uniform": 1.1, "best_seen": 0.97}).mixture == "best_seen"
    assert verdict({"proposal": 1.0, "natural": 1.1, "uniform": 0.9}).mixture == "uniform"
    natural = verdict({"proposal": 1.0, "natural": 0.999, "uniform": 1.1, "best_seen": 1.2})
    assert (natural.mixture, natural.evidence) == ("natural", "none")
    assert natural.why == "Nothing is expected to be better than the natural mixture, so that is written."
    assert natural.gain == Estimate(0.0, 0.0, 0.0)


def test_of_equals_the_natural_mixture_is_written():
    assert verdict(dict.fromkeys(NAMES, 1.0)).mixture == "natural"


def test_a_replacement_is_held_to_the_same_arithmetic():
    """Uniform is measured best, but is no better than natural by more than its runs vary."""
    found = verify_proposal(
        one_task({"proposal": [1.2, 1.2, 1.2], "natural": [1.00, 1.02, 1.01], "uniform": [1.02, 0.98, 1.0]}),
        {"a": 1.0}, {},
    )  # fmt: skip
    assert (found.mixture, found.evidence) == ("uniform", "none")
    assert "does not surely beat natural" in found.why


def test_three_standard_deviations_are_the_border_of_confirmed():
    # the weighted metric moves by 1.25 a level
    assert verdict({"proposal": 1.0, "natural": 1.0 + 0.0301 / 1.25, "uniform": 2.0}).evidence == "confirmed"
    assert verdict({"proposal": 1.0, "natural": 1.0 + 0.0299 / 1.25, "uniform": 2.0}).evidence == "likely"
    assert verdict({"proposal": 1.0, "natural": 2.0, "uniform": 1.0 + 0.0299 / 1.25}).evidence == "likely"


def test_luck_is_drawn_back_towards_what_was_expected():
    """By hand: prior variance 1e-4 for each, error variance 3e-4 over three seeds, so it is half and half."""
    error = np.array([[1, -1, 0], [-1, 0, 1], [0, 1, -1]]) * 0.01 * math.sqrt(2)
    levels = dict(
        zip(("proposal", "natural", "uniform"), (np.array([[1.0], [1.02], [0.98]]) + error).tolist(), strict=True)
    )
    belief = Belief(("natural", "proposal", "uniform"), np.array([1.02, 0.98, 1.04]), 1e-4 * np.eye(3))
    found = verify_proposal(one_task(levels), {"a": 1.0}, {}, beliefs={WEIGHTED: belief, "a": belief})
    # Residuals within mixtures and seeds: a sum of squares of 12e-4, 4 degrees of freedom; over 3 seeds 1e-4.
    assert {name: e.value for name, e in found.sizes[0].expected.items()} == pytest.approx(
        {"proposal": 0.99, "natural": 1.02, "uniform": 1.01}
    )
    assert found.mixture == "proposal"  # uniform was measured better
    assert verify_proposal(one_task(levels), {"a": 1.0}, {}).mixture == "uniform"


def test_a_new_runs_interval_holds_its_share_of_fresh_runs():
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(400):
        truth = {name: 1.0 + rng.normal(0, 0.01) for name in NAMES}
        offsets = rng.normal(0, 0.01, 3)
        levels = {n: (level + offsets + rng.normal(0, 0.003, 3)).tolist() for n, level in truth.items()}
        belief = Belief(NAMES, np.ones(4), 1e-4 * np.eye(4) + 1e-4 / 8, 0.0104 * math.sqrt(rng.chisquare(7) / 7), 7)
        found = verify_proposal(one_task(levels), {"a": 1.0}, {}, beliefs={WEIGHTED: belief, "a": belief})
        fresh = truth[found.mixture] + rng.normal(0, 0.01) + rng.normal(0, 0.003)
        inside += found.written["a"].low <= fresh <= found.written["a"].high
    assert 0.86 <= inside / 400 <= 0.94


def test_a_proxy_without_noise_is_judged_by_sign_and_says_so():
    found = verdict({"proposal": 1.0, "natural": 1.0001, "uniform": 1.3, "best_seen": 1.0}, noise=(0.0, 0.0))
    assert (found.mixture, found.evidence) == ("proposal", "confirmed")
    assert found.sizes[0].pooled_sd == 0.0
    assert found.sizes[0].differences["natural"].in_sd is None
    assert "say nothing of the noise of a trained model" in found.notes[0]


def test_the_larger_size_decides_and_a_disagreement_is_told():
    levels = {"proposal": 1.0, "natural": 1.2, "uniform": 1.2, "best_seen": 1.1}
    larger = {"proposal": 1.0, "natural": 0.95, "uniform": 1.2, "best_seen": 1.1}
    both = [fresh(levels), fresh(larger, noise=(0.0, 0.01, 0.02), size=4.0)]
    found = verify_proposal(both, WEIGHTS, PREDICTED)
    assert [size.best for size in found.sizes] == ["proposal", "natural"]
    assert (found.mixture, found.evidence) == ("natural", "none")
    assert "proposal is best at 1x, natural is best at 4x; the largest decides" in found.notes[0]


def test_a_task_where_larger_is_better_counts_the_other_way():
    values = [[[level + 0.001 * s, 1.0] for s in (1, 2)] for level in (0.5, 0.4)]
    made = [Fresh(1.0, ("proposal", "natural"), (1, 2), np.array(values))]
    assert verify_proposal(made, {"a": -1.0, "b": 1.0}, {}).mixture == "proposal"
    assert verify_proposal(made, {"a": 1.0, "b": 1.0}, {}).mixture == "natural"


def test_predictions_are_held_against_each_fresh_run_of_the_proxies_size():
    both = [fresh({"proposal": 1.025, "natural": 1.5}), fresh({"proposal": 0.5, "natural": 0.9}, size=4.0)]
    held = verify_proposal(both, WEIGHTS, PREDICTED, Estimate(1.25, 1.2, 1.3)).held
    assert held["a"].measured == pytest.approx(1.025)
    assert (held["a"].inside, held["a"].runs) == (2, 3)  # 1.015 and 1.025 are inside 0.97 to 1.03, 1.035 is not
    assert held["b"].inside == 3
    assert held[WEIGHTED].measured == pytest.approx(1.28125)
    assert list(held) == ["a", "b", WEIGHTED]


def test_noise_is_pooled_within_mixtures():
    assert pooled_sd(np.array([[1.0, 2.0, 3.0], [10.0, 14.0, 12.0]])) == pytest.approx(math.sqrt((2.0 + 8.0) / 4))
    rng = np.random.default_rng(1)
    assert pooled_sd(rng.normal(np.arange(40.0)[:, None], 0.3, (40, 50))) == pytest.approx(0.3, rel=0.05)


def test_equal_numbers_have_no_noise_whatever_the_mean_rounds_to():
    assert pooled_sd(np.array([[0.1, 0.1, 0.1], [0.7, 0.7, 0.7]])) == 0.0


def test_json_and_text():
    found = verdict({"proposal": 1.0, "natural": 1.2, "uniform": 1.1, "best_seen": 1.004})
    text = json.dumps(plain_json(found), allow_nan=False)
    assert from_json(Verification, json.loads(text), "v.json", "verify") == found
    lines = str(found).splitlines()
    assert lines[0] == "size 1x, seed sd 0.01000 (8 df)"
    assert lines[2].split() == ["proposal", "3", "1.25000", "1.25000", "(written)"]
    assert lines[3].split()[:5] == ["best_seen", "3", "1.25500", "1.25500", "-0.00500"]
    assert "  a              1.00000  0.97000 to 1.03000   1.00000  3 of 3" in lines
    assert lines[-1] == found.why


def test_a_damaged_file_is_one_line():
    value = plain_json(verdict({"proposal": 1.0, "natural": 1.2}))
    value["evidence"] = "perhaps"
    with pytest.raises(WorkspaceError, match=r"v.json: evidence: .*mix verify"):
        from_json(Verification, value, "v.json", "verify")


def test_a_measurement_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="natural with seed 100 has no finite 'a'"):
        verify_proposal([fresh({"proposal": 1.0, "natural": math.nan})], WEIGHTS, PREDICTED)


def test_false_confirmations_are_rare():
    """Of proposals that are no better than natural, few seem better by three standard deviations."""
    rng = np.random.default_rng(0)
    confirmed = 0
    for _ in range(300):
        made = {name: rng.normal(1, 0.01, 3).tolist() for name in NAMES}
        confirmed += verify_proposal(one_task(made), {"a": 1.0}, {}).evidence == "confirmed"
    assert confirmed <= 3
