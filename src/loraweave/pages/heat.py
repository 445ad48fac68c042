"""Heat maps: one colour laid over the paper, more opaque the larger the value; two colours where values have a sign."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba

from loraweave import amounts
from loraweave.pages.palette import COLOURS

MOST_NUMBERS = 144  # cells above which numbers would be too small to read
WIDEST_LABELS = 40  # characters side by side under a panel
DARK = 0.6  # strength of a colour from which the number on it is written in the colour of the paper
_FAINTEST, _FULLEST = 0.04, 0.94


@dataclass(frozen=True)
class Scale:
    """What the colours mean: `low` to `high`; with `centred`, two colours that meet at 0.

    Args:
        label: the quantity and its unit.
        low, high: the values at the ends; beyond them the colour stays.
        centred: the colours meet at 0; then low = -high.
    """

    label: str
    low: float
    high: float
    centred: bool = False

    @property
    def low_text(self) -> str:
        """The value at the lower end, as people read it."""
        return f"{self.low:.2g}".replace("-", "−")

    @property
    def high_text(self) -> str:
        """The value at the upper end, as people read it."""
        return f"{self.high:.2g}"

    def strength(self, value: float) -> float:
        """How opaque the colour of `value` is: 0 at `low` (or at 0 where centred), 1 at an end."""
        if self.centred:
            return min(abs(value) / self.high, 1.0)
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def colour(self, value: float) -> tuple[float, float, float, float]:
        """The colour of a cell; nothing where the value is not known (NaN)."""
        if np.isnan(value):
            return (*to_rgba(COLOURS["high"].light)[:3], 0.0)
        name = "low" if self.centred and value < 0 else "high"
        opaque = _FAINTEST + (_FULLEST - _FAINTEST) * self.strength(value)
        return to_rgba(COLOURS[name].light, round(opaque, 2))


def heat_map(
    axes: Axes,
    values: Sequence[Sequence[float]] | np.ndarray,
    scale: Scale,
    rows: Sequence[str],
    columns: Sequence[str],
    digits: int | None = None,
) -> None:
    """Draw `values` (rows × columns, NaN for none), the first row on top.

    Args:
        axes: where to.
        values: the cells.
        scale: what their colours mean.
        rows, columns: a label each; where they are many, some are left out.
        digits: write the values into the cells with so many digits; not where there are too many cells.
    """
    cells = np.asarray(values, dtype=float).reshape(len(rows), len(columns))
    count_rows, count_columns = cells.shape
    gap = 0.03 if cells.size <= 900 else 0.0
    corners, colours = [], []
    for (i, j), value in np.ndenumerate(cells):
        left, right, top, bottom = j - 0.5 + gap, j + 0.5 - gap, i - 0.5 + gap, i + 0.5 - gap
        corners.append([(left, top), (right, top), (right, bottom), (left, bottom)])
        colours.append(scale.colour(value))
    axes.add_collection(PolyCollection(corners, facecolors=colours, linewidths=0, clip_on=False), autolim=False)
    if digits is not None and cells.size <= MOST_NUMBERS:
        for (i, j), value in np.ndenumerate(cells):
            if not np.isnan(value):
                on = COLOURS["paper" if scale.strength(value) > DARK else "ink"].light
                axes.text(
                    j,
                    i,
                    amounts.fixed(value, digits),
                    ha="center",
                    va="center_baseline",
                    color=on,
                    fontsize=10,
                    in_layout=False,
                )
    axes.set(xlim=(-0.5, count_columns - 0.5), ylim=(count_rows - 0.5, -0.5))
    axes.grid(False)
    _label(axes.xaxis, columns, 14)
    _label(axes.yaxis, rows, 32)
    if len(columns) * max(map(len, columns)) > WIDEST_LABELS and not all(each.isdigit() for each in columns):
        axes.tick_params(axis="x", pad=8)
        for label in axes.get_xticklabels():
            label.set(rotation=40, rotation_mode="anchor", ha="right", va="center")


def colour_bar(axes: Axes, scale: Scale) -> None:
    """The scale itself, for the file of a heat map."""
    ends = np.linspace(scale.low, scale.high, 61)
    corners = [[(left, 0), (right, 0), (right, 1), (left, 1)] for left, right in pairwise(ends)]
    colours = [scale.colour((left + right) / 2) for left, right in pairwise(ends)]
    axes.add_collection(PolyCollection(corners, facecolors=colours, linewidths=0, clip_on=False), autolim=False)
    axes.set(xlim=(scale.low, scale.high), ylim=(0, 1), yticks=[], xlabel=scale.label)
    axes.set_xticks([scale.low, (scale.low + scale.high) / 2, scale.high])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}".replace("-", "−"))
    axes.grid(False)


def _label(axis: Axis, names: Sequence[str], most: int) -> None:
    """Names at their cells; every second, third, … alone where there are more than `most`."""
    step = math.ceil(len(names) / most)
    axis.set_ticks(range(0, len(names), step), names[::step])
