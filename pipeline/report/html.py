"""The mix report as one HTML page: no script, nothing loaded from elsewhere, every text from data escaped.

Numbers carry their unit and, where one is known, their interval. What has not been made yet is named at the end.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipeline.report.plots import Plot
from pipeline.report.values import Estimate, Floats, MixReport, Verification, all_warnings, epochs, natural_weights
from pipeline.table.format import visible

NONE = "–"
_CSS = """
:root{color-scheme:light dark;--ink:#1b1b1b;--soft:#5a5a5a;--back:#fff;--line:#d8d8d8;--head:#f3f3f3;--warn:#fff3d6;
--good:#00694c;--bad:#a33c00}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e8;--soft:#a8a8a8;--back:#16181a;--line:#3a3d40;--head:#22262a;
--warn:#3b2f10;--good:#58d3ac;--bad:#ff9d66}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);
background:var(--back);overflow-wrap:break-word}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.2rem;margin:2.2rem 0 .4rem;border-top:1px solid var(--line);
padding-top:1rem}
p,figcaption{max-width:46rem}.soft,figcaption{color:var(--soft);font-size:.9rem}
.warn{background:var(--warn);padding:.6rem 1rem;border-radius:6px}.warn ul{margin:.3rem 0;padding-left:1.2rem}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
.wide{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{background:var(--head)}th:first-child,td:first-child,.text td,.text th{text-align:left}
.text td:last-child{white-space:normal;overflow-wrap:anywhere}
figure{margin:1rem 0}img{width:100%;min-width:38rem;max-width:52rem;height:auto;background:#fff;border-radius:6px}
img.small{max-width:33rem;min-width:22rem}
nav{font-size:.9rem}nav a{margin-right:.8rem;white-space:nowrap}a{color:inherit}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(report: MixReport, plots: Mapping[str, Plot]) -> str:
    """Return the whole page. `plots` are shown in their sections; a section without values is left out."""
    sections = [
        ("mixture", "Proposed mixture", _mixture(report) + _figures(plots, "weights")),
        ("gain", "Predicted gain", _changes(report) + _figures(plots, "changes") + _optimism(report)),
        ("pulls", "Which tasks pull which slice", _pulls(report)),
        ("verification", "Verification", _verification(report, plots)),
        ("prediction", "How well metrics are predicted", _figures(plots, "predicted") + _quality(report)),
        ("noise", "Signal and seed noise", _figures(plots, "noise") + _noise(report)),
        ("sensitivity", "Sensitivity", _figures(plots, "sensitivity") + _sensitivity(report)),
        ("pareto", "Trade-offs between groups", _figures(plots, "pareto")),
        ("curves", "Training curves", _figures(plots, "curves")),
        ("compute", "Compute", _compute(report) + _figures(plots, "compute")),
        ("sampled", "Token shards written", _sampled(report)),
        ("basis", "What this is based on", _basis(report)),
    ]
    made = [section for section in sections if section[2]]
    missing = [title.lower() for _, title, body in sections if not body]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in made)
    body = "".join(f'<h2 id="{key}">{title}</h2>{content}' for key, title, content in made)
    rest = f'<p class="soft">Not made yet, so not in this report: {", ".join(missing)}.</p>' if missing else ""
    title = f"Mix {text(report.name)}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{_CSS}</style></head><body>"
        f"<h1>{title}</h1>{_lead(report)}{_warnings(report)}<nav>{links}</nav>{body}{rest}</body></html>\n"
    )


def text(value: str) -> str:
    """Return a text from data, safe in HTML content and attributes; control characters are made visible."""
    return html.escape(visible(value), quote=True)


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with `digits` significant digits and thousands separators; a dash for none or not finite."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if places > 8 or places < -12:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(places, 0)}f}".replace("-", "−")


def whole(value: float | None) -> str:
    """Return a count with thousands separators."""
    return NONE if value is None or not math.isfinite(value) else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """Return a share as a percentage, with two decimals below 10 %."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{100 * value:.{2 if abs(value) < 0.1 else 1}f} %"


def between(interval: tuple[float, float] | None) -> str:
    """Return a range of shares."""
    return NONE if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def estimate(value: Estimate | None) -> str:
    """Return a number with its interval, both to the same decimal."""
    if value is None:
        return NONE
    if not all(map(math.isfinite, (value.value, value.low, value.high))):
        return number(value.value)
    width = value.high - value.low
    places = min(max(1 - math.floor(math.log10(width)), 0), 8) if width > 0 else 4
    parts = (f"{part:,.{places}f}".replace("-", "−") for part in (value.value, value.low, value.high))
    return "{} ({} to {})".format(*parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table; heads and cells are HTML already."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _figures(plots: Mapping[str, Plot], name: str) -> str:
    plot = plots.get(name)
    if plot is None:
        return ""
    data = base64.b64encode(plot.png).decode("ascii")
    width = int.from_bytes(plot.png[16:20], "big")  # of the PNG's header
    small = ' class="small"' if width < 1000 else ""
    return (
        f'<figure><div class="wide"><img{small} alt="{text(plot.title)}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{text(plot.caption)}</figcaption></figure>"
    )


def _lead(report: MixReport) -> str:
    facts = [f"{len(report.slices):,} slices"]
    if report.tasks:
        facts.append(f"{len(report.tasks):,} tasks")
    if report.runs is not None:
        facts.append(f"{report.runs:,} proxy runs")
    if report.budget_tokens is not None:
        facts.append(f"a target of {report.budget_tokens:,} tokens")
    return (
        f'<p class="soft">{", ".join(facts)}. Metrics are losses in bits per byte: smaller is better. '
        f"Intervals hold 90% unless said otherwise.</p>"
    )


def _warnings(report: MixReport) -> str:
    sentences = "".join(f"<li>{text(sentence)}</li>" for sentence in all_warnings(report))
    return f'<div class="warn"><strong>Before you use this</strong><ul>{sentences}</ul></div>' if sentences else ""


def _mixture(report: MixReport) -> str:
    """Slices with what is proposed for them, largest first."""
    natural, shown = natural_weights(report), report.proposal
    weights: Floats = shown.weights if shown else natural
    repeated = epochs(report, weights)
    others = [m for m in report.baselines if m.name != "natural"]
    name = "proposed" if not shown or shown.name == "proposal" else text(shown.name)
    head = ["slice", name, "interval", "natural"] if shown else ["slice", "natural"]
    head += ["epochs at target", "most epochs", "cap", "documents", "tokens", *(text(m.name) for m in others)]
    rows = []
    for i in np.lexsort((np.arange(weights.size), -weights)):
        known = report.slices[i]
        row = [text(known.name)]
        if shown:
            interval = shown.interval and (float(shown.interval[0][i]), float(shown.interval[1][i]))
            row += [f"<strong>{percent(weights[i])}</strong>", between(interval)]
        row += [percent(natural[i]), number(repeated[i], 3) if repeated is not None else NONE]
        row += [number(known.max_epochs, 3), percent(known.max_weight), whole(known.documents), whole(known.tokens)]
        rows.append([*row, *(percent(m.weights[i]) for m in others)])
    note = "" if shown else '<p class="soft">Nothing is proposed yet; these are the slices as they are.</p>'
    return note + _table(head, rows)


def _changes(report: MixReport) -> str:
    if not report.changes:
        return ""
    rows = []
    for change in report.changes:
        share = change.difference.value / change.natural if change.natural else None
        signed = NONE if share is None else f"{100 * share:+.2f} %".replace("-", "−")
        rows.append([text(change.name), estimate(change.difference), number(change.natural), signed])
    head = ["", "proposal − natural (bits per byte)", "natural, predicted", "relative"]
    return _table(head, rows)


def _optimism(report: MixReport) -> str:
    if not report.kl_records:
        return ""
    rows = [
        [f"<strong>{number(r.kl)}</strong>" if r.chosen else number(r.kl), number(r.promised), number(r.kept)]
        for r in report.kl_records
    ]
    note = (
        "The best of many predictions is best by luck in part. Fits of half of the runs proposed; the second column is "
        "what they promised against the natural mixture, the third what fits of the other half say of the same "
        f"mixtures. For the proposal, {number(report.optimism, 2)} was taken off."
    )
    return f'<p class="soft">{note}</p>' + _table(["KL penalty", "gain promised", "gain kept"], rows)


def _pulls(report: MixReport) -> str:
    if not report.pulls:
        return ""
    tasks = list(dict.fromkeys(task for pulls in report.pulls.values() for task in pulls))
    rows = [
        [text(name), *(_signed(pulls.get(task)) for task in tasks), _signed(sum(pulls.values()))]
        for name, pulls in report.pulls.items()
    ]
    note = (
        "What five points more of a slice (the others keeping their ratios) do to the suite's metric in "
        "bits per byte, task by task, as the regression predicts it: below zero, the task asks for more."
    )
    return f'<p class="soft">{note}</p>' + _table(["slice", *map(text, tasks), "all"], rows)


def _signed(value: float | None) -> str:
    return NONE if value is None else f"{value:+.5f}".replace("-", "−")


def _verification(report: MixReport, plots: Mapping[str, Plot]) -> str:
    parts = [_verified(verification) for verification in report.verifications]
    if not parts:
        return ""
    return "".join(parts[:1]) + _figures(plots, "verification") + "".join(parts[1:])


def _verified(verification: Verification) -> str:
    tone = "bad" if verification.evidence == "none" else "good"
    rows = []
    for mixture in verification.mixtures:
        ahead = verification.differences.get(mixture.mixture)
        noise = ahead.value / verification.pooled_sd if ahead and verification.pooled_sd else None
        cells = [text(mixture.mixture), whole(mixture.seeds), _spread(mixture.mean, mixture.sd)]
        cells += [estimate(mixture.predicted), estimate(mixture.expected), estimate(ahead), number(noise, 3)]
        rows.append(cells)
    best = text(verification.mixtures[0].mixture) if verification.mixtures else "it"
    head = ["mixture", "seeds", "measured, mean ± sd", "predicted", "expected after both"]
    head += [f"{best} minus it, paired", "in pooled sd"]
    pooled = (
        f" Pooled standard deviation of seeds: {number(verification.pooled_sd, 3)}." if verification.pooled_sd else ""
    )
    return (
        f"<p><strong>{text(verification.label)}.</strong> "
        f'<span class="{tone}">{text(verification.verdict)}</span>{pooled}</p>' + _table(head, rows)
    )


def _spread(mean: float, sd: float | None) -> str:
    if sd is None or not math.isfinite(sd) or sd <= 0 or not math.isfinite(mean):
        return number(mean)
    places = min(max(1 - math.floor(math.log10(sd)), 0), 8)
    return f"{mean:,.{places}f} ± {sd:.{places}f}"


def _quality(report: MixReport) -> str:
    if not report.quality:
        return ""
    head = ["metric", "model", "runs", "R²", "Spearman", "RMSE", "in the 90% interval"]
    rows = [
        [
            text(q.metric),
            text(q.model),
            whole(q.n),
            *(number(v, 3) for v in (q.r2, q.spearman, q.rmse)),
            NONE if q.coverage is None or not math.isfinite(q.coverage) else f"{q.coverage:.0%}",
        ]
        for q in report.quality
    ]
    note = "Measured on runs that neither the fit nor its choice saw."
    return f'<p class="soft">{note}</p>' + _table(head, rows)


def _noise(report: MixReport) -> str:
    head = ["metric", "spread of mixtures", "spread of seeds", "signal to noise", "", "weight kept"]
    rows = []
    for n in report.noise:
        flag = '<span class="bad">mostly noise</span>' if n.flagged else ""
        values = [number(v, 3) for v in (n.signal, n.noise, n.ratio)]
        rows.append([text(n.metric), *values, flag, percent(n.kept)])
    return _table(head, rows) if rows else ""


def _sensitivity(report: MixReport) -> str:
    head = ["slice", "change with less of it", "change with more of it", "weights that do as well"]
    rows = [[text(s.slice), estimate(s.less), estimate(s.more), between(s.flat)] for s in report.sensitivity]
    return _table(head, rows) if rows else ""


def _compute(report: MixReport) -> str:
    if not report.costs:
        return ""
    kinds = list(dict.fromkeys(c.kind for c in report.costs))
    groups = [(kind, [c for c in report.costs if c.kind == kind]) for kind in kinds] + [("all", list(report.costs))]
    rows = []
    for kind, costs in groups:
        cpu_s = sum(c.cpu_s for c in costs)
        row = [text(kind), whole(len(costs)), whole(cpu_s), number(cpu_s / len(costs), 3)]
        rows.append([*row, whole(sum(c.tokens for c in costs)), f"{sum(c.flops for c in costs):.3g}"])
    head = ["kind", "runs", "CPU s", "CPU s a run", "tokens", "FLOPs"]
    return _table(head, rows)


def _sampled(report: MixReport) -> str:
    if report.sampled is None:
        return ""
    total = float(report.sampled.tokens.sum())
    realised = report.sampled.tokens / total if total > 0 else np.zeros(len(report.slices))
    off = np.abs(realised - report.sampled.asked)
    rows = [
        [
            text(s.name),
            whole(report.sampled.tokens[i]),
            f"{realised[i]:.5f}",
            f"{report.sampled.asked[i]:.5f}",
            f"{off[i]:.5f}",
        ]
        for i, s in enumerate(report.slices)
    ]
    note = (
        f"{whole(total)} tokens, counted after they were written; the largest difference is {off.max(initial=0.0):.5f}."
    )
    return f"<p>{note}</p>" + _table(["slice", "tokens", "share", "asked for", "difference"], rows)


def _basis(report: MixReport) -> str:
    facts = [[text(key), text(value)] for key, value in report.basis.items()]
    tasks = [[text(t.name), text(t.group), number(t.weight, 3), text(t.model or NONE)] for t in report.tasks]
    return (_table(["what", "which"], facts, "text") if facts else "") + (
        _table(["task", "group", "weight", "model"], tasks) if tasks else ""
    )
