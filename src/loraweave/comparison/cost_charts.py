"""The mean score against what a method costs, as figures."""

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from loraweave import amounts
from loraweave.comparison import words
from loraweave.comparison.labels import Point, label_points
from loraweave.comparison.records import BASE, MethodSummary, Results, Score
from loraweave.evaluation.mean import mean_rule
from loraweave.pages import figures
from loraweave.pages.charts import Chart, Panel, Table

WIDTH, HEIGHT = 380, 320
WIDE_RANGE = 4.0
"""From this ratio of the largest to the smallest on, an axis is logarithmic."""
NARROW_RANGE = 1.25
"""Below this ratio an axis shows more than its points."""
DECIMAL, MINUTES = (1, 2, 5, 10), (1, 1.5, 3, 6, 10)
"""Steps between ticks, times a power of ten: round for numbers, and for seconds that are written as minutes."""


class Cost(NamedTuple):
    """One way in which a method costs something: its name, how to read it off a row, how to write it, round steps."""

    title: str
    axis: str
    value: Callable[[MethodSummary], float | None]
    written: Callable[[float], str]
    steps: tuple[float, ...] = DECIMAL


COSTS = (
    Cost(
        "Trainable parameters",
        "trainable parameters",
        lambda row: row["trainable_parameters"] or None,
        lambda value: amounts.count(round(value)),
    ),
    Cost("Training time", "training time of a run", lambda row: row["seconds"], amounts.duration, MINUTES),
    Cost("Peak memory", "peak memory", lambda row: row["peak_memory"], lambda value: amounts.memory(round(value))),
)


def series_of(results: Results) -> list[str]:
    """The trained methods in the order of the page's colours."""
    return [row["method"] for row in results["summary"] if row["method"] != BASE]


def cost_chart(results: Results) -> Chart | None:
    """Mean score against parameters, time and memory; None while fewer than two methods have a mean."""
    rows = {row["method"]: row for row in results["summary"] if row["method"] != BASE}
    means = {method: row["mean"] for method, row in rows.items() if row["mean"] is not None}
    if len(means) < 2:
        return None
    unit = words.mean_unit(results["tasks"])
    panels = []
    for cost in COSTS:
        costs = {method: cost.value(rows[method]) for method in means}
        known = {method: value for method, value in costs.items() if value}
        if known:
            panels.append(Panel(cost.title, _scatter(results, cost, known, means, unit), WIDTH, HEIGHT))
    heads = ["method", f"mean, {unit}", "from", "to", "trainable parameters", "training, s", "peak memory, bytes"]
    table = Table(
        heads,
        [
            [
                method,
                mean["mean"],
                mean["low"],
                mean["high"],
                row["trainable_parameters"],
                row["seconds"],
                row["peak_memory"],
            ]
            for method, mean in means.items()
            for row in [rows[method]]
        ],
    )
    note = f"{'Up' if mean_rule(results['tasks']).higher_is_better else 'Down'} and to the left is better."
    if any(mean["interval"] is not None for mean in means.values()):
        note += " Bars are 95 % intervals; the data have their ends."
    return Chart("costs", "Mean score against cost", note, panels, table)


def _scatter(
    results: Results, cost: Cost, costs: dict[str, float], means: dict[str, Score], unit: str
) -> Callable[[Axes], None]:
    series = series_of(results)

    def draw(axes: Axes) -> None:
        for method, value in costs.items():
            look = figures.line(series.index(method), markers=True) | {"linestyle": "none"}
            down, up = _reach(means[method])
            axes.errorbar([value], [means[method]["mean"]], yerr=[[down], [up]], elinewidth=1.2, ms=6, **look)
        low, high = min(costs.values()), max(costs.values())
        axes.margins(x=0.18, y=0.08)
        if high > WIDE_RANGE * low:
            axes.set_xscale("log")
        elif high < NARROW_RANGE * low:  # methods that cost about the same are seen to
            axes.set_xlim(low / NARROW_RANGE, high * NARROW_RANGE)
        axes.set(xlabel=cost.axis, ylabel=f"mean score, {unit}" if unit else "mean score")
        axes.grid(True, axis="both")
        _round_ticks(axes, cost)
        label_points(
            axes,
            [Point(value, means[method]["mean"], method, *_reach(means[method])) for method, value in costs.items()],
        )

    return draw


def _reach(score: Score) -> tuple[float, float]:
    """How far a score's interval reaches down and up."""
    if score["low"] is None or score["high"] is None:
        return 0.0, 0.0
    return max(0.0, score["mean"] - score["low"]), max(0.0, score["high"] - score["mean"])


def _round_ticks(axes: Axes, cost: Cost) -> None:
    """Few ticks along x, at round numbers, as people write them."""
    if axes.get_xscale() == "log":
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 60 * low else (1.0, 2.0, 5.0), numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=cost.steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: cost.written(value)))
