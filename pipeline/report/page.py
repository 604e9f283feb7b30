"""A report as one HTML page: no script, nothing loaded from elsewhere, every text from data escaped.

Numbers carry their interval where one is known.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.report.drawing import Plot
from pipeline.table.errors import ShardError, WorkspaceError
from pipeline.table.format import visible
from pipeline.table.kept import write_file
from pipeline.table.storage import write_failure

PAGE, PLOTS = "index.html", "plots"
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


def page(title: str, lead: str, warnings: Sequence[str], sections: Sequence[tuple[str, str, str]]) -> str:
    """Return the whole page. A section is (anchor, title, HTML); those without HTML are named at the end."""
    made = [section for section in sections if section[2]]
    missing = [heading.lower() for _, heading, body in sections if not body]
    links = " ".join(f'<a href="#{key}">{heading}</a>' for key, heading, _ in made)
    body = "".join(f'<h2 id="{key}">{heading}</h2>{content}' for key, heading, content in made)
    rest = note(f"Not made yet, so not in this report: {', '.join(missing)}.") if missing else ""
    said = "".join(f"<li>{text(sentence)}</li>" for sentence in warnings)
    warn = f'<div class="warn"><strong>Before you use this</strong><ul>{said}</ul></div>' if said else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(title)}</title><style>{_CSS}</style></head><body>"
        f"<h1>{text(title)}</h1>{note(lead)}{warn}<nav>{links}</nav>{body}{rest}</body></html>\n"
    )


def write_page(folder: str | Path, source: str, plots: Mapping[str, Plot], names: Iterable[str]) -> Path:
    """Write `index.html`, which needs no other file, and `plots/*.png` into `folder`; return the page's path.

    Each file is replaced in one step, the page last; of the plots' `names`, those that are not made now are removed.

    Raises: WorkspaceError when the folder cannot be written.
    """
    target = Path(folder)
    try:
        (target / PLOTS).mkdir(parents=True, exist_ok=True)
        for name in names:
            path = target / PLOTS / f"{name}.png"
            if name in plots:
                write_file(path, plots[name].png)
            else:
                path.unlink(missing_ok=True)
    except (OSError, ShardError) as error:
        raise WorkspaceError(write_failure(str(target), error) if isinstance(error, OSError) else str(error)) from error
    write_one(target / PAGE, source)
    return target / PAGE


def write_one(path: str | Path, source: str) -> None:
    """Write a page that is one file, in one step.

    Raises: WorkspaceError when it cannot be written.
    """
    try:
        write_file(path, source.encode("utf-8"))
    except (OSError, ShardError) as error:
        raise WorkspaceError(write_failure(str(path), error) if isinstance(error, OSError) else str(error)) from error


def text(value: str) -> str:
    """Return a text from data, safe in HTML content and attributes; control characters are made visible."""
    return html.escape(visible(value), quote=True)


def note(sentence: str) -> str:
    """Return a paragraph in small print."""
    return f'<p class="soft">{sentence}</p>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a table, or nothing without rows; heads and cells are HTML already. `kind` "text" is for columns of it."""
    if not rows:
        return ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(plot: Plot | None) -> str:
    """Return a plot in the page, with its caption; nothing for one that was not drawn."""
    if plot is None:
        return ""
    data = base64.b64encode(plot.png).decode("ascii")
    width = int.from_bytes(plot.png[16:20], "big")  # of the PNG's header
    small = ' class="small"' if width < 1000 else ""
    return (
        f'<figure><div class="wide"><img{small} alt="{text(plot.title)}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{text(plot.caption)}</figcaption></figure>"
    )


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


def between(low: float, high: float) -> str:
    """Return a range of shares."""
    return f"{percent(low)} to {percent(high)}"


def signed(value: float | None, form: str = "+.5f") -> str:
    """Return a number with its sign; a dash for none or not finite."""
    return NONE if value is None or not math.isfinite(value) else f"{value:{form}}".replace("-", "−")


def estimate(value: float, low: float, high: float) -> str:
    """Return a number with its interval, all to the same decimal; without the interval where an end is not finite."""
    if not all(map(math.isfinite, (value, low, high))):
        return number(value)
    places = min(max(1 - math.floor(math.log10(high - low)), 0), 8) if 0 < high - low < math.inf else 4
    return "{} ({} to {})".format(*(f"{part:,.{places}f}".replace("-", "−") for part in (value, low, high)))


def spread(mean: float, sd: float | None) -> str:
    """Return a mean with its standard deviation, both to the same decimal."""
    if sd is None or not math.isfinite(sd) or sd <= 0 or not math.isfinite(mean):
        return number(mean)
    places = min(max(1 - math.floor(math.log10(sd)), 0), 8)
    return f"{mean:,.{places}f} ± {sd:.{places}f}"
