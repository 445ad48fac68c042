"""What the plots of all sections share: the order of runs and types of module, and maps by depth."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from matplotlib.axes import Axes

from loraweave.pages.charts import Chart, Panel, Table, short
from loraweave.pages.heat import Scale, heat_map
from loraweave.pages.lines import mean

Entry = Mapping[str, Any]
Key = TypeVar("Key", bound=Hashable)

MOST_COLUMNS = 48  # of a map by depth; deeper models are shown in groups of layers
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


def mean_matrix(matrices: Sequence[Sequence[Sequence[float | None]]]) -> list[list[float]]:
    """Cell by cell the mean of matrices of one shape."""
    return [[mean(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


def by_depth(entries: Iterable[Entry], value: Callable[[Entry], float | None]) -> list[tuple[int, float]]:
    """(depth, mean of `value`) from the first block to the last; layers outside of the blocks are left out."""
    blocks = grouped((entry for entry in entries if entry["depth"] is not None), lambda entry: entry["depth"])
    return [(depth, mean(map(value, blocks[depth]))) for depth in sorted(blocks)]


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
    title: str, rows: Mapping[str, Sequence[tuple[int, float]]], scale: Scale, *, digits: int | None = None
) -> Panel:
    """A heat map of rows by depth; a deep model's layers in groups of neighbours."""
    depths = sorted({depth for points in rows.values() for depth, _ in points})
    group = math.ceil(len(depths) / MOST_COLUMNS)
    bins = [depths[start : start + group] for start in range(0, len(depths), group)]
    values = []
    for points in rows.values():
        at = dict(points)
        values.append([mean(at.get(depth) for depth in one) for one in bins])
    return heat_panel(title, values, scale, list(rows), [one[0] for one in bins], x="layer", digits=digits)


def round_up(value: float, step: float = 0.1) -> float:
    """The next multiple of `step`, at least one."""
    return max(math.ceil(value / step - 1e-9), 1) * step
