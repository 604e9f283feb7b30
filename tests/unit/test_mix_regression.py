"""The regression: laws, tables, small and odd problems, saving, files."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from pipeline.mix.regression.choice import spearman, split
from pipeline.mix.regression.fitting import candidates, fit, load_fit, save_fit
from pipeline.mix.regression.laws import LAWS, Data
from pipeline.mix.regression.process import _evidence, draw_process, fit_process, matern, to_features
from pipeline.mix.regression.seeds import seed_effects
from pipeline.mix.regression.tables import fit_files, predict_files, read_tables, render_report
from pipeline.mix.types import one_blas_thread
from pipeline.table.errors import InputError

MODELS = ["linear", "log_linear", "effective_data", "gp", "lightgbm"]


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
    save_fit(fitted, tmp_path)
    again = load_fit(tmp_path)
    assert np.array_equal(again.draws(new), fitted.draws(new))
    assert np.array_equal(again.predict(new).high, predicted.high)
    assert [row["model"] for row in again.report["metrics"]] == [model, model]


def test_effective_data_law_finds_what_made_the_data():
    weights = mixtures(48, 5)
    fitted = fit(weights, losses(weights, 5, 0.005))
    assert {row["model"] for row in fitted.report["metrics"]} <= {"effective_data", "gp"}
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
    weights = np.c_[mixtures(40, 3), np.zeros(40)]
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
    assert [row["model"] for row in fitted.report["metrics"]] in (["effective_data", "constant"], ["gp", "constant"])
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


def seed_case(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """48 mixtures and repeats of an even one; seeds move all that is measured by 0.05, another run by 0.005."""
    random = np.random.default_rng(seed)
    even, weights = np.full((1, 4), 0.25), random.dirichlet(np.ones(4), 48)
    if kind == "dealt":  # every seed trains six mixtures and the even one
        weights, group = np.r_[weights, even.repeat(8, 0)], np.r_[np.arange(48) % 8, np.arange(8)]
    else:  # one seed trains all mixtures; the even one has three, that one among them
        weights, group = np.r_[even, weights, even, even], np.r_[np.zeros(49, int), 1, 2]
        if kind == "own":  # each mixture has a seed of its own
            group = np.arange(51)
    offset = 0.05 * random.standard_normal(int(group.max()) + 1)
    values = smooth(weights) + offset[group] + 0.005 * random.standard_normal(len(weights))
    return weights, values[:, None], group if kind in ("dealt", "known") else None


def smooth(weights: np.ndarray) -> np.ndarray:
    return np.asarray(2 + (weights**0.7 @ [1, 0.6, 0.3, 0.1] + 0.05) ** -0.3)


@pytest.mark.parametrize("kind", ["dealt", "known", "repeated", "own"])
def test_intervals_hold_runs_with_a_fresh_seed(kind):
    covered, sure = [], []
    for seed in range(6):
        weights, values, seeds = seed_case(kind, seed)
        fitted = fit(weights, values, seeds=seeds, model="effective_data", bootstrap=8)
        new = np.random.default_rng(seed + 100).dirichlet(np.ones(4), 48)
        fresh = smooth(new) + 0.05 * np.random.default_rng(seed + 200).standard_normal(48)
        predicted = fitted.predict(new)
        covered.append(((predicted.low[:, 0] <= fresh) & (fresh <= predicted.high[:, 0])).mean())
        sure.append(((predicted.mean_low[:, 0] <= smooth(new)) & (smooth(new) <= predicted.mean_high[:, 0])).mean())
        assert (fitted.seed_sd[0] > 0) == (fitted.report["metrics"][0]["seed_sd"] > 0)
    assert 0.82 <= np.mean(covered) <= 0.98
    assert np.mean(sure) >= 0.75


def test_seeds_that_move_nothing_and_one_seed_change_nothing():
    weights = mixtures(40, 4)
    values = losses(weights, 2, 0.02)
    plain = fit(weights, values, model="effective_data", bootstrap=8)
    for seeds in (np.zeros(40, int), np.arange(40)):
        same = fit(weights, values, seeds=seeds, model="effective_data", bootstrap=8)
        assert np.array_equal(same.predict(weights).high, plain.predict(weights).high)
    with pytest.raises(InputError, match=r"expected \(40,\) whole numbers"):
        fit(weights, values, seeds=np.zeros(39, int))
    with pytest.raises(InputError, match="float64"):
        fit(weights, values, seeds=np.zeros(40))


def test_held_out_runs_do_not_tell_their_own_seeds_offset():
    weights, values, seeds = seed_case("dealt", 0)
    effects = seed_effects(Data(weights, values, np.zeros_like(values), np.zeros(1, bool)), seeds)
    known = np.arange(len(weights)) != 5
    moved = replace(effects, left=effects.left + np.where(known, 0.0, 9.0)[:, None])
    assert np.array_equal(moved.offsets(known), effects.offsets(known))
    assert effects.sd[0] == pytest.approx(0.05, rel=0.5)


def test_runs_of_one_mixture_stay_in_one_fold():
    weights = np.repeat(mixtures(10, 3), 3, axis=0)
    values = losses(weights, 1) + 0.2 * np.random.default_rng(0).standard_normal((30, 1))
    fold = split(weights, 5, 1)
    assert all(len(set(fold[i : i + 3])) == 1 for i in range(0, 30, 3))
    predicted = fit(weights, values, model="effective_data").predict(weights[::3])
    assert (predicted.high - predicted.low).mean() > 2 * 1.6 * 0.15


@pytest.mark.parametrize("model", ["gp", "linear"])
def test_the_same_models_are_fitted_to_other_runs(model):
    weights, values = mixtures(40, 4), losses(mixtures(40, 4), 2, 0.01)
    fitted = fit(weights, np.c_[values, -values[:, :1]], higher=["metric_2"], model=model, bootstrap=8)
    half = fitted.refitted(weights[::2], np.c_[values, -values[:, :1]][::2])(weights[1::2])
    assert spearman(half[:, 0], values[1::2, 0]) > 0.5
    assert spearman(half[:, 2], -values[1::2, 0]) > 0.5


def test_a_weighted_sum_has_an_interval_of_its_own():
    weights, new = mixtures(60, 4), mixtures(300, 4, 5)
    random = np.random.default_rng(3)
    values, fresh = losses(weights, 12, 0.03), losses(new, 12) + 0.03 * random.standard_normal((300, 12))
    fitted = fit(weights, values, model="effective_data", bootstrap=16)
    parts = np.full(12, 1 / 12)
    whole, each = fitted.total(new, parts), fitted.predict(new)
    np.testing.assert_allclose(whole.mean[:, 0], each.mean @ parts)
    inside = (whole.low[:, 0] <= fresh @ parts) & (fresh @ parts <= whole.high[:, 0])
    assert 0.82 <= inside.mean() <= 0.98
    assert (whole.high - whole.low)[:, 0].mean() < 0.7 * (each.high - each.low).mean()
    alone = fitted.total(new, np.eye(12)[0])
    assert (alone.high[:, 0] - alone.mean[:, 0]).mean() == pytest.approx((each.high - each.mean)[:, 0].mean(), rel=0.2)


def test_a_fit_and_a_prediction_hold_blas_to_one_thread():
    weights = mixtures(150, 3)
    values = losses(weights, 2, 0.01)
    with one_blas_thread():
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
    started, cpu = time.perf_counter(), time.process_time()
    fit(weights, values, model="gp", bootstrap=64)
    assert time.process_time() - cpu < 1.1 * (time.perf_counter() - started)


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


def test_auto_tries_the_law_a_process_and_a_line():
    assert candidates("auto", 20) == ("effective_data", "gp", "linear")
    assert candidates("auto", 5000) == ("effective_data", "linear")
    assert candidates("log_linear", 5000) == ("log_linear",)
    with pytest.raises(InputError, match="at most 2000 runs"):
        candidates("gp", 5000)
    with pytest.raises(InputError, match="at least 20 runs, not 3"):
        fit(mixtures(3, 2), losses(mixtures(3, 2), 1), model="lightgbm")


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_few_runs_leave_the_law_for_a_line_that_predicts_better(seed):
    random = np.random.default_rng(seed)
    weights, new = random.dirichlet(np.ones(5), 20), random.dirichlet(np.ones(5), 200)
    accuracy = lambda w: 1 / (1 + np.exp(-4 * (w @ [2, 1, 0.5, 0.3, 0.1] - 0.8)))  # noqa: E731
    fitted = fit(weights, (accuracy(weights) + 0.02 * random.standard_normal(20))[:, None], bootstrap=8)
    row = fitted.report["metrics"][0]
    assert (row["model"], row["linear_rmse"] < 0.7 * row["law_rmse"]) == ("linear", True)
    assert np.sqrt(((fitted.mean(new)[:, 0] - accuracy(new)) ** 2).mean()) < 0.06


def test_the_law_stays_where_it_made_the_data():
    weights = mixtures(24, 6)
    row = fit(weights, losses(weights, 1, 0.01), bootstrap=8).report["metrics"][0]
    assert row["model"] in ("effective_data", "gp")
    assert row["law_rmse"] < row["linear_rmse"]


def test_a_metric_that_is_said_to_rise_is_fitted_so():
    weights = mixtures(20, 4)
    values = np.random.default_rng(5).standard_normal((20, 2))  # noise: nothing tells a direction
    fitted = fit(weights, values, metric_names=("loss", "accuracy"), higher=["accuracy"], model="effective_data")
    assert [row["direction"] for row in fitted.report["metrics"]] == ["found", "higher"]
    law = fitted.models[0][0].law
    assert law is not None
    assert law.sign[1] == -1
    with pytest.raises(InputError, match=r"'acuracy' is no metric \(nearest: 'accuracy'\)"):
        fit(weights, values, metric_names=("loss", "accuracy"), higher=["acuracy"])


def test_many_runs_choose_what_made_the_data():
    weights = mixtures(120, 3)
    straight = weights @ np.array([[1.0], [3.0], [2.0]]) + 0.02 * np.random.default_rng(0).standard_normal((120, 1))
    fitted = fit(weights, straight, bootstrap=8)
    assert fitted.report["metrics"][0]["model"] in ("linear", "gp")
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
        save_fit(fit(weights, values, seed=seed, bootstrap=8, model="gp"), tmp_path / name)
    a, b, c = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b
    assert a != c
    assert len(a) == 2


def test_a_new_fit_replaces_the_old_one(tmp_path):
    weights = mixtures(20, 3)
    save_fit(fit(weights, losses(weights, 1), bootstrap=8, model="linear"), tmp_path)
    save_fit(fit(weights, losses(weights, 2), bootstrap=8, model="linear"), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert len(load_fit(tmp_path).metric_names) == 2


def test_a_missing_or_damaged_fit_is_said(tmp_path):
    with pytest.raises(InputError, match="holds no fit"):
        load_fit(tmp_path)
    weights = mixtures(20, 3)
    save_fit(fit(weights, losses(weights, 1), bootstrap=8, model="linear"), tmp_path / "good")
    numbers = next((tmp_path / "good").glob("*.npz"))
    for name, data in {numbers.name: numbers.read_bytes()[:-9], "fit.json": b"[1]"}.items():
        shutil.copytree(tmp_path / "good", tmp_path / "bad", dirs_exist_ok=True)
        (tmp_path / "bad" / name).write_bytes(data)
        with pytest.raises(InputError, match="damaged"):
            load_fit(tmp_path / "bad")
    (tmp_path / "bad" / "fit.json").write_text('{"format": "gristmill-mix-fit-1"}')
    with pytest.raises(
        InputError, match="format 'gristmill-mix-fit-1', expected 'gristmill-mix-fit-2'; run `mix fit` ag"
    ):
        load_fit(tmp_path / "bad")


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


def test_a_column_of_seeds_is_no_slice(tmp_path):
    (tmp_path / "r.csv").write_text("index,web,seed,code\n1,1,7,3\n2,2,8,2\n3,1,7,0\n4,0,-1,5\n")
    (tmp_path / "m.csv").write_text(METRICS)
    runs = read_tables(tmp_path / "r.csv", tmp_path / "m.csv")
    assert runs.slice_names == ("web", "code")
    np.testing.assert_allclose(runs.weights, [[0.25, 0.75], [0.5, 0.5], [1, 0], [0, 1]])
    assert runs.seeds is not None
    assert runs.seeds.tolist() == [7, 8, 7, -1]


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
        (RATIOS.replace("code", "seed").replace("2,2,2", "2,2,2.5"), METRICS, "line 3, column 'seed': 2.5 is no whole"),
        ("index,seed\n1,1\n", METRICS, "no column of a slice beside"),
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
    fitted = fit_files(tmp_path / "r.csv", tmp_path / "m.csv", tmp_path / "fit", model="log_linear", bootstrap=8)
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
    assert table[0].split()[:6] == ["metric", "model", "direction", "rmse", "law_rmse", "linear_rmse"]
    assert len(table) == 4
    (tmp_path / "new.csv").write_text("index,cod,web\na,3,1\n")
    with pytest.raises(InputError, match=r"lacks the fit's slice 'code' \(nearest: 'cod'\)"):
        predict_files(tmp_path / "fit", tmp_path / "new.csv", stream)


def test_importing_the_package_imports_no_scipy():
    code = (
        "import sys, pipeline.mix.regression; sys.exit(any(m in sys.modules for m in ('scipy', 'lightgbm', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
