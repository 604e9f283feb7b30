"""From measured proxy runs to a mixture: fit, propose, verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.mix.folder import ProposalFolder
from pipeline.mix.regression.fitting import Fit, fit, load_fit, save_fit
from pipeline.mix.shards.sample import SampleReport, sample
from pipeline.mix.steps.train import Trainer, train_and_measure, trainer
from pipeline.mix.steps.types import Material, OpenMix, Results
from pipeline.mix.steps.workspace import stage_mixture
from pipeline.mix.types import Difference, Estimate, Floats, RunSpec, from_json, one_blas_thread, plain_json
from pipeline.mix.weights.halves import Means, split_rows
from pipeline.mix.weights.mixture import (
    Expected,
    MixedSlice,
    Mixture,
    MixtureStage,
    Provenance,
    ProxyInfo,
    Verified,
    VerifiedSize,
    short,
    write_mixture,
)
from pipeline.mix.weights.noise import Noise, measure_noise, seed_noise
from pipeline.mix.weights.objective import Problem
from pipeline.mix.weights.proposal import Proposal, SliceAnswer
from pipeline.mix.weights.propose import SeedNoise, beliefs, propose
from pipeline.mix.weights.rounding import round_weights
from pipeline.mix.weights.search import Ints
from pipeline.mix.weights.space import TOLERANCE, Space, reduced_constraints
from pipeline.mix.weights.swarm import run_id
from pipeline.mix.weights.verify import WEIGHTED, Fresh, Verification, normalised, verify_proposal
from pipeline.table.errors import InputError, WorkspaceError
from pipeline.table.kept import done, kept, write_file, write_json
from pipeline.table.shards import digest

FRESH_SEEDS = 1_000
"""How far behind the swarm's seeds those of verification begin: no run of a swarm has them."""
FIT_VERSION = "fit_v4"
"""Raised when the same runs and settings give another fit."""
PROPOSAL_VERSION = "proposal_v5"
"""Raised when what a proposal says of the same fit changes."""
VERIFICATION_VERSION = "verification_v2"
"""Raised when the same measurements give another verdict."""
SPLITS, FEW_SPLITS, MANY_RUNS = 8, 3, 200
"""How often runs are halved to measure optimism: less often where fits take long."""


@dataclass(frozen=True)
class Fitted:
    """The regression of the suite's tasks, and how much of each is signal. `weights`: as used, those of noise less.

    `folder` is that of the proposal which these runs, suite, objective, bounds and settings decide.
    """

    fit: Fit
    noise: Noise
    weights: Mapping[str, float]
    results: Results
    space: Space
    folder: ProposalFolder


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
    key = digest(
        {
            "version": FIT_VERSION,
            "config": settings.model_dump(),
            "runs": [run.run_id for run in results.runs],
            "weights": [run.weights.tolist() for run in results.runs],
            "seeds": [run.seed for run in results.runs],
            "space": space.expand.tolist(),
            "values": results.values.tolist(),
            "variances": None if results.variances is None else results.variances.tolist(),
            "tasks": list(results.tasks),
            "higher": [name for name, weight in material.suite.config.weights().items() if weight < 0],
        }
    )
    noise = measure_noise(results.runs, results.values, results.tasks)
    weights = used_weights(material.suite.config.weights(), noise)
    folder = _folder(mix, material, weights, key)
    known = _known_fit(mix, folder, key)
    if known is None:
        mix.desk.line(f"fitting {len(results.tasks)} tasks to {len(results.runs)} runs")
        known = _fit(mix, results, space, weights)
        save_fit(known, folder.fit)
        matrix = np.stack([run.weights for run in results.runs])
        _write_tables(folder.fit, material.names, matrix, results)
        write_json(folder.fit / "noise.json", noise.rows())
        write_json(folder.fit / "key.json", {"key": key})
    return Fitted(known, noise, weights, results, space, folder)


def used_weights(written: Mapping[str, float], noise: Noise) -> dict[str, float]:
    """Return each task's weight as it is used: as written, times what noise leaves of it (where all is noise, all)."""
    factors = dict(zip(noise.metrics, noise.factor.tolist(), strict=True))
    used = {name: weight * factors[name] for name, weight in written.items()}
    return used if any(used.values()) else dict(written)


def _folder(mix: OpenMix, material: Material, weights: Mapping[str, float], fit_key: str) -> ProposalFolder:
    """Return the folder of the proposal that a fit, the suite, the objective and the bounds decide; keep the config."""
    limits = material.constraints
    name = digest(
        {
            "fit": fit_key,
            "propose": mix.config.propose.model_dump(),
            "weights": dict(weights),
            "suite": material.suite_hash,
            "bounds": [limits.lower.tolist(), limits.upper.tolist()],
            "groups": material.suite.config.groups(),
        }
    )[:8]
    folder = mix.folder.proposal(name)
    write_json(folder.config, mix.config.model_dump(mode="json"))
    return folder


def _known_fit(mix: OpenMix, folder: ProposalFolder, key: str) -> Fit | None:
    """Return the fit of this key: this proposal's own, or that of another which differs in what is asked of it."""
    for each in (folder, *mix.folder.proposals()):
        if done(each.fit / "key.json", {"key": key}) is not None:
            try:
                found = load_fit(each.fit)
            except InputError as error:
                mix.desk.line(f"{error}: it is made anew")
                (each.fit / "key.json").unlink(missing_ok=True)
                continue
            for path in sorted(each.fit.iterdir(), key=lambda path: path.name == "key.json"):
                if each.path != folder.path:
                    write_file(folder.fit / path.name, path.read_bytes())
            return found
    return None


def _fit(mix: OpenMix, results: Results, space: Space, weights: Mapping[str, float]) -> Fit:
    settings = mix.config.fit
    return fit(
        np.stack([run.weights for run in results.runs]) @ space.reduce,
        results.values,
        slice_names=space.names,
        metric_names=results.tasks,
        model=settings.model,
        run_variance=results.variances,
        bootstrap=settings.bootstrap,
        seed=settings.seed,
        seeds=np.array([run.seed for run in results.runs]),
        higher=[name for name, weight in weights.items() if weight < 0],
        progress=mix.desk.line,
    )


def _write_tables(folder: Path, names: Sequence[str], matrix: Floats, results: Results) -> None:
    """Write what was fitted as tables that `mix fit --ratios --metrics` reads."""
    ids = [f"{run.run_id[:16]}-{run.seed}" for run in results.runs]
    ratios = [[*row, run.seed] for row, run in zip(matrix.tolist(), results.runs, strict=True)]
    for name, columns, rows in (
        ("ratios.csv", (*names, "seed"), ratios),
        ("metrics.csv", results.tasks, results.values.tolist()),
    ):
        lines = [",".join(["index", *columns])]
        lines += [",".join([run, *map(repr, row)]) for run, row in zip(ids, rows, strict=True)]
        write_file(folder / name, ("\n".join(lines) + "\n").encode())


def propose_mixture(mix: OpenMix, material: Material, fitted: Fitted) -> Proposal:
    """Return the proposal for the fitted regression, found once for the same fit and settings.

    Raises: ConfigError when constraints leave no mixture.
    """
    path = fitted.folder.proposal

    def make() -> tuple[Proposal, dict[str, Any]]:
        problem = _problem(material, fitted)
        with one_blas_thread():
            found = propose(fitted.fit, problem, mix.config.propose, mix.config.fit.seed, _halves(mix, fitted))
        proposal = _expanded(found, material, fitted.space)
        return proposal, {"proposal": plain_json(proposal)}

    def load(known: dict[str, Any]) -> Proposal | None:
        return from_json(Proposal, known["proposal"], str(path), "propose") if "proposal" in known else None

    return kept(path, {"version": PROPOSAL_VERSION}, make, load)


def _problem(material: Material, fitted: Fitted) -> Problem:
    """Return what is proposed for, in the swarm's space."""
    known = seed_noise_of(fitted).sd.get(WEIGHTED)
    return Problem(
        constraints=reduced_constraints(material.constraints, fitted.space),
        natural=_inner(material.natural, fitted.space),
        runs=np.stack([run.weights for run in fitted.results.runs]) @ fitted.space.reduce,
        task_weights=fitted.weights,
        task_groups=material.suite.config.groups(),
        seed_sd=known[0] if known else None,
    )


def _halves(mix: OpenMix, fitted: Fitted) -> list[tuple[Means, Means]]:
    """Return fits of both halves of some splits of the runs, each with the models that all runs chose."""
    results = fitted.results
    matrix = np.stack([run.weights for run in results.runs]) @ fitted.space.reduce
    splits = SPLITS if len(matrix) < MANY_RUNS else FEW_SPLITS
    rows = split_rows(results.runs, splits, mix.config.fit.seed)
    if rows:
        mix.desk.line(f"measuring what an optimum promises too much, on {len(rows)} splits of the runs")
    seeds = np.array([run.seed for run in results.runs])

    def half(kept: Ints) -> Means:
        return fitted.fit.refitted(matrix[kept], results.values[kept], seeds[kept])

    return [(half(first), half(second)) for first, second in rows]


def seed_noise_of(fitted: Fitted) -> SeedNoise:
    """Return what seeds do to a run: of baselines inside the mixtures' space alone, as corners are noisier."""
    results = fitted.results
    inner = [i for i, run in enumerate(results.runs) if run.kind != "corner"]
    shares = normalised(fitted.weights)
    weighted = results.values[inner] @ np.array([shares[name] for name in results.tasks])
    columns = np.column_stack([results.values[inner], weighted])
    sds, degrees = seed_noise([results.runs[i] for i in inner], columns)
    named = zip((*results.tasks, WEIGHTED), sds.tolist(), degrees.tolist(), strict=True)
    return SeedNoise(
        {name: (sd, count) for name, sd, count in named if count > 0},
        len({run.seed for run in results.runs if run.kind == "swarm"}) or 1,
    )


def _inner(weights: Floats, space: Space) -> Floats:
    inner: Floats = weights @ space.reduce
    return inner


def _expanded(proposal: Proposal, material: Material, space: Space) -> Proposal:
    """Return a proposal over all slices: those of a frozen block share what the block has."""
    if space.names == material.names:
        return proposal
    slices: dict[str, SliceAnswer] = {}
    for i, name in enumerate(material.names):
        block = int(np.argmax(space.expand[:, i]))
        ratio = float(space.expand[block, i])
        answer = proposal.slices[space.names[block]]
        slices[name] = replace(
            answer,
            weight=Estimate(*(value * ratio for value in (answer.weight.value, answer.weight.low, answer.weight.high))),
            natural=float(material.natural[i]),
            lower=float(material.constraints.lower[i]),
            upper=float(material.constraints.upper[i]),
            flat_low=answer.flat_low * ratio,
            flat_high=answer.flat_high * ratio,
        )

    def named(inner: Mapping[str, float]) -> dict[str, float]:
        full = np.array([inner[name] for name in space.names]) @ space.expand
        return dict(zip(material.names, full.tolist(), strict=True))

    pareto = tuple(replace(point, weights=named(point.weights)) for point in proposal.pareto)
    return replace(proposal, weights=named(proposal.weights), slices=slices, pareto=pareto)


def observed(material: Material, fitted: Fitted) -> dict[str, Floats]:
    """Return the mixtures that a proposal is held against: natural, uniform, and the best that was seen to the end.

    All lie inside the constraints, as weights that can be written: one of them may be. Of the runs seen, one that keeps
    every bound as it was trained is preferred.
    """
    limits = material.constraints
    natural = np.stack([material.natural, np.full(len(material.natural), 1 / len(material.natural))])
    shares = normalised(fitted.weights)
    measured = fitted.results.values @ np.array([shares[name] for name in fitted.results.tasks])
    by_mixture: dict[bytes, list[int]] = {}
    variances = fitted.results.variances
    for row, run in enumerate(fitted.results.runs):
        if variances is not None and variances[row].any():
            continue  # ended early: what it would have come to is a guess
        by_mixture.setdefault(np.round(run.weights, 9).tobytes(), []).append(row)
    matrix = np.stack([fitted.results.runs[rows[0]].weights for rows in by_mixture.values()])
    beyond = limits.violation(matrix) > TOLERANCE
    best = min(range(len(matrix)), key=lambda i: (beyond[i], float(measured[list(by_mixture.values())[i]].mean())))
    inside = limits.rescale(np.concatenate([natural, matrix[best][None]]))
    names = ("natural", "uniform", "best_seen")
    return {name: round_weights(weights, limits) for name, weights in zip(names, inside, strict=True)}


def verify_mixture(
    mix: OpenMix,
    material: Material,
    fitted: Fitted,
    proposal: Proposal,
    mixtures: Mapping[str, Floats],
    trainers: Sequence[tuple[float, Trainer]],
) -> Verification:
    """Train the candidates with fresh seeds and return the verdict; `trainers` are by size.

    All mixtures get the same seeds, so that chance is shared.

    Raises: GristmillError when a run fails.
    """
    kinds: dict[str, Any] = {name: name for name in mixtures}
    first = mix.config.swarm.seed + FRESH_SEEDS
    seeds = tuple(range(first, first + mix.config.verify.seeds))
    runs = [
        RunSpec(run_id(material.names, w, seed), kinds[name], w, seed) for name, w in mixtures.items() for seed in seeds
    ]
    tasks = [task for task in material.tasks if task.name in material.suite_tasks]
    measured = []
    for size, own in trainers:
        label = "verification" if size == 1 else f"verification at {size:g} times the size"
        results = train_and_measure(own, list({run.run_id: run for run in runs}.values()), tasks, label)
        place = {run.run_id: row for row, run in enumerate(results.runs)}
        columns = [results.tasks.index(task) for task in fitted.weights]
        values = results.values[[place[run.run_id] for run in runs]][:, columns]
        measured.append(Fresh(size, tuple(mixtures), seeds, values.reshape(len(mixtures), len(seeds), -1)))
    points = {name: weights @ fitted.space.reduce for name, weights in mixtures.items()}
    expected = beliefs(fitted.fit, _problem(material, fitted), points, proposal.optimism, seed_noise_of(fitted))
    found = verify_proposal(measured, fitted.weights, proposal.tasks, proposal.metric, expected)
    write_json(fitted.folder.verification, {"key": _verification_key(mix, proposal), "verdict": plain_json(found)})
    return found


def models_of(fitted: Fit) -> dict[str, str]:
    """Return the regression of each metric."""
    return {str(row["metric"]): str(row["model"]) for row in fitted.report["metrics"]}


def _verification_key(mix: OpenMix, proposal: Proposal) -> str:
    """Return what a verification is of, beside what its folder's name says."""
    return digest([VERIFICATION_VERSION, proposal.weights, mix.config.verify.model_dump()])


def known_verification(mix: OpenMix, fitted: Fitted, proposal: Proposal) -> Verification | None:
    """Return the verdict on this proposal, or None when there is none yet, or it was asked for otherwise."""
    path = fitted.folder.verification
    known = done(path, {"key": _verification_key(mix, proposal)})
    return from_json(Verification, known["verdict"], str(path), "verify") if known and "verdict" in known else None


@dataclass(frozen=True)
class Choice:
    """A proposal, its verdict where there is one, and the mixture that follows from both.

    `candidates` are the proposal and what it is held against, weights (k,) by name: the mixture is one of them.
    """

    proposal: Proposal
    verification: Verification | None
    mixture: Mixture
    candidates: Mapping[str, Floats]


def chosen_mixture(
    mix: OpenMix,
    material: Material,
    fitted: Fitted,
    proposal: Proposal,
    candidates: Mapping[str, Floats],
    verification: Verification | None,
) -> Choice:
    """Return what is to be used: weights, what is known of them and what they follow from. Writes nothing.

    That is the proposal, or after verification the candidate that is expected to be best, rounded to four places.

    Raises: ConfigError when another stage's mixture was not made yet; WorkspaceError for a verdict on a mixture that is
    none of the candidates.
    """
    uses = verification.mixture if verification else "proposal"
    if uses not in candidates:
        raise WorkspaceError(f"{fitted.folder.verification} chose {uses!r}; there are {', '.join(candidates)}")
    rounded = round_weights(candidates[uses], material.constraints).tolist()
    weights = dict(zip(material.names, rounded, strict=True))
    mixture = Mixture(
        name=mix.name,
        budget_tokens=mix.config.budget_tokens,
        weights=weights,
        slices=_mixed_slices(mix, material, proposal, weights),
        predicted=_expected(proposal, verification),
        evidence=verification.evidence if verification else "none",
        verified=_verified(proposal, verification) if verification else Verified(),
        stages=stages(mix, material, weights),
        provenance=_provenance(mix, material, fitted, proposal),
    )
    return Choice(proposal, verification, mixture, candidates)


def _mixed_slices(
    mix: OpenMix, material: Material, proposal: Proposal, weights: Mapping[str, float]
) -> dict[str, MixedSlice]:
    slices = {}
    for i, (name, weight) in enumerate(weights.items()):
        tokens, most = material.built[i].tokens.n_tokens, material.slices[i].config.max_epochs
        best = proposal.slices[name].weight
        slices[name] = MixedSlice(
            natural=short(material.natural[i]),
            cap=short(min(1.0, most * tokens / mix.config.budget_tokens)),
            tokens=tokens,
            epochs=short(weight * mix.config.budget_tokens / tokens) if tokens else 0.0,
            max_epochs=most,
            low=round(max(min(best.low, weight), 0.0), 6),
            high=round(min(max(best.high, weight), 1.0), 6),
        )
    return slices


def _expected(proposal: Proposal, verification: Verification | None) -> Expected:
    """Return what is expected of the weights that are written: by the regression, or by it and fresh runs."""
    metric, natural, gain = proposal.metric, proposal.baselines["natural"], proposal.improvement
    tasks = proposal.tasks
    if verification is not None:
        metric, natural, gain = verification.written[WEIGHTED], verification.natural, verification.gain
        tasks = {task: estimate for task, estimate in verification.written.items() if task != WEIGHTED}

    def rounded(estimate: Estimate) -> Estimate:
        return Estimate(*map(short, astuple(estimate)))

    return Expected(
        metric=rounded(metric),
        natural=rounded(natural),
        improvement=rounded(gain),
        optimism=short(proposal.optimism),
        tasks={task: rounded(estimate) for task, estimate in tasks.items()},
    )


def _verified(proposal: Proposal, verification: Verification) -> Verified:
    inside, total = (sum(getattr(held, part) for held in verification.held.values()) for part in ("inside", "runs"))
    return Verified(
        uses=verification.mixture,
        why=" ".join([verification.why, *verification.notes]),
        sizes=tuple(
            VerifiedSize(
                size=size.size,
                seeds=min(map(len, size.seeds.values())),
                seed_sd=short(size.pooled_sd),
                metric={name: short(value) for name, value in size.mean.items()},
                expected={name: short(estimate.value) for name, estimate in size.expected.items()},
            )
            for size in verification.sizes
        ),
        differences={
            name: Difference(short(d.value), short(d.low), short(d.high), None if d.in_sd is None else short(d.in_sd))
            for name, d in verification.sizes[-1].differences.items()
        },
        tasks_inside=f"{inside} of {total} measurements inside their 90 % intervals" if total else "",
        proposed=None if verification.mixture == "proposal" else proposal.weights,
    )


def _provenance(mix: OpenMix, material: Material, fitted: Fitted, proposal: Proposal) -> Provenance:
    config = mix.config
    return Provenance(
        proposal=fitted.folder.name,
        suite=str(material.suite.path),
        suite_hash=material.suite_hash,
        task_weights=dict(fitted.weights),
        tokenizer_hash=material.tokenizer_hash,
        slice_keys={each.name: each.key for each in material.built},
        runs=len(fitted.results.runs),
        proxy=ProxyInfo(
            kind=config.proxy.kind,
            parameters=config.proxy.parameters if config.proxy.kind == "transformer" else 0,
            tokens=config.proxy.tokens,
        ),
        models=models_of(fitted.fit),
        objective=config.propose.objective,
        kl=proposal.kl,
        seeds={"swarm": config.swarm.seed, "proxy": config.proxy.seed, "fit": config.fit.seed},
        versions={"gristmill": version("gristmill"), "numpy": version("numpy"), "scipy": version("scipy")},
    )


def save_mixture(mix: OpenMix, folder: ProposalFolder, mixture: Mixture) -> None:
    """Write a proposal's `mixture.yaml`, and the mix's, which is that of the proposal written last."""
    for path in (folder.mixture, mix.folder.mixture):
        write_mixture(path, mixture)
    mix.folder.wrote(folder.name)


def stages(mix: OpenMix, material: Material, weights: Mapping[str, float]) -> tuple[MixtureStage, ...]:
    """Return the stages of the target run, this mix's own first; none when the configuration names no other.

    Raises: ConfigError when another stage's mixture was not made yet.
    """
    if not mix.config.stages:
        return ()
    first = 1 - sum(stage.share for stage in mix.config.stages)
    told = [("pretraining", first, str(material.suite.path), material.suite_hash, weights)]
    for stage in mix.config.stages:
        config, other = stage_mixture(stage)
        known = other.provenance
        suite, suite_hash = (known.suite, known.suite_hash) if known else (config.suite, "")
        told.append((stage.name, stage.share, suite, suite_hash, other.weights))
    budget = mix.config.budget_tokens
    return tuple(
        MixtureStage(name=n, share=s, tokens=round(s * budget), suite=suite, suite_hash=key, weights=dict(w))
        for n, s, suite, key, w in told
    )


def chosen(mix: OpenMix, found: Material, fitted: Fitted, verify: bool | None = False) -> tuple[Fitted, Choice]:
    """Return the proposal, its verdict and the mixture. Without `verify` nothing is trained for a verdict.

    None for `verify` verifies where that trains nothing, or was never done for any suite: a changed suite gives its
    mixture from the kept proxies at once, and training to verify it is a step of its own.
    """
    fitted, proposal = _active_rounds(mix, found, fitted, propose_mixture(mix, found, fitted), only_kept=True)
    verification = known_verification(mix, fitted, proposal)
    if verify is None:
        verify = mix.config.proxy.kind == "ngram" or not any(p.verification.is_file() for p in mix.folder.proposals())
    verify = verify and verification is None
    if verify:
        fitted, proposal = _active_rounds(mix, found, fitted, proposal)
    candidates = {"proposal": proposal.vector} | observed(found, fitted)
    if verify:
        sizes = [1.0, *([mix.config.verify.larger] if mix.config.verify.larger else [])]
        trainers = [(size, trainer(mix, found, size)) for size in sizes]
        verification = verify_mixture(mix, found, fitted, proposal, candidates, trainers)
    return fitted, chosen_mixture(mix, found, fitted, proposal, candidates, verification)


def _active_rounds(
    mix: OpenMix, found: Material, fitted: Fitted, proposal: Proposal, only_kept: bool = False
) -> tuple[Fitted, Proposal]:
    """Train each proposal once and fit again with it, as often as `verify.rounds` says; rounds in the fit count.

    With `only_kept` only as far as an earlier command trained them: what it found is found again, and its verdict.
    """
    done = sum(run.kind == "proposal" for run in fitted.results.runs)
    for number in range(done, mix.config.verify.rounds):
        weights = proposal.vector
        seed = fitted.results.runs[0].seed
        run = RunSpec(run_id(found.names, weights, seed), "proposal", weights, seed)
        runs, own = fitted.results.runs, trainer(mix, found)
        if run.run_id in {each.run_id for each in runs} or (only_kept and own.at(run).trained() is None):
            break
        results = train_and_measure(own, [*runs, run], found.tasks, f"active round {number + 1}")
        fitted = fit_results(mix, found, results, fitted.space)
        proposal = propose_mixture(mix, found, fitted)
    return fitted, proposal


def sampled(mix: OpenMix, found: Material, mixture: Mixture, out: str) -> SampleReport:
    """Write the token shards of a mixture, for the first stage of the target run, into a folder or behind a URL.

    Raises: ConfigError when the slices do not have so many tokens within their `max_epochs`.
    """
    first = mixture.stages[0].share if mixture.stages else 1.0
    return sample(
        found.data.slices,
        np.array([mixture.weights.get(name, 0.0) for name in found.names]),
        int(mix.config.budget_tokens * first),
        out,
        mix.config.sample,
        max_epochs=np.array([each.config.max_epochs for each in found.slices]),
        vocabulary=found.data.vocabulary,
        eos=found.data.eos,
        key="-".join(found.data_keys),
        exclude=[set(each) or None for each in found.excluded],
        workers=mix.config.proxy.workers,
        stop=mix.desk.stop.is_set,
    )
