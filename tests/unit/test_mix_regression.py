"""The regression: laws, tables, small and odd problems, saving, files."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from pipeline.mix.regression import Fit, fit, fit_files, predict_files, read_tables, render_report
from pipeline.mix.regression.choice import FEW_RUNS_A_SLICE, split
from pipeline.mix.regression.fitting import candidates, seed_variance
from pipeline.mix.regression.laws import LAWS
from pipeline.mix.regression.process import _evidence, draw_process, fit_process, matern, to_features
from pipeline.mix.regression.scores import spearman
from pipeline.table.errors import InputError

MODELS = ["linear", "log_linear", "additive", "effective_data", "gp", "lightgbm", "ensemble"]


def mixtures(n: int, k: int, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).dirichlet(np.full(k, 0.5), n)
    weights[weights < 0.01] = 0
    return weights / weights.sum(1, keepdims=True)


def losses(weights: np.ndarray, m: int, noise: float = 0.0, seed: int = 1) -> np.ndarray:
    """An effective-data law for each metric, one slice much more useful than the others."""
    random = np.random.default_rng(seed)
    share = np.exp(random.normal(-3, 1, (m, weights.shape[1])))
    share[np.arange(m), np.arange(m) % weights.shape[1]] = 1.0
    clean = 1.5 + (weights**0.5 @ share.T + 0.1) ** -0.5
    return clean + noise * random.standard_normal(clean.shape)


@pytest.mark.parametrize("name", sorted(LAWS))
def test_derivatives_are_those_of_the_law(name):
    law, weights = LAWS[name], mixtures(9, 4)
    random = np.random.default_rng(3)
    centre = np.r_[law.centre, np.full(4, min(law.slice_centre, 0.3))]
    theta = centre + 0.3 * random.standard_normal((3, len(centre)))
    value, jacobian = law.evaluate(theta, weights, True)
    assert np.array_equal(value, law.evaluate(theta, weights, False)[0])
    for i in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[i] = 1e-6
        ahead, behind = (law.evaluate(theta + s, weights, False)[0] for s in (step, -step))
        np.testing.assert_allclose(jacobian[:, :, i], (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-7)


def test_effective_data_is_the_formula_of_its_docstring():
    theta = np.array([[1.0, np.log(0.7), np.log(0.4), np.log(0.2), np.log(2.0), np.log(3.0)]])
    value, _ = LAWS["effective_data"].evaluate(theta, np.array([[0.25, 0.75], [1.0, 0.0]]), False)
    expected = [1 + (2 * 0.25**0.4 + 3 * 0.75**0.4 + 0.2) ** -0.7, 1 + 2.2**-0.7]
    np.testing.assert_allclose(value[0], expected, rtol=1e-12)


def test_evidence_has_the_right_gradient():
    features, random = to_features(mixtures(20, 3)), np.random.default_rng(0)
    residual, row_noise = random.standard_normal(20), random.uniform(1, 3, 20)
    point = random.normal(-0.5, 0.3, 5)
    _, slope = _evidence(point, features, residual, row_noise)
    for i in range(5):
        step = np.zeros(5)
        step[i] = 1e-6
        ahead, behind = (_evidence(point + s, features, residual, row_noise)[0] for s in (step, -step))
        assert slope[i] == pytest.approx((ahead - behind) / 2e-6, rel=1e-4, abs=1e-6)


def test_process_draws_have_the_posteriors_mean_and_variance():
    weights, random = mixtures(30, 3), np.random.default_rng(2)
    residual = np.sin(4 * weights[:, :1]) + 0.1 * random.standard_normal((30, 1))
    process = fit_process(weights, residual, np.ones((30, 1)))
    targets = np.repeat(residual.T[:, None], 3000, axis=1)
    draws = draw_process(process, targets, random).draws(mixtures(12, 3, 9))
    mean, variance = process.moments(mixtures(12, 3, 9))
    np.testing.assert_allclose(draws.mean(0), mean, atol=4 * np.sqrt(variance.max() / 3000) + 0.01)
    np.testing.assert_allclose(draws.var(0), variance, rtol=0.35, atol=0.02 * process.amplitude[0])


def test_matern_is_the_textbook_kernel():
    distance = np.sqrt(3) * 0.5
    kernel = matern(np.array([[0.0, 0.0]]), np.array([[0.3, 0.4], [0.0, 0.0]]), 2.0)
    np.testing.assert_allclose(kernel, [[2 * (1 + distance) * np.exp(-distance), 2.0]], rtol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_fits_predicts_and_survives_saving(model, tmp_path):
    weights = mixtures(60, 4)
    fitted = fit(weights, losses(weights, 2, 0.01), model=model, bootstrap=16)
    new = mixtures(40, 4, 5)
    predicted, truth = fitted.predict(new), losses(new, 2)
    floor = {"linear": 0.6, "lightgbm": 0.8}.get(model, 0.95)
    assert all(spearman(predicted.mean[:, j], truth[:, j]) > floor for j in range(2))
    narrower = np.less if model != "lightgbm" else np.equal
    assert narrower(predicted.low, predicted.mean_low).sum() == predicted.low.size
    assert narrower(-predicted.high, -predicted.mean_high).all()
    fitted.save(tmp_path)
    again = Fit.load(tmp_path)
    assert np.array_equal(again.draws(new), fitted.draws(new))
    assert np.array_equal(again.predict(new).high, predicted.high)
    assert [row["model"] for row in again.report["metrics"]] == [model, model]


def test_effective_data_law_finds_what_made_the_data():
    weights = mixtures(48, 5)
    fitted = fit(weights, losses(weights, 5, 0.005))
    assert {row["model"] for row in fitted.report["metrics"]} <= {"effective_data", "gp", "ensemble"}
    new = mixtures(200, 5, 7)
    predicted, truth = fitted.predict(new), losses(new, 5, 0.005, seed=1)
    assert np.sqrt(((predicted.mean - losses(new, 5)) ** 2).mean()) < 0.02
    assert 0.8 < ((truth >= predicted.low) & (truth <= predicted.high)).mean() <= 1


def test_a_metric_that_rises_is_fitted_as_well():
    weights = mixtures(40, 6)
    accuracy = -losses(weights, 3, 0.01)
    up, down = (fit(weights, values, model="effective_data") for values in (accuracy, -accuracy))
    new = mixtures(20, 6, 4)
    np.testing.assert_allclose(up.mean(new), -down.mean(new), atol=0.03)


def test_units_do_not_matter():
    weights = mixtures(30, 4)
    values = losses(weights, 2, 0.01)
    plain, scaled = (fit(weights, v, model="gp", bootstrap=8) for v in (values, values * 1e6 - 7e6))
    np.testing.assert_allclose(scaled.mean(weights), plain.mean(weights) * 1e6 - 7e6, rtol=1e-4)


def test_fewer_runs_than_slices_gives_wide_intervals():
    weights, new = mixtures(8, 20), mixtures(300, 20, 3)
    fitted = fit(weights, losses(weights, 2, 0.01))
    predicted, truth = fitted.predict(new), losses(new, 2, 0.01)
    assert ((truth >= predicted.low) & (truth <= predicted.high)).mean() > 0.85
    full = mixtures(200, 20, 8)
    better = fit(full, losses(full, 2, 0.01), model="effective_data").predict(new)
    assert (predicted.high - predicted.low).mean() > 2 * (better.high - better.low).mean()


def test_a_slice_that_no_run_used_is_uncertain():
    weights = mixtures(40, 4)
    weights[:, 3] = 0
    fitted = fit(weights, losses(weights, 2, 0.01), model="effective_data")
    known, unknown = fitted.predict(np.array([[0.4, 0.3, 0.3, 0.0], [0.0, 0.0, 0.0, 1.0]])).mean_high - fitted.mean(
        np.array([[0.4, 0.3, 0.3, 0.0], [0.0, 0.0, 0.0, 1.0]])
    )
    assert (unknown > 3 * known).all()


def test_one_slice_and_a_constant_metric():
    values = np.c_[[2.0, 2.1, 1.9, 2.05], np.full(4, 3.0)]
    fitted = fit(np.ones((4, 1)), values)
    predicted = fitted.predict(np.ones((1, 1)))
    assert predicted.mean[0] == pytest.approx([2.0125, 3.0], abs=0.05)
    assert predicted.low[0, 0] < 1.95 < 2.08 < predicted.high[0, 0]
    assert predicted.low[0, 1] == predicted.high[0, 1] == 3.0
    assert [row["model"] for row in fitted.report["metrics"]] == ["effective_data", "constant"]
    json.dumps(fitted.report, allow_nan=False)


def test_all_metrics_constant():
    fitted = fit(mixtures(5, 3), np.full((5, 2), 4.0))
    assert np.array_equal(fitted.predict(mixtures(2, 3)).high, np.full((2, 2), 4.0))
    assert fitted.draws(mixtures(2, 3)).shape == (1, 2, 2)


def test_slices_that_always_come_together():
    weights = mixtures(30, 3)
    twin = np.c_[weights[:, :2], weights[:, 2:] / 2, weights[:, 2:] / 2]
    single, double = (fit(w, losses(weights, 2, 0.01), model="effective_data", bootstrap=8) for w in (weights, twin))
    np.testing.assert_allclose(double.mean(twin), single.mean(weights), atol=0.05)


def test_replicates_tell_the_seed_noise_and_stay_in_one_fold():
    weights = np.repeat(mixtures(10, 3), 3, axis=0)
    values = losses(weights, 1) + 0.2 * np.random.default_rng(0).standard_normal((30, 1))
    assert seed_variance(weights, values)[0] == pytest.approx(0.04, rel=0.6)
    fold = split(weights, 5, 1)
    assert all(len(set(fold[i : i + 3])) == 1 for i in range(0, 30, 3))
    predicted = fit(weights, values, model="effective_data").predict(weights[::3])
    assert (predicted.high - predicted.low).mean() > 2 * 1.6 * 0.15


def test_a_stopped_run_counts_for_less():
    weights = mixtures(24, 3)
    values = losses(weights, 1, 0.005)
    wrong = values.copy()
    wrong[4] += 0.5
    variance = np.zeros(24)
    variance[4] = 1.0
    truth = fit(weights, values, model="log_linear").mean(weights)
    heard = fit(weights, wrong, model="log_linear", run_variance=variance).mean(weights)
    assert np.abs(heard - truth).max() < 0.05


def test_auto_chooses_only_with_many_runs():
    assert candidates("auto", 51, 17) == ("effective_data",)
    assert len(candidates("auto", FEW_RUNS_A_SLICE * 17, 17)) > 3
    assert "gp" not in candidates("auto", 5000, 17)
    with pytest.raises(InputError, match="at most 2000 runs"):
        candidates("gp", 5000, 17)


def test_many_runs_choose_what_made_the_data():
    weights = mixtures(120, 3)
    straight = weights @ np.array([[1.0], [3.0], [2.0]]) + 0.02 * np.random.default_rng(0).standard_normal((120, 1))
    fitted = fit(weights, straight, bootstrap=8)
    assert fitted.report["metrics"][0]["model"] in ("linear", "ensemble", "additive", "gp")
    assert fitted.report["metrics"][0]["r2"] > 0.98
    assert fitted.report["metrics"][0]["runs"] == 120


@pytest.mark.parametrize(
    ("weights", "values", "message"),
    [
        (np.ones((2, 2)), np.ones((2, 1)), "2 runs are too few"),
        (np.ones((100_001, 1)), np.ones((100_001, 1)), "at most 100,000"),
        (np.array([[1.0, -1.0]] * 3), np.ones((3, 1)), "not negative"),
        (np.array([[0.0, 0.0]] * 3), np.ones((3, 1)), "not all zero"),
        (np.ones((3, 2)), np.array([[1.0], [np.nan], [2.0]]), "metric 0 of run 1 is nan"),
        (np.ones((3, 2)), np.ones((4, 1)), r"expected \(3, metrics\)"),
        (np.ones(3), np.ones((3, 1)), "shape"),
    ],
)
def test_what_cannot_be_fitted_is_one_clear_error(weights, values, message):
    with pytest.raises(InputError, match=message):
        fit(weights, values)


def test_same_input_same_bytes_and_other_seed_other_draws(tmp_path):
    weights = mixtures(20, 3)
    values = losses(weights, 2, 0.01)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fit(weights, values, seed=seed, bootstrap=8, model="gp").save(tmp_path / name)
    a, b, c = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b
    assert a != c
    assert len(a) == 2


def test_a_new_fit_replaces_the_old_one(tmp_path):
    weights = mixtures(20, 3)
    fit(weights, losses(weights, 1), bootstrap=8, model="linear").save(tmp_path)
    fit(weights, losses(weights, 2), bootstrap=8, model="linear").save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert len(Fit.load(tmp_path).metric_names) == 2


def test_a_missing_or_damaged_fit_is_said(tmp_path):
    with pytest.raises(InputError, match="holds no fit"):
        Fit.load(tmp_path)
    weights = mixtures(20, 3)
    fit(weights, losses(weights, 1), bootstrap=8, model="linear").save(tmp_path / "good")
    numbers = next((tmp_path / "good").glob("*.npz"))
    for name, data in {numbers.name: numbers.read_bytes()[:-9], "fit.json": b"[1]"}.items():
        shutil.copytree(tmp_path / "good", tmp_path / "bad", dirs_exist_ok=True)
        (tmp_path / "bad" / name).write_bytes(data)
        with pytest.raises(InputError, match="damaged"):
            Fit.load(tmp_path / "bad")
    (tmp_path / "bad" / "fit.json").write_text('{"format": "other"}')
    with pytest.raises(InputError, match="format 'other'"):
        Fit.load(tmp_path / "bad")


RATIOS = "index,web,code\n1,1,3\n2,2,2\n3,1,0\n4,0,5\n"
METRICS = 'index,prose loss,"a,b"\n4,3.0,1.0\n3,1.0,2.0\n2,1.5,1.5\n1,1.9,1.2\n'


def test_tables_are_joined_by_index_and_normalised(tmp_path):
    (tmp_path / "r.csv").write_text(RATIOS)
    (tmp_path / "m.csv").write_text(METRICS)
    runs = read_tables(tmp_path / "r.csv", tmp_path / "m.csv")
    assert runs.index == ("1", "2", "3", "4")
    assert runs.metric_names == ("prose loss", "a,b")
    np.testing.assert_allclose(runs.weights, [[0.25, 0.75], [0.5, 0.5], [1, 0], [0, 1]])
    np.testing.assert_allclose(runs.values[:, 0], [1.9, 1.5, 1.0, 3.0])


@pytest.mark.parametrize(
    ("ratios", "metrics", "message"),
    [
        (RATIOS.replace("2,2,2", "2,-2,2"), METRICS, "negative weight in line 3"),
        (RATIOS.replace("3,1,0", "3,0,0"), METRICS, "only zeros in line 4"),
        (RATIOS.replace("2,2,2", "2,nan,2"), METRICS, "line 3, column 'web': 'nan' is not a finite"),
        (RATIOS, METRICS.replace("1.5,1.5", "x,1.5"), "line 4, column 'prose loss': 'x'"),
        (RATIOS.replace("3,1,0", "1,1,0"), METRICS, "index '1' is in lines 2 and 4"),
        (RATIOS + "9,1,1\n", METRICS, "1 rows of .*r.csv have no partner in .*m.csv: index 9"),
        (RATIOS, METRICS + "9,1,1\n", "1 rows of .*m.csv have no partner in .*r.csv: index 9"),
        (RATIOS.replace("web", "code"), METRICS, "'code' is empty or occurs twice"),
        (RATIOS.replace("index", "id"), METRICS, "first column is 'id', expected `index`"),
        (RATIOS.replace("2,2,2", "2,2"), METRICS, "line 3 has 2 cells, the header has 3"),
        ("index,web\n", METRICS, "no rows"),
        ("", METRICS, "first column is ''"),
        (RATIOS, METRICS.replace("prose loss", "index"), "'index' is a name"),
        (RATIOS, METRICS.replace("prose loss", "x_lo").replace('"a,b"', "x"), "'x_lo' is a name"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, ratios, metrics, message):
    (tmp_path / "r.csv").write_text(ratios)
    (tmp_path / "m.csv").write_text(metrics)
    with pytest.raises(InputError, match=message) as error:
        read_tables(tmp_path / "r.csv", tmp_path / "m.csv")
    assert "\n" not in str(error.value)


def test_tables_that_are_no_text(tmp_path):
    (tmp_path / "r.csv").write_bytes(b"index,\xff\xfe\n")
    for path in (tmp_path / "r.csv", tmp_path / "absent.csv", tmp_path):
        with pytest.raises(InputError):
            read_tables(path, path)


def test_files_to_predictions(tmp_path):
    weights = mixtures(12, 2)
    values = losses(weights, 2, 0.01)
    rows = [f"r{i},{w[0]},{w[1]}" for i, w in enumerate(weights)]
    (tmp_path / "r.csv").write_text("index,web,code\n" + "\n".join(rows))
    (tmp_path / "m.csv").write_text("index,x,y\n" + "\n".join(f"r{i},{v[0]},{v[1]}" for i, v in enumerate(values)))
    fitted = fit_files(tmp_path / "r.csv", tmp_path / "m.csv", tmp_path / "fit", model="additive", bootstrap=8)
    (tmp_path / "new.csv").write_text("index,code,web\na,3,1\nb,0,2\n")
    assert predict_files(tmp_path / "fit", tmp_path / "new.csv", tmp_path / "p.csv") == 2
    stream = io.StringIO()
    predict_files(tmp_path / "fit", tmp_path / "new.csv", stream)
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert stream.getvalue().splitlines() == lines
    assert lines[0] == "index,x,y,x_lo,x_hi,y_lo,y_hi"
    expected = fitted.predict(np.array([[0.25, 0.75], [1.0, 0.0]]))
    first = [float(cell) for cell in lines[1].split(",")[1:]]
    mean, low, high = expected.mean[0], expected.low[0], expected.high[0]
    np.testing.assert_allclose(first, [*mean, low[0], high[0], low[1], high[1]], rtol=1e-5)
    table = render_report(fitted.report).splitlines()
    assert table[0].split() == ["metric", "model", "rmse", "r2", "spearman", "pearson", "coverage"]
    assert len(table) == 3
    (tmp_path / "new.csv").write_text("index,cod,web\na,3,1\n")
    with pytest.raises(InputError, match=r"lacks the fit's slice 'code' \(nearest: 'cod'\)"):
        predict_files(tmp_path / "fit", tmp_path / "new.csv", stream)


def test_importing_the_package_imports_no_scipy():
    code = (
        "import sys, pipeline.mix.regression; sys.exit(any(m in sys.modules for m in ('scipy', 'lightgbm', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
