"""A classifier's report: its values, and the same tables of them as text and as one HTML page with plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.report import drawing
from pipeline.report.drawing import new_figure, row_names, rows_height, whiskers
from pipeline.report.page import figure, note, page, percent, table, text, write_one
from pipeline.table.format import text_table, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_GROUP = 30
"""A mean of fewer documents is marked: its interval stands on little."""
Row = dict[str, Any]
Drawn = tuple["Figure", str] | None
Section = tuple[str, str, str, list[dict[str, str]]]
"""Anchor, title, what to know, and a table's rows by the heads of its columns."""
_READ = {
    "best": "Ten best",
    "worst": "Ten worst",
    "border": "Ten at the border: calibrated probability 0.5",
    "cut": "Ten at the cut",
}


@dataclass(frozen=True, slots=True)
class ClassifierReport:
    """What was found: objects and lists of rows, all of JSON's types. AGENTS.md names their keys."""

    model: Row
    sample: Row
    doubts: list[str]
    notes: list[str]
    distribution: list[Row]
    quantiles: list[Row]
    thresholds: list[Row]
    kept: list[Row]
    length: Row
    groups: list[Row]
    calibration: list[Row]
    words_from: Row
    words: list[Row]
    documents: list[Row]


def as_text(report: ClassifierReport) -> str:
    """Return what a terminal shows."""
    said = [*(f"! {doubt}" for doubt in report.doubts), *(f"- {sentence}" for sentence in report.notes)]
    blocks = ["\n".join([visible(_title(report)), *map(visible, said)])]
    for anchor, title, about, rows in _sections(report):
        if anchor != "kept-score":  # of most models nearly the same at every score; the page and JSON have it
            blocks.append("\n".join(filter(None, [title, about, text_table(rows) if rows else ""])))
    return "\n\n".join(block.rstrip("\n") for block in blocks)


def write_html(report: ClassifierReport, path: str | Path) -> None:
    """Write the page: one file, in which every text from data is escaped and no script runs.

    The same report gives the same bytes with the same matplotlib.

    Raises: WorkspaceError when it cannot be written.
    """
    plots = drawing.draw({name: (title, partial(drawer, report)) for name, (title, drawer) in _PLOTS.items()})
    sections = []
    for anchor, title, said, rows in _sections(report):
        heads, cells = list(rows[0]) if rows else [], [[text(cell) for cell in row.values()] for row in rows]
        if anchor in _READ:  # an address is long and does not wrap: it stands above the text
            heads, cells = heads[:-1], [[*row[:-2], f"<strong>{row[-2]}</strong><br>{row[-1]}"] for row in cells]
        shown = figure(plots.get(anchor)) + table(heads, cells, "text" if anchor in _READ else "")
        sections.append((anchor, title, (note(text(said)) if said else "") + shown))
    lead = text(" ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in report.notes))
    write_one(path, page(_title(report), lead, report.doubts, sections))


def _title(report: ClassifierReport) -> str:
    return f"Classifier {report.model['name']} ({report.model['content_hash'][:8]}) on {report.sample['on']}"


def _share(row: Mapping[str, Any], name: str) -> str:
    return _between(percent(row[name]), percent(row[f"{name}_low"]), percent(row[f"{name}_high"]))


def _between(value: str, low: str, high: str) -> str:
    return f"{value} ({low.removesuffix(' %')} to {high.removesuffix(' %')})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _estimate(row: Mapping[str, Any], name: str, low: str = "low", high: str = "high") -> str:
    return _number(row[name]) if row[low] is None else _between(*(_number(row[key]) for key in (name, low, high)))


def _sections(report: ClassifierReport) -> Iterator[Section]:
    cuts = [
        {
            "keeps": percent(row["keep"]),
            "score at least": f"{row['score']:.9g} ({row['score_low']:.6g} to {row['score_high']:.6g})",
            "probability at least": f"{row['probability']:.6g}",
            "documents": _share(row, "documents"),
            "tokens": _share(row, "tokens"),
        }
        for row in report.thresholds
    ]
    yield "cuts", "Which cut keeps how much", "Equal scores are kept together, so that a cut may keep more.", cuts
    kept = [
        {
            f"{row['of']} at least": f"{row['at_least']:g}",
            "documents": _share(row, "documents"),
            "tokens": _share(row, "tokens"),
        }
        for row in report.kept
    ]
    for of in ("probability", "score"):
        rows = [row for row in kept if f"{of} at least" in row]
        yield f"kept-{of}", f"What is kept at a {of}", "", rows
    bins = [
        {"from": f"{score['at_least']:.2f}", "score": _share_of(score), "probability": _share_of(probability)}
        for score, probability in zip(*(_of(report.distribution, of) for of in ("score", "probability")), strict=True)
    ]
    yield "distribution", "Scores and calibrated probabilities", "Documents in each twentieth.", bins
    quantiles = [
        {
            "below it": percent(row["share"]),
            "score": _estimate(row, "score", "score_low", "score_high"),
            "probability": _number(row["probability"]),
        }
        for row in report.quantiles
    ]
    yield "quantiles", "Quantiles", "", quantiles
    yield from _group_sections(report)
    yield from _calibration_sections(report)
    yield from _word_sections(report)
    for which, title in _READ.items():
        documents = [_document(row) for row in report.documents if row["which"] == which]
        if documents:
            yield which, title, "", documents


def _of(rows: list[Row], of: str) -> list[Row]:
    return [row for row in rows if row["of"] == of]


def _share_of(row: Row) -> str:
    return f"{row['documents']:,}: {_between(*(percent(row[key]) for key in ('share', 'low', 'high')))}"


def _group_sections(report: ClassifierReport) -> Iterator[Section]:
    length = report.length
    said = {
        "length": f"Rank correlation of score and length: {_estimate(length, 'rank_correlation')}.",
        "source": "",
        "language": f"{report.sample['languages']:,} languages; the largest are here.",
        "host": f"{report.sample['hosts']:,} hosts; the largest are here.",
    }
    for by, sentence in said.items():
        rows = [row for row in report.groups if row["by"] == by]
        is_worth_it = len(rows) > 1 if by == "source" else any(row["group"] is not None for row in rows)
        small = (
            f" Of fewer than {MIN_GROUP} documents an interval says little." if any(r["is_small"] for r in rows) else ""
        )
        shown = [
            {
                by: "not known" if row["group"] is None else row["group"],
                "documents": f"{row['documents']:,}",
                "mean score": _estimate(row, "score"),
                "": "too few" if row["is_small"] else "",
            }
            for row in rows
        ]
        yield (
            by,
            f"Score against {by}",
            (sentence + small).strip() if is_worth_it else f"No {by} to compare.",
            shown if is_worth_it else [],
        )


def _calibration_sections(report: ClassifierReport) -> Iterator[Section]:
    for row in report.calibration:
        where = "texts held out in training" if row["labels"] == "held_out" else "the labels given"
        counts = f"{row['n_positives']:,} positives, {row['n_negatives']:,} negatives"
        said = f"Too few labels: {counts}."
        if row["auc"] is not None:
            auc = _between(*(f"{row[name]:.4f}" for name in ("auc", "auc_low", "auc_high")))
            said = f"AUC {auc}, Brier score {row['brier']:.4f}; {counts}. Both classes weigh the same."
        reliability = [
            {
                "probability": f"{tenth['at_least']:.1f} to {tenth['below']:.1f}",
                "positives": f"{tenth['positives']:,}",
                "negatives": f"{tenth['negatives']:,}",
                "said on average": _number(tenth["probability"]),
                "turned out positive": _estimate(tenth, "share"),
            }
            for tenth in row["reliability"] or []
        ]
        yield f"calibration-{row['labels']}", f"Calibration on {where}", said, reliability


def _word_sections(report: ClassifierReport) -> Iterator[Section]:
    about = report.words_from
    named = _between(*(percent(about[name]) for name in ("named", "low", "high")))
    said = f"From {about['documents']:,} documents; words have {named} of all movement. {about['how']}"
    for towards in ("positive", "negative"):
        rows = [
            {
                "word": row["word"],
                "log-odds a document": _estimate(row, "log_odds"),
                "in documents": f"{row['documents']:,}",
            }
            for row in report.words
            if row["towards"] == towards
        ]
        yield f"words-{towards}", f"Words that move the score most, towards {towards}", said, rows
        said = ""


def _document(row: Row) -> dict[str, str]:
    where = row["url"] or row["doc_id"] or f"row {row['row']:,}"
    return {
        "score": f"{row['score']:.6g}",
        "probability": f"{row['probability']:.4g}",
        "bytes": f"{row['bytes']:,}",
        "document": where,
        "text": row["text"] or "",
    }


# Plots ----------------------------------------------------------------------------------------------------------------


def _distribution_plot(report: ClassifierReport) -> Drawn:
    drawn = new_figure(2.6)
    panels = drawn.subplots(1, 2)
    for axes, of in zip(panels, ("score", "probability"), strict=True):
        rows = _of(report.distribution, of)
        ends = np.array([[row[key] for row in rows] for key in ("share", "low", "high")])
        width = rows[0]["below"] - rows[0]["at_least"]
        axes.bar([row["at_least"] + width / 2 for row in rows], ends[0], 0.9 * width, color=drawing.SKY)
        bars = drawing.bar_lengths(ends[0], ends[1], ends[2])
        axes.errorbar(
            [row["at_least"] + width / 2 for row in rows],
            ends[0],
            bars,
            fmt="none",
            ecolor=drawing.BLACK,
            elinewidth=0.8,
        )
        axes.set(xlabel={"score": "raw score", "probability": "calibrated probability"}[of], xlim=(0, 1))
    panels[0].set_ylabel("share of documents")
    return drawn, (
        "Raw scores of fastText crowd at both ends, so that a cut of the raw score decides little between them; the "
        "calibration spreads them without changing their order. Bars are 95 % intervals."
    )


def _kept_plot(report: ClassifierReport) -> Drawn:
    rows = _of(report.kept, "probability")
    axes = (drawn := new_figure(3.0)).subplots()
    x = [row["at_least"] for row in rows]
    for what, colour, look in (("documents", drawing.BLUE, "-"), ("tokens", drawing.ORANGE, "--")):
        if rows[0][what] is not None:
            axes.plot(x, [row[what] for row in rows], look, color=colour, label=what)
            axes.fill_between(
                x, [row[f"{what}_low"] for row in rows], [row[f"{what}_high"] for row in rows], color=colour, alpha=0.2
            )
    axes.set(xlabel="calibrated probability of at least", ylabel="share kept", xlim=(0, 1), ylim=(0, None))
    drawing.legend(drawn, axes)
    return drawn, "Where the tokens lie below the documents, the cut prefers short documents. Bands are 95 % intervals."


def _length_plot(report: ClassifierReport) -> Drawn:
    rows = [row for row in report.groups if row["by"] == "length"]
    axes = (drawn := new_figure(rows_height(len(rows), legend=False))).subplots()
    ends = np.array([[np.nan if row[key] is None else row[key] for row in rows] for key in ("score", "low", "high")])
    whiskers(axes, ends, np.arange(len(rows), dtype=np.float64), color=drawing.BLUE)
    row_names(axes, [row["group"] for row in rows])
    axes.set(xlabel="mean raw score", xlim=(0, 1))
    return drawn, "A quality that is only length shows as a slope. Whiskers are 95 % intervals of the mean."


def _calibration_plot(labels: str, report: ClassifierReport) -> Drawn:
    known = [row["reliability"] for row in report.calibration if row["labels"] == labels and row["reliability"]]
    if not known:
        return None
    rows = [row for row in known[0] if row["share"] is not None]
    axes = (drawn := new_figure(3.6, 4.6)).subplots()
    ends = np.array([[row[key] for row in rows] for key in ("share", "low", "high")])
    axes.plot([0, 1], [0, 1], color=drawing.GREY, linewidth=0.8, linestyle="--")
    bars = drawing.bar_lengths(ends[0], ends[1], ends[2])
    axes.errorbar(
        [row["probability"] for row in rows], ends[0], bars, fmt="o", markersize=5, capsize=2.5, color=drawing.BLUE
    )
    axes.set(xlabel="calibrated probability", ylabel="share of positives", xlim=(0, 1), ylim=(-0.02, 1.02))
    return (
        drawn,
        "On the dashed line, what was said came true. Both classes weigh the same; whiskers are 95 % intervals.",
    )


_PLOTS: dict[str, tuple[str, Callable[[ClassifierReport], Drawn]]] = {
    "distribution": ("Scores and calibrated probabilities", _distribution_plot),
    "kept-probability": ("Kept at a calibrated probability", _kept_plot),
    "length": ("Mean score by length", _length_plot),
    "calibration-held_out": ("Reliability on held-out texts", partial(_calibration_plot, "held_out")),
    "calibration-file": ("Reliability on the labels given", partial(_calibration_plot, "file")),
}
"""The plots by the section that they are in: title, and what draws it where there is something to draw."""
