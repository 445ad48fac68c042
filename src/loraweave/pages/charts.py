"""A chart: panels that show one thing, its legend or scale, how to read it, and its numbers as a table.

In a page the panels wrap as the window narrows; on disk they are one figure as SVG and PNG, and one CSV.
"""

import base64
import csv
import io
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from loraweave.files import make_folder, write_text
from loraweave.pages import figures
from loraweave.pages.heat import Scale, colour_bar
from loraweave.pages.sheet import Sheet

MOST_ROWS = 120
IN_SIGHT = 9  # panels of one chart; the others open on a click
PER_LINE = 3  # panels of a file; a page's wrap as they fit
GAP, TITLE, CAPTION = 20, 34, 24  # px of a file

Cell = str | float | int | None


@dataclass(frozen=True)
class Panel:
    """One set of axes: `draw` puts everything on it; sizes in px."""

    title: str
    draw: Callable[[Axes], None]
    width: float = 340
    height: float = 220


@dataclass(frozen=True)
class Table:
    """Column heads and rows of text or numbers (None: nothing there)."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def shown(self) -> list[list[str]]:
        """The first rows as people read them."""
        return [[written(cell) for cell in row] for row in self.rows[:MOST_ROWS]]

    @property
    def left_out(self) -> int:
        """How many rows are in the CSV alone."""
        return max(len(self.rows) - MOST_ROWS, 0)

    @property
    def csv(self) -> str:
        """All of it as a CSV file."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.heads, *self.rows])
        return text.getvalue()

    @property
    def address(self) -> str:
        """The CSV file as a `data:` address."""
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(self.csv.encode()).decode()


@dataclass
class Chart:
    """What a page shows and what is kept on disk.

    Args:
        name: stem of its files, unique within a page.
        title: what it shows.
        note: how to read it.
        panels: those in sight; none where a page shows the table in their place.
        table: the numbers that were drawn.
        more: panels that a page shows on a click, because there are many.
        series: number in the palette -> name, for a legend.
        markers: the series are drawn with their markers.
        scale: what the colours of a heat map mean.
    """

    name: str
    title: str
    note: str
    panels: Sequence[Panel]
    table: Table
    more: Sequence[Panel] = ()
    series: Mapping[int, str] = field(default_factory=dict)
    markers: bool = False
    scale: Scale | None = None
    _inline: dict[Panel, Markup] = field(default_factory=dict, init=False, repr=False)

    @property
    def legend(self) -> list[tuple[str, Markup]]:
        """Name and a piece of the line of every series."""
        return [(name, _sample(index, self.markers)) for index, name in self.series.items()]

    def inline(self, panel: Panel) -> Markup:
        """A panel as `<svg>`."""
        if panel not in self._inline:
            self._inline[panel] = self._svg(panel, _figure(panel))
        return self._inline[panel]

    def save(self, folder: Path) -> None:
        """Write `data/<name>.csv` and, where there are panels, `figures/<name>.svg` and `figures/<name>.png` under
        `folder`."""
        for part in ("figures", "data"):
            make_folder(folder / part)
        write_text(folder / "data" / f"{self.name}.csv", self.table.csv)
        panels = [*self.panels, *self.more]
        if not panels:
            return
        columns = 2 if len(panels) == 4 else min(PER_LINE, len(panels))
        lines = [panels[start : start + columns] for start in range(0, len(panels), columns)]
        column = max(panel.width for panel in panels) + GAP
        wide = max(columns * column, 540)
        keys = [figure for figure in (self._legend(wide), self._scale()) if figure]
        y = GAP + TITLE + sum(_height(key) + GAP for key in keys)
        sheet = Sheet(wide + GAP, y + sum(max(p.height for p in line) + CAPTION + GAP for line in lines), self.title)
        sheet.write(self.title, GAP, GAP, 15)
        y = GAP + TITLE
        for key in keys:
            sheet.put(key, figures.inline_svg(key, ""), GAP, y)
            y += _height(key) + GAP
        for line in lines:
            for place, panel in enumerate(line):
                x = GAP + place * column
                figure = _figure(panel)
                self._inline[panel] = self._svg(panel, figure)
                sheet.write(short(panel.title, 44), x, y, 12, bold=True)
                sheet.put(figure, self._inline[panel], x, y + CAPTION)
            y += max(panel.height for panel in line) + CAPTION + GAP
        sheet.save(folder / "figures" / self.name)

    def _svg(self, panel: Panel, figure: Figure) -> Markup:
        return figures.inline_svg(figure, f"{self.title}: {panel.title}" if panel.title else self.title)

    def _legend(self, width: float) -> Figure | None:
        """The legend, for a file."""
        if not self.series:
            return None
        columns = max(min(round(width / 250), len(self.series)), 1)
        with figures.style():
            figure = figures.new(width, 20 * math.ceil(len(self.series) / columns) + 4)
            handles = [
                Line2D([], [], label=short(name, 30), **figures.line(index, self.markers))
                for index, name in self.series.items()
            ]
            figure.legend(handles=handles, loc="center left", ncols=columns, borderaxespad=0, borderpad=0)
        return figure

    def _scale(self) -> Figure | None:
        """The scale of the colours, for a file."""
        if not self.scale:
            return None
        with figures.style():
            figure = figures.new(300, 52)
            colour_bar(figure.subplots(), self.scale)
        return figure


def split(panels: Sequence[Panel], sight: int = IN_SIGHT) -> tuple[Sequence[Panel], Sequence[Panel]]:
    """Panels in sight, and those on a click: none where a click would show a single one."""
    return (panels, ()) if len(panels) <= sight + 1 else (panels[:sight], panels[sight:])


def _figure(panel: Panel) -> Figure:
    with figures.style():
        figure = figures.new(panel.width, panel.height)
        panel.draw(figure.subplots())
        figures.fit(figure)
    return figure


def _height(figure: Figure) -> float:
    return float(figure.get_figheight()) * figures.PIXELS_PER_INCH


def written(cell: Cell) -> str:
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
    tail = (most - 1) // 2
    return f"{line[: most - 1 - tail]}…{line[len(line) - tail :]}"


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
