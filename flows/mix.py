"""`gristmill mix`: from slices of curated text to a mixture and its token shards. Each step makes what is missing.

    slices -> swarm -> train -> fit -> propose -> verify -> sample, and report, which shows what there is

A step begins with the steps before it, of which only what is missing or changed is done. So a changed suite measures
its new tasks on the kept proxies, fits and proposes, and trains nothing.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.launch import stopping_on_signals
from flows.mix_choose import (
    Choice,
    Fitted,
    chosen_mixture,
    fit_results,
    known_verification,
    propose_mixture,
    save_mixture,
    verify_mixture,
    was_ever_verified,
)
from flows.mix_explain import explain_mixture
from flows.mix_material import Material, kept_material, material, refuse_early, require_runs
from flows.mix_open import OpenMix, checked_mix, glanced_mix, mix_root, opened_mix
from flows.mix_report import write_mix_report
from flows.mix_rungs import train_in_rungs
from flows.mix_tables import print_fit
from flows.mix_train import Results, Trainer, missing, train_and_measure
from pipeline.mix.config import SwarmConfig
from pipeline.mix.constraints import reduced_constraints
from pipeline.mix.folder import MixFolder
from pipeline.mix.mixture import Mixture, load_mixture
from pipeline.mix.ngram import NgramProxy
from pipeline.mix.proposal import Proposal
from pipeline.mix.sample import SampleReport, sample
from pipeline.mix.swarm import draw_swarm, unjudged_slices
from pipeline.mix.swarm_space import Space, frozen_space, pool_tokens, whole_documents, whole_space
from pipeline.mix.types import Proxy, ProxyData, RunSpec
from pipeline.report.mix import text_summary
from pipeline.table.errors import ShardError
from pipeline.table.format import text_table
from pipeline.table.kept import read_json, write_json

OF_A_PROPOSAL = ("report", "sample", "explain")
"""Steps that, without assignments, are of a proposal that is there and not of what the configuration would lead to."""


@dataclass(frozen=True)
class Drawn:
    """The swarm: its runs, and the space that they were drawn in."""

    runs: tuple[RunSpec, ...]
    space: Space


def run_step(
    step: str,
    path: str,
    assignments: Sequence[str] = (),
    dry_run: bool = False,
    as_json: bool = False,
    proposal: str | None = None,
    slice_name: str | None = None,
) -> int:
    """Do a step of a mix, and those before it as far as they are missing. Returns the exit code.

    `report`, `sample` and `explain` are of a proposal that is there: the one named, or the one written last; only with
    assignments of that of the configuration.

    Raises: UsageError for what is wrong before work begins; GristmillError when work failed.
    """
    if dry_run:
        return _print_plan(path, assignments)
    stop = threading.Event()
    command = f"gristmill mix {step} {path}"
    if proposal is None and step in OF_A_PROPOSAL and not assignments:
        proposal = _written_last(path)
    with stopping_on_signals(stop, command), opened_mix(path, assignments, command, stop, proposal) as mix:
        if step == "explain":
            return _print(explain_mixture(mix, slice_name, as_json))
        refuse_early(mix.config, step)
        found = material(mix)
        if step == "slices":
            return _print(text_table(_slice_rows(found)))
        drawn = draw(mix, found)
        if step == "swarm":
            return _print(_swarm_text(found, drawn))
        if step == "report":
            return _report_alone(mix, found, drawn)
        results = _train(mix, found, drawn.runs)
        if step == "train":
            return _print(_results_text(results, _ngram_ranks(mix, found, results)))
        fitted = fit_results(mix, found, results, drawn.space)
        if step == "fit":
            return print_fit(fitted.fit, as_json)
        return _choose_and_write(mix, found, fitted, step)


def _written_last(path: str) -> str | None:
    """Return the name of the proposal whose mixture was written last, or None when there is none."""
    _, name, storage = checked_mix(path, ())
    folder = MixFolder(mix_root(storage, name))
    written = load_mixture(folder.mixture).provenance if folder.mixture.is_file() else None
    return written.proposal if written and folder.proposal(written.proposal).config.is_file() else None


def _choose_and_write(mix: OpenMix, found: Material, fitted: Fitted, step: str) -> int:
    """Propose, and as far as the step goes verify, write shards and the report."""
    fitted, choice = _chosen(mix, found, fitted, step)
    is_sampled = step == "sample" or (step == "run" and choice.verification is not None)
    sampled = _sampled(mix, found, choice.mixture, fitted.folder.shards) if is_sampled else None
    report = write_mix_report(mix, found, fitted, choice, sampled)
    lines = [text_summary(report.report)]
    if step == "verify" and choice.verification is not None:
        lines.append(choice.verification.text())
    if sampled is not None:
        lines.append(f"token shards: {sampled.folder} ({sampled.tokens:,} tokens in {sampled.shards} shards)")
    elif step == "run":
        lines.append(f"not verified on this suite, so no shards yet; next: {mix.command_of('verify')}, then mix sample")
    lines += [_of(found, fitted), f"mixture: {mix.folder.mixture}", f"report: {report.path}"]
    return _print("\n".join(lines))


def _of(found: Material, fitted: Fitted) -> str:
    return f"proposal: {fitted.folder.name}, suite {found.suite.path}"


def draw(mix: OpenMix, found: Material) -> Drawn:
    """Return the swarm's runs, and keep a copy for people to read.

    Raises: ConfigError for bounds that no mixture meets.
    """
    drawn = _drawn(mix.config.swarm, found)
    rows = [
        {
            "run": run.run_id,
            "kind": run.kind,
            "seed": run.seed,
            "weights": dict(zip(found.names, run.weights.tolist(), strict=True)),
        }
        for run in drawn.runs
    ]
    write_json(mix.folder.swarm, rows)
    return drawn


def _drawn(config: SwarmConfig, found: Material) -> Drawn:
    space = whole_space(found.names)
    if config.reuse is not None:
        earlier = load_mixture(Path(config.reuse.mixture)).weights
        space = frozen_space(found.names, earlier, config.reuse.frozen)
    reduced_constraints(found.constraints, space).require_choice()
    return Drawn(tuple(draw_swarm(found.natural, found.bounds, config, space)), space)


def trainer(mix: OpenMix, found: Material, size: float = 1.0) -> Trainer:
    """Return what runs are trained with, at the proxies' size or a multiple of it.

    Raises: MissingDependencyError when the proxy's extra is not installed.
    """
    config, data = mix.config.proxy, found.data
    if size != 1.0:
        config = config.model_copy(
            update={"parameters": int(config.parameters * size), "tokens": int(config.tokens * size)}
        )
        counts = [each.tokens.n_tokens for each in found.built]
        pools = pool_tokens(counts, mix.config.budget_tokens, config.tokens, mix.config.swarm.match_target_epochs)
        data = ProxyData(data.slices, whole_documents(data.slices, pools), data.vocabulary, data.eos)
    proxy: Proxy
    if config.kind == "ngram":
        proxy = NgramProxy(config, data, mix.folder.root / "runs" / "ngram_counts")
    else:
        from pipeline.mix.transformer.proxy import TransformerProxy

        proxy = TransformerProxy(config, data)
    return Trainer(config, proxy, data, found.data_keys, mix.folder, mix.reporter, mix.stop, mix.prefect)


def _train(mix: OpenMix, found: Material, runs: Sequence[RunSpec]) -> Results:
    require_runs(mix.config.fit.model, runs)
    for name, count in found.left_out.items():
        mix.reporter.line(f"task {name}: {count} items left out, the training text of the kept proxies holds them")
    own = trainer(mix, found)
    if mix.config.proxy.early_stopping is not None and mix.config.proxy.kind == "transformer":
        weights = found.suite.config.weights()
        train_in_rungs(own, runs, found.tasks, weights, mix.config.proxy.early_stopping)
    return train_and_measure(own, runs, found.tasks, "swarm")


def _chosen(mix: OpenMix, found: Material, fitted: Fitted, step: str) -> tuple[Fitted, Choice]:
    """Return the proposal with its verdict. A run verifies, but not where that would train for another suite.

    A changed suite gives its mixture from the kept proxies at once; training to verify it is a step of its own.
    """
    fitted, proposal = _active_rounds(mix, found, fitted, propose_mixture(mix, found, fitted), only_kept=True)
    verification = known_verification(mix, fitted, proposal)
    wanted = step == "verify" or (step == "run" and (mix.config.proxy.kind == "ngram" or not was_ever_verified(mix)))
    if verification is None and wanted:
        sizes = [1.0, *([mix.config.verify.larger] if mix.config.verify.larger else [])]
        fitted, proposal = _active_rounds(mix, found, fitted, proposal)
        trainers = [(size, trainer(mix, found, size)) for size in sizes]
        verification = verify_mixture(mix, found, fitted, proposal, trainers)
    choice = chosen_mixture(mix, found, fitted, proposal, verification)
    save_mixture(mix, fitted.folder, choice.mixture)
    return fitted, choice


def _active_rounds(
    mix: OpenMix, found: Material, fitted: Fitted, proposal: Proposal, only_kept: bool = False
) -> tuple[Fitted, Proposal]:
    """Train each proposal once and fit again with it, as often as `verify.rounds` says; rounds in the fit count.

    With `only_kept` only as far as an earlier command trained them: what it found is found again, and its verdict.
    """
    from pipeline.mix.swarm import run_id

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


def _sampled(mix: OpenMix, found: Material, mixture: Mixture, folder: Path) -> SampleReport:
    """Write the token shards of a mixture."""
    first = mixture.stages[0].share if mixture.stages else 1.0
    return sample_mixture(mix, found, mixture, int(mix.config.budget_tokens * first), folder)


def sample_mixture(mix: OpenMix, found: Material, mixture: Mixture, budget_tokens: int, folder: Path) -> SampleReport:
    """Write the token shards of a mixture for a budget into a folder.

    Raises: ConfigError when the slices do not have so many tokens within their `max_epochs`.
    """
    weights = np.array([mixture.weights.get(name, 0.0) for name in found.names])
    return sample(
        found.data.slices,
        weights,
        budget_tokens,
        folder,
        mix.config.sample,
        max_epochs=np.array([each.config.max_epochs for each in found.slices]),
        vocabulary=found.data.vocabulary,
        eos=found.data.eos,
        key="-".join(found.data_keys),
        exclude=[set(each) or None for each in found.excluded],
        workers=mix.config.proxy.workers,
        stop=mix.stop.is_set,
    )


def _report_alone(mix: OpenMix, found: Material, drawn: Drawn) -> int:
    """Write the report of what there is; nothing is trained for it."""
    own = trainer(mix, found)
    if missing(own, drawn.runs, found.tasks):
        report = write_mix_report(mix, found, None, None, None)
        return _print(f"no proposal yet: proxies are missing\nreport: {report.path}")
    results = train_and_measure(own, drawn.runs, found.tasks, "swarm")
    fitted = fit_results(mix, found, results, drawn.space)
    fitted, proposal = _active_rounds(mix, found, fitted, propose_mixture(mix, found, fitted), only_kept=True)
    choice = chosen_mixture(mix, found, fitted, proposal, known_verification(mix, fitted, proposal))
    if not fitted.folder.mixture.is_file():
        save_mixture(mix, fitted.folder, choice.mixture)
    report = write_mix_report(mix, found, fitted, choice, None)
    return _print(f"{_of(found, fitted)}\nreport: {report.path}")


def _print_plan(path: str, assignments: Sequence[str]) -> int:
    """Print what a run would do, and refuse what it would refuse. Holds nothing and writes nothing."""
    with glanced_mix(path, assignments) as mix:
        config = mix.config
        refuse_early(config, "run")
        found = kept_material(mix)
        lines = [
            f"mix {mix.name}: folder {mix.folder.root}",
            f"slices: {len(config.slices)} entries; suite: {config.suite}"
            + (f"; measured along: {', '.join(config.measure)}" if config.measure else ""),
        ]
        if found is None:
            counted = f"{config.swarm.runs} mixtures and the baselines over {config.swarm.replicates} seeds"
            lines.append(f"slices are to be built; then the swarm: {counted}, all of them to train")
        else:
            lines += _training_lines(mix, found)
        proxies = f"{config.proxy.kind} proxies of {config.proxy.tokens:,} tokens on {config.proxy.workers} workers"
        lines.append(f"{proxies}; then verification with {config.verify.seeds} fresh seeds of each candidate")
        return _print("\n".join(lines))


def _training_lines(mix: OpenMix, found: Material) -> list[str]:
    """Say how many runs of the swarm are to be trained, and why those that are kept do not do."""
    drawn = _drawn(mix.config.swarm, found)
    require_runs(mix.config.fit.model, drawn.runs)
    own = trainer(mix, found)
    folders = [own.at(run) for run in drawn.runs]
    is_kept = [each.trained() is not None or each.stopped_at() is not None for each in folders]
    finished = {each.parent.name for each in (mix.folder.root / "runs").glob("*/run.json")}
    started = {name.partition("-")[0] for name in finished}
    elsewhere = sum(r.run_id[:16] in started for r, kept in zip(drawn.runs, is_kept, strict=True) if not kept)
    count, to_train = len(drawn.runs), is_kept.count(False)
    kinds = f"{sum(run.kind == 'swarm' for run in drawn.runs)} mixtures and the baselines"
    lines = [f"swarm: {kinds} over {mix.config.swarm.replicates} seeds: {count} runs, {to_train} to train"]
    before: list[dict[str, Any]] = []
    with suppress(ShardError):  # a damaged list of the last swarm is written anew
        before = read_json(mix.folder.swarm) or []
    drawn_before = {row["run"] for row in before} & {run.run_id for run in drawn.runs}
    if before and len(drawn_before) < min(len(before), count):
        lines.append(
            f"the swarm is another than the last, which had {len(drawn_before)} of these {count} runs: a pinned weight "
            "or another bound, other shares of slices, and the keys of `swarm` change it"
        )
    if elsewhere:
        lines.append(
            f"{elsewhere} of those to train were trained on other text or as other proxies: slices, tokenizer, "
            "budget_tokens or keys of `proxy` changed"
        )
    return [*lines, *_unjudged_lines(found, drawn)]


def _slice_rows(found: Material) -> list[dict[str, object]]:
    return [
        {
            **{name: row[name] for name in ("slice", "documents", "tokens", "bytes")},
            "natural": f"{row['proportion']:.4f}",
            "cap": f"{row['cap']:.4f}",
            "held_out": row["held_out"],
            "contaminated": row["contaminated"],
        }
        for row in found.rows
    ]


def _swarm_text(found: Material, drawn: Drawn) -> str:
    rows = []
    for run in drawn.runs:
        weights = {name: f"{w:.4f}" for name, w in zip(found.names, run.weights.tolist(), strict=True)}
        rows.append({"run": run.run_id[:8], "kind": run.kind, "seed": run.seed, **weights})
    return "\n".join([text_table(rows).rstrip("\n"), *_unjudged_lines(found, drawn)])


def _unjudged_lines(found: Material, drawn: Drawn) -> list[str]:
    """Return a line for each slice whose effect these runs cannot show."""
    reasons = unjudged_slices(drawn.runs, found.bounds, drawn.space)
    return [f"{name} cannot be judged: {reason}" for name, reason in reasons.items()]


def _ngram_ranks(mix: OpenMix, found: Material, results: Results) -> dict[str, float | None]:
    """Return how n-gram proxies rank the same mixtures, task by task: whether they would have done for a first look."""
    if mix.config.proxy.kind == "ngram":
        return {}
    from pipeline.mix.regression.scores import spearman

    proxy = NgramProxy(mix.config.proxy, found.data, mix.folder.root / "runs" / "ngram_counts")
    weights = np.stack([run.weights for run in results.runs])
    counted = proxy.measure_mixtures(weights, found.tasks)
    columns = {task.name: counted[:, i] for i, task in enumerate(found.tasks)}
    return {name: spearman(columns[name], results.values[:, i]) for i, name in enumerate(results.tasks)}


def _results_text(results: Results, ngram_ranks: Mapping[str, float | None]) -> str:
    from pipeline.mix.noise import measure_noise

    noise = measure_noise(results.runs, results.values, results.tasks)
    rows = []
    for task, row, column in zip(results.tasks, noise.rows(), results.values.T, strict=True):
        ratio = row["ratio"]
        rows.append(
            {
                "task": task,
                "best": f"{column.min():.4f}",
                "median": f"{np.median(column):.4f}",
                "worst": f"{column.max():.4f}",
                "seed_sd": _number(row["seed_std"], 5),
                "signal_to_noise": _number(ratio, 1),
                **({"ngram_rank": _number(ngram_ranks[task], 3)} if ngram_ranks else {}),
                "flag": "mostly noise: weighted down" if isinstance(ratio, float) and ratio < 3 else "",
            }
        )
    return text_table(rows)


def _number(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, float) else "-"


def _print(text: str) -> int:
    sys.stdout.write(text.rstrip("\n") + "\n")
    return 0
