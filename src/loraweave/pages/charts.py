"""A chart: panels that show one thing, its legend or scale, how to read it, and its numbers as a table.

In a page the panels wrap as the window narrows; on disk they are one figure as SVG and PNG, and one CSV.
"""

import base64
import csv
import io
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from . import figures
from .heat import Scale, colour_bar

MOST_ROWS = 200
PER_ROW = 3


@dataclass(frozen=True)
class Panel:
    """One set of axes: `draw` puts everything on it; sizes in px."""

    title: str
    draw: Callable[[Axes], None]
    width: float = 340
    height: float = 230


@dataclass(frozen=True)
class Table:
    """Column heads and rows of text or numbers (None: nothing there)."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]

    def csv(self) -> str:
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows([self.heads, *self.rows])
        return written.getvalue()


@dataclass(frozen=True)
class Chart:
    """What a page shows and what is kept on disk.

    Args:
        name: stem of its files, unique within a page.
        title: what it shows.
        note: how to read it.
        panels: those in sight.
        table: the numbers that were drawn.
        more: panels that a page shows on a click, because there are many.
        series: names of the line series, in the order of the palette.
        markers: the series are drawn with their markers.
        scale: what the colours of a heat map mean.
    """

    name: str
    title: str
    note: str
    panels: Sequence[Panel]
    table: Table
    more: Sequence[Panel] = field(default=())
    series: Sequence[str] = ()
    markers: bool = False
    scale: Scale | None = None

    @property
    def legend(self) -> list[tuple[str, Markup]]:
        """Name and a piece of the line of every series."""
        return [(name, _sample(index, self.markers)) for index, name in enumerate(self.series)]

    @property
    def drawn(self) -> list[tuple[str, Markup]]:
        """Title and `<svg>` of the panels in sight."""
        return [(panel.title, self._inline(panel)) for panel in self.panels]

    @property
    def drawn_more(self) -> list[tuple[str, Markup]]:
        """The same of the panels that open on a click."""
        return [(panel.title, self._inline(panel)) for panel in self.more]

    @property
    def rows(self) -> list[list[str]]:
        """The table's first rows as people read them."""
        return [[written(cell) for cell in row] for row in self.table.rows[:MOST_ROWS]]

    @property
    def rows_left_out(self) -> int:
        """How many rows are in the CSV alone."""
        return max(len(self.table.rows) - MOST_ROWS, 0)

    @property
    def download(self) -> str:
        """The table as a `data:` address of a CSV file."""
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(self.table.csv().encode()).decode()

    def save(self, folder: Path) -> None:
        """Write `figures/<name>.svg`, `figures/<name>.png` and `data/<name>.csv` under `folder`."""
        (folder / "data" / f"{self.name}.csv").write_text(self.table.csv(), encoding="utf-8")
        panels = [*self.panels, *self.more]
        columns = min(PER_ROW, len(panels))
        lines = math.ceil(len(panels) / columns)
        foot = 26 * math.ceil(len(self.series) / 4) + (56 if self.scale else 0)
        wide = max(panel.width for panel in panels) * columns
        tall = (max(panel.height for panel in panels) + 24) * lines + foot + 34
        with figures.style():
            figure = figures.new(wide, tall)
            grid = list(figure.subplots(lines, columns, squeeze=False).flat)
            for panel, axes in zip(panels, grid, strict=False):
                panel.draw(axes)
                axes.set_title(panel.title)
            for axes in grid[len(panels) :]:
                axes.set_axis_off()
            figure.suptitle(self.title, x=0.01, ha="left", fontsize=14)
            if self.series:
                handles = [
                    Line2D([], [], label=name, **figures.line(i, self.markers)) for i, name in enumerate(self.series)
                ]
                figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
            if self.scale:
                colour_bar(figure, self.scale, wide)
        figures.save(figure, folder / "figures" / self.name)

    def _inline(self, panel: Panel) -> Markup:
        with figures.style():
            figure = figures.new(panel.width, panel.height)
            panel.draw(figure.subplots())
        return figures.inline_svg(figure, f"{self.title}: {panel.title}" if panel.title else self.title)


def written(cell: str | float | int | None) -> str:
    """A cell as people read it: numbers with four digits that count, a dash for none."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    if isinstance(cell, float):
        return f"{cell:.4g}".replace("-", "−")
    return f"{cell:,}" if isinstance(cell, int) else cell


def short(name: Any, most: int = 18) -> str:
    """A name that fits beside an axis: on one line, its middle left out where it is long."""
    line = "".join(" " if unicodedata.category(each)[0] == "C" else each for each in str(name))
    line = re.sub(r"\s+", " ", line).strip()
    if len(line) <= most:
        return line
    return f"{line[: (most - 1) - (most - 1) // 2]}…{line[len(line) - (most - 1) // 2 :]}"


@lru_cache
def _sample(index: int, markers: bool) -> Markup:
    """A piece of a series' line, 32 × 12 px."""
    with figures.style():
        figure = figures.new(32, 12)
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 32), ylim=(0, 12))
        axes.set_axis_off()
        axes.plot([1, 16, 31], [6, 6, 6], markevery=[1], clip_on=False, **figures.line(index, markers))
    return figures.inline_svg(figure, "")
