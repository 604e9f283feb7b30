"""The README's picture: a source's funnel, why one document was dropped, and what a mix proposes for two suites.

    python docs/picture.py .quickstart/workspace configs/mixes/quickstart.yaml --to docs/picture.svg

in the folder of a finished `make quickstart`; it trains and changes nothing. Plain SVG on a ground of its own, readable
on light and dark pages, without a script or a font from elsewhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gristmill as gm
from pipeline.report.drawing import BLUE, GREY, ORANGE, RED
from pipeline.report.page import between, percent
from pipeline.table.format import cut, visible

DOCUMENT = "https://docs.python.example/3/library/heapq.html"
SUITES = ("configs/suites/quickstart_prose.yaml", "configs/suites/quickstart_code.yaml")
Rows = Sequence[Mapping[str, Any]]

WIDTH, HEIGHT = 860, 500
LEFT, MIDDLE, RIGHT, TOP, GAP = 14, 424, 846, 14, 12
"""Edges of the cards, in pixels; MIDDLE is where those on the right begin."""
EXPLAINED = 184
"""Height of the card about one document."""
BAR = 144
"""Width of a bar that stands for everything."""
INK, FAINT, RULE, GROUND, LOST, NATURAL = "#1f2328", "#59636e", "#d0d7de", "#f6f8fa", "#f3c9b0", "#dde1e6"
STYLE = """
text { font: 12px -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif }
.head { font-size: 14px; font-weight: 600 }
.small { font-size: 11px }
.code { font: 11px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace }
"""


def text(x: float, y: float, said: str, kind: str = "", fill: str = INK, anchor: str = "start", most: int = 62) -> str:
    """Return one line of text, whatever it holds, cut to `most` columns."""
    shown = escape(cut(visible(said), most))
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" fill="{fill}" text-anchor="{anchor}">{shown}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" {more}/>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}" stroke-linecap="round"/>'


def dot(x: float, y: float, radius: float, fill: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}"/>'


def card(x: float, y: float, width: float, height: float, head: str, command: str) -> list[str]:
    """Return the ground of a panel, what it shows, and the command that says the same in words."""
    ground = box(x, y, width, height, "#ffffff", f'rx="8" stroke="{RULE}"')
    return [ground, text(x + 16, y + 27, head, "head"), text(x + 16, y + 46, f"gristmill {command}", "code", FAINT)]


def funnel(rows: Rows) -> list[str]:
    """Draw what extraction and each rule that took anything left of a source: documents, and below them tokens."""
    units, total = max(rows[0]["documents_in"], 1), max(rows[0]["tokens_out"] or 0, 1)
    took = [row for row in rows if row["stage"] == "extract" or row["documents_out"] < row["documents_in"]]
    steps = [{**rows[0], "stage": "units read", "documents_out": rows[0]["documents_in"], "tokens_out": None}, *took]
    bars, documents, tokens, heads = LEFT + 130, MIDDLE - 92, MIDDLE - 26, TOP + 78
    head = f"What is left of the source {rows[0]['source']}"
    drawn = card(LEFT, TOP, MIDDLE - LEFT - GAP, HEIGHT - 2 * TOP, head, "funnel WORKSPACE")
    drawn += [box(bars, heads - 8, 8, 8, BLUE), text(bars + 12, heads, "left", "small", FAINT)]
    drawn += [box(bars + 44, heads - 8, 8, 8, LOST), text(bars + 56, heads, "taken", "small", FAINT)]
    drawn += [text(documents, heads, "documents", "small", FAINT, "end"), box(tokens - 54, heads - 6, 8, 4, GREY)]
    drawn.append(text(tokens, heads, "tokens", "small", FAINT, "end"))
    for number, row in enumerate(steps):
        y = heads + 14 + number * min((HEIGHT - heads - 2 * TOP) / len(steps), 48)
        before, left = (BAR * row[name] / units for name in ("documents_in", "documents_out"))
        drawn.append(text(bars - 12, y + 13, row["rule"] or row["stage"], "code", anchor="end", most=16))
        drawn += [box(bars, y, left, 17, BLUE), box(bars + left, y, before - left, 17, LOST)]
        drawn.append(text(documents, y + 13, f"{row['documents_out']:,}", anchor="end"))
        if row["tokens_out"] is not None:
            drawn.append(box(bars, y + 20, BAR * row["tokens_out"] / total, 4, GREY))
            drawn.append(text(tokens, y + 13, f"{row['tokens_out']:,}", anchor="end"))
    return drawn


def explanation(url: str, failed: Mapping[str, Any], compared: Mapping[str, Any]) -> list[str]:
    """Draw the comparison that dropped a document: its value, the bound, and how far off it is."""
    begin, end, level = MIDDLE + 18, RIGHT - 18, TOP + 130
    least = compared["wants"] in ("at least", "above")
    value, bound, passing = (begin + 90, begin + 256, end) if least else (end - 90, end - 256, begin)
    off = f"{abs(compared['margin']):.6g} ({100 * abs(compared['relative']):.1f} %) too {'little' if least else 'much'}"
    return [
        *card(MIDDLE, TOP, RIGHT - MIDDLE, EXPLAINED, "Why one of its documents was dropped", "explain WORKSPACE URL"),
        text(begin - 2, TOP + 72, url, "code", most=60),
        text(begin - 2, TOP + 90, f"failed {failed['rule']}: {failed['sql']}", "code", RED, most=60),
        line(begin, level, end, level, RULE, 6),
        line(bound, level, passing, level, BLUE, 6),
        line(value, level, bound, level, LOST, 6),
        line(bound, level - 9, bound, level + 9, BLUE, 3),
        dot(value, level, 6, RED),
        text((value + bound) / 2, level - 13, off, fill=RED, anchor="middle"),
        text(value, level + 24, f"{compared['expression']} is", "small", FAINT, "middle", 30),
        text(value, level + 40, f"{compared['value']:.6g}", fill=RED, anchor="middle"),
        text(bound, level + 24, f"must be {compared['wants']}", "small", FAINT, "middle"),
        text(bound, level + 40, f"{compared['bound']:.6g}", fill=BLUE, anchor="middle"),
    ]


def mix(suites: Sequence[tuple[str, Rows]]) -> list[str]:
    """Draw the weights that are proposed for each suite, with their 90 % intervals, over the natural ones."""
    y, plot = TOP + EXPLAINED + GAP, MIDDLE + 92
    head, command = "In which proportions to mix what is left", "mix report CONFIG --set suite=SUITE"
    drawn = card(MIDDLE, y, RIGHT - MIDDLE, HEIGHT - TOP - y, head, command)
    slices = [row["slice"] for row in suites[0][1]]
    scale = 152 / max(row[name] for _, rows in suites for row in rows for name in ("high", "natural"))
    drawn += [box(MIDDLE + 18, y + 59, 9, 9, NATURAL), text(MIDDLE + 32, y + 67, "natural", "small", FAINT)]
    drawn.append(text(RIGHT - 16, y + 67, "(90 % interval)", "small", FAINT, "end"))
    for number, ((suite, rows), colour) in enumerate(zip(suites, (BLUE, ORANGE), strict=True)):
        x, pitch = MIDDLE + 88 + 122 * number, (HEIGHT - TOP - y - 86) / len(slices)
        drawn += [dot(x + 5, y + 63, 4, colour), text(x + 14, y + 67, Path(suite).stem, "small", FAINT, most=16)]
        for row in rows:
            top = y + 78 + slices.index(row["slice"]) * pitch
            level = top + (pitch - 6) * (0.25 + 0.5 * number)
            if number == 0:
                drawn.append(text(plot - 10, top + pitch / 2 - 5, row["slice"], "code", anchor="end", most=11))
                drawn.append(text(plot - 10, top + pitch / 2 + 9, percent(row["natural"]), "small", FAINT, "end"))
                drawn.append(box(plot, top, row["natural"] * scale, pitch - 6, NATURAL))
            drawn.append(line(plot + row["low"] * scale, level, plot + row["high"] * scale, level, colour, 2.5))
            drawn.append(dot(plot + row["weight"] * scale, level, 4, colour))
            said = f"{percent(row['weight'])} ({between(row['low'], row['high'])})"
            drawn.append(text(RIGHT - 16, level + 4, said, "small", anchor="end"))
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace")
    parser.add_argument("config", help="of a mix")
    parser.add_argument("--document", default=DOCUMENT, metavar="URL")
    parser.add_argument("--suites", nargs=2, default=SUITES, metavar="SUITE", help="each with a proposal of the mix")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE")
    asked = parser.parse_args(arguments)
    try:
        workspace = gm.open(asked.workspace)
        documents = (workspace.explain(asked.document).value or {})["documents"]
        failed = [
            (each, rule, one) for each in documents[:1] for rule in each["failed_rules"] for one in rule["comparisons"]
        ]
        failed = [found for found in failed if found[-1]["margin"] is not None]
        if not failed:
            parser.error(f"--document {asked.document}: no comparison of numbers dropped it; ask for another")
        suites = [(suite, gm.mix(asked.config, {"suite": suite}, "explain").rows) for suite in asked.suites]
        document, rule, compared = failed[0]
        drawn = funnel([row for row in workspace.funnel() if row["source"] == document["source"]])
    except gm.GristmillError as error:
        parser.error(str(error))
    drawn += [*explanation(document["url"] or document["doc_id"], rule, compared), *mix(suites)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">'
    title = "<title>A funnel, an explanation of one document, and the proportions proposed for two suites</title>"
    ground = box(0, 0, WIDTH, HEIGHT, GROUND, 'rx="12"')
    try:
        asked.to.write_text("\n".join([head, title, f"<style>{STYLE}</style>", ground, *drawn, "</svg>\n"]), "utf-8")
    except OSError as error:
        parser.error(f"--to {asked.to}: {error.strerror}")


if __name__ == "__main__":
    main()
