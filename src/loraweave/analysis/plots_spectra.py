"""Plots of the singular values of the updates: how many directions they use, by type of module and by depth."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from loraweave.analysis.plots import Entry, Section, by_depth, grouped, in_order, round_up, run_names
from loraweave.analysis.spectra import STORED
from loraweave.pages import figures
from loraweave.pages.charts import Cell, Chart, Panel, Table, short, split
from loraweave.pages.lines import Points, line_panel, number

FLOOR = 1e-3  # of the largest singular value; what lies below tells nothing any more
MEASURES = {
    "effective_rank": ("Effective rank", "directions", 1.0),
    "top1": ("Largest direction", "share of ‖ΔW‖², %", 100.0),
    "top4": ("4 largest directions", "share of ‖ΔW‖², %", 100.0),
    "top8": ("8 largest directions", "share of ‖ΔW‖², %", 100.0),
}
ALL = "all"
WIDE = 64  # directions above which the axis of their index is logarithmic


def section(analysis: Entry) -> Section | None:
    """The section; None where no spectrum was computed."""
    runs, entries = run_names(analysis), analysis["spectra"]
    if not entries:
        return None
    modules = in_order(entry["module"] for entry in entries)
    series = {index: name for index, name in enumerate(runs) if any(entry["run"] == name for entry in entries)}
    charts = [_values(entries, series, modules), _concentration(analysis, series, modules)]
    if any(entry["depth"] is not None for entry in entries):
        charts.append(_depth(entries, series, modules))
    return Section(
        "spectrum",
        "Spectrum of the update",
        "The update ΔW of a layer acts along directions, its singular vectors; a singular value says how strongly. "
        "MultiLoRA (arXiv 2311.11501) finds that LoRA leans on few directions and full fine-tuning on many. The "
        "effective rank is the exponential of the entropy of the squared singular values' shares: k for k equal ones "
        "(after Roy & Vetterli, EUSIPCO 2007).",
        charts,
    )


def _values(entries: Sequence[Entry], series: dict[int, str], modules: Sequence[str]) -> Chart:
    """Singular values by index, over the largest; median over layers and tasks."""
    found: dict[str, dict[int, Points]] = {}
    rows: list[list[Cell]] = []
    for module in modules:
        curves: dict[int, Points] = {}
        for index, name in series.items():
            points = _median_curve([e for e in entries if e["run"] == name and e["module"] == module])
            if points:
                curves[index] = points
            rows += [[module, name, place, value] for place, value in points]
        if curves:
            found[module] = curves
    longest = max((points[-1][0] for curves in found.values() for points in curves.values()), default=0)
    shown, more = split([_spectrum_panel(module, curves, longest > WIDE) for module, curves in found.items()])
    cut = any(entry["directions"] > len(entry["singular_values"]) for entry in entries)
    return Chart(
        "singular_values",
        "Singular values",
        "Each over the largest of its layer, on a logarithmic axis; the median over layers. A flat line uses all its "
        "directions alike, a steep one leans on the first."
        + (f" Of more than {STORED} the largest {STORED} are shown." if cut else ""),
        shown,
        Table(["module", "run", "index", "singular value over the largest"], rows),
        more,
        series,
    )


def _spectrum_panel(module: str, curves: Mapping[int, Points], wide: bool) -> Panel:
    plain = line_panel(module, curves, "index of the direction", "over the largest", log=True)

    def draw(axes: Axes) -> None:
        plain.draw(axes)
        axes.set_ylim(FLOOR, 1.3)
        if wide:
            figures.log_axis(axes.xaxis)

    return Panel(module, draw)


def _median_curve(entries: Sequence[Entry]) -> list[tuple[int, float]]:
    """(index from 1, median over entries); as far as half of the entries go."""
    relative = []
    for entry in entries:
        values = [number(value) for value in entry["singular_values"]]
        if values and values[0] > 0:
            relative.append([value / values[0] for value in values])
    points = []
    for place in range(max(map(len, relative), default=0)):
        there = sorted(values[place] for values in relative if len(values) > place)
        if 2 * len(there) < len(relative) or there[len(there) // 2] < FLOOR:
            break
        points.append((place + 1, there[len(there) // 2]))
    return points


def _concentration(analysis: Entry, series: dict[int, str], modules: Sequence[str]) -> Chart:
    """Effective rank and the shares of the largest directions, by run and type of module."""
    summary = {(entry["run"], entry["module"]): entry for entry in analysis["spectrum_summary"]}
    lines = [ALL, *modules] if len(modules) > 1 else list(modules)
    panels = [_dots(summary, series, lines, key, *words) for key, words in MEASURES.items()]
    rows = [
        [name, module, *(number(entry[key]) for key in MEASURES), number(entry["entropy"]), entry["layers"]]
        for name in series.values()
        for module in lines
        if (entry := summary.get((name, module)))
    ]
    return Chart(
        "concentration",
        "How concentrated the updates are",
        "Means over layers that have an update. More to the right in the first panel, and more to the left in the "
        "others, is an update that is spread over more directions. A method with a higher rank has more to spread "
        "over.",
        panels,
        Table(["run", "module", *(words[0] for words in MEASURES.values()), "Entropy, nats", "Layers"], rows),
        series=series,
        markers=True,
    )


def _dots(
    summary: dict[tuple[str, str], Entry],
    series: dict[int, str],
    lines: Sequence[str],
    key: str,
    title: str,
    unit: str,
    factor: float,
) -> Panel:
    """One line per type of module, one marker per run."""
    apart = min(0.7 / max(len(series), 1), 0.16)

    def draw(axes: Axes) -> None:
        for order, (index, name) in enumerate(series.items()):
            places = [(y, summary[name, module]) for y, module in enumerate(lines) if (name, module) in summary]
            axes.plot(
                [factor * number(entry[key]) for _, entry in places],
                [y + (order - (len(series) - 1) / 2) * apart for y, _ in places],
                **(figures.line(index, markers=True) | {"linestyle": "none"}),
            )
        axes.set_yticks(range(len(lines)), ["all modules" if module == ALL else short(module) for module in lines])
        axes.set(xlabel=unit, ylim=(len(lines) - 0.5, -0.5))
        left, right = axes.get_xlim()
        axes.set_xlim(min(0.0, left), min(right, 100.0 + right * 0.02) if factor == 100 else right)

    return Panel(title, draw, height=64 + len(lines) * max(24, 7 * len(series)))


def _depth(entries: Sequence[Entry], series: dict[int, str], modules: Sequence[str]) -> Chart:
    """Effective rank from the first block to the last."""
    found: dict[str, dict[int, Points]] = {}
    rows: list[list[Cell]] = []
    of = grouped(entries, lambda entry: (entry["run"], entry["module"]))
    for module in modules:
        curves: dict[int, Points] = {}
        for index, name in series.items():
            points = by_depth(of.get((name, module), []), lambda one: one["effective_rank"] if one["norm"] else None)
            if points and not all(math.isnan(value) for _, value in points):
                curves[index] = points
            rows += [[module, name, depth, value] for depth, value in points]
        if curves:
            found[module] = curves
    drawn = (value for curves in found.values() for points in curves.values() for _, value in points)
    top = round_up(max((value for value in drawn if not math.isnan(value)), default=1.0), 1.0)
    shown, more = split(
        [
            line_panel(module, curves, "layer", "effective rank, directions", from_zero=True, top=1.04 * top)
            for module, curves in found.items()
        ]
    )
    return Chart(
        "effective_rank_by_depth",
        "Effective rank by depth",
        "From the first block of the model to the last; the mean over tasks where each has an update of its own.",
        shown,
        Table(["module", "run", "layer", "effective rank"], rows),
        more,
        series,
    )
