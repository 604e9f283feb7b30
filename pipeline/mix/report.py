"""The mix report: what the steps left, as the plain values that the report's room draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.mix.shards.sample import SampleReport
from pipeline.mix.steps.choose import Choice, Fitted, models_of, observed
from pipeline.mix.steps.types import Material, OpenMix, Results
from pipeline.mix.weights.mixture import Mixture
from pipeline.mix.weights.proposal import Proposal
from pipeline.mix.weights.swarm import unjudged_slices
from pipeline.mix.weights.verify import SizeResult, Verification
from pipeline.report import values as show
from pipeline.report.mix import write_report
from pipeline.report.values import Estimate, MixReport


def write_mix_report(
    mix: OpenMix, found: Material, fitted: Fitted | None, choice: Choice | None, sampled: SampleReport | None
) -> tuple[MixReport, Path]:
    """Write the page of everything that is known so far, beside the proposal that it is of; return both."""
    results = fitted.results if fitted else None
    proposal = choice.proposal if choice else None
    verification = choice.verification if choice else None
    report = MixReport(
        name=mix.name,
        slices=[
            show.Slice(
                row["slice"], row["proportion"], row["documents"], row["tokens"], each.config.max_epochs, row["cap"]
            )
            for row, each in zip(found.rows, found.slices, strict=True)
        ],
        basis=_basis(mix, found, fitted, proposal),
        tasks=_tasks(found, fitted),
        budget_tokens=mix.config.budget_tokens,
        runs=len(results.runs) if results else None,
        proposal=_written(choice.mixture) if choice else None,
        baselines=_baselines(found, fitted, choice) if fitted and choice else (),
        changes=_changes(proposal) if proposal else (),
        verifications=[_verification(size, verification, proposal) for size in verification.sizes]
        if verification and proposal
        else (),
        predictions=_predictions(fitted) if fitted else (),
        quality=_quality(fitted) if fitted else (),
        noise=_noise(fitted) if fitted else (),
        sensitivity=_sensitivity(proposal) if proposal else (),
        pulls={name: answer.pulls for name, answer in proposal.slices.items()} if proposal else {},
        kl_records=[show.KlRecord(k.kl, k.promised, k.kept, k.kl == proposal.kl) for k in proposal.halves]
        if proposal
        else (),
        optimism=proposal.optimism if proposal else None,
        pareto=_pareto(found, fitted, proposal) if fitted and proposal else None,
        curves=_curves(results) if results else (),
        costs=_costs(results) if results else (),
        sampled=_sampled(sampled) if sampled else None,
        warnings=_warnings(found, fitted, proposal, verification),
    )
    return report, write_report(report, fitted.folder.report if fitted else mix.folder.root / "report")


def _basis(mix: OpenMix, found: Material, fitted: Fitted | None, proposal: Proposal | None) -> dict[str, str]:
    proxy = mix.config.proxy
    size = f" of {proxy.parameters:,} parameters" if proxy.kind == "transformer" else ""
    return {
        "workspace": mix.config.workspace,
        "suite": f"{found.suite.path} ({found.suite_hash[:12]})",
        "proxy": f"{proxy.kind}{size}, {proxy.tokens:,} tokens",
        "tokenizer": f"{found.data.vocabulary:,} tokens ({found.tokenizer_hash[:12]})",
        "objective": mix.config.propose.objective + (f", KL weight {proposal.kl:g}" if proposal else ""),
        "proposal": fitted.folder.name if fitted else "none yet",
    } | {stage.name: f"{stage.config}, {stage.share:.0%} of the tokens" for stage in mix.config.stages}


def _tasks(found: Material, fitted: Fitted | None) -> list[show.Task]:
    groups = found.suite.config.groups()
    weights = fitted.weights if fitted else found.suite.config.weights()
    models = models_of(fitted.fit) if fitted else {}
    return [show.Task(name, groups[name], weights[name], models.get(name)) for name in weights]


def _written(mixture: Mixture) -> show.Mixture:
    """Return what the mixture file holds, with its intervals."""
    low, high = (np.array([getattr(each, end) for each in mixture.slices.values()]) for end in ("low", "high"))
    return show.Mixture(mixture.verified.uses or "proposal", mixture.vector, low, high)


def _baselines(found: Material, fitted: Fitted, choice: Choice) -> list[show.Mixture]:
    known = {"proposal": choice.proposal.vector} | observed(found, fitted)
    uses = choice.mixture.verified.uses or "proposal"
    return [show.Mixture(name, weights) for name, weights in known.items() if name not in ("natural", uses)]


def _changes(proposal: Proposal) -> list[show.Change]:
    gain = proposal.improvement
    whole = Estimate(-gain.value, -gain.high, -gain.low)
    changes = [show.Change("suite", whole, proposal.baselines["natural"].value)]
    for group, value in proposal.groups.items():
        natural = proposal.natural_groups[group]
        changes.append(show.Change(group, Estimate(value - natural, math.nan, math.nan), natural))
    return changes


def _verification(size: SizeResult, verification: Verification, proposal: Proposal) -> show.Verification:
    names = sorted(size.mean, key=lambda name: (name != size.best, size.expected[name].value))
    is_last = size is verification.sizes[-1]
    return show.Verification(
        label="At the proxies' own size" if size.size == 1 else f"At {size.size:g} times the proxies' size",
        mixtures=[
            show.Verified(
                name,
                len(size.seeds[name]),
                size.mean[name],
                size.pooled_sd,
                proposal.metric if name == "proposal" and size.size == 1 else None,
                expected=size.expected[name],
            )
            for name in names
        ],
        verdict=verification.why if is_last else f"Expected to be best is {size.best}.",
        evidence=verification.evidence if is_last else "likely",
        pooled_sd=size.pooled_sd,
        differences={name: Estimate(d.value, d.low, d.high) for name, d in size.differences.items()},
    )


def _predictions(fitted: Fitted) -> list[show.Predicted]:
    held = fitted.fit.held_out
    if held is None:
        return []
    return [
        show.Predicted(name, fitted.results.values[:, i], held.mean[:, i], held.low[:, i], held.high[:, i])
        for i, name in enumerate(fitted.results.tasks)
    ]


def _quality(fitted: Fitted) -> list[show.FitQuality]:
    names = ("r2", "spearman", "rmse", "coverage")
    return [
        show.FitQuality(
            str(row["metric"]), str(row["model"]), int(row.get("runs", 0)), *(_number(row.get(name)) for name in names)
        )
        for row in fitted.fit.report["metrics"]
    ]


def _noise(fitted: Fitted) -> list[show.SignalToNoise]:
    rows = []
    for row in fitted.noise.rows():
        numbers = {name: _number(row[name]) for name in ("signal_std", "seed_std", "ratio", "factor")}
        if numbers["seed_std"] is None or numbers["signal_std"] is None:
            continue
        ratio = numbers["ratio"] if numbers["ratio"] is not None else float("inf")
        rows.append(
            show.SignalToNoise(
                str(row["metric"]), numbers["signal_std"], numbers["seed_std"], ratio, ratio < 3, numbers["factor"]
            )
        )
    return rows


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _sensitivity(proposal: Proposal) -> list[show.Sensitivity]:
    rows = []
    for name, answer in proposal.slices.items():
        less, more = (answer.moves.get(step) for step in ("-0.05", "+0.05"))
        rows.append(
            show.Sensitivity(
                name,
                Estimate(less.metric_change, math.nan, math.nan) if less else None,
                Estimate(more.metric_change, math.nan, math.nan) if more else None,
                (answer.flat_low, answer.flat_high),
            )
        )
    return rows


def _pareto(found: Material, fitted: Fitted, proposal: Proposal) -> show.Pareto | None:
    groups = list(proposal.groups)
    if len(groups) < 2 or not proposal.pareto:
        return None
    seen = _group_values(found, fitted, groups)
    return show.Pareto(
        groups,
        np.array([[point.metrics[group] for group in groups] for point in proposal.pareto]),
        np.array([proposal.groups[group] for group in groups]),
        np.array([proposal.natural_groups[group] for group in groups]),
        seen,
    )


def _group_values(
    found: Material, fitted: Fitted, groups: Sequence[str]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the measured metric of each group (n, groups), weighted as the suite is."""
    of = found.suite.config.groups()
    columns = []
    for group in groups:
        weights = np.array([fitted.weights[t] if of[t] == group else 0.0 for t in fitted.results.tasks])
        columns.append(fitted.results.values @ (weights / max(np.abs(weights).sum(), 1e-12)))
    return np.stack(columns, axis=1)


def _curves(results: Results) -> list[show.Curve]:
    curves = []
    for run, trained in zip(results.runs, results.trained, strict=True):
        if len(trained.curve) > 1:
            points = np.array(trained.curve, np.float64)
            curves.append(show.Curve(run.run_id[:8], run.kind, points[:, 0], points[:, 1]))
    return curves


def _costs(results: Results) -> list[show.Cost]:
    return [
        show.Cost(run.run_id[:8], run.kind, trained.cpu_s, trained.tokens, trained.flops)
        for run, trained in zip(results.runs, results.trained, strict=True)
    ]


def _sampled(sampled: SampleReport) -> show.Sampled:
    counted = np.array([each.tokens for each in sampled.slices], np.float64)
    return show.Sampled(counted, np.array([each.weight for each in sampled.slices], np.float64))


def _warnings(
    found: Material, fitted: Fitted | None, proposal: Proposal | None, verification: Verification | None
) -> list[str]:
    said: list[str] = []
    if fitted is not None:
        reasons = unjudged_slices(fitted.results.runs, found.bounds, fitted.space)
        said += [f"The runs cannot judge the slice {name}: {reason}." for name, reason in reasons.items()]
    if proposal is not None:
        said += proposal.notes
        if any(active.kind == "trust_region" for active in proposal.active):
            said.append("The proposal lies at the edge of what the swarm sampled; more runs there might move it.")
    if verification is not None and verification.mixture != "proposal":
        said.append(f"The mixture file holds {verification.mixture}, not the proposal.")
    for name, count in found.left_out.items():
        said.append(f"{name}: {count} items were not measured, the training text holds them.")
    return said
