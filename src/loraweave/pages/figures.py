"""Figures: one look for all of them, as SVG that follows the page it stands in, and as files.

A figure is drawn in the light colours of the palette. Inside a page each becomes the CSS variable it stands for, and
text stays text in the page's own font. Figures are `Figure` objects; pyplot and its global state are not used.

    with figures.style():
        figure = figures.new(340, 230)
        axes = figure.subplots()
        axes.plot(steps, losses, **figures.line(0))
    svg = figures.inline_svg(figure, "Training loss by step")
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from markupsafe import Markup
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from loraweave.files import write_bytes, write_text
from loraweave.pages.palette import COLOURS, SERIES, series
from loraweave.pages.svg import for_page

PIXELS_PER_INCH = 72  # of a figure: its points are the page's pixels
LINE_WIDTH = 1.8
EDGE = 4  # px between a figure's content and its edge
INK, QUIET, RULE, PAPER = (COLOURS[name].light for name in ("ink", "quiet", "rule", "paper"))
_STYLE: dict[Any, Any] = {
    "figure.dpi": PIXELS_PER_INCH,
    "figure.facecolor": PAPER,
    "savefig.facecolor": "auto",
    "figure.constrained_layout.h_pad": 4 / 72,
    "figure.constrained_layout.w_pad": 4 / 72,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib; wider than what browsers choose, so nothing overlaps there
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,  # a task may be named a$b$c
    "axes.facecolor": "none",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.spines.bottom": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=[each.colour.light for each in SERIES]),
    "grid.color": RULE,
    "grid.linewidth": 1.0,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": LINE_WIDTH,
    "lines.scale_dashes": False,
    "lines.markersize": 5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 11,
    "legend.handlelength": 2.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "loraweave",
}


@contextmanager
def style() -> Iterator[None]:
    """Within the block axes and what is drawn on them have the project's look; matplotlib's own settings come back."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing from font"
        )  # the SVG holds the text; browsers have the font
        yield


def new(width: float, height: float) -> Figure:
    """An empty figure of `width` × `height` px. To be called, and drawn on, within `style()`."""
    return Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH), layout="constrained")


def fit(figure: Figure) -> None:
    """Give a figure's only axes all the room that their labels leave; quicker than matplotlib's own layout."""
    (axes,) = figure.axes
    figure.set_layout_engine("none")
    axes.set_position((0.15, 0.2, 0.8, 0.75))
    inner, outer = axes.bbox, axes.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    width, height = figure.bbox.width, figure.bbox.height
    assert outer is not None
    left, below = inner.x0 - outer.x0 + EDGE, inner.y0 - outer.y0 + EDGE
    right, above = max(outer.x1 - inner.x1, 0) + EDGE, max(outer.y1 - inner.y1, 0) + EDGE
    axes.set_position((left / width, below / height, 1 - (left + right) / width, 1 - (below + above) / height))


def line(index: int, markers: bool = False) -> dict[str, Any]:
    """Arguments of `axes.plot` for series `index`: colour, dashes and, where points are few, its marker."""
    look = series(index)
    found: dict[str, Any] = {"color": look.colour.light, "linestyle": (0, look.dashes) if look.dashes else "solid"}
    return found | {"marker": look.marker} if markers else found


def log_axis(axis: Axis) -> None:
    """Make an axis logarithmic, with round numbers on it."""
    axis.axes.set(**{"xscale" if axis is axis.axes.xaxis else "yscale": "log"})
    axis.set_major_locator(LogLocator(subs=(1.0,), numticks=7))
    axis.set_major_formatter(lambda value, _: f"{value:g}" if 1e-4 <= value < 1e5 else f"{value:.0e}")
    axis.set_minor_locator(NullLocator())


def whole_numbers(axis: Axis) -> None:
    """Ticks at whole numbers alone."""
    axis.set_major_locator(MaxNLocator("auto", integer=True))


def inline_svg(figure: Figure, label: str) -> Markup:
    """The figure as `<svg>` for a page that extends `pages/base.html`, in light and dark.

    Args:
        figure: drawn in colours of the palette alone.
        label: what it shows, for those who do not see it; empty for an ornament.

    Raises:
        ValueError: the figure has a colour that is not of the palette, so it could not follow the page.
    """
    return for_page(_svg(figure), label)


def save(figure: Figure, path: Path) -> None:
    """Write the figure, light, on paper, as its suffix says: `.svg`, or `.png` with two dots to a px."""
    if path.suffix == ".svg":
        in_px = re.sub(r'\b(width|height)="([\d.]+)pt"', r'\1="\2"', _svg(figure), count=2)
        write_text(path, in_px)
    else:
        png = io.BytesIO()
        with style():
            figure.savefig(png, format="png", dpi=2 * PIXELS_PER_INCH)
        write_bytes(path, png.getvalue())


def _svg(figure: Figure) -> str:
    written = io.StringIO()
    with style():
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()
