"""The report of one mix: an HTML page with its plots in a folder, and a short text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.report import html
from pipeline.report.values import Floats, MixReport, all_warnings, epochs, natural_weights
from pipeline.table.errors import ShardError, WorkspaceError
from pipeline.table.format import cut, display_width, visible
from pipeline.table.kept import write_file
from pipeline.table.storage import write_failure

PAGE = "index.html"
PLOTS = "plots"
MAX_LINES = 40


def write_report(report: MixReport, folder: str | Path) -> Path:
    """Write `index.html`, which needs no other file, and `plots/*.png` into `folder`; return the page's path.

    The same report gives the same bytes with the same matplotlib. Each file is replaced in one step, the page last;
    plots that an earlier report left and this one lacks are removed.

    Raises: WorkspaceError when the folder cannot be written.
    """
    from pipeline.report import plots as drawers

    target = Path(folder)
    plots = drawers.draw(report)
    page = html.page(report, plots).encode("utf-8")
    try:
        (target / PLOTS).mkdir(parents=True, exist_ok=True)
        for name in drawers.NAMES:
            path = target / PLOTS / f"{name}.png"
            if name in plots:
                write_file(path, plots[name].png)
            else:
                path.unlink(missing_ok=True)
        write_file(target / PAGE, page)
    except (OSError, ShardError) as error:
        raise WorkspaceError(write_failure(str(target), error) if isinstance(error, OSError) else str(error)) from error
    return target / PAGE


def text_summary(report: MixReport) -> str:
    """Return what a terminal shows of the report: warnings, the mixture, its predicted gain and how it was verified."""
    parts = []
    sentences = all_warnings(report)
    if sentences:
        parts.append("\n".join(f"! {visible(sentence)}" for sentence in sentences))
    parts.append(_mixture(report))
    if report.changes:
        parts.append(_changes(report))
    for verification in report.verifications:
        heading = {"confirmed": "Confirmed", "likely": "Likely"}.get(verification.evidence, "NOT CONFIRMED")
        parts.append(f"{heading}. {visible(verification.label)}: {visible(verification.verdict)}")
    return "\n\n".join(parts) + "\n"


def _mixture(report: MixReport) -> str:
    natural, shown = natural_weights(report), report.proposal
    weights: Floats = shown.weights if shown else natural
    repeated = epochs(report, weights)
    name = "proposed" if shown is None or shown.name == "proposal" else visible(shown.name)
    head = ["slice", "natural", name, "90% interval", "epochs at target"]
    order = np.lexsort((np.arange(weights.size), -weights))
    rows = []
    for i in order[:MAX_LINES]:
        ends = shown.interval if shown else None
        interval = _plain(html.between(ends and (float(ends[0][i]), float(ends[1][i]))))
        proposed = html.percent(weights[i]) if shown else "-"
        count = _plain(html.number(repeated[i], 3)) if shown and repeated is not None else "-"
        rows.append([_name(report.slices[i].name), html.percent(natural[i]), proposed, interval, count])
    lines = _aligned(head, rows)
    if len(order) > MAX_LINES:
        rest = order[MAX_LINES:]
        share = html.percent(float(weights[rest].sum()))
        lines.append(f"... and {len(rest):,} more slices with {share} in all; the report's page has them")
    return "\n".join([f"Mix {visible(report.name)}" + ("" if shown else ": nothing is proposed yet"), *lines])


def _changes(report: MixReport) -> str:
    groups = {task.group for task in report.tasks}
    shown = [c for i, c in enumerate(report.changes) if i == 0 or c.name in groups or not groups]
    head = ["predicted against natural", "change in bits per byte (less is better)"]
    lines = _aligned(head, [[_name(c.name), _plain(html.estimate(c.difference))] for c in shown[:MAX_LINES]])
    chosen = next((record for record in report.kl_records if record.chosen), None)
    if chosen is not None and report.optimism is not None:
        off = _plain(html.number(report.optimism, 2))
        lines.append(f"taken off for the optimism of an optimum: {off}; KL weight {chosen.kl:g}")
    return "\n".join(lines)


def _plain(number: str) -> str:
    """Return a number as ASCII: a terminal may know nothing else, and people paste it."""
    return number.replace("−", "-").replace(html.NONE, "-")


def _name(name: str) -> str:
    return cut(visible(name), 40)


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines: the first column to the left, the others to the right."""
    widths = [max(map(display_width, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        padded = [" " * (width - display_width(cell)) for cell, width in zip(row, widths, strict=True)]
        first, *others = ((cell, pad) for cell, pad in zip(row, padded, strict=True))
        lines.append("  ".join([first[0] + first[1], *(pad + cell for cell, pad in others)]).rstrip())
    return lines
