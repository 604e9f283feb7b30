"""From measured proxy runs to a mixture: fit, propose, verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from flows.mix_material import Material
from flows.mix_open import OpenMix, load_mix
from flows.mix_train import Results, Trainer, train_and_measure
from pipeline.mix.constraints import Constraints, GroupLimit
from pipeline.mix.folder import read_json, write_file, write_json
from pipeline.mix.mixture import Context, MixtureStage, Provenance, ProxyInfo, load_mixture, make_mixture, write_mixture
from pipeline.mix.noise import Noise, measure_noise
from pipeline.mix.objective import Problem
from pipeline.mix.proposal import Estimate, Proposal, SliceAnswer
from pipeline.mix.propose import baselines, propose
from pipeline.mix.regression import Fit, fit
from pipeline.mix.swarm import run_id
from pipeline.mix.swarm_space import Space, reduced_bounds
from pipeline.mix.types import Floats, RunSpec
from pipeline.mix.verify import Replicate, Verification, verify_proposal
from pipeline.table.errors import ConfigError, InputError
from pipeline.table.shards import digest
from pipeline.table.storage import Storage

FRESH_SEED = 1_000
"""Where the seeds of verification begin: no run of a swarm has them."""
FIT_VERSION = "fit_v2"
"""Raised when the same runs and settings give another fit or proposal."""
MIXTURE, PROPOSAL, VERIFICATION = "mixture.yaml", "proposal.json", "verification.json"


@dataclass(frozen=True)
class Fitted:
    """The regression of the suite's tasks, and how much of each is signal. `weights`: as used, those of noise less."""

    fit: Fit
    noise: Noise
    weights: Mapping[str, float]
    results: Results
    space: Space
    key: str


def suite_results(material: Material, results: Results) -> Results:
    """Return the results with the suite's own tasks alone."""
    columns = [results.tasks.index(name) for name in material.suite_tasks]
    variances = None if results.variances is None else results.variances[:, columns]
    return replace(results, tasks=material.suite_tasks, values=results.values[:, columns], variances=variances)


def fit_results(mix: OpenMix, material: Material, results: Results, space: Space) -> Fitted:
    """Fit a regression to each of the suite's tasks; the same runs, values and settings are fitted once.

    Raises: MissingDependencyError for a model whose extra is not installed.
    """
    results = suite_results(material, results)
    settings = mix.config.fit
    identity = {
        "version": FIT_VERSION,
        "config": settings.model_dump(),
        "runs": [run.run_id for run in results.runs],
        "weights": [run.weights.tolist() for run in results.runs],
        "space": space.expand.tolist(),
        "values": results.values.tolist(),
        "variances": None if results.variances is None else results.variances.tolist(),
        "tasks": list(results.tasks),
    }
    key = digest(identity)
    noise = measure_noise(results.runs, results.values, results.tasks)
    factors = dict(zip(results.tasks, noise.factor, strict=True))
    weights = {name: weight * float(factors[name]) for name, weight in material.suite.config.weights().items()}
    if sum(weights.values()) <= 0:
        weights = material.suite.config.weights()
    folder = mix.folder.fit
    if read_json(folder / "key.json") == {"key": key}:
        try:
            return Fitted(Fit.load(folder), noise, weights, results, space, key)
        except InputError as error:
            mix.reporter.line(f"{error}: it is made anew")
    (folder / "key.json").unlink(missing_ok=True)
    mix.reporter.line(f"fitting {len(results.tasks)} tasks to {len(results.runs)} runs")
    matrix = np.stack([run.weights for run in results.runs])
    fitted = fit(
        matrix @ space.reduce,
        results.values,
        slice_names=space.names,
        metric_names=results.tasks,
        model=settings.model,
        run_variance=results.variances,
        bootstrap=settings.bootstrap,
        seed=settings.seed,
    )
    fitted.save(folder)
    _write_tables(folder, material.names, matrix, results)
    write_json(folder / "noise.json", noise.rows())
    write_json(folder / "key.json", {"key": key})
    return Fitted(fitted, noise, weights, results, space, key)


def _write_tables(folder: Path, names: Sequence[str], matrix: Floats, results: Results) -> None:
    """Write what was fitted as tables that `mix fit --ratios --metrics` reads."""
    ids = [f"{run.run_id[:16]}-{run.seed}" for run in results.runs]
    for name, columns, rows in (("ratios.csv", names, matrix), ("metrics.csv", results.tasks, results.values)):
        lines = [",".join(["index", *columns])]
        lines += [",".join([run, *map(repr, row)]) for run, row in zip(ids, rows.tolist(), strict=True)]
        write_file(folder / name, ("\n".join(lines) + "\n").encode())


def propose_mixture(mix: OpenMix, material: Material, fitted: Fitted) -> Proposal:
    """Return the proposal for the fitted regression, found once for the same fit and settings.

    Raises: ConfigError when constraints leave no mixture.
    """
    space = fitted.space
    config = mix.config.propose
    identity = {
        "fit": fitted.key,
        "config": config.model_dump(),
        "weights": dict(fitted.weights),
        "bounds": [material.bounds.lower.tolist(), material.bounds.upper.tolist()],
        "groups": material.suite.config.groups(),
        "seed": mix.config.fit.seed,
    }
    key = digest(identity)
    path = mix.folder.mixture / PROPOSAL
    known = read_json(path)
    if isinstance(known, dict) and known.get("key") == key and "proposal" in known:
        return Proposal.from_json(known["proposal"], str(path))
    total = sum(fitted.weights.values())
    problem = Problem(
        constraints=_inner_constraints(material, space),
        natural=_inner(material.natural, space),
        runs=np.stack([run.weights for run in fitted.results.runs]) @ space.reduce,
        task_weights=fitted.weights,
        task_groups=material.suite.config.groups(),
        seed_sd=_weighted_noise(fitted.noise, fitted.weights, total),
    )
    proposal = _expanded(propose(fitted.fit, problem, config, mix.config.fit.seed), material, space)
    write_json(path, {"key": key, "proposal": proposal.to_json()})
    return proposal


def _inner(weights: Floats, space: Space) -> Floats:
    inner: Floats = weights @ space.reduce
    return inner


def _inner_constraints(material: Material, space: Space) -> Constraints:
    """Return the constraints in the swarm's space; a frozen block has the tightest of its slices'."""
    if space.names == material.names:
        return material.constraints
    bounds = reduced_bounds(material.bounds, space)
    groups = []
    for group in material.constraints.groups:
        members = sorted({int(np.argmax(space.reduce[i])) for i in group.members})
        groups.append(GroupLimit(group.name, tuple(members), group.lower, group.upper))
    return Constraints(space.names, bounds.lower, bounds.upper, tuple(groups))


def _weighted_noise(noise: Noise, weights: Mapping[str, float], total: float) -> float | None:
    """Return the seed standard deviation of the weighted metric, tasks taken as independent; None when not measured."""
    sds = [float(sd) for sd in noise.seed_std]
    if not np.isfinite(sds).all():
        return None
    return float(np.sqrt(sum((w / total * sd) ** 2 for w, sd in zip(weights.values(), sds, strict=True))))


def _expanded(proposal: Proposal, material: Material, space: Space) -> Proposal:
    """Return a proposal over all slices: those of a frozen block share what the block has."""
    if space.names == material.names:
        return proposal
    weights = proposal.vector @ space.expand
    slices: dict[str, SliceAnswer] = {}
    for i, name in enumerate(material.names):
        block = int(np.argmax(space.expand[:, i]))
        ratio = float(space.expand[block, i])
        answer = proposal.slices[space.names[block]]
        slices[name] = replace(
            answer,
            weight=Estimate(*(value * ratio for value in (answer.weight.value, answer.weight.low, answer.weight.high))),
            natural=float(material.natural[i]),
            lower=float(material.bounds.lower[i]),
            upper=float(material.bounds.upper[i]),
            flat_low=answer.flat_low * ratio,
            flat_high=answer.flat_high * ratio,
        )
    pareto = tuple(replace(point, weights=_expand_named(point.weights, material, space)) for point in proposal.pareto)
    named = {name: float(weight) for name, weight in zip(material.names, weights, strict=True)}
    return replace(proposal, weights=named, slices=slices, pareto=pareto)


def _expand_named(weights: Mapping[str, float], material: Material, space: Space) -> dict[str, float]:
    full = np.array([weights[name] for name in space.names]) @ space.expand
    return {name: float(weight) for name, weight in zip(material.names, full, strict=True)}


def observed(material: Material, fitted: Fitted, proposal: Proposal) -> dict[str, Floats]:
    """Return the mixtures that a proposal is held against: natural, uniform, and the best that was seen to the end."""
    problem = Problem(
        material.constraints,
        material.natural,
        np.stack([run.weights for run in fitted.results.runs]),
        fitted.weights,
        material.suite.config.groups(),
    )
    weights = np.array([fitted.weights[name] for name in fitted.results.tasks])
    measured = fitted.results.values @ (weights / weights.sum())
    by_mixture: dict[bytes, list[int]] = {}
    variances = fitted.results.variances
    for row, run in enumerate(fitted.results.runs):
        if variances is not None and variances[row].any():
            continue  # ended early: what it would have come to is a guess
        by_mixture.setdefault(np.round(run.weights, 9).tobytes(), []).append(row)
    best = min(by_mixture.values(), key=lambda rows: float(measured[rows].mean()))
    return baselines(problem) | {"best_seen": fitted.results.runs[best[0]].weights}


def verification_runs(mix: OpenMix, material: Material, mixtures: Mapping[str, Floats]) -> dict[str, list[RunSpec]]:
    """Return the fresh runs of each mixture; the same seeds for all, so that chance is shared."""
    kinds: dict[str, Any] = {name: name for name in mixtures}
    seeds = range(FRESH_SEED, FRESH_SEED + mix.config.verify.seeds)
    return {
        name: [RunSpec(run_id(material.names, w, seed), kinds[name], w, seed) for seed in seeds]
        for name, w in mixtures.items()
    }


def verify_mixture(
    mix: OpenMix, material: Material, fitted: Fitted, proposal: Proposal, trainers: Sequence[tuple[float, Trainer]]
) -> Verification:
    """Train the proposal and the baselines with fresh seeds and return the verdict; `trainers` are by size.

    Raises: GristmillError when a run fails.
    """
    mixtures = {"proposal": proposal.vector} | observed(material, fitted, proposal)
    runs = verification_runs(mix, material, mixtures)
    tasks = [task for task in material.tasks if task.name in material.suite_tasks]
    replicates: list[Replicate] = []
    for size, trainer in trainers:
        every = list({run.run_id: run for each in runs.values() for run in each}.values())
        label = "verification" if size == 1 else f"verification at {size:g} times the size"
        results = train_and_measure(trainer, every, tasks, label)
        rows = {run.run_id: row for row, run in enumerate(results.runs)}
        for name, specs in runs.items():
            for run in specs:
                values = dict(zip(results.tasks, results.values[rows[run.run_id]].tolist(), strict=True))
                replicates.append(Replicate(name, run.seed, values, size))
    found = verify_proposal(replicates, fitted.weights, proposal.tasks, proposal.metric)
    path = mix.folder.mixture / VERIFICATION
    write_json(path, {"proposal": proposal_key(proposal), "suite": material.suite_hash, "verdict": found.to_json()})
    return found


def models_of(fitted: Fit) -> dict[str, str]:
    """Return the regression of each metric."""
    return {str(row["metric"]): str(row["model"]) for row in fitted.report["metrics"]}


def proposal_key(proposal: Proposal) -> str:
    """Return what a verification is of: the proposed weights and the tasks that they are measured on."""
    return digest([proposal.weights, proposal.task_weights])


def known_verification(mix: OpenMix, proposal: Proposal) -> Verification | None:
    """Return the verdict on this proposal, or None when it is another's or there is none yet."""
    path = mix.folder.mixture / VERIFICATION
    value = read_json(path)
    if not isinstance(value, dict) or value.get("proposal") != proposal_key(proposal) or "verdict" not in value:
        return None
    return Verification.from_json(value["verdict"], str(path))


def was_ever_verified(mix: OpenMix) -> bool:
    """Tell whether some proposal of this mix was verified before."""
    return (mix.folder.mixture / VERIFICATION).is_file()


def save_mixture(
    mix: OpenMix,
    material: Material,
    fitted: Fitted,
    proposal: Proposal,
    verification: Verification | None,
) -> Path:
    """Write `mixture.yaml` and return its path."""
    config = mix.config
    provenance = Provenance(
        suite=str(material.suite.path),
        suite_hash=material.suite_hash,
        task_weights=dict(fitted.weights),
        tokenizer_hash=material.tokenizer.content_hash,
        slice_keys={each.name: each.key for each in material.built},
        runs=len(fitted.results.runs),
        proxy=ProxyInfo(
            kind=config.proxy.kind,
            parameters=config.proxy.parameters if config.proxy.kind == "transformer" else 0,
            tokens=config.proxy.tokens,
        ),
        models=models_of(fitted.fit),
        objective=config.propose.objective,
        kl=config.propose.kl,
        seeds={"swarm": config.swarm.seed, "proxy": config.proxy.seed, "fit": config.fit.seed},
        versions={"gristmill": version("gristmill"), "numpy": version("numpy"), "scipy": version("scipy")},
    )
    counts = [float(each.tokens.n_tokens) for each in material.built]
    context = Context(
        name=mix.name,
        budget_tokens=config.budget_tokens,
        constraints=material.constraints,
        natural=material.natural,
        slice_tokens=np.array(counts),
        max_epochs=np.array([each.config.max_epochs for each in material.slices]),
        provenance=provenance,
    )
    mixture = make_mixture(proposal, context, verification, observed(material, fitted, proposal))
    path = mix.folder.mixture / MIXTURE
    write_mixture(path, mixture.model_copy(update={"stages": stages(mix, material, mixture.weights)}))
    return path


def stages(mix: OpenMix, material: Material, weights: Mapping[str, float]) -> tuple[MixtureStage, ...]:
    """Return the stages of the target run, this mix's own first; none when the configuration names no other.

    Raises: ConfigError when another stage's mixture was not made yet.
    """
    if not mix.config.stages:
        return ()
    first = 1 - sum(stage.share for stage in mix.config.stages)
    made = [_stage("pretraining", first, mix, str(material.suite.path), material.suite_hash, weights)]
    for stage in mix.config.stages:
        config, name = load_mix(stage.config)
        path = Path(Storage.at(config.workspace).path(f"mix/{name}")) / "mixture" / MIXTURE
        if not path.is_file():
            raise ConfigError(
                f"stages.{stage.name}: {path} does not exist; make it first: gristmill mix run {stage.config}"
            )
        other = load_mixture(path)
        known = other.provenance
        suite, suite_hash = (known.suite, known.suite_hash) if known else (config.suite, "")
        made.append(_stage(stage.name, stage.share, mix, suite, suite_hash, other.weights))
    return tuple(made)


def _stage(
    name: str, share: float, mix: OpenMix, suite: str, suite_hash: str, weights: Mapping[str, float]
) -> MixtureStage:
    tokens = round(share * mix.config.budget_tokens)
    return MixtureStage(
        name=name, share=share, tokens=tokens, suite=suite, suite_hash=suite_hash, weights=dict(weights)
    )
