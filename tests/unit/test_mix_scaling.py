"""The scaling law: its fit, intervals, files, and what it says to train."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.mix.scaling import allocate as allocation
from pipeline.mix.scaling import table as scaling
from pipeline.mix.scaling.law import ScalingLaw, ScalingRuns, evaluate, fit_law, predict
from pipeline.table.errors import InputError, ShardError, UsageError
from tests.bench.bench_scaling import WHAT, covered, generate

CHINCHILLA = np.array([1.69, 406.4, 0.34, 410.7, 0.28])


def chinchilla_runs(noise: float = 0.0) -> ScalingRuns:
    sizes, tokens = np.meshgrid(np.geomspace(4e7, 1e10, 6), np.geomspace(1e9, 4e11, 6))
    errors = np.random.default_rng(5).standard_normal(36)
    loss = evaluate(CHINCHILLA, sizes.ravel(), tokens.ravel())[0] * np.exp(noise * errors)
    return ScalingRuns(sizes.ravel(), tokens.ravel(), loss)


def exact_law() -> ScalingLaw:
    spread = np.exp(0.01 * np.random.default_rng(1).standard_normal((50, 5)))
    return ScalingLaw(CHINCHILLA, CHINCHILLA * spread, 0.01, 1e-3, 36, (4e7, 1e10), (1e9, 4e11))


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def table(path: Path, runs: ScalingRuns, header: str = "parameters,tokens,loss") -> Path:
    rows = zip(runs.parameters, runs.tokens, runs.loss, strict=True)
    return write(path, [header, *(f"{n!r},{d!r},{loss!r}" for n, d, loss in (map(float, row) for row in rows))])


# The law --------------------------------------------------------------------------------------------------------------


def test_runs_without_noise_give_the_law_back():
    law = fit_law(chinchilla_runs(), bootstrap=16)
    np.testing.assert_allclose(law.theta, CHINCHILLA, rtol=1e-3)


def test_one_wild_run_does_not_move_the_law():
    runs = chinchilla_runs(0.002)
    spoilt = runs.loss.copy()
    spoilt[7] *= 1.5
    clean, fitted = (fit_law(ScalingRuns(runs.parameters, runs.tokens, y), bootstrap=8) for y in (runs.loss, spoilt))
    np.testing.assert_allclose(fitted.theta[[0, 2, 4]], clean.theta[[0, 2, 4]], rtol=0.03)


def test_the_same_seed_gives_the_same_draws_and_another_does_not():
    runs = chinchilla_runs(0.01)
    first, again, other = (fit_law(runs, bootstrap=8, seed=seed).draws for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, other)


def test_intervals_cover_the_truth_about_nine_times_in_ten():
    """48 tables. Where the coverage is 0.9, each of seven counts is below its bound less often than once in 10^4.

    Intervals that always cover are no use: three kinds are independent, and all hit by chance 0.9 ** 144.
    """
    hits = np.array([covered(generate("random", seed), 64, seed) for seed in range(48)]).sum(axis=0)
    least = int(binom.ppf(1e-4, 48, 0.9))
    assert dict(zip(WHAT, hits >= least, strict=True)) == dict.fromkeys(WHAT, True), hits
    assert hits.sum() < 48 * len(WHAT)


def test_a_prediction_lies_in_its_interval_and_a_single_runs_is_wider():
    law = fit_law(chinchilla_runs(0.01), bootstrap=32)
    said = predict(law, np.array([1e9, 1e12]), np.array([1e10, 1e13]))
    assert (said.lo < said.loss).all()
    assert (said.loss < said.hi).all()
    assert (said.run_lo < said.lo).all()
    assert (said.run_hi > said.hi).all()


@pytest.mark.parametrize(
    ("sizes", "tokens", "said"),
    [
        ([1e8, 2e8, 3e8, 4e8, 5e8], [1e9, 2e9, 3e9, 4e9, 5e9], "5 runs cannot identify the law's five values"),
        ([1e8] * 8, np.geomspace(1e9, 1e11, 8), "1 distinct value of parameters: E, A and alpha are not identifiable"),
        (np.geomspace(1e8, 1e9, 8), [1e10] * 8, "1 distinct value of tokens: E, B and beta are not identifiable"),
        ([1e8, 1e9] * 4, np.geomspace(1e9, 1e11, 8), "2 distinct values of parameters"),
        ([1e8, 2e8, 3e8] * 3, [1e9, 2e9, 3e9] * 3, "9 runs at 3 places"),
    ],
)
def test_runs_that_leave_values_open_are_refused(sizes, tokens, said):
    sizes, tokens = np.array(sizes), np.array(tokens)
    with pytest.raises(InputError, match=said):
        fit_law(ScalingRuns(sizes, tokens, evaluate(CHINCHILLA, sizes, tokens)[0]), bootstrap=8)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0, 1e300])
def test_a_loss_that_cannot_be_one_is_named(value):
    runs = chinchilla_runs()
    loss = runs.loss.copy()
    loss[3] = value
    with pytest.raises(InputError, match="loss of run 3 is"):
        fit_law(ScalingRuns(runs.parameters, runs.tokens, loss), bootstrap=8)


def test_sizes_and_tokens_that_move_together_are_noted():
    sizes = np.geomspace(1e7, 1e10, 12)
    runs = ScalingRuns(sizes, 20 * sizes, evaluate(CHINCHILLA, sizes, 20 * sizes)[0])
    assert any("move together" in note for note in fit_law(runs, bootstrap=8).notes)


def test_equal_losses_are_fitted_without_an_error_and_noted():
    runs = chinchilla_runs()
    law = fit_law(ScalingRuns(runs.parameters, runs.tokens, np.full(36, 2.5)), bootstrap=8)
    assert np.isfinite(law.draws).all()
    assert law.notes


# What to train --------------------------------------------------------------------------------------------------------


def test_the_compute_optimum_is_where_no_other_size_does_better():
    best = allocation.compute_optimal(exact_law(), 5.88e23)
    sizes = np.geomspace(best.parameters.value / 10, best.parameters.value * 10, 2001)
    losses = evaluate(CHINCHILLA, sizes, 5.88e23 / 6 / sizes)[0]
    assert best.loss.value <= losses.min() * (1 + 1e-12)
    assert sizes[losses.argmin()] == pytest.approx(best.parameters.value, rel=0.01)
    assert 6 * best.parameters.value * best.tokens.value == pytest.approx(5.88e23)
    assert best.parameters.low < best.parameters.value < best.parameters.high


def test_serving_nothing_gives_the_compute_optimum():
    law = exact_law()
    best = allocation.compute_optimal(law, 1e22)
    for other in (allocation.serving_budget(law, 1e22, 0), allocation.serving_same_loss(law, 1e22, 0)):
        assert other.parameters.value == pytest.approx(best.parameters.value, rel=1e-5)
        assert other.flops.value == pytest.approx(1e22, rel=1e-6)
        assert other.parameters.high == pytest.approx(best.parameters.high, rel=1e-5)


def test_serving_asks_for_a_smaller_model_on_more_tokens_at_the_same_loss_for_less():
    law, served = exact_law(), 2e12
    best = allocation.compute_optimal(law, 1e22)
    same = allocation.serving_same_loss(law, 1e22, served)
    assert same.parameters.value < best.parameters.value
    assert same.tokens.value > best.tokens.value
    assert same.loss.value == pytest.approx(best.loss.value)
    assert same.flops.value < 1e22 + 2 * best.parameters.value * served
    reached = evaluate(CHINCHILLA, np.array([same.parameters.value]), np.array([same.tokens.value]))[0, 0]
    assert reached == pytest.approx(same.loss.value, rel=1e-9)


def test_no_other_size_reaches_the_target_for_less():
    served = 1e12
    best = allocation.serving_same_loss(exact_law(), 1e22, served)
    target = best.loss.value
    sizes = best.parameters.value * np.geomspace(0.7, 3, 500)
    left = target - CHINCHILLA[0] - CHINCHILLA[1] / sizes ** CHINCHILLA[2]
    sizes, left = sizes[left > 0], left[left > 0]
    cost = 6 * sizes * (CHINCHILLA[3] / left) ** (1 / CHINCHILLA[4]) + 2 * sizes * served
    assert best.flops.value <= cost.min()
    assert best.flops.value == pytest.approx(cost.min(), rel=1e-3)


def test_no_other_size_does_better_in_the_same_budget():
    budget, served = 1e22, 3e12
    best = allocation.serving_budget(exact_law(), budget, served)
    assert 6 * best.parameters.value * (best.tokens.value + served / 3) == pytest.approx(budget)
    sizes = best.parameters.value * np.geomspace(0.5, 2, 501)
    tokens = budget / 6 / sizes - served / 3
    losses = evaluate(CHINCHILLA, sizes[tokens > 0], tokens[tokens > 0])[0]
    assert best.loss.value <= losses.min() * (1 + 1e-12)


@pytest.mark.parametrize("flops", [0.0, -1.0, float("nan"), float("inf"), 1e60])
def test_a_budget_that_is_no_budget_is_refused(flops):
    with pytest.raises(UsageError, match="flops is"):
        allocation.compute_optimal(exact_law(), flops)


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_csv_becomes_a_fit_that_predicts_and_allocates(tmp_path):
    source = table(tmp_path / "runs.csv", chinchilla_runs(0.003))
    report = scaling.fit_file(source, tmp_path / "fit", bootstrap=32)
    assert "fitted to 36 runs" in report
    assert sorted(path.name for path in (tmp_path / "fit").iterdir()) == ["fit.json", "isoflop.png"]
    content = json.loads((tmp_path / "fit" / "fit.json").read_text())
    assert content["values"]["E"]["lo"] < 1.69 < content["values"]["E"]["hi"]
    law = fit_law(chinchilla_runs(0.003), bootstrap=32)
    said, _ = scaling.predict_file(tmp_path / "fit", 1e9, 1e11)
    expected = predict(law, np.array([1e9]), np.array([1e11]))
    assert (said["loss"], said["hi"]) == (expected.loss[0], expected.hi[0])
    found = scaling.allocate(tmp_path / "fit", 1e21, served_tokens=1e11)
    assert list(found) == ["compute_optimal", "same_loss", "same_budget"]
    text = scaling.describe_allocations(tmp_path / "fit", found, 1e11)
    assert text.count("parameters ") == 3
    assert list(found["same_loss"].plain()) == ["parameters", "tokens", "loss", "flops"]
    assert found["same_loss"].plain()["loss"].keys() == {"value", "lo", "hi"}


def test_the_same_table_gives_the_same_bytes(tmp_path):
    source = table(tmp_path / "runs.csv", chinchilla_runs(0.003))
    for name in ("one", "two"):
        scaling.fit_file(source, tmp_path / name, bootstrap=8)
    for file in ("fit.json", "isoflop.png"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert (tmp_path / "one" / "isoflop.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("header", ["N,D,L", "Params, Tokens ,LOSS", "n_params,n_tokens,val_loss"])
def test_usual_names_of_columns_are_known(tmp_path, header):
    runs = chinchilla_runs(0.01)
    read = scaling.read_runs(table(tmp_path / "runs.csv", runs, header))
    np.testing.assert_array_equal(read.loss, runs.loss)
    np.testing.assert_array_equal(read.parameters, runs.parameters)


def test_other_columns_blank_lines_and_a_byte_order_mark_are_ignored(tmp_path):
    path = write(
        tmp_path / "runs.csv", ["\ufeffname,loss,tokens,parameters", "a,2.5,1e9,1e8", "", '"b, c",2.4,2e9,1e8']
    )
    read = scaling.read_runs(path)
    np.testing.assert_array_equal(read.loss, [2.5, 2.4])
    np.testing.assert_array_equal(read.tokens, [1e9, 2e9])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["parameters,tokens,los", "1e8,1e9,2"], r"no column 'loss' \(nearest: 'los'\)"),
        (["parameters,tokens,loss", "1e8,1e9,2", "1e8,1e9,nan"], "line 3: loss is 'nan'"),
        (["parameters,tokens,loss", "1e8,-5,2"], "line 2: tokens is '-5'"),
        (["parameters,tokens,loss", "1e8,1e9,2", "", "many,1e9,2"], "line 4: parameters is 'many'"),
        (["parameters,tokens,loss", "1e8,1e9"], "line 2: loss is ''"),
        (["loss,tokens,loss,n", "1,2,3,4"], "2 columns are named 'loss'"),
        ([""], "no column 'parameters'; columns are none"),
        (["parameters,tokens,loss"], "0 runs cannot identify"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(tmp_path, lines, said):
    with pytest.raises(InputError, match=said) as caught:
        scaling.fit_file(write(tmp_path / "runs.csv", lines), tmp_path / "fit")
    assert "\n" not in str(caught.value)
    assert "runs.csv" in str(caught.value)
    assert not (tmp_path / "fit").exists()


def test_an_absent_table_or_fit_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        scaling.fit_file(tmp_path / "none.csv", tmp_path / "fit")
    with pytest.raises(InputError, match="scaling fit"):
        scaling.predict_file(tmp_path / "fit", 1e9, 1e10)
    write(tmp_path / "fit.json", ["[1, 2"])
    with pytest.raises(InputError, match="cannot be read"):
        scaling.load(tmp_path)
    write(tmp_path / "fit.json", ['{"format": "gristmill scaling law", "version": 1, "values": {}}'])
    with pytest.raises(InputError, match="is not a scaling law of this version"):
        scaling.load(tmp_path)


def test_far_predictions_are_called_extrapolations(tmp_path):
    scaling.save(exact_law(), tmp_path, {})
    _, near = scaling.predict_file(tmp_path, 5e10, 1e12)
    far = "".join(scaling.predict_file(tmp_path, *each)[1] for each in ((2e11, 1e11), (1e9, 1e11), (1e6, 1e13)))
    assert "extrapolation" not in near
    assert "parameters 2e+11 is 20 times the largest fitted" in far
    assert "parameters 1e+06 is 1/40 of the smallest fitted" in far
    assert far.count("extrapolation") == 3


def test_predictions_for_what_is_no_size_are_refused(tmp_path):
    scaling.save(exact_law(), tmp_path, {})
    with pytest.raises(UsageError, match="parameters: -1"):
        scaling.predict_file(tmp_path, -1, 1e10)
    with pytest.raises(UsageError, match="tokens: inf"):
        scaling.predict_file(tmp_path, 1e9, float("inf"))


def test_a_folder_that_is_a_file_is_said(tmp_path):
    write(tmp_path / "taken", ["x"])
    with pytest.raises(ShardError, match="cannot write"):
        scaling.save(exact_law(), tmp_path / "taken", {})
