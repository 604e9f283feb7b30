"""The report of one mix: an HTML page with its plots in a folder, and a short text for the terminal.

Both show what the steps have made so far; the page names at its end what is not there yet. Metrics are losses: smaller
is better. Each plot's caption says what to look for and what the plot does not show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.mix.shards.sample import SampleReport
from pipeline.mix.steps.choose import Choice, Fitted, models_of
from pipeline.mix.steps.types import Material, OpenMix
from pipeline.mix.types import Estimate, Floats
from pipeline.mix.weights.proposal import Proposal
from pipeline.mix.weights.swarm import unjudged_slices
from pipeline.mix.weights.verify import SizeResult, Verification
from pipeline.report import drawing
from pipeline.report.drawing import Plot, left_out, new_figure, points, row_names, rows_height, short, spread
from pipeline.report.page import between, figure, note, number, page, percent, signed, table, text, whole, write_page
from pipeline.report.page import estimate as with_interval
from pipeline.report.page import spread as with_sd
from pipeline.table.format import cut, display_width, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ROWS, MAX_PANELS, MAX_PAIRS, MAX_POINTS, MAX_CURVES = 60, 24, 6, 2_000, 300
MAX_LINES = 40
KINDS = {
    "swarm": drawing.GREY,
    "corner": drawing.SKY,
    "natural": drawing.BLUE,
    "uniform": drawing.GREEN,
    "unimax": drawing.PINK,
    "best_seen": drawing.ORANGE,
    "proposal": drawing.RED,
}
"""The colour of each kind of run or mixture."""

Drawn = tuple["Figure", str] | None


@dataclass(frozen=True)
class MixReport:
    """What is known of a mix: what a later step makes is None until it has made it."""

    mix: OpenMix
    material: Material
    fitted: Fitted | None = None
    choice: Choice | None = None
    sampled: SampleReport | None = None

    @property
    def proposal(self) -> Proposal | None:
        return self.choice.proposal if self.choice else None

    @property
    def verification(self) -> Verification | None:
        return self.choice.verification if self.choice else None

    @property
    def written(self) -> str:
        """The name of the candidate that the mixture file holds."""
        return (self.choice.mixture.verified.uses if self.choice else None) or "proposal"

    @property
    def weights(self) -> Floats:
        """The weights of the mixture file (k,); before there is one, the natural shares."""
        return self.choice.mixture.vector if self.choice else self.material.natural

    @property
    def others(self) -> dict[str, Floats]:
        """The candidates that were not written, but for the natural mixture."""
        known = self.choice.candidates if self.choice else {}
        return {name: weights for name, weights in known.items() if name not in ("natural", self.written)}

    @property
    def epochs(self) -> Floats:
        """How often a target run of the budget repeats each slice (k,); NaN where a slice has no tokens."""
        tokens = np.array([row["tokens"] or np.nan for row in self.material.rows], np.float64)
        return self.weights * self.mix.config.budget_tokens / tokens

    @property
    def noise(self) -> list[dict[str, Any]]:
        """The rows of `Noise` in which both signal and noise are known."""
        rows = self.fitted.noise.rows() if self.fitted else []
        return [row for row in rows if row["seed_std"] is not None and row["signal_std"] is not None]

    @property
    def changes(self) -> list[tuple[str, Estimate, float]]:
        """What the proposal is predicted to change against natural: (suite or group, difference, natural metric)."""
        if (proposal := self.proposal) is None:
            return []
        gain, natural = proposal.improvement, proposal.natural_groups
        suite = ("suite", Estimate(-gain.value, -gain.high, -gain.low), proposal.baselines["natural"].value)
        groups = proposal.groups.items()
        return [suite, *((g, Estimate(value - natural[g], math.nan, math.nan), natural[g]) for g, value in groups)]

    def warnings(self) -> list[str]:
        """Return what a reader has to know before using the mixture, each once."""
        found, fitted, proposal, verification = self.material, self.fitted, self.proposal, self.verification
        said: list[str] = []
        if fitted is not None:
            reasons = unjudged_slices(fitted.results.runs, found.constraints, fitted.space)
            said += [f"The runs cannot judge the slice {name}: {reason}." for name, reason in reasons.items()]
        if proposal is not None:
            said += proposal.notes
            if any(active.kind == "trust_region" for active in proposal.active):
                said.append("The proposal lies at the edge of what the swarm sampled; more runs there might move it.")
        if verification is not None and verification.mixture != "proposal":
            said.append(f"The mixture file holds {verification.mixture}, not the proposal.")
        for name, count in found.left_out.items():
            said.append(f"{name}: {count} items were not measured, the training text holds them.")
        if proposal is not None and verification is None:
            said.append("The proposal is not verified: every gain below is a prediction of the regression.")
        if verification is not None and verification.evidence == "none":
            label = _label(verification.sizes[-1])
            said.append(f"{label}: no evidence that it is better than the natural mixture; see verification.")
        if flagged := [row["metric"] for row in self.noise if row["flagged"]]:
            said.append(f"Mostly seed noise, and weighted down: {_some(flagged)}.")
        if fitted is not None and fitted.fit.held_out is not None and not self.noise:
            said.append("Seed noise was not measured: small differences between mixtures may be chance.")
        most = np.array([each.config.max_epochs for each in found.slices])
        if self.choice and (over := np.flatnonzero(self.epochs > most * 1.0001)).size:
            said.append(
                f"The proposal repeats more often than max_epochs allows: {_some([found.names[i] for i in over])}."
            )
        off = self.sampled_shares()[2].max(initial=0.0) if self.sampled and self.sampled.tokens else 0.0
        if off > 0.001:
            said.append(f"Sampled proportions are up to {off:.4f} away from those asked for.")
        return list(dict.fromkeys(said))

    def sampled_shares(self) -> tuple[Floats, Floats, Floats]:
        """Return each slice's share of the shards' tokens, the share that was asked for, and how far they differ."""
        slices = self.sampled.slices if self.sampled else ()
        tokens = np.array([each.tokens for each in slices], np.float64)
        realised, asked = tokens / max(tokens.sum(), 1.0), np.array([each.weight for each in slices], np.float64)
        return realised, asked, np.abs(realised - asked)


def _some(names: Sequence[str], most: int = 8) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def write_mix_report(report: MixReport, folder: Path | None = None) -> Path:
    """Write the page and its plots, beside the proposal that it is of if not to `folder`; return the page's path.

    The same report gives the same bytes with the same matplotlib.

    Raises: WorkspaceError when the folder cannot be written.
    """
    plots = mix_plots(report)
    if folder is None:
        folder = report.fitted.folder.report if report.fitted else report.mix.folder.root / "report"
    return write_page(folder, _page(report, plots), plots, PLOTS)


def mix_plots(report: MixReport) -> dict[str, Plot]:
    """Return every plot that the report has values for, by name; none without matplotlib."""
    return drawing.draw({name: (title, partial(drawer, report)) for name, (title, drawer) in PLOTS.items()})


def text_summary(report: MixReport) -> str:
    """Return what a terminal shows of the report: warnings, the mixture, its predicted gain and how it was verified."""
    parts = ["\n".join(f"! {visible(sentence)}" for sentence in report.warnings()), _mixture_text(report)]
    if report.proposal is not None:
        parts.append(_changes_text(report, report.proposal))
    if (verification := report.verification) is not None:
        for size in verification.sizes:
            evidence, verdict = _verdict(size, verification)
            heading = {"confirmed": "Confirmed", "likely": "Likely"}.get(evidence, "NOT CONFIRMED")
            parts.append(f"{heading}. {_label(size)}: {visible(verdict[:1].lower() + verdict[1:])}")
    return "\n\n".join(filter(None, parts)) + "\n"


def _mixture_text(report: MixReport) -> str:
    weights, natural, shown = report.weights, report.material.natural, report.choice
    name = "proposed" if report.written == "proposal" else report.written
    rows = []
    order = _largest_first(weights)
    for i in order[:MAX_LINES]:
        row = [_name(report.material.names[i]), percent(natural[i])]
        if shown:
            row += [percent(weights[i]), _interval(report, int(i)), _plain(number(report.epochs[i], 3))]
        rows.append([*row, *["-"] * (5 - len(row))])
    lines = _aligned(["slice", "natural", name, "90% interval", "epochs at target"], rows)
    if len(order) > MAX_LINES:
        rest = order[MAX_LINES:]
        share = percent(float(weights[rest].sum()))
        lines.append(f"... and {len(rest):,} more slices with {share} in all; the report's page has them")
    return "\n".join([f"Mix {visible(report.mix.name)}" + ("" if shown else ": nothing is proposed yet"), *lines])


def _changes_text(report: MixReport, proposal: Proposal) -> str:
    rows = [[_name(name), _plain(_estimate(change))] for name, change, _ in report.changes[:MAX_LINES]]
    lines = _aligned(["predicted against natural", "change in bits per byte (less is better)"], rows)
    if any(record.kl == proposal.kl for record in proposal.halves):
        off = _plain(number(proposal.optimism, 2))
        lines.append(f"taken off for the optimism of an optimum: {off}; KL weight {proposal.kl:g}")
    return "\n".join(lines)


def _plain(shown: str) -> str:
    """Return a number as ASCII: a terminal may know nothing else, and people paste it."""
    return shown.replace("−", "-").replace("–", "-")


def _name(name: str) -> str:
    return cut(visible(name), 40)


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines: the first column to the left, the others to the right."""
    widths = [max(map(display_width, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        gaps = [" " * (width - display_width(cell)) for cell, width in zip(row, widths, strict=True)]
        others = [gap + cell for gap, cell in zip(gaps[1:], row[1:], strict=True)]
        lines.append("  ".join([row[0] + gaps[0], *others]).rstrip())
    return lines


def _largest_first(weights: Floats) -> np.ndarray[Any, np.dtype[np.intp]]:
    return np.lexsort((np.arange(weights.size), -weights))


def _interval(report: MixReport, i: int) -> str:
    """Return where the best weight of a slice lies."""
    known = report.choice and report.choice.mixture.slices.get(report.material.names[i])
    return between(known.low, known.high) if known else "–"


def _estimate(value: Estimate | None) -> str:
    return "–" if value is None else with_interval(*astuple(value))


def _label(size: SizeResult) -> str:
    return "At the proxies' own size" if size.size == 1 else f"At {size.size:g} times the proxies' size"


def _verdict(size: SizeResult, verification: Verification) -> tuple[str, str]:
    """Return how sure a size is, and the sentence that says so: the last decides."""
    if size is verification.sizes[-1]:
        return verification.evidence, verification.why
    return "likely", f"Expected to be best is {size.best}."


def _candidates(size: SizeResult) -> list[str]:
    """Return a size's candidates: the one that is expected to be best, then the others as they are expected."""
    return sorted(size.mean, key=lambda name: (name != size.best, size.expected[name].value))


def _predicted_of(name: str, size: SizeResult, proposal: Proposal | None) -> Estimate | None:
    return proposal.metric if proposal and name == "proposal" and size.size == 1 else None


# The page's sections --------------------------------------------------------------------------------------------------


def _page(report: MixReport, plots: Mapping[str, Plot]) -> str:
    config, found, proposal = report.mix.config, report.material, report.proposal
    facts = [f"{len(found.names):,} slices", f"{len(found.suite_tasks):,} tasks"]
    facts += [f"{len(report.fitted.results.runs):,} proxy runs"] if report.fitted else []
    facts.append(f"a target of {config.budget_tokens:,} tokens")
    lead = (
        f"{', '.join(facts)}. Metrics are losses in bits per byte: smaller is better. "
        "Intervals hold 90% unless said otherwise."
    )

    def shown(name: str) -> str:
        return figure(plots.get(name))

    sections = [
        ("mixture", "Proposed mixture", _mixture(report) + shown("weights")),
        ("gain", "Predicted gain", _changes(report) + shown("changes") + (_optimism(proposal) if proposal else "")),
        ("pulls", "Which tasks pull which slice", _pulls(proposal) if proposal else ""),
        ("verification", "Verification", _verification(report, shown("verification"))),
        ("prediction", "How well metrics are predicted", shown("predicted") + _quality(report)),
        ("noise", "Signal and seed noise", shown("noise") + _noise(report)),
        ("sensitivity", "Sensitivity", shown("sensitivity") + (_sensitivity(proposal) if proposal else "")),
        ("pareto", "Trade-offs between groups", shown("pareto")),
        ("curves", "Training curves", shown("curves")),
        ("compute", "Compute", _compute(report) + shown("compute")),
        ("sampled", "Token shards written", _sampled(report)),
        ("basis", "What this is based on", _basis(report)),
    ]
    return page(f"Mix {report.mix.name}", lead, report.warnings(), sections)


def _mixture(report: MixReport) -> str:
    """Slices with what is proposed for them, largest first."""
    found, weights, others = report.material, report.weights, report.others
    name = "proposed" if report.written == "proposal" else text(report.written)
    head = ["slice", name, "interval", "natural"] if report.choice else ["slice", "natural"]
    head += ["epochs at target", "most epochs", "cap", "documents", "tokens", *map(text, others)]
    rows = []
    for i in _largest_first(weights):
        row, known = [text(found.names[i])], found.rows[i]
        if report.choice:
            row += [f"<strong>{percent(weights[i])}</strong>", _interval(report, int(i))]
        row += [percent(found.natural[i]), number(report.epochs[i], 3)]
        row += [number(found.slices[i].config.max_epochs, 3), percent(known["cap"])]
        row += [whole(known["documents"]), whole(known["tokens"])]
        rows.append([*row, *(percent(other[i]) for other in others.values())])
    said = "" if report.choice else note("Nothing is proposed yet; these are the slices as they are.")
    return said + table(head, rows)


def _changes(report: MixReport) -> str:
    rows = []
    for name, change, natural in report.changes:
        share = signed(100 * change.value / natural, "+.2f") + " %" if natural else "–"
        rows.append([text(name), _estimate(change), number(natural), share])
    return table(["", "proposal − natural (bits per byte)", "natural, predicted", "relative"], rows)


def _optimism(proposal: Proposal) -> str:
    rows = [
        [
            f"<strong>{number(r.kl)}</strong>" if r.kl == proposal.kl else number(r.kl),
            number(r.promised),
            number(r.kept),
        ]
        for r in proposal.halves
    ]
    said = (
        "The best of many predictions is best by luck in part. Fits of half of the runs proposed; the second column is "
        "what they promised against the natural mixture, the third what fits of the other half say of the same "
        f"mixtures. For the proposal, {number(proposal.optimism, 2)} was taken off."
    )
    return note(said) + table(["KL penalty", "gain promised", "gain kept"], rows) if rows else ""


def _pulls(proposal: Proposal) -> str:
    rows = [
        [text(name), *(signed(answer.pulls.get(task)) for task in proposal.tasks), signed(sum(answer.pulls.values()))]
        for name, answer in proposal.slices.items()
    ]
    said = (
        "What five points more of a slice (the others keeping their ratios) do to the suite's metric in "
        "bits per byte, task by task, as the regression predicts it: below zero, the task asks for more."
    )
    return note(said) + table(["slice", *map(text, proposal.tasks), "all"], rows)


def _verification(report: MixReport, plot: str) -> str:
    if (verification := report.verification) is None:
        return ""
    parts = [_verified(size, verification, report.proposal) for size in verification.sizes]
    return "".join([parts[0], plot, *parts[1:]])


def _verified(size: SizeResult, verification: Verification, proposal: Proposal | None) -> str:
    evidence, verdict = _verdict(size, verification)
    tone = "bad" if evidence == "none" else "good"
    rows = []
    for name in _candidates(size):
        ahead = size.differences.get(name)
        row = [text(name), whole(len(size.seeds[name])), with_sd(size.mean[name], size.pooled_sd)]
        row += [_estimate(_predicted_of(name, size, proposal)), _estimate(size.expected[name])]
        row += [with_interval(ahead.value, ahead.low, ahead.high), number(ahead.in_sd, 3)] if ahead else ["–", "–"]
        rows.append(row)
    head = ["mixture", "seeds", "measured, mean ± sd", "predicted", "expected after both"]
    head += [f"{text(size.best)} minus it, paired", "in pooled sd"]
    pooled = f" Pooled standard deviation of seeds: {number(size.pooled_sd, 3)}." if size.pooled_sd else ""
    return f'<p><strong>{text(_label(size))}.</strong> <span class="{tone}">{text(verdict)}</span>{pooled}</p>' + table(
        head, rows
    )


def _quality(report: MixReport) -> str:
    if report.fitted is None:
        return ""
    rows = []
    for row in report.fitted.fit.report["metrics"]:
        coverage = row.get("coverage")
        values = [number(row.get(name), 3) for name in ("r2", "spearman", "rmse")]
        inside = "–" if coverage is None or not math.isfinite(coverage) else f"{coverage:.0%}"
        rows.append([text(row["metric"]), text(row["model"]), whole(row.get("runs", 0)), *values, inside])
    head = ["metric", "model", "runs", "R²", "Spearman", "RMSE", "in the 90% interval"]
    return note("Measured on runs that neither the fit nor its choice saw.") + table(head, rows)


def _noise(report: MixReport) -> str:
    rows = []
    for row in report.noise:
        flag = '<span class="bad">mostly noise</span>' if row["flagged"] else ""
        values = [number(row[name], 3) for name in ("signal_std", "seed_std", "ratio")]
        rows.append([text(row["metric"]), *values, flag, percent(row["factor"])])
    return table(["metric", "spread of mixtures", "spread of seeds", "signal to noise", "", "weight kept"], rows)


def _sensitivity(proposal: Proposal) -> str:
    head = ["slice", "change with less of it", "change with more of it", "weights that do as well"]
    rows = []
    for name, answer in proposal.slices.items():
        changes = number(answer.less), number(answer.more)
        rows.append([text(name), *changes, between(answer.flat_low, answer.flat_high)])
    return table(head, rows)


def _compute(report: MixReport) -> str:
    if report.fitted is None:
        return ""
    done = list(zip(report.fitted.results.runs, report.fitted.results.trained, strict=True))
    rows = []
    for kind in (*dict.fromkeys(run.kind for run, _ in done), "all"):
        runs = [trained for run, trained in done if kind in ("all", run.kind)]
        cpu_s = sum(one.cpu_s for one in runs)
        row = [text(kind), whole(len(runs)), whole(cpu_s), number(cpu_s / len(runs), 3)]
        rows.append([*row, whole(sum(one.tokens for one in runs)), f"{sum(one.flops for one in runs):.3g}"])
    return table(["kind", "runs", "CPU s", "CPU s a run", "tokens", "FLOPs"], rows)


def _sampled(report: MixReport) -> str:
    if report.sampled is None:
        return ""
    shares = np.stack(report.sampled_shares(), axis=1)
    rows = [
        [text(each.name), whole(each.tokens), *(f"{share:.5f}" for share in row)]
        for each, row in zip(report.sampled.slices, shares, strict=True)
    ]
    total = whole(sum(each.tokens for each in report.sampled.slices))
    largest = shares[:, 2].max(initial=0.0)
    said = f"{total} tokens, counted after they were written; the largest difference is {largest:.5f}."
    return f"<p>{said}</p>" + table(["slice", "tokens", "share", "asked for", "difference"], rows)


def _basis(report: MixReport) -> str:
    config, found, fitted, proposal = report.mix.config, report.material, report.fitted, report.proposal
    size = f" of {config.proxy.parameters:,} parameters" if config.proxy.kind == "transformer" else ""
    facts = {
        "workspace": config.workspace,
        "suite": f"{found.suite.path} ({found.suite_hash[:12]})",
        "proxy": f"{config.proxy.kind}{size}, {config.proxy.tokens:,} tokens",
        "tokenizer": f"{found.data.vocabulary:,} tokens ({found.tokenizer_hash[:12]})",
        "objective": config.propose.objective + (f", KL weight {proposal.kl:g}" if proposal else ""),
        "proposal": fitted.folder.name if fitted else "none yet",
    } | {stage.name: f"{stage.config}, {stage.share:.0%} of the tokens" for stage in config.stages}
    groups, models = found.suite.config.groups(), models_of(fitted.fit) if fitted else {}
    weights = fitted.weights if fitted else found.suite.config.weights()
    tasks = [[text(t), text(groups[t]), number(w, 3), text(models.get(t) or "–")] for t, w in weights.items()]
    return table(["what", "which"], [[text(key), text(value)] for key, value in facts.items()], "text") + table(
        ["task", "group", "weight", "model"], tasks
    )


# Its plots ------------------------------------------------------------------------------------------------------------


def kind_colour(kind: str, place: int = 0) -> str:
    """Return the colour of a kind of run or mixture; `place` decides that of others."""
    others = (
        drawing.GREY, drawing.SKY, drawing.PINK, drawing.ORANGE, drawing.GREEN, drawing.BLACK, drawing.BLUE
    )  # fmt: skip
    return KINDS.get(kind, others[place % len(others)])


def _weights_plot(report: MixReport) -> Drawn:
    """Dots with intervals for the proposal, markers for natural and baselines, a tick for the cap."""
    if report.choice is None:
        return None
    found, order = report.material, _largest_first(report.weights)[:MAX_ROWS]
    axes = (drawn := new_figure(rows_height(order.size))).subplots()
    rows = np.arange(order.size, dtype=np.float64)
    for place, (name, weights) in enumerate(list({"natural": found.natural, **report.others}.items())[:8]):
        marks: dict[str, Any] = {"facecolors": "none", "edgecolors": kind_colour(name, place), "linewidths": 1.1}
        axes.scatter(100 * weights[order], rows, s=24, marker=drawing.MARKERS[place], label=short(name), **marks)
    known = list(report.choice.mixture.slices.values())
    low, high = (100 * np.array([getattr(each, end) for each in known])[order] for end in ("low", "high"))
    ends = np.stack([100 * report.weights[order], low, high])
    drawing.whiskers(axes, ends, rows, color=drawing.RED, label=report.written)
    right = axes.get_xlim()[1]
    caps = [(100 * found.rows[i]["cap"], row) for row, i in enumerate(order)]
    if seen := [cap for cap in caps if cap[0] <= right]:  # one far away would squeeze all the rest
        x, y = zip(*seen, strict=True)
        points(axes, x, y, 110, drawing.BLACK, marker="|", linewidths=1.4, label="cap")
    axes.set_xlim(-0.01 * right, right)
    row_names(axes, [found.names[i] for i in order])
    axes.set_xlabel("weight (% of tokens)")
    drawing.legend(drawn, axes)
    caption = (
        "Look for slices whose interval leaves the natural share (open diamond) out: there the proposal says more or "
        "less of it with some certainty. A wide interval means that the suite hardly tells such weights apart. Weights "
        "are not independent, since they sum to 1; the intervals are those of one slice at a time."
    )
    return drawn, caption + left_out(len(found.names), order.size, "slices of smaller weight")


def _changes_plot(report: MixReport) -> Drawn:
    if not report.changes:
        return None
    shown = report.changes[:MAX_ROWS]
    axes = (drawn := new_figure(rows_height(len(shown), legend=False))).subplots()
    ends = np.array([astuple(change) for _, change, _ in shown]).T
    drawing.whiskers(axes, ends, np.arange(float(len(shown))), color=drawing.RED)
    axes.axvline(0, color=drawing.BLACK, linewidth=0.8)
    row_names(axes, [name for name, _, _ in shown])
    axes.set_xlabel("predicted change against the natural mixture (bits per byte; left is better)")
    caption = (
        "Look for intervals that stay left of zero: gains that the fit is sure of. What crosses zero may be no change. "
        "These are predictions; what was measured is under verification."
    )
    return drawn, caption + left_out(len(report.changes), len(shown), "of them")


def _verification_plot(report: MixReport) -> Drawn:
    """One panel a size: measured mean and spread of each mixture, and what was predicted."""
    if (verification := report.verification) is None:
        return None
    count, most = len(verification.sizes), max(len(size.mean) for size in verification.sizes)
    drawn = new_figure(0.5 + count * (0.6 + 0.36 * most))
    panels = list(drawn.subplots(count, 1, squeeze=False)[:, 0])
    for axes, size in zip(panels, verification.sizes, strict=True):
        names = _candidates(size)
        for row, name in enumerate(names):
            looks: dict[str, Any] = {"color": kind_colour(name, row), "label": "measured" if row == 0 else None}
            ends = size.mean[name] + np.array([[0.0], [-size.pooled_sd], [size.pooled_sd]])
            drawing.whiskers(axes, ends, np.array([row - 0.15]), **looks)
        for row, name in enumerate(names):
            if (predicted := _predicted_of(name, size, report.proposal)) is not None:
                looks = {"color": drawing.GREY, "fmt": "s", "markerfacecolor": "none", "label": "predicted"}
                drawing.whiskers(axes, np.array([astuple(predicted)]).T, np.array([row + 0.17]), **looks)
        row_names(axes, names)
        axes.set_title(short(_label(size), 60), loc="left")
    panels[-1].set_xlabel("weighted metric (bits per byte; left is better)")
    drawing.legend(drawn, panels[0])
    caption = (
        "Filled dots are measured by fresh proxies (mean and one standard deviation over seeds), open squares what the "
        "fit predicted, with its interval. The first should lie left of the others by several standard deviations, "
        "and inside its prediction. It does not show how a model of the target size behaves."
    )
    return drawn, caption


def _predicted_plot(report: MixReport) -> Drawn:
    """A panel a metric: predicted over measured, with the line where both are equal."""
    held = report.fitted.fit.held_out if report.fitted else None
    if report.fitted is None or held is None:
        return None
    measured = report.fitted.results.values
    known = np.isfinite(measured) & np.isfinite(held.mean)
    usable = np.flatnonzero(known.any(axis=0))
    if not usable.size:
        return None
    shown = usable[:MAX_PANELS]
    drawn, panels = drawing.panel_grid(shown.size, 1.0, 2 if shown.size == 4 else min(shown.size, 3))
    for axes, i in zip(panels, shown, strict=True):
        keep = np.flatnonzero(known[:, i])
        keep = keep[spread(keep.size, MAX_POINTS)]
        x, y = measured[keep, i], held.mean[keep, i]
        bars = drawing.bar_lengths(y, held.low[keep, i], held.high[keep, i])
        axes.errorbar(x, y, yerr=bars, fmt="none", ecolor=drawing.SKY, elinewidth=0.7, alpha=0.7)
        points(axes, x, y, 9 if keep.size <= 300 else 4, drawing.BLUE, zorder=3)
        ends = drawing.padded(float(min(x.min(), y.min())), float(max(x.max(), y.max())))
        axes.plot(ends, ends, color=drawing.BLACK, linewidth=0.8)
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        axes.set_title(short(report.fitted.results.tasks[i], 24), loc="left")
        drawing.few_ticks(axes)
    drawn.supxlabel("measured (bits per byte)", fontsize=9)
    drawn.supylabel("predicted, cross-validated (bits per byte)", fontsize=9)
    caption = (
        "Each dot is a proxy run, predicted cross-validated; bars are 90% intervals. Dots "
        "should lie along the line, and about that share of the bars should cross it. A cloud without slope means that "
        "the mixture does not decide this metric, or that seed noise hides it. Proxies say nothing here about larger "
        "models, nor about mixtures far from those that were trained."
    )
    return drawn, caption + left_out(usable.size, shown.size, "metrics, which are in the table")


def _noise_plot(report: MixReport) -> Drawn:
    if not report.noise:
        return None
    shown = sorted(report.noise, key=lambda row: -math.inf if row["ratio"] is None else -row["ratio"])[:MAX_ROWS]
    axes = (drawn := new_figure(rows_height(len(shown), legend=False))).subplots()
    colours = [drawing.RED if row["flagged"] else drawing.BLUE for row in shown]
    hatches = ["//" if row["flagged"] else "" for row in shown]
    looks: dict[str, Any] = {"color": colours, "hatch": hatches, "edgecolor": "white"}
    axes.barh(np.arange(len(shown)), [row["ratio"] or 0.0 for row in shown], 0.6, **looks)
    axes.axvline(3, color=drawing.BLACK, linewidth=0.8, linestyle="--")
    row_names(axes, [row["metric"] for row in shown])
    axes.set_xlabel("signal over noise: spread between mixtures / spread between seeds")
    caption = (
        "Bars that end left of the dashed line (3) are metrics that a new seed moves nearly as much as a new mixture: "
        "they are hatched, flagged and weighted down. A high ratio does not say that the metric is worth optimising."
    )
    return drawn, caption + left_out(len(report.noise), len(shown), "metrics, which are in the table")


def _sensitivity_plot(report: MixReport) -> Drawn:
    if report.proposal is None:
        return None
    answers = report.proposal.slices.values()
    changes = np.array([[answer.less, answer.more] for answer in answers], np.float64)  # (k, 2); NaN for none
    drawable = np.flatnonzero(~np.isnan(changes).all(axis=1))
    size = np.nan_to_num(np.abs(changes[drawable]), nan=0.0, posinf=0.0).max(axis=1)
    shown = drawable[np.argsort(-size, kind="stable")][:MAX_ROWS]
    axes = (drawn := new_figure(rows_height(shown.size))).subplots()
    for column, offset, colour, mark, label in (
        (0, -0.15, drawing.BLUE, "v", "less of it"),
        (1, 0.15, drawing.ORANGE, "^", "more of it"),
    ):
        rows = np.flatnonzero(~np.isnan(changes[shown, column]))
        values = np.tile(changes[shown[rows], column], (3, 1))
        if rows.size:
            drawing.whiskers(axes, values, np.asarray(rows + offset, np.float64), color=colour, fmt=mark, label=label)
    axes.axvline(0, color=drawing.BLACK, linewidth=0.8)
    row_names(axes, [report.proposal.names[i] for i in shown])
    axes.set_xlabel("predicted change of the weighted metric (bits per byte; right is worse)")
    drawing.legend(drawn, axes)
    caption = (
        "The weight of one slice is changed by 0.05 of the tokens, the others make room in proportion. Slices "
        "far from zero matter: a mistake there costs most. Slices near zero may be set for other reasons. It shows "
        "small steps from the proposal only, and nothing of what changing two slices at once does."
    )
    return drawn, caption + left_out(drawable.size, shown.size, "slices that matter less")


def _pareto_plot(report: MixReport) -> Drawn:
    """A panel a pair of groups."""
    proposal, fitted = report.proposal, report.fitted
    if proposal is None or fitted is None or len(proposal.groups) < 2 or not proposal.pareto:
        return None
    groups, of = list(proposal.groups), report.material.suite.config.groups()
    weights = np.array([[fitted.weights[t] if of[t] == g else 0.0 for g in groups] for t in fitted.results.tasks])
    seen = fitted.results.values @ (weights / np.maximum(np.abs(weights).sum(axis=0), 1e-12))
    seen = seen[spread(len(seen), MAX_POINTS)]
    front = np.array([[point.metrics[group] for group in groups] for point in proposal.pareto])
    pairs = list(combinations(range(len(groups)), 2))
    columns = 1 if len(pairs) == 1 else 2 if len(pairs) in (2, 4) else 3
    drawn, panels = drawing.panel_grid(min(len(pairs), MAX_PAIRS), 0.85, columns)
    for axes, (i, j) in zip(panels, pairs, strict=False):
        points(axes, seen[:, i], seen[:, j], 8, "#BBBBBB", label="measured runs")
        row = front[np.argsort(front[:, i], kind="stable")]
        line = "-" if len(groups) == 2 else ""
        axes.plot(row[:, i], row[:, j], "o" + line, color="#444444", markersize=3.5, linewidth=1, label="front")
        for name, of_group, marker, size in (
            ("natural", proposal.natural_groups, "D", 30),
            ("proposal", proposal.groups, "*", 100),
        ):
            x, y = of_group[groups[i]], of_group[groups[j]]
            points(axes, x, y, size, KINDS[name], marker=marker, zorder=4, label=name)
        axes.set(xlabel=short(groups[i]), ylabel=short(groups[j]))
        drawing.few_ticks(axes)
    drawing.legend(drawn, panels[0])
    caption = (
        "Both axes are losses: lower left is better. On the front, a group only gains where another loses; a steep or "
        "flat part is a cheap trade. All but the grey runs are predictions, drawn without their intervals"
        + ("; a point that looks beaten in one panel is ahead in another." if len(groups) > 2 else ".")
    )
    return drawn, caption + left_out(len(pairs), min(len(pairs), MAX_PAIRS), "pairs of groups")


def _curves_plot(report: MixReport) -> Drawn:
    results = report.fitted.results if report.fitted else None
    usable: list[tuple[str, Floats]] = []
    for run, trained in zip(results.runs, results.trained, strict=True) if results else ():
        curve = np.array(trained.curve, np.float64).reshape(-1, 2)
        valid = curve[np.isfinite(curve[:, 1]) & (curve[:, 0] > 0)]
        if len(curve) > 1 and len(valid):
            usable.append((run.kind, valid))
    if not usable:
        return None
    plain = [curve for curve in usable if curve[0] == "swarm"]
    named = [curve for curve in usable if curve[0] != "swarm"]
    shown = [group[i] for group in (plain, named) for i in spread(len(group), MAX_CURVES)]
    axes = (drawn := new_figure(4.2)).subplots()
    labelled: set[str] = set()
    for kind, curve in shown:
        step = max(1, len(curve) // 400)
        looks: dict[str, Any] = (
            {"linewidth": 0.6, "alpha": 0.55} if kind == "swarm" else {"linewidth": 1.3, "zorder": 3}
        )
        label = None if kind in labelled else short(kind)
        labelled.add(kind)
        axes.plot(*curve[::-step][::-1].T, color=kind_colour(kind), label=label, **looks)
    # The first steep fall stays out of sight: it would flatten all that differs.
    later = [curve[curve[:, 0] >= 0.03 * curve[:, 0].max(), 1] for _, curve in shown]
    values = np.concatenate([*later, *(curve[-1:, 1] for _, curve in shown)])
    axes.set_ylim(*drawing.padded(float(values.min()), float(values.max())))
    axes.set(xscale="log", xlabel="tokens seen", ylabel="training loss (nats a token)")
    drawing.plain_counts(axes)
    drawing.legend(drawn, axes)
    caption = (
        "Smooth, falling curves are healthy; a jump or a flat start is a failed run. Runs that early "
        "stopping ended are shorter. The losses are on the text that a run trained on, which differs between mixtures: "
        "a lower curve is not a better mixture."
    )
    return drawn, caption + left_out(len(usable), len(shown), "runs")


def _compute_plot(report: MixReport) -> Drawn:
    """CPU time by kind of run, and of each run."""
    results = report.fitted.results if report.fitted else None
    if results is None or not results.runs:
        return None
    done = [
        (trained.cpu_s, run.run_id[:8], run.kind) for run, trained in zip(results.runs, results.trained, strict=True)
    ]
    costs = sorted(done, key=lambda cost: (-cost[0], cost[1]))
    kinds = sorted({kind for _, _, kind in costs}, key=list(KINDS).index)
    drawn = new_figure(0.9 + max(1.9, 0.3 * len(kinds)))
    left, right = drawn.subplots(1, 2, width_ratios=(1, 1.25))
    totals = [sum(cpu_s for cpu_s, _, own in done if own == kind) for kind in kinds]
    left.barh(np.arange(len(kinds)), totals, 0.6, color=[kind_colour(kind) for kind in kinds])
    row_names(left, kinds)
    left.set_xlabel("CPU seconds, all runs")
    drawing.few_ticks(left, y=False)
    for kind in kinds:
        place = [i for i, cost in enumerate(costs) if cost[2] == kind]
        points(right, place, [costs[i][0] for i in place], 10, kind_colour(kind))
    right.set_ylim(0, 1.08 * costs[0][0] or 1.0)
    right.set(xlabel="runs, dearest first", ylabel="CPU seconds")
    right.locator_params(axis="x", integer=True, min_n_ticks=1)
    caption = (
        "Where the time went. Runs of one size should cost the same; a slope means a busy machine or early stopping. "
        "Extraction, tokenizing, measuring and fitting are not in it."
    )
    return drawn, caption


PLOTS = {
    "weights": ("Weights with intervals", _weights_plot),
    "changes": ("Predicted change against natural", _changes_plot),
    "verification": ("Measured against predicted, fresh runs", _verification_plot),
    "predicted": ("Predicted against measured", _predicted_plot),
    "noise": ("Signal to noise of the metrics", _noise_plot),
    "sensitivity": ("Sensitivity to each slice", _sensitivity_plot),
    "pareto": ("Pareto front between groups", _pareto_plot),
    "curves": ("Training curves", _curves_plot),
    "compute": ("Compute", _compute_plot),
}
"""The plots by name, in the page's order: title, and what draws it where there is something to draw."""
