"""Lines over an axis, and the losses of several runs as a chart of them: a panel for each task, a line for each run."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from matplotlib.axes import Axes

from loraweave.pages import figures
from loraweave.pages.charts import Cell, Chart, Panel, Table, short, split

Points = Sequence[tuple[float, float]]
Logged = Sequence[Sequence[float | None]]  # the same as it was written down, None for what is no number

STEP = "training step"
FEW_POINTS = 12  # up to which every point of a line gets its marker
BEGINNING = 0.1  # of the steps: losses fall so far in it that it would press the rest of the curves flat
MOST_POINTS = 150  # of one line; longer ones are drawn as means over neighbouring steps


def number(value: float | None) -> float:
    """A value of a JSON file, in which None stands for what is no number."""
    return math.nan if value is None else float(value)


def mean(values: Iterable[float | None]) -> float:
    """The mean of the values that are numbers; NaN where there are none."""
    there = [value for value in map(number, values) if not math.isnan(value)]
    return sum(there) / len(there) if there else math.nan


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


def thinned(points: Logged) -> Points:
    """(step, value) points, where they are many as means over groups of neighbours."""
    pairs = [(number(step), number(value)) for step, value in points]
    group = -(-len(pairs) // MOST_POINTS)
    parts = [pairs[start : start + group] for start in range(0, len(pairs), group or 1)]
    return [(part[-1][0], mean(value for _, value in part)) for part in parts]


def loss_chart(
    kind: str, note: str, of: str, curves: Mapping[str, Mapping[str, Logged]], series: Sequence[str]
) -> Chart | None:
    """Losses by step, `<kind>_loss` for short; None where there is no point.

    What lies above all that follows the first tenth of the steps is off the panels of long curves.

    Args:
        kind: "training" or "validation".
        note: where the losses come from.
        of: what has a line, for the head of the table: "run", "method".
        curves: task -> name of the line -> (step, loss in nats per token).
        series: names of lines in the order of the palette.
    """
    panels: list[Panel] = []
    rows: list[list[Cell]] = []
    seen: set[int] = set()
    cut = False
    for task, by_name in curves.items():
        drawn = {series.index(name): thin for name, points in by_name.items() if (thin := thinned(points))}
        rows += [[task, series[index], int(step), loss] for index, points in drawn.items() for step, loss in points]
        if drawn:
            seen |= drawn.keys()
            top = _top(drawn.values())
            cut |= top is not None
            panels.append(line_panel(short(task, 40), drawn, STEP, "loss, nats per token", from_zero=True, top=top))
    if not panels:
        return None
    if cut:
        note += " Higher losses of the first steps are off the panels; the data below has them."
    table = Table(["task", of, "step", "loss, nats per token"], rows)
    if len(rows) == len({(task, name) for task, name, *_ in rows}):  # points alone are read from the table
        return Chart(f"{kind}_loss", f"{kind.capitalize()} loss by task", note, [], table)
    shown, more = split(panels)
    names = {index: series[index] for index in sorted(seen)}
    return Chart(f"{kind}_loss", f"{kind.capitalize()} loss by task", note, shown, table, more, names)


def _top(curves: Collection[Points]) -> float | None:
    """Where the y axis of long curves ends, a little above what follows their beginning; None if that cuts nothing."""
    if max(map(len, curves)) <= FEW_POINTS:
        return None
    last = max(step for points in curves for step, _ in points)
    losses = [(step, loss) for points in curves for step, loss in points if not math.isnan(loss)]
    later = [loss for step, loss in losses if step > BEGINNING * last]
    if not later or max(loss for _, loss in losses) <= 1.1 * max(later):
        return None
    return 1.1 * max(later) or None
