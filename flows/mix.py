"""`gristmill mix`: from slices of curated text to a mixture and its token shards. Each step makes what is missing.

    slices -> swarm -> train -> fit -> propose -> verify -> sample, and report, which shows what there is

A step begins with the steps before it, of which only what is missing or changed is done. So a changed suite measures
its new tasks on the kept proxies, fits and proposes, and trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from flows.engine import LocalEngine, PrefectEngine
from flows.progress import Reporter, reporter
from pipeline.mix.config import ModelName, ProxyConfig
from pipeline.mix.regression.fitting import Fit
from pipeline.mix.regression.tables import fit_files, render_report
from pipeline.mix.report import MixReport, text_summary, write_mix_report
from pipeline.mix.steps.choose import (
    Fitted,
    chosen,
    fit_results,
    sampled,
    save_mixture,
)
from pipeline.mix.steps.explain import explain_mixture
from pipeline.mix.steps.material import kept_material, material, refuse_early, slices_text
from pipeline.mix.steps.train import (
    SECONDS_OF_WORK,
    TOKENS_A_SECOND,
    draw,
    missing,
    results_answer,
    swarm_rows,
    swarm_text,
    train,
    train_and_measure,
    trainer,
    training_lines,
)
from pipeline.mix.steps.types import Drawn, Material, OpenMix
from pipeline.mix.steps.workspace import glanced_mix, opened_mix
from pipeline.mix.weights.mixture import Mixture
from pipeline.table.errors import UsageError, nearest
from pipeline.table.format import Answer
from pipeline.table.interrupts import Stop, stopping_on_signals
from pipeline.table.stages import Engine, Made

STEPS = ("run", "slices", "swarm", "train", "fit", "propose", "verify", "sample", "report", "explain")
OF_A_PROPOSAL = ("report", "sample", "explain")
"""Steps that, without assignments, are of a proposal that is there and not of what the configuration would lead to."""


@dataclass
class MixDesk:
    """A mix's work under our engines. Prefect starts when it is first worth it and stays to the end of `opened`."""

    reporter: Reporter
    stop: Stop
    opened: ExitStack = field(default_factory=ExitStack)
    is_up: bool = False

    def line(self, text: str) -> None:
        """Print one line on stderr."""
        self.reporter.line(text)

    @contextmanager
    def progress(self, why: str, jobs: int) -> Iterator[Callable[[], None] | None]:
        """Show a bar on a terminal; elsewhere nothing, as lines will say what is done."""
        if self.reporter.bars is None:
            yield None
            return
        with self.reporter.stage("mix", why, jobs) as shown:
            yield lambda: shown.shard(Made(None, "", 0, 0, 0), 0.0)

    def run(self, why: str, config: ProxyConfig, untrained: int, work: Callable[[Engine], None]) -> None:
        """Do `work` with threads of this process when it takes seconds, as tasks of a Prefect flow when it is more."""
        if not is_worth_prefect(config, untrained):
            work(LocalEngine(config.workers, self.stop))
            return
        from flows.server import in_a_flow, prefect_server

        if not self.is_up:
            self.opened.enter_context(prefect_server(self.stop, self.reporter))
            self.is_up = True
        in_a_flow(_under_prefect, work, why, config.workers, self.stop)


def is_worth_prefect(config: ProxyConfig, untrained: int) -> bool:
    """Tell whether training takes longer than seconds. Counting n-grams, and measuring kept models, never does."""
    return config.kind != "ngram" and untrained * config.tokens / TOKENS_A_SECOND > SECONDS_OF_WORK


def _under_prefect(work: Callable[[Engine], None], why: str, workers: int, stop: Stop) -> None:
    from prefect import flow
    from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers)

    @flow(name="mix", flow_run_name=f"mix {why}", task_runner=runner, validate_parameters=False)
    def train() -> None:
        work(PrefectEngine(stop))

    train()


@contextmanager
def _desk(stop: Stop) -> Iterator[MixDesk]:
    with reporter() as shown, ExitStack() as opened:
        yield MixDesk(shown, stop, opened)


def run_step(
    step: str,
    path: str,
    assignments: Sequence[str] = (),
    proposal: str | None = None,
    slice_name: str | None = None,
) -> Answer:
    """Do a step of a mix, and those before it as far as they are missing.

    Returns rows of slices, of the swarm's runs, of tasks (`train`, `fit`), or of the weights that are written.

    `report`, `sample` and `explain` are of a proposal that is there: the one named, or the one written last; only with
    assignments of that of the configuration.

    Raises: UsageError for what is wrong before work begins; GristmillError when work failed.
    """
    if step not in STEPS:
        raise UsageError(f"mix: no step {step!r}{nearest(step, STEPS)}; there are {', '.join(STEPS)}")
    stop = Stop()
    command = f"gristmill mix {step} {path}"
    if proposal is None and step in OF_A_PROPOSAL and not assignments:
        proposal = ""  # the one written last
    with (
        stopping_on_signals(stop, command),
        _desk(stop) as desk,
        opened_mix(path, assignments, command, desk, proposal) as mix,
    ):
        if step == "explain":
            return explain_mixture(mix, slice_name)
        refuse_early(mix.config, step)
        found = material(mix)
        if step == "slices":
            return Answer(found.rows, slices_text(found))
        drawn = draw(mix, found)
        if step == "swarm":
            return Answer(swarm_rows(found, drawn), swarm_text(found, drawn))
        if step == "report":
            return _report_alone(mix, found, drawn)
        results = train(mix, found, drawn.runs)
        if step == "train":
            return results_answer(mix, found, results)
        fitted = fit_results(mix, found, results, drawn.space)
        if step == "fit":
            return fit_answer(fitted.fit)
        return _choose_and_write(mix, found, fitted, step)


def _choose_and_write(mix: OpenMix, found: Material, fitted: Fitted, step: str) -> Answer:
    """Propose, and as far as the step goes verify, write shards and the report."""
    fitted, choice = chosen(mix, found, fitted, {"verify": True, "run": None}.get(step, False))
    save_mixture(mix, fitted.folder, choice.mixture)
    is_sampled = step == "sample" or (step == "run" and choice.verification is not None)
    shards = sampled(mix, found, choice.mixture, mix.shown(fitted.folder.shards)) if is_sampled else None
    report = MixReport(mix, found, fitted, choice, shards)
    page = write_mix_report(report)
    lines = [text_summary(report)]
    if step == "verify" and choice.verification is not None:
        lines.append(str(choice.verification))
    if shards is not None:
        counted = f"{shards.shards:,} shard{'s' * (shards.shards != 1)}"
        lines.append(f"token shards: {shards.folder} ({shards.tokens:,} tokens in {counted})")
    elif step == "run":
        lines.append(f"not verified on this suite, so no shards yet; next: {mix.command_of('verify')}, then mix sample")
    lines += [_of(found, fitted), f"mixture: {mix.shown(mix.folder.mixture)}", f"report: {mix.shown(page)}"]
    return _written(choice.mixture, lines)


def _written(mixture: Mixture, lines: Sequence[str]) -> Answer:
    """Return the weights of a mixture, a row a slice, with what is told of them."""
    rows = [{"slice": name, "weight": weight} | dict(mixture.slices[name]) for name, weight in mixture.weights.items()]
    return Answer(rows, "\n".join(lines), {"evidence": mixture.evidence, "slices": rows})


def _of(found: Material, fitted: Fitted) -> str:
    return f"proposal: {fitted.folder.name}, suite {found.suite.path}"


def _report_alone(mix: OpenMix, found: Material, drawn: Drawn) -> Answer:
    """Write the report of what there is; nothing is trained for it."""
    own = trainer(mix, found)
    if missing(own, drawn.runs, found.tasks):
        page = write_mix_report(MixReport(mix, found))
        return Answer([], f"no proposal yet: proxies are missing\nreport: {mix.shown(page)}")
    results = train_and_measure(own, drawn.runs, found.tasks, "swarm")
    fitted, choice = chosen(mix, found, fit_results(mix, found, results, drawn.space))
    if not fitted.folder.mixture.is_file():
        save_mixture(mix, fitted.folder, choice.mixture)
    page = write_mix_report(MixReport(mix, found, fitted, choice))
    return _written(choice.mixture, [_of(found, fitted), f"report: {mix.shown(page)}"])


def fit_tables(ratios: str, metrics: str, out: str, model: ModelName = "auto", higher: Sequence[str] = ()) -> Answer:
    """Fit a regression to anybody's tables, and write it to a folder. Returns its quality, a row a metric.

    Raises: InputError for what is wrong with a table.
    """
    return fit_answer(fit_files(ratios, metrics, out, model=model, higher=higher, progress=Reporter().line))


def fit_answer(fit: Fit) -> Answer:
    """Return a fit's quality, a row a metric."""
    return Answer(fit.report["metrics"], render_report(fit.report))


def plan(path: str, assignments: Sequence[str]) -> Answer:
    """Return what a run would do, and refuse what it would refuse. Holds nothing and writes nothing."""
    with _desk(Stop()) as desk:
        mix = glanced_mix(path, assignments, desk)
        config = mix.config
        refuse_early(config, "run")
        found = kept_material(mix)
        lines = [
            f"mix {mix.name}: folder {mix.shown(mix.folder.root)}",
            f"slices: {len(config.slices)} entries; suite: {config.suite}"
            + (f"; measured along: {', '.join(config.measure)}" if config.measure else ""),
        ]
        if found is None:
            counted = f"{config.swarm.runs} mixtures and the baselines over {config.swarm.replicates} seeds"
            lines.append(f"slices are to be built; then the swarm: {counted}, all of them to train")
        else:
            lines += training_lines(mix, found)
        proxies = f"{config.proxy.kind} proxies of {config.proxy.tokens:,} tokens on {config.proxy.workers} workers"
        lines.append(f"{proxies}; then verification with {config.verify.seeds} fresh seeds of each candidate")
        return Answer([{"said": line} for line in lines], "\n".join(lines))
