"""How plots look, and the marks that they share. Matplotlib is imported when something is drawn.

Colours are Okabe and Ito's, told apart with any colour vision; what matters also differs in its marker.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.table.format import cut, display_width, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Drawer = Callable[[], "tuple[Figure, str] | None"]
"""Draws one plot and returns it with its caption, or None where there is nothing to draw."""

log = logging.getLogger(__name__)

DPI = 160
WIDTH = 7.2  # inches
NAME_WIDTH = 26

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PINK, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A"
MARKERS = ("D", "s", "^", "v", "P", "X", "*", "p")
_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # a name may hold a dollar sign
}


@dataclass(frozen=True)
class Plot:
    """A drawn plot. `caption` is plain text: what to look for, and what the plot does not show."""

    title: str
    caption: str
    png: bytes


def draw(drawers: Mapping[str, tuple[str, Drawer]]) -> dict[str, Plot]:
    """Return every plot, of (title, drawer) by name, that there is something to draw for; none without matplotlib.

    The same values give the same bytes with the same matplotlib.
    """
    if not can_draw():
        return {}
    with style():
        drawn = {name: (title, drawer()) for name, (title, drawer) in drawers.items()}
        return {name: Plot(title, made[1], png(made[0])) for name, (title, made) in drawn.items() if made}


def can_draw() -> bool:
    """Tell whether matplotlib is installed; where it is not, say once what brings it."""
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    log.warning("plots are left out: matplotlib is not installed; pip install 'gristmill[plots]'")
    return False


@contextmanager
def style() -> Iterator[None]:
    """Draw with our settings alone, whatever the user's matplotlibrc says."""
    import matplotlib

    settings: Any = matplotlib.rcParams  # typed by literal keys
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box stands for it; tables have it
        matplotlib.rcdefaults()
        settings.update(_SETTINGS)
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of so many inches, drawn by Agg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panel_grid(count: int, aspect: float, columns: int) -> tuple[Figure, list[Axes]]:
    """Return a figure and `count` axes in a grid; `aspect` is height over width of a panel."""
    rows = -(-count // columns)
    width = WIDTH if columns > 1 else 4.6
    figure = new_figure(0.5 + rows * (width / columns * aspect + 0.1), width)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in panels[count:]:
        empty.remove()
    return figure, panels[:count]


def png(figure: Figure) -> bytes:
    """Return the figure as PNG, without anything that differs from one time to the next."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def rows_height(rows: int, legend: bool = True) -> float:
    """Return the inches that so many named rows take."""
    return 0.7 + 0.27 * max(rows, 2) + (0.3 if legend else 0.0)


def row_names(axes: Axes, names: Sequence[str]) -> None:
    """Name rows 0, 1 ... from the top."""
    axes.set_yticks(np.arange(len(names)), [short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def short(text: str, width: int = NAME_WIDTH) -> str:
    """Return a name in one line of at most `width` columns, cut in its middle: names often differ at their ends."""
    shown = visible(text)
    if display_width(shown) <= width:
        return shown
    end = shown[-(width // 2 - 2) :]
    return cut(shown, max(width - display_width(end), 1)) + end


def legend(figure: Figure, axes: Axes, columns: int = 7) -> None:
    """Put the legend of `axes` above the figure's panels."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handletextpad=0.3, columnspacing=1.2)


def points(axes: Axes, x: Any, y: Any, size: float, colour: str, **options: Any) -> None:
    """Draw markers of `size` square points, without an edge unless one is asked for."""
    if options.get("marker") != "x":
        options = {"linewidths": 0, **options}
    axes.scatter(x, y, s=size, c=colour, **options)


def whiskers(axes: Axes, ends: Floats, rows: Floats, **options: Any) -> None:
    """Draw a dot a row, with a bar where both ends of its interval are numbers; `ends` (3, n): value, low, high."""
    options = {"fmt": "o", "markersize": 5, "elinewidth": 1.4, "capsize": 2.5, "zorder": 4, **options}
    x = np.where(np.isfinite(ends[0]), ends[0], np.nan)
    axes.errorbar(x, rows, xerr=bar_lengths(x, ends[1], ends[2]), **options)


def bar_lengths(value: Floats, low: Floats, high: Floats) -> Floats:
    """Return lengths (2, n) below and above: none is negative, though an interval need not hold its value, and where
    there is no number there is no bar."""
    lengths = np.stack([value - low, high - value])
    return np.where(np.isfinite(lengths), np.maximum(lengths, 0.0), 0.0)


def padded(low: float, high: float) -> tuple[float, float]:
    """Return limits with some room around values from `low` to `high`."""
    pad = 0.06 * (high - low) or max(abs(low), 1.0) * 0.05
    return low - pad, high + pad


def plain_counts(axes: Axes) -> None:
    """Write the ticks of a logarithmic x axis as 10k, 1M ...: powers would need the mathematical markup."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=12))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def few_ticks(axes: Axes, y: bool = True) -> None:
    """Thin out the ticks of a small panel."""
    axes.locator_params(axis="x", nbins=4)
    if y:
        axes.locator_params(axis="y", nbins=4)


def spread(count: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` places out of `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def left_out(total: int, shown: int, what: str) -> str:
    """Return a caption's last sentence: how many are not drawn, where some are not."""
    return f" Not drawn: {total - shown:,} {what}." if total > shown else ""
