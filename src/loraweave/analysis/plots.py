"""What the plots of all sections share: the order of runs and types of module, means, lines and maps by depth."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from matplotlib.axes import Axes

from ..pages import figures
from ..pages.charts import Chart, Panel, Table, short
from ..pages.heat import Scale, heat_map

Entry = Mapping[str, Any]
Points = Sequence[tuple[float, float]]
Key = TypeVar("Key", bound=Hashable)

IN_SIGHT = 9  # panels of one chart; the others open on a click
MOST_COLUMNS = 48  # of a map by depth; deeper models are shown in groups of layers
STEP = "training step"
FEW_POINTS = 12  # up to which every point of a line gets its marker
_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Listing:
    """Words under heads, each with a number or two beside it.

    Args:
        name: stem of its file.
        title, note: what it shows, how to read it.
        items: head -> (word, what is said of it).
        table: the same for a CSV file.
    """

    name: str
    title: str
    note: str
    items: Mapping[str, Sequence[tuple[str, str]]]
    table: Table


@dataclass(frozen=True)
class Section:
    """A part of the report: what it answers, and its charts.

    Args:
        name: for links to it.
        title: the heading.
        text: what is shown and where the idea comes from.
        charts: those without a panel are left out.
        listings: what is best listed in words.
    """

    name: str
    title: str
    text: str
    charts: Sequence[Chart]
    listings: Sequence[Listing] = ()


def run_names(analysis: Entry) -> list[str]:
    """The runs in their order, which is also that of their colours."""
    return [run["name"] for run in analysis["runs"]]


def grouped(entries: Iterable[Entry], key: Callable[[Entry], Key]) -> dict[Key, list[Entry]]:
    """Entries by key, in the order in which the keys appear."""
    found: dict[Key, list[Entry]] = {}
    for entry in entries:
        found.setdefault(key(entry), []).append(entry)
    return found


def in_order(modules: Iterable[str]) -> list[str]:
    """Types of module as they follow each other in a block, others after them by name."""
    known = {name: place for place, name in enumerate(_ORDER)}
    return sorted(set(modules), key=lambda name: (known.get(name.rpartition(".")[2], len(known)), name))


def number(value: float | None) -> float:
    """A value of the analysis, in which None stands for what is no number."""
    return math.nan if value is None else float(value)


def mean(values: Iterable[float | None]) -> float:
    """The mean of the values that are numbers; NaN where there are none."""
    there = [value for value in map(number, values) if not math.isnan(value)]
    return sum(there) / len(there) if there else math.nan


def mean_matrix(matrices: Sequence[Sequence[Sequence[float | None]]]) -> list[list[float]]:
    """Cell by cell the mean of matrices of one shape."""
    return [[mean(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


def by_depth(entries: Iterable[Entry], value: Callable[[Entry], float | None]) -> list[tuple[int, float]]:
    """(depth, mean of `value`) from the first block to the last; layers outside of the blocks are left out."""
    blocks = grouped((entry for entry in entries if entry["depth"] is not None), lambda entry: entry["depth"])
    return [(depth, mean(map(value, blocks[depth]))) for depth in sorted(blocks)]


def line_panel(
    title: str,
    curves: Mapping[int, Points],
    x: str,
    y: str,
    *,
    log: bool = False,
    from_zero: bool = False,
    top: float | None = None,
    reference: Points = (),
) -> Panel:
    """Lines, each in the look of its number in the palette, with a marker on every point where they are few.

    Args:
        title: of the panel.
        curves: number in the palette -> its points; values that are no numbers leave gaps.
        x, y: labels with units.
        log: a logarithmic y axis.
        from_zero: the y axis begins at 0.
        top: the y axis ends here, so that panels can be compared.
        reference: a thin line to compare with.
    """

    def draw(axes: Axes) -> None:
        for index, points in curves.items():
            axes.plot(*zip(*points, strict=True), **figures.line(index, len(points) <= FEW_POINTS))
        if reference:
            axes.plot(*zip(*reference, strict=True), color=figures.QUIET, linewidth=1, linestyle=(0, (1, 2)))
        axes.set(xlabel=x, ylabel=y)
        if log:
            figures.log_axis(axes.yaxis)
        if from_zero:
            values = [value for points in (*curves.values(), reference) for _, value in points if value == value]
            axes.set_ylim(0, top or 1.06 * max(values, default=0.0) or 1.0)
        if x == STEP:
            axes.set_xlim(left=0)
        steps = [place for points in curves.values() for place, _ in points]
        if all(float(place).is_integer() for place in steps):
            figures.whole_numbers(axes.xaxis)

    return Panel(title, draw)


def heat_panel(
    title: str,
    values: Sequence[Sequence[float]],
    scale: Scale,
    rows: Sequence[Any],
    columns: Sequence[Any],
    *,
    x: str = "",
    y: str = "",
    digits: int | None = None,
) -> Panel:
    """A heat map with as much room as its rows need.

    Args:
        title: of the panel.
        values: rows × columns, NaN for none.
        scale: what the colours mean.
        rows, columns: their names, shortened where they are long.
        x, y: labels of the axes.
        digits: of the numbers in the cells; None for none.
    """
    row_names, column_names = [short(row) for row in rows], [short(column, 14) for column in columns]
    numbers = digits is not None and len(rows) * len(columns) <= 144
    height = 80 + len(rows) * (22 if numbers else 14 if len(rows) <= 20 else 9)
    written_columns = max(map(len, column_names)) if not all(map(str.isdigit, column_names)) else 0

    def draw(axes: Axes) -> None:
        heat_map(axes, values, scale, row_names, column_names, digits)
        axes.set(xlabel=x, ylabel=y)

    return Panel(title, draw, height=max(height + 4 * written_columns, 150))


def depth_map(
    title: str, rows: Mapping[str, Sequence[tuple[int, float]]], scale: Scale, *, y: str = "", digits: int | None = None
) -> Panel:
    """A heat map of rows by depth; a deep model's layers in groups of neighbours."""
    depths = sorted({depth for points in rows.values() for depth, _ in points})
    group = math.ceil(len(depths) / MOST_COLUMNS)
    bins = [depths[start : start + group] for start in range(0, len(depths), group)]
    values = []
    for points in rows.values():
        at = dict(points)
        values.append([mean(at.get(depth) for depth in one) for one in bins])
    return heat_panel(title, values, scale, list(rows), [one[0] for one in bins], x="layer", y=y, digits=digits)


def split(panels: Sequence[Panel], sight: int = IN_SIGHT) -> tuple[Sequence[Panel], Sequence[Panel]]:
    """Panels in sight, and those on a click: none where a click would show a single one."""
    return (panels, ()) if len(panels) <= sight + 1 else (panels[:sight], panels[sight:])


def round_up(value: float, step: float = 0.1) -> float:
    """The next multiple of `step`, at least one."""
    return max(math.ceil(value / step - 1e-9), 1) * step
