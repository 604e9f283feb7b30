import json
import math

import numpy as np
import pytest

from pipeline.mix.proposal import Estimate
from pipeline.mix.verify import Replicate, Verification, pooled_sd, verify_proposal
from pipeline.table.errors import InputError, WorkspaceError

WEIGHTS = {"a": 3.0, "b": 1.0}
PREDICTED = {"a": Estimate(1.0, 0.97, 1.03), "b": Estimate(2.0, 1.9, 2.1)}


def runs(levels: dict[str, float], noise=(-0.01, 0.0, 0.01), size: float = 1.0) -> list[Replicate]:
    """One run a seed: task `a` at the mixture's level and seed's noise, task `b` at twice the level."""
    return [
        Replicate(name, 100 + seed, {"a": level + e, "b": 2 * level + e}, size)
        for name, level in levels.items()
        for seed, e in enumerate(noise)
    ]


def verdict(levels, **kwargs) -> Verification:
    return verify_proposal(runs(levels, **kwargs), WEIGHTS, PREDICTED, Estimate(1.25, 1.2, 1.3))


def test_a_clear_win():
    found = verdict({"proposal": 1.0, "natural": 1.2, "uniform": 1.1, "best_seen": 1.002})
    assert found.wins
    assert found.mixture == "proposal"
    size = found.sizes[0]
    assert size.pooled_sd == pytest.approx(0.01)
    assert size.degrees_of_freedom == 8
    assert size.mean["proposal"] == pytest.approx(1.25)  # (3 * 1 + 2) / 4
    natural = size.differences["natural"]
    assert natural.value == pytest.approx(-0.25)
    assert natural.in_sd == pytest.approx(-25)
    assert natural.standard_error == pytest.approx(0.01 * math.sqrt(2 / 3))
    assert natural.high - natural.value == pytest.approx(1.859548 * 0.01 * math.sqrt(2 / 3), rel=1e-5)  # t(0.95, 8)
    assert "beats natural (-0.2500, -25.0 sd) and uniform" in found.why
    assert found.notes == ()


@pytest.mark.parametrize(
    ("levels", "mixture", "why"),
    [
        ({"proposal": 1.0, "natural": 1.02, "uniform": 1.1, "best_seen": 1.01}, "best_seen", "does not beat natural"),
        ({"proposal": 1.0, "natural": 1.1, "uniform": 1.02, "best_seen": 1.03}, "uniform", "does not beat uniform"),
        ({"proposal": 1.0, "natural": 1.1, "uniform": 1.1, "best_seen": 0.97}, "best_seen", "worse than the best run"),
    ],
)
def test_what_does_not_win_falls_back_and_says_why(levels, mixture, why):
    found = verdict(levels)
    assert not found.wins
    assert (found.decision, found.mixture) == ("fallback", mixture)
    assert why in found.why
    assert found.why.endswith(f"Falls back to the best observed mixture: {mixture}.")


def test_a_best_run_better_within_noise_does_not_count_against_the_proposal():
    assert verdict({"proposal": 1.0, "natural": 1.2, "uniform": 1.2, "best_seen": 0.995}).wins
    assert not verdict({"proposal": 1.0, "natural": 1.2, "uniform": 1.2, "best_seen": 0.98}).wins


def test_three_standard_deviations_is_the_border():
    # the weighted metric moves by 1.25 a level
    assert verdict({"proposal": 1.0, "natural": 1.0 + 0.0301 / 1.25, "uniform": 2.0}).wins
    assert not verdict({"proposal": 1.0, "natural": 1.0 + 0.0299 / 1.25, "uniform": 2.0}).wins


def test_a_proxy_without_noise_is_judged_by_sign_and_says_so():
    found = verdict({"proposal": 1.0, "natural": 1.0001, "uniform": 1.3, "best_seen": 1.0}, noise=(0.0, 0.0))
    assert found.wins
    assert found.sizes[0].pooled_sd == 0.0
    assert found.sizes[0].differences["natural"].in_sd is None
    assert "say nothing of the noise of a trained model" in found.notes[0]
    same = verdict({"proposal": 1.0, "natural": 1.0, "uniform": 1.3}, noise=(0.0, 0.0))
    assert not same.wins
    assert "does not beat natural (+0.0000) at all" in same.why


def test_the_larger_size_decides_and_a_disagreement_is_told():
    levels = {"proposal": 1.0, "natural": 1.2, "uniform": 1.2, "best_seen": 1.1}
    larger = {"proposal": 1.0, "natural": 1.01, "uniform": 1.2, "best_seen": 1.1}
    both = runs(levels) + runs(larger, size=4.0)
    found = verify_proposal(both, WEIGHTS, PREDICTED)
    assert [size.wins for size in found.sizes] == [True, False]
    assert (found.decision, found.mixture) == ("fallback", "natural")
    assert "wins at 1x, does not win at 4x; the largest decides" in found.notes[0]


def test_predictions_are_held_against_each_fresh_run_of_the_proxies_size():
    fresh = runs({"proposal": 1.025, "natural": 1.5}) + runs({"proposal": 0.5, "natural": 0.9}, size=4.0)
    held = verify_proposal(fresh, WEIGHTS, PREDICTED, Estimate(1.25, 1.2, 1.3)).held
    assert held["a"].measured == pytest.approx(1.025)
    assert (held["a"].inside, held["a"].runs) == (2, 3)  # 1.015 and 1.025 are inside 0.97 to 1.03, 1.035 is not
    assert held["b"].inside == 3
    assert held["weighted"].measured == pytest.approx(1.28125)
    assert list(held) == ["a", "b", "weighted"]


def test_pooling_weights_groups_by_their_degrees_of_freedom():
    groups = [[1.0, 2.0, 3.0], [10.0, 14.0], [5.0]]
    assert pooled_sd(groups) == (pytest.approx(math.sqrt((2.0 + 8.0) / 3)), 3)
    rng = np.random.default_rng(1)
    sd, _ = pooled_sd([list(rng.normal(level, 0.3, 50)) for level in range(40)])
    assert sd == pytest.approx(0.3, rel=0.05)


def test_equal_numbers_have_no_noise_whatever_the_mean_rounds_to():
    assert pooled_sd([[0.1, 0.1, 0.1], [0.7, 0.7, 0.7]])[0] == 0.0


def test_json_and_text():
    found = verdict({"proposal": 1.0, "natural": 1.2, "uniform": 1.1, "best_seen": 1.004})
    text = json.dumps(found.to_json(), allow_nan=False)
    assert Verification.from_json(json.loads(text)) == found
    lines = found.text().splitlines()
    assert lines[0] == "size 1x, seed sd 0.01000 (8 df)"
    assert lines[2].split() == ["proposal", "3", "1.25000"]
    assert lines[3].split() == ["best_seen", "3", "1.25500", "-0.00500", "-0.02018", "to", "+0.01018", "-0.5"]
    assert "  a              1.00000  0.97000 to 1.03000   1.00000  3 of 3" in lines
    assert lines[-1] == found.why


def test_a_damaged_file_is_one_line():
    value = verdict({"proposal": 1.0, "natural": 1.2}).to_json()
    value["decision"] = "perhaps"
    with pytest.raises(WorkspaceError, match=r"v.json: decision: .*mix verify"):
        Verification.from_json(value, "v.json")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no run was measured"),
        (runs({"proposal": 1.0}), "needs runs of `proposal` and of `natural`"),
        (runs({"natural": 1.0, "uniform": 1.0}), "needs runs of `proposal`"),
        (runs({"proposal": 1.0, "natural": 1.0}, noise=(0.0,)), "one seed of each mixture"),
        (runs({"proposal": 1.0, "natural": 1.0}) * 2, "given twice"),
        (runs({"proposal": 1.0, "natural": math.nan}), "has no finite 'a'"),
        ([Replicate("proposal", 1, {"a": 1.0})], "has no finite 'b'"),
    ],
)
def test_measurements_that_prove_nothing_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        verify_proposal(given, WEIGHTS, PREDICTED)


def test_false_wins_are_rare():
    """Of proposals that are no better than natural, few seem better by three standard deviations."""
    rng = np.random.default_rng(0)
    wins = 0
    for _ in range(300):
        made = [
            Replicate(name, seed, {"a": float(rng.normal(1, 0.01)), "b": 1.0})
            for name in ("proposal", "natural", "uniform", "best_seen")
            for seed in range(3)
        ]
        wins += verify_proposal(made, {"a": 1.0}, {}).wins
    assert wins <= 3
