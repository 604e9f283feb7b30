"""From runs to a fit: models chosen, refitted for uncertainty, intervals calibrated; predictions; a fit on disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.config import MAX_SLICES, ModelName
from pipeline.mix.regression.choice import LAWFUL, ChosenModels, calibrate, choose, scores
from pipeline.mix.regression.laws import LAWS, Data, LawFit
from pipeline.mix.regression.models import Model, Single, TreesFit, fit_models, with_refits
from pipeline.mix.regression.process import ProcessFit
from pipeline.mix.regression.seeds import SeedEffects, seed_effects
from pipeline.mix.types import Array, Floats, Prediction, one_blas_thread
from pipeline.table.errors import InputError, nearest
from pipeline.table.kept import write_file
from pipeline.table.storage import read_file

LEAST_RUNS, MOST_RUNS = 3, 100_000
MOST_RUNS_OF_A_PROCESS = 2000
LEAST_RUNS_OF_TREES = 20  # twice what a tree needs for one split, so that parts of them can be left out
_Z90 = 1.6448536269514722
_DRAWS_OF_INTERVALS = 128
_THREADS = 8
_BLOCKS_A_THREAD = 8
_BLOCK = 128  # mixtures at once: their arrays stay in the cache
_QUIET_S = 3.0  # a fit that takes longer says how far it is


_Found = TypeVar("_Found")


@dataclass(frozen=True)
class HeldOut:
    """What was predicted of the fitted runs (n, m) by fits that had not seen them; `half`: half of the interval.

    A run's seed is known here, where other runs had it. `missed` is what was measured less what was predicted.
    """

    mean: Floats
    half: Floats
    missed: Floats

    @property
    def low(self) -> Floats:
        return self.mean - self.half

    @property
    def high(self) -> Floats:
        return self.mean + self.half


@dataclass(frozen=True)
class Fit:
    """A regression of m metrics on the weights of k slices.

    `models` pairs each model with the columns (metrics) that use it; a metric that none uses is constant, at
    `constants` (m,). `stretch` (m,) is what calibration made of the intervals. `seed_sd` (m,) is the spread of seeds
    that the fitted runs' own errors do not show, 0 where nothing tells it, estimated with `seed_degrees` degrees of
    freedom from `seed_count` seeds. `report` is JSON-serialisable.
    """

    slice_names: tuple[str, ...]
    metric_names: tuple[str, ...]
    models: tuple[tuple[Model, tuple[int, ...]], ...]
    constants: Floats
    stretch: Floats
    seed_sd: Floats
    seed_degrees: int
    seed_count: int
    report: Mapping[str, Any]
    held_out: HeldOut | None = None

    def mean(self, weights: Floats) -> Floats:
        """Return the expected metrics (q, m) at mixtures (q, k), without intervals."""
        weights = checked_weights(weights, len(self.slice_names))
        out = np.tile(self.constants, (len(weights), 1))
        for model, columns in self.models:
            for at in range(0, len(weights), _BLOCK):
                out[at : at + _BLOCK, columns] = model.mean(weights[at : at + _BLOCK])
        return out

    @one_blas_thread()
    def refitted(
        self, weights: Floats, values: Floats, seeds: NDArray[np.int64] | None = None
    ) -> Callable[[Floats], Floats]:
        """Return the expected metrics as a function (q, k) to (q, m), had the same models seen these runs alone.

        `weights` (n, k), `values` (n, m) and `seeds` (n,) as `fit` takes them.
        """
        weights, parts = checked_weights(weights), []
        for model, columns in self.models:
            own = values[:, list(columns)]
            higher = model.law.sign < 0 if model.law is not None else np.zeros(len(columns), bool)
            data = Data(weights, own, np.zeros_like(own), higher)
            offsets = seed_effects(data, seeds).offsets(np.ones(len(own), bool))
            kernels = model.process.kernels if model.process is not None else None
            fitted = fit_models((model.name,), replace(data, values=own - offsets), kernels)[model.name]
            parts.append((fitted, columns))
        return replace(self, models=tuple(parts), constants=values.mean(0)).mean

    def draws(self, weights: Floats) -> Floats:
        """Return draws of the expected metrics, (d, q, m): the same d fits at every call, in the order of `mean`.

        A model with fewer refits than another repeats them.
        """
        weights = checked_weights(weights, len(self.slice_names))
        parts = [(model.draws(weights), columns) for model, columns in self.models]
        count = max((len(part) for part, _ in parts), default=1)
        out = np.tile(self.constants, (count, len(weights), 1))
        for part, columns in parts:
            out[:, :, columns] = part[np.arange(count) % len(part)]
        return out

    @one_blas_thread()
    def predict(self, weights: Floats) -> Prediction:
        """Return metrics at mixtures (q, k) with 90 % intervals.

        Raises: InputError when a mixture has the wrong shape, a negative or infinite weight, or only zeros.
        """
        weights = checked_weights(weights, len(self.slice_names))
        mean = np.tile(self.constants, (len(weights), 1))
        sure, noise, alike = np.zeros_like(mean), np.zeros(mean.shape[1]), np.zeros(mean.shape[1])
        for model, columns in self.models:
            noise[list(columns)] = model.noise * model.spread**2
            alike[list(columns)] = model.trees is not None
            few = model.few_draws(_DRAWS_OF_INTERVALS)
            blocks = [slice(at, at + _BLOCK) for at in range(0, len(weights), _BLOCK)]
            for block, found in zip(blocks, _map(few.quick, [weights[block] for block in blocks]), strict=True):
                mean[block, columns], sure[block, columns] = found
        own, middle = self._seed_halves()
        half = np.hypot(_Z90 * self.stretch * np.sqrt(sure + noise), own)
        half_mean = np.hypot(_Z90 * self.stretch * np.sqrt(sure + noise * alike), middle)
        return Prediction(mean, mean - half, mean + half, mean - half_mean, mean + half_mean)

    def total(self, weights: Floats, metric_weights: Floats) -> Prediction:
        """Return the sum of the metrics at mixtures (q, k), weighted by `metric_weights` (m,), as one metric (q, 1).

        How much of the metrics' errors cancels in the sum is measured on the held-out runs: as if all were shared, the
        interval of a mean of 110 metrics is twice too wide, and as if none, it holds half of what it should. Offsets
        of seeds are taken as shared.

        Raises: InputError for a mixture that cannot be one.
        """
        each, own = self.predict(weights), self._seed_halves()
        sizes = np.abs(metric_weights)
        kept = self._kept(np.asarray(metric_weights, np.float64))
        mean = each.mean @ metric_weights
        halves = [
            np.hypot(kept * (np.sqrt(np.maximum((high - each.mean) ** 2 - seeds**2, 0)) @ sizes), seeds @ sizes)
            for high, seeds in zip((each.high, each.mean_high), own, strict=True)
        ]
        ends = (mean - halves[0], mean + halves[0], mean - halves[1], mean + halves[1])
        return Prediction(mean[:, None], *(end[:, None] for end in ends))

    def _kept(self, metric_weights: Floats) -> float:
        """Return what share of the sum of the metrics' half intervals that of their weighted sum is."""
        if self.held_out is None:
            return 1.0
        whole = self.held_out.half @ np.abs(metric_weights)
        if not (whole > 0).all():
            return 1.0
        missed = np.abs(self.held_out.missed @ metric_weights) / whole
        return float(np.quantile(missed, min(1.0, 0.9 * (1 + 1 / len(missed)))))

    def _seed_halves(self) -> tuple[Floats, Floats]:
        """Return what a fresh seed, and the mean of those seen, add to half of the intervals, both (m,)."""
        from scipy.special import stdtrit

        quantile = stdtrit(max(self.seed_degrees, 1), 0.95) * self.seed_sd
        count = max(self.seed_count, 1)
        return quantile * np.sqrt(1 + 1 / count), quantile / np.sqrt(count)


@one_blas_thread()
def fit(
    weights: Floats,
    values: Floats,
    *,
    slice_names: Sequence[str] | None = None,
    metric_names: Sequence[str] | None = None,
    model: ModelName = "auto",
    bootstrap: int = 64,
    seed: int = 1,
    seeds: NDArray[np.int64] | None = None,
    higher: Sequence[str] = (),
    run_variance: Floats | None = None,
    progress: Callable[[str], None] | None = None,
) -> Fit:
    """Return the regression of `values` (n, m) on `weights` (n, k), rows of which are normalised.

    `seeds` (n,) are what the runs were trained with: runs of one seed share an offset, and seeds' spread is in the
    intervals. Without them, rows of one mixture tell the spread. `higher` names metrics where larger is better; the
    direction of the others is found. `run_variance`, (n,) or (n, m), is variance that a run has on top of what all have
    (one stopped early). `progress` is called with a line now and then, once some seconds have passed.

    Raises: InputError when shapes, numbers or the number of runs cannot be fitted. MissingDependencyError when
    `lightgbm` is asked for and not installed.
    """
    weights, values = checked_weights(weights), np.asarray(values, np.float64)
    slice_names = _names(slice_names, weights.shape[1], "slice")
    _check_values(weights, values, model)
    metric_names = _names(metric_names, values.shape[1], "metric")
    say = _later(progress)
    every = Data(weights, values, _run_variance(values, run_variance), _flags(higher, metric_names))
    moving = np.flatnonzero(np.ptp(values, axis=0) > 1e-12 * np.maximum(1e-300, np.abs(values).max(0)))
    stretch, seed_sd = np.ones(values.shape[1]), np.zeros(values.shape[1])
    models: tuple[tuple[Model, tuple[int, ...]], ...] = ()
    rows: list[dict[str, Any]] = []
    held = HeldOut(values.copy(), *np.zeros((2, *values.shape)))
    degrees = count = 0
    if moving.size:
        used = every.columns(moving)
        effects = seed_effects(used, _seeds(seeds, len(values)))
        choice = choose(candidates(model, len(weights)), used, effects, seed, say)
        stretch[moving], covered = calibrate(choice)
        held.mean[:, moving] = choice.mean + used.values - choice.measured
        held.missed[:, moving] = choice.measured - choice.mean
        held.half[:, moving] = _Z90 * stretch[moving] * np.sqrt(choice.variance)
        told = replace(used, values=used.values - effects.offsets(np.ones(len(values), bool)))
        models = _final(choice, told, moving, bootstrap, seed, say)
        seed_sd[moving], degrees, count = effects.sd, effects.degrees, effects.count
        rows = _rows(choice, covered, effects, used)
    report = _report(metric_names, moving, rows, weights, model)
    constants = values.mean(0)
    return Fit(slice_names, metric_names, models, constants, stretch, seed_sd, degrees, count, report, held)


def candidates(model: ModelName, n_runs: int) -> tuple[Single, ...]:
    """Return what a metric's model is chosen from.

    Raises: InputError when a process is asked for on more runs than it can take, or trees on too few.
    """
    many = n_runs > MOST_RUNS_OF_A_PROCESS
    if model == "gp" and many:
        raise InputError(f"model {model!r} takes at most {MOST_RUNS_OF_A_PROCESS} runs, not {n_runs}; use a law")
    if model == "lightgbm" and n_runs < LEAST_RUNS_OF_TREES:
        raise InputError(f"model {model!r} takes at least {LEAST_RUNS_OF_TREES} runs, not {n_runs}; use a law")
    if model != "auto":
        return (model,)
    return ("effective_data", "linear") if many else ("effective_data", "gp", "linear")


def checked_weights(weights: Floats, n_slices: int | None = None) -> Floats:
    """Return mixtures (q, k) with rows that sum to 1.

    Raises: InputError when the shape is wrong, a weight is negative or not finite, or a row has only zeros.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 2 or (n_slices is not None and weights.shape[1] != n_slices):
        raise InputError(f"mixtures have shape {weights.shape}, expected (mixtures, {n_slices or 'slices'})")
    if not 1 <= weights.shape[1] <= MAX_SLICES:
        raise InputError(f"{weights.shape[1]} slices; expected 1 to {MAX_SLICES}")
    wrong = ~(np.isfinite(weights) & (weights >= 0)).all(1) | ~(weights > 0).any(1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"mixture {row} is {weights[row].tolist()[:8]}; weights are finite, not negative, not all zero"
        )
    scaled = weights / weights.max(1, keepdims=True) if len(weights) else weights
    normalised: Floats = scaled / scaled.sum(1, keepdims=True)
    return normalised


def _map(function: Callable[[Floats], _Found], blocks: Sequence[Floats]) -> list[_Found]:
    """Return the function of each block. NumPy leaves the other cores to threads; their number changes no result."""
    workers = min(os.cpu_count() or 1, _THREADS, len(blocks) // _BLOCKS_A_THREAD)
    if workers < 2:
        return [function(block) for block in blocks]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, blocks))


def _later(progress: Callable[[str], None] | None) -> Callable[[str], None]:
    """Return what passes a line on once some seconds have passed."""
    started = time.monotonic()

    def say(line: str) -> None:
        if progress is not None and time.monotonic() - started > _QUIET_S:
            progress(line)

    return say


def _final(
    choice: ChosenModels,
    data: Data,
    moving: NDArray[np.int64],
    bootstrap: int,
    seed: int,
    say: Callable[[str], None],
) -> tuple[tuple[Model, tuple[int, ...]], ...]:
    """Fit each chosen model on all runs, for the metrics that chose it."""
    models = []
    for name in dict.fromkeys(choice.names):
        own = np.array([j for j, chosen in enumerate(choice.names) if chosen == name])
        say(f"fitting {name} to all runs, for {len(own)} metrics")
        part = data.columns(own)
        kernels = choice.kernels[own] if choice.kernels is not None else None
        model = with_refits(fit_models((name,), part, kernels)[name], part, bootstrap, seed)
        models.append((model, tuple(int(moving[j]) for j in own)))
    return tuple(models)


def _check_values(weights: Floats, values: Floats, model: ModelName) -> None:
    if values.ndim != 2 or len(values) != len(weights) or values.shape[1] < 1:
        raise InputError(f"metrics have shape {values.shape}, expected ({len(weights)}, metrics)")
    if not np.isfinite(values).all():
        row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(values)))
        raise InputError(f"metric {column} of run {row} is {values[row, column]}; metrics are finite numbers")
    if len(values) > MOST_RUNS:
        raise InputError(f"{len(values):,} runs; at most {MOST_RUNS:,} can be fitted")
    if len(values) < LEAST_RUNS:
        raise InputError(f"{len(values)} runs are too few to fit {model!r}; at least {LEAST_RUNS} are needed")


def _names(names: Sequence[str] | None, count: int, kind: str) -> tuple[str, ...]:
    chosen = tuple(names) if names is not None else tuple(f"{kind}_{i}" for i in range(count))
    if len(chosen) != count or len(set(chosen)) != count:
        raise InputError(f"{len(set(chosen))} different {kind} names for {count} columns; each needs its own")
    return chosen


def _run_variance(values: Floats, given: Floats | None) -> Floats:
    extra = np.zeros(values.shape)
    if given is not None:
        given = np.asarray(given, np.float64)
        extra = extra + (given[:, None] if given.ndim == 1 else given)
    if not (np.isfinite(extra) & (extra >= 0)).all():
        raise InputError("run_variance has a negative or infinite variance")
    return extra


def _seeds(given: NDArray[np.int64] | None, n_runs: int) -> NDArray[np.int64] | None:
    if given is None:
        return None
    seeds = np.asarray(given)
    if seeds.shape != (n_runs,) or not np.issubdtype(seeds.dtype, np.integer):
        raise InputError(f"seeds have shape {seeds.shape} and type {seeds.dtype}, expected ({n_runs},) whole numbers")
    return seeds


def _flags(higher: Sequence[str], names: tuple[str, ...]) -> NDArray[np.bool_]:
    for name in higher:
        if name not in names:
            raise InputError(f"higher: {name!r} is no metric{nearest(name, names)}; there are {len(names)}")
    return np.array([name in higher for name in names])


def _rows(choice: ChosenModels, covered: NDArray[np.bool_], effects: SeedEffects, data: Data) -> list[dict[str, Any]]:
    """Return a row of the report for each metric that is not constant."""
    rows: list[dict[str, Any]] = []
    lawful = [choice.rmse[name] for name in LAWFUL if name in choice.rmse]
    for j, found in enumerate(scores(choice.mean, choice.measured, covered)):
        row: dict[str, Any] = {**found, "model": choice.names[j]}
        if lawful and "linear" in choice.rmse:
            row |= {"law_rmse": float(min(e[j] for e in lawful)), "linear_rmse": float(choice.rmse["linear"][j])}
        row["direction"] = "higher" if data.higher[j] else "found"
        row |= {"seed_sd": float(effects.sd[j]), "seed_degrees": effects.degrees}
        rows.append(row)
    return rows


def _report(
    names: tuple[str, ...], moving: NDArray[np.int64], rows: list[dict[str, Any]], weights: Floats, model: ModelName
) -> dict[str, Any]:
    place = {int(column): row for column, row in zip(moving, rows, strict=True)}
    metrics = [{"metric": name, **place.get(j, {"model": "constant"})} for j, name in enumerate(names)]
    return {"asked": model, "runs": len(weights), "slices": weights.shape[1], "metrics": metrics}


# A fit on disk: `fit.json` says what it is and names the one `.npz` with its numbers. Nothing in it is code. --------

FORMAT = "gristmill-mix-fit-2"
_JSON = "fit.json"
_MAX_BYTES = 1 << 31
_OWN = ("centre", "spread", "noise")
_WHOLE = ("constants", "stretch", "seed_sd")
_HELD = tuple(f.name for f in fields(HeldOut))
_LAW = tuple(f.name for f in fields(LawFit) if f.name != "law")
_PROCESS = tuple(f.name for f in fields(ProcessFit))

Arrays = dict[str, Array]


def save_fit(fit: Fit, folder: str | Path) -> None:
    """Write a fit. Its JSON, which names the file of numbers by their hash, comes last; older numbers go then."""
    folder = Path(folder)
    arrays: Arrays = {name: getattr(fit, name) for name in _WHOLE}
    if fit.held_out is not None:
        arrays |= {f"held_out.{name}": getattr(fit.held_out, name) for name in _HELD}
    models = [_pack(i, model, columns, arrays) for i, (model, columns) in enumerate(fit.models)]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    data = buffer.getvalue()
    name = f"fit-{hashlib.sha256(data).hexdigest()[:32]}.npz"
    about = {
        "format": FORMAT,
        "slices": list(fit.slice_names),
        "metrics": list(fit.metric_names),
        "arrays": name,
        "models": models,
        "seeds": [fit.seed_degrees, fit.seed_count],
        "report": fit.report,
    }
    text = json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(folder / name, data)
    write_file(folder / _JSON, text.encode())
    for old in folder.glob("fit-*.npz"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load_fit(folder: str | Path) -> Fit:
    """Return the fit in a folder.

    Raises: InputError when there is none, it was written by another version, or it is damaged.
    """
    folder = Path(folder)
    path = folder / _JSON
    try:
        about = json.loads(read_file(path, _MAX_BYTES))
        if about.get("format") != FORMAT:
            raise InputError(f"{path} has format {about.get('format')!r}, expected {FORMAT!r}; run `mix fit` again")
        return _unpack(folder, about)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} holds no fit ({Path(error.filename).name} is missing); run `mix fit` first"
        ) from error
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(f"{path} is damaged ({error!r}); run `mix fit` again") from error


def _pack(number: int, model: Model, columns: tuple[int, ...], arrays: Arrays) -> dict[str, Any]:
    for name in _OWN:
        arrays[f"{number}.{name}"] = getattr(model, name)
    for kind, part, names in (("law", model.law, _LAW), ("process", model.process, _PROCESS)):
        if part is not None:
            arrays |= {f"{number}.{kind}.{name}": getattr(part, name) for name in names}
    texts = model.trees.texts if model.trees else ()
    for i, own in enumerate(texts):
        for j, text in enumerate(own):
            arrays[f"{number}.tree{i}.{j}"] = np.frombuffer(text.encode(), np.uint8)
    return {
        "name": model.name,
        "columns": list(columns),
        "law": model.law.law if model.law else None,
        "process": model.process is not None,
        "trees": [len(own) for own in texts],
    }


def _unpack(folder: Path, about: dict[str, Any]) -> Fit:
    name = str(about["arrays"])
    if Path(name).name != name:
        raise ValueError(f"arrays are in {name!r}, not a file of the folder")
    data = read_file(folder / name, _MAX_BYTES)
    if name != f"fit-{hashlib.sha256(data).hexdigest()[:32]}.npz":
        raise ValueError(f"{name} is not what was written")
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        arrays: Arrays = {key: stored[key] for key in stored.files}
    models = tuple(_model(i, one, arrays) for i, one in enumerate(about["models"]))
    names = tuple(about["slices"]), tuple(about["metrics"])
    held = HeldOut(*(arrays[f"held_out.{name}"] for name in _HELD)) if "held_out.mean" in arrays else None
    degrees, count = map(int, about["seeds"])
    constants, stretch, seed_sd = (arrays[name] for name in _WHOLE)
    return Fit(*names, models, constants, stretch, seed_sd, degrees, count, about["report"], held)


def _model(number: int, about: dict[str, Any], arrays: Arrays) -> tuple[Model, tuple[int, ...]]:
    def read(kind: str, names: tuple[str, ...]) -> Arrays:
        return {name: arrays[f"{number}.{kind}{name}"] for name in names}

    if about["law"] is not None and about["law"] not in LAWS:
        raise ValueError(f"law {about['law']!r} is unknown")
    law = LawFit(about["law"], **read("law.", _LAW)) if about["law"] is not None else None
    process = ProcessFit(**read("process.", _PROCESS)) if about["process"] else None
    texts = tuple(
        tuple(arrays[f"{number}.tree{i}.{j}"].tobytes().decode() for j in range(count))
        for i, count in enumerate(about["trees"])
    )
    model = Model(about["name"], law=law, process=process, trees=TreesFit(texts) if texts else None, **read("", _OWN))
    return model, tuple(about["columns"])
