"""Plots of training: loss by task, validation, learning rate and speed, and what the mixture really drew."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from loraweave.analysis.plots import Entry, Section, run_names
from loraweave.pages import figures
from loraweave.pages.charts import Cell, Chart, Panel, Table, short, split
from loraweave.pages.lines import STEP, Logged, line_panel, loss_chart, number, thinned

SHARES = {"share_of_examples": "of the examples", "share_of_tokens": "of the tokens"}


def section(analysis: Entry) -> Section | None:
    """The section; None where nothing was logged."""
    runs, entries = run_names(analysis), analysis["training"]
    charts = [
        loss_chart("training", "On the batches of training.", "run", _curves(entries, "loss"), runs),
        loss_chart("validation", "On examples held out of training.", "run", _curves(entries, "validation"), runs),
        _rates(entries, runs),
        _mixture(entries, runs),
    ]
    there = [chart for chart in charts if chart]
    return Section("training", "Training", "What the runs wrote down while they trained.", there) if there else None


def _curves(entries: Sequence[Entry], key: str) -> dict[str, dict[str, Logged]]:
    """task -> run -> its losses."""
    tasks = dict.fromkeys(task for entry in entries for task in entry[key])
    return {task: {entry["run"]: entry[key].get(task, []) for entry in entries} for task in tasks}


def _rates(entries: Sequence[Entry], runs: Sequence[str]) -> Chart | None:
    """Learning rate and speed by step."""
    panels: list[Panel] = []
    rows: list[list[Cell]] = []
    seen: set[int] = set()
    for key, title, unit in (
        ("learning_rate", "Learning rate", "learning rate"),
        ("tokens_per_second", "Speed", "tokens per second"),
    ):
        curves = {runs.index(e["run"]): points for e in entries if (points := thinned(e[key]))}
        if curves:
            seen |= curves.keys()
            panels.append(line_panel(title, curves, STEP, unit, from_zero=True))
        rows += [[title, runs[index], int(step), value] for index, points in curves.items() for step, value in points]
    if not panels:
        return None
    return Chart(
        "learning_rate_and_speed",
        "Learning rate and speed",
        "Speed is compared fairly only between runs on the same, otherwise idle machine.",
        panels,
        Table(["what", "run", "step", "value"], rows),
        series={index: runs[index] for index in sorted(seen)},
    )


def _mixture(entries: Sequence[Entry], runs: Sequence[str]) -> Chart | None:
    """Shares of every task; runs that drew the same share a panel."""
    same: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    mixtures = {entry["run"]: entry["mixture"] for entry in entries if entry["mixture"]}
    for run, lines in mixtures.items():
        same.setdefault(tuple(tuple(map(str, line.values())) for line in lines), []).append(run)
    if not same:
        return None
    shown, more = split([_shares(_together(names, runs), mixtures[names[0]]) for names in same.values()])
    rows: list[list[Cell]] = [
        [run, line["task"], line.get("drawn"), *(100 * number(line.get(key)) for key in (*SHARES, "wanted"))]
        for run, lines in mixtures.items()
        for line in lines
    ]
    return Chart(
        "mixture",
        "What the mixture drew",
        "Each task's share of the examples and of their tokens; the upright stroke is what was asked for, of "
        "the one or the other, whichever the mixture counts.",
        shown,
        Table(["run", "task", "examples drawn", *(f"{name}, %" for name in SHARES.values()), "wanted, %"], rows),
        more,
        dict(enumerate(SHARES.values())),
        markers=True,
    )


def _together(names: Sequence[str], runs: Sequence[str]) -> str:
    if len(names) == len(runs) > 1:
        return "all runs"
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"


def _shares(title: str, lines: Sequence[Entry]) -> Panel:
    """A line per task: its shares as dots, the share asked for as a stroke."""

    def draw(axes: Axes) -> None:
        places = range(len(lines))
        wanted = [100 * number(line.get("wanted")) for line in lines]
        axes.plot(wanted, places, linestyle="none", marker="|", markersize=14, color=figures.INK)
        for index, key in enumerate(SHARES):
            shares = [100 * number(line.get(key)) for line in lines]
            axes.plot(shares, places, **(figures.line(index, markers=True) | {"linestyle": "none"}))
        axes.set_yticks(places, [short(line["task"]) for line in lines])
        axes.set(xlabel="share, %", ylim=(len(lines) - 0.5, -0.5))
        axes.set_xlim(left=0)

    return Panel(title, draw, height=60 + 22 * len(lines))
