"""The mix report's plots as PNG bytes: the same report gives the same bytes with the same matplotlib.

Each caption says what to look for and what the plot does not show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.report import drawing
from pipeline.report.drawing import kind_colour, new_figure, points, row_names, rows_height, short
from pipeline.report.values import Curve, Estimate, Floats, MixReport, Mixture, Predicted, Verification, natural_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ROWS = 60
MAX_PANELS = 24
MAX_PAIRS = 6
MAX_POINTS = 2_000
MAX_CURVES = 300


@dataclass(frozen=True)
class Plot:
    """A drawn plot. `caption` is plain text."""

    name: str
    title: str
    caption: str
    png: bytes


def draw(report: MixReport) -> dict[str, Plot]:
    """Return every plot that the report has values for, by name, in the page's order; none without matplotlib."""
    plots: dict[str, Plot] = {}
    if not drawing.can_draw():
        return plots
    with drawing.style():
        for name, (title, drawer) in _DRAWERS.items():
            drawn = drawer(report)
            if drawn is not None:
                plots[name] = Plot(name, title, drawn[1], drawing.png(drawn[0]))
    return plots


Drawn = tuple["Figure", str] | None


def _weights(report: MixReport) -> Drawn:
    """Dots with intervals for the proposal, markers for natural and baselines, a tick for the cap."""
    shown = report.proposal
    if shown is None and not report.baselines:
        return None
    lead = shown.weights if shown else natural_weights(report)
    order = np.lexsort((np.arange(lead.size), -lead))[:MAX_ROWS]
    figure = new_figure(rows_height(order.size))
    axes = figure.subplots()
    rows = np.arange(order.size, dtype=np.float64)
    others = [m for m in report.baselines if m.name != "natural"][: len(drawing.MARKERS) - 1]
    figure = new_figure(rows_height(order.size))
    axes = figure.subplots()
    rows = np.arange(order.size, dtype=np.float64)
    others = [m for m in report.baselines if m.name != "natural" and (shown is None or m.name != shown.name)][
        : len(drawing.MARKERS) - 1
    ]
    for place, mixture in enumerate([Mixture("natural", natural_weights(report)), *others]):
        colour = kind_colour(mixture.name, place)
        marks: dict[str, Any] = {"facecolors": "none", "edgecolors": colour, "linewidths": 1.1}
        marks |= {"marker": drawing.MARKERS[place], "label": short(mixture.name)}
        axes.scatter(100 * mixture.weights[order], rows, s=24, **marks)
    if shown is not None:
        interval = shown.interval and (100 * shown.interval[0][order], 100 * shown.interval[1][order])
        drawing.whiskers(axes, 100 * shown.weights[order], interval, rows, color=drawing.RED, label=shown.name)
    _caps(axes, [report.slices[i].max_weight for i in order])
    row_names(axes, [report.slices[i].name for i in order])
    axes.set_xlabel("weight (% of tokens)")
    drawing.legend(figure, axes)
    caption = (
        "Look for slices whose interval leaves the natural share (open diamond) out: there the proposal says more or "
        "less of it with some certainty. A wide interval means that the suite hardly tells such weights apart. Weights "
        "are not independent, since they sum to 1; the intervals are those of one slice at a time."
    )
    return figure, caption + _left_out(len(report.slices), order.size, "slices of smaller weight")


def _caps(axes: Axes, caps: Sequence[float | None]) -> None:
    """Mark caps that lie in sight; one far away would squeeze all the rest."""
    right = axes.get_xlim()[1]
    seen = [(100 * cap, row) for row, cap in enumerate(caps) if cap is not None and 100 * cap <= right]
    if seen:
        x, y = zip(*seen, strict=True)
        points(axes, x, y, 110, drawing.BLACK, marker="|", linewidths=1.4, label="cap")
    axes.set_xlim(-0.01 * right, right)


def _changes(report: MixReport) -> Drawn:
    if not report.changes:
        return None
    shown = report.changes[:MAX_ROWS]
    figure = new_figure(rows_height(len(shown), legend=False))
    axes = figure.subplots()
    drawing.estimates(axes, [c.difference for c in shown], np.arange(float(len(shown))), color=drawing.RED)
    axes.axvline(0, color=drawing.BLACK, linewidth=0.8)
    row_names(axes, [c.name for c in shown])
    axes.set_xlabel("predicted change against the natural mixture (bits per byte; left is better)")
    caption = (
        "Look for intervals that stay left of zero: gains that the fit is sure of. What crosses zero may be no change. "
        "These are predictions; what was measured is under verification."
    )
    return figure, caption + _left_out(len(report.changes), len(shown), "of them")


def _verification(report: MixReport) -> Drawn:
    """One panel a size: measured mean and spread of each mixture, and what was predicted."""
    if not report.verifications:
        return None
    count = len(report.verifications)
    most = max(len(v.mixtures) for v in report.verifications)
    figure = new_figure(0.5 + count * (0.6 + 0.36 * most))
    panels = list(figure.subplots(count, 1, squeeze=False)[:, 0])
    for axes, verification in zip(panels, report.verifications, strict=True):
        _verified_panel(axes, verification)
    panels[-1].set_xlabel("weighted metric (bits per byte; left is better)")
    drawing.legend(figure, panels[0])
    caption = (
        "Filled dots are measured by fresh proxies (mean and one standard deviation over seeds), open squares what the "
        "fit predicted, with its interval. The first should lie left of the others by several standard deviations, "
        "and inside its prediction. It does not show how a model of the target size behaves."
    )
    return figure, caption


def _verified_panel(axes: Axes, verification: Verification) -> None:
    for row, mixture in enumerate(verification.mixtures):
        colour = kind_colour(mixture.mixture, row)
        spread = np.array([mixture.sd or 0.0])
        mean, label = np.array([mixture.mean]), "measured" if row == 0 else None
        drawing.whiskers(axes, mean, (mean - spread, mean + spread), np.array([row - 0.15]), color=colour, label=label)
    guesses = [(row + 0.17, v.predicted) for row, v in enumerate(verification.mixtures) if v.predicted is not None]
    if guesses:
        rows = np.array([row for row, _ in guesses])
        looks = {"color": drawing.GREY, "fmt": "s", "markerfacecolor": "none", "label": "predicted"}
        drawing.estimates(axes, [e for _, e in guesses], rows, **looks)
    row_names(axes, [v.mixture for v in verification.mixtures])
    axes.set_title(short(verification.label, 60), loc="left")


def _predicted(report: MixReport) -> Drawn:
    """A panel a metric: predicted over measured, with the line where both are equal."""
    usable = [p for p in report.predictions if _finite_pairs(p).any()]
    if not usable:
        return None
    shown = usable[:MAX_PANELS]
    figure, panels = drawing.panel_grid(len(shown), 1.0, 2 if len(shown) == 4 else min(len(shown), 3))
    for axes, predicted in zip(panels, shown, strict=True):
        _predicted_panel(axes, predicted)
    figure.supxlabel("measured (bits per byte)", fontsize=9)
    figure.supylabel("predicted, cross-validated (bits per byte)", fontsize=9)
    caption = (
        "Each dot is a proxy run, predicted cross-validated; bars are 90% intervals. Dots "
        "should lie along the line, and about that share of the bars should cross it. A cloud without slope means that "
        "the mixture does not decide this metric, or that seed noise hides it. Proxies say nothing here about larger "
        "models, nor about mixtures far from those that were trained."
    )
    return figure, caption + _left_out(len(usable), len(shown), "metrics, which are in the table")


def _predicted_panel(axes: Axes, predicted: Predicted) -> None:
    keep = np.flatnonzero(_finite_pairs(predicted))
    keep = keep[_spread(keep.size, MAX_POINTS)]
    x, y = predicted.measured[keep], predicted.predicted[keep]
    if predicted.low is not None and predicted.high is not None:
        bars = drawing.bar_lengths(y, predicted.low[keep], predicted.high[keep])
        axes.errorbar(x, y, yerr=bars, fmt="none", ecolor=drawing.SKY, elinewidth=0.7, alpha=0.7)
    points(axes, x, y, 9 if keep.size <= 300 else 4, drawing.BLUE, zorder=3)
    ends = drawing.padded(float(min(x.min(), y.min())), float(max(x.max(), y.max())))
    axes.plot(ends, ends, color=drawing.BLACK, linewidth=0.8)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set_title(short(predicted.metric, 24), loc="left")
    drawing.few_ticks(axes)


def _noise(report: MixReport) -> Drawn:
    if not report.noise:
        return None
    shown = sorted(report.noise, key=lambda n: -n.ratio if math.isfinite(n.ratio) else -math.inf)[:MAX_ROWS]
    figure = new_figure(rows_height(len(shown), legend=False))
    axes = figure.subplots()
    ratios = [n.ratio if math.isfinite(n.ratio) else 0.0 for n in shown]
    colours = [drawing.RED if n.flagged else drawing.BLUE for n in shown]
    hatches = ["//" if n.flagged else "" for n in shown]
    axes.barh(np.arange(len(shown)), ratios, 0.6, color=colours, hatch=hatches, edgecolor="white")
    axes.axvline(3, color=drawing.BLACK, linewidth=0.8, linestyle="--")
    row_names(axes, [n.metric for n in shown])
    axes.set_xlabel("signal over noise: spread between mixtures / spread between seeds")
    caption = (
        "Bars that end left of the dashed line (3) are metrics that a new seed moves nearly as much as a new mixture: "
        "they are hatched, flagged and weighted down. A high ratio does not say that the metric is worth optimising."
    )
    return figure, caption + _left_out(len(report.noise), len(shown), "metrics, which are in the table")


def _sensitivity(report: MixReport) -> Drawn:
    drawable = [s for s in report.sensitivity if s.less is not None or s.more is not None]
    if not drawable:
        return None
    shown = sorted(drawable, key=lambda s: -max(_size(s.less), _size(s.more)))[:MAX_ROWS]
    figure = new_figure(rows_height(len(shown)))
    axes = figure.subplots()
    less: dict[str, Any] = {"color": drawing.BLUE, "fmt": "v", "label": "less of it"}
    more: dict[str, Any] = {"color": drawing.ORANGE, "fmt": "^", "label": "more of it"}
    for values, offset, looks in (([s.less for s in shown], -0.15, less), ([s.more for s in shown], 0.15, more)):
        there = [(row + offset, e) for row, e in enumerate(values) if e is not None]
        if there:
            drawing.estimates(axes, [e for _, e in there], np.array([row for row, _ in there]), **looks)
    axes.axvline(0, color=drawing.BLACK, linewidth=0.8)
    row_names(axes, [s.slice for s in shown])
    axes.set_xlabel("predicted change of the weighted metric (bits per byte; right is worse)")
    drawing.legend(figure, axes)
    caption = (
        "The weight of one slice is changed by 0.05 of the tokens, the others make room in proportion. Slices "
        "far from zero matter: a mistake there costs most. Slices near zero may be set for other reasons. It shows "
        "small steps from the proposal only, and nothing of what changing two slices at once does."
    )
    return figure, caption + _left_out(len(drawable), len(shown), "slices that matter less")


def _pareto(report: MixReport) -> Drawn:
    """A panel a pair of groups."""
    pareto = report.pareto
    if pareto is None or len(pareto.groups) < 2 or pareto.points.size == 0:
        return None
    pairs = list(combinations(range(len(pareto.groups)), 2))
    columns = 1 if len(pairs) == 1 else 2 if len(pairs) in (2, 4) else 3
    figure, panels = drawing.panel_grid(min(len(pairs), MAX_PAIRS), 0.85, columns)
    for axes, (i, j) in zip(panels, pairs, strict=False):
        if pareto.observed is not None:
            seen = pareto.observed[_spread(len(pareto.observed), MAX_POINTS)]
            points(axes, seen[:, i], seen[:, j], 8, "#BBBBBB", label="measured runs")
        front = pareto.points[np.argsort(pareto.points[:, i], kind="stable")]
        line = "-" if len(pareto.groups) == 2 else ""
        axes.plot(front[:, i], front[:, j], "o" + line, color="#444444", markersize=3.5, linewidth=1, label="front")
        for name, row, marker, size in (("natural", pareto.natural, "D", 30), ("proposal", pareto.proposal, "*", 100)):
            if row is not None:
                points(axes, row[i], row[j], size, drawing.KINDS[name], marker=marker, zorder=4, label=name)
        axes.set(xlabel=short(pareto.groups[i]), ylabel=short(pareto.groups[j]))
        drawing.few_ticks(axes)
    drawing.legend(figure, panels[0])
    caption = (
        "Both axes are losses: lower left is better. On the front, a group only gains where another loses; a steep or "
        "flat part is a cheap trade. All but the grey runs are predictions, drawn without their intervals"
        + ("; a point that looks beaten in one panel is ahead in another." if len(pareto.groups) > 2 else ".")
    )
    return figure, caption + _left_out(len(pairs), min(len(pairs), MAX_PAIRS), "pairs of groups")


def _curves(report: MixReport) -> Drawn:
    usable = [c for c in report.curves if _valid(c).any()]
    if not usable:
        return None
    plain = [c for c in usable if c.kind == "swarm"]
    named = [c for c in usable if c.kind != "swarm"]
    shown = [group[i] for group in (plain, named) for i in _spread(len(group), MAX_CURVES)]
    figure = new_figure(4.2)
    axes = figure.subplots()
    labelled: set[str] = set()
    for curve in shown:
        _curve(axes, curve, labelled)
    # The first steep fall stays out of sight: it would flatten all that differs.
    later = [c.loss[_valid(c) & (c.tokens >= 0.03 * c.tokens.max())] for c in shown]
    values = np.concatenate([*later, *(c.loss[_valid(c)][-1:] for c in shown)])
    axes.set_ylim(*drawing.padded(float(values.min()), float(values.max())))
    axes.set(xscale="log", xlabel="tokens seen", ylabel="training loss (nats a token)")
    drawing.plain_counts(axes)
    drawing.legend(figure, axes)
    caption = (
        "Smooth, falling curves are healthy; a jump or a flat start is a failed run. Runs that early "
        "stopping ended are shorter. The losses are on the text that a run trained on, which differs between mixtures: "
        "a lower curve is not a better mixture."
    )
    return figure, caption + _left_out(len(usable), len(shown), "runs")


def _curve(axes: Axes, curve: Curve, labelled: set[str]) -> None:
    tokens, loss = curve.tokens[_valid(curve)], curve.loss[_valid(curve)]
    step = max(1, tokens.size // 400)
    named = curve.kind != "swarm"
    looks: dict[str, Any] = {"linewidth": 1.3, "zorder": 3} if named else {"linewidth": 0.6, "alpha": 0.55}
    label = None if curve.kind in labelled else short(curve.kind)
    labelled.add(curve.kind)
    axes.plot(tokens[::-step][::-1], loss[::-step][::-1], color=kind_colour(curve.kind), label=label, **looks)


def _compute(report: MixReport) -> Drawn:
    """CPU time by kind of run, and of each run."""
    if not report.costs:
        return None
    kinds = sorted({c.kind for c in report.costs}, key=lambda kind: (kind not in drawing.KINDS, kind))
    kinds.sort(key=lambda kind: list(drawing.KINDS).index(kind) if kind in drawing.KINDS else len(drawing.KINDS))
    figure = new_figure(0.9 + max(1.9, 0.3 * len(kinds)))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    totals = [sum(c.cpu_s for c in report.costs if c.kind == kind) for kind in kinds]
    left.barh(np.arange(len(kinds)), totals, 0.6, color=[kind_colour(kind) for kind in kinds])
    row_names(left, kinds)
    left.set_xlabel("CPU seconds, all runs")
    drawing.few_ticks(left, y=False)
    costs = sorted(report.costs, key=lambda c: (-c.cpu_s, c.run))
    for kind in kinds:
        place = [i for i, c in enumerate(costs) if c.kind == kind]
        points(right, place, [costs[i].cpu_s for i in place], 10, kind_colour(kind))
    right.set_ylim(0, 1.08 * max(c.cpu_s for c in costs) or 1.0)
    right.set(xlabel="runs, dearest first", ylabel="CPU seconds")
    right.locator_params(axis="x", integer=True, min_n_ticks=1)
    caption = (
        "Where the time went. Runs of one size should cost the same; a slope means a busy machine or early stopping. "
        "Extraction, tokenizing, measuring and fitting are not in it."
    )
    return figure, caption


_DRAWERS: dict[str, tuple[str, Callable[[MixReport], Drawn]]] = {
    "weights": ("Weights with intervals", _weights),
    "changes": ("Predicted change against natural", _changes),
    "verification": ("Measured against predicted, fresh runs", _verification),
    "predicted": ("Predicted against measured", _predicted),
    "noise": ("Signal to noise of the metrics", _noise),
    "sensitivity": ("Sensitivity to each slice", _sensitivity),
    "pareto": ("Pareto front between groups", _pareto),
    "curves": ("Training curves", _curves),
    "compute": ("Compute", _compute),
}
NAMES = tuple(_DRAWERS)


def _finite_pairs(predicted: Predicted) -> NDArray[np.bool_]:
    return np.isfinite(predicted.measured) & np.isfinite(predicted.predicted)


def _valid(curve: Curve) -> NDArray[np.bool_]:
    valid: NDArray[np.bool_] = np.isfinite(curve.loss) & (curve.tokens > 0)
    return valid


def _size(estimate: Estimate | None) -> float:
    return abs(estimate.value) if estimate is not None and math.isfinite(estimate.value) else 0.0


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` places out of `count`, evenly spread."""
    places: Floats = np.linspace(0, count - 1, min(count, most))
    return np.unique(places.astype(np.int64))


def _left_out(total: int, shown: int, what: str) -> str:
    return f" Not drawn: {total - shown:,} {what}." if total > shown else ""
