"""Plots of tasks against each other: whether their gradients agree, and what training together costs or brings."""

import math
from collections.abc import Sequence

from loraweave.analysis.plots import Entry, Section, grouped, heat_panel, round_up, run_names
from loraweave.pages.charts import Cell, Chart, Panel, Table, split
from loraweave.pages.heat import Scale
from loraweave.pages.lines import STEP, line_panel, mean, number

LEAST = 0.02  # cosines nearer to 0 than this are neither friend nor foe, however well they are known
NOISE = 2.0  # nor are those nearer than so many times their noise
TIMES = {0: "start", 0.5: "middle", 1: "end"}


def section(analysis: Entry) -> Section | None:
    """The section; None without recorded gradients or runs on single tasks."""
    gradients = [entry for entry in analysis["gradients"] if len(entry["tasks"]) > 1]
    charts = [*([_cosines(gradients), _over_time(analysis, gradients)] if gradients else [])]
    charts += [_transfer(analysis["transfer"])] if analysis["transfer"] else []
    if not charts:
        return None
    return Section(
        "tasks",
        "Tasks against each other",
        "The cosine between the gradients that two tasks have on the trained parameters: above 0 a step for one also "
        "helps the other, below 0 they pull apart (Yu et al., arXiv 2001.06782).",
        charts,
    )


def off_diagonal(cosine: Sequence[Sequence[float | None]]) -> list[float]:
    """The cosines between different tasks, each pair once."""
    return [number(cosine[i][j]) for i in range(len(cosine)) for j in range(i)]


def limit(entry: Entry) -> float:
    """How far from 0 a cosine has to be to be more than noise: twice the standard error that the few examples behind it
    leave, where the run recorded that."""
    return max(LEAST, NOISE * number(entry.get("noise") or 0.0))


def apart(entry: Entry) -> float:
    """The share of pairs of tasks that pull apart by more than the noise, in percent."""
    pairs = [value for value in off_diagonal(entry["cosine"]) if not math.isnan(value)]
    return 100 * mean(value < -limit(entry) for value in pairs)


def _cosines(entries: Sequence[Entry]) -> Chart:
    """Task × task for every run at the start, in the middle and at the end."""
    between = [value for entry in entries for value in off_diagonal(entry["cosine"]) if not math.isnan(value)]
    top = min(round_up(max(map(abs, between), default=1.0)), 1.0)
    scale = Scale("cosine between gradients", -top, top, centred=True)
    panels: list[Panel] = []
    rows: list[list[Cell]] = []
    for entry in entries:
        tasks = entry["tasks"]
        cells = [[number(value) for value in row] for row in entry["cosine"]]
        within = entry.get("within") or [None] * len(tasks)
        for i, task in enumerate(tasks):
            cells[i][i] = math.nan
            rows += [[entry["run"], entry["step"], task, other, cells[i][j]] for j, other in enumerate(tasks) if j > i]
            rows.append([entry["run"], entry["step"], task, f"{task} (other examples)", number(within[i])])
        when = TIMES.get(entry["share"], f"{entry['share']:.0%}")
        title = f"{entry['run']}, {when} (step {entry['step']})"
        panels.append(heat_panel(title, cells, scale, tasks, tasks, digits=2 if len(tasks) <= 7 else None))
    shown, more = split(panels)
    return Chart(
        "gradient_cosines",
        "Agreement of the tasks' gradients",
        "At the start, in the middle and at the end of training, on a few examples of each task. The data also hold "
        "the agreement of each task with itself on other examples: an estimate from few examples cannot reach further.",
        shown,
        Table(["run", "step", "task", "other task", "cosine"], rows),
        more,
        scale=scale,
    )


def _over_time(analysis: Entry, entries: Sequence[Entry]) -> Chart:
    """Mean over pairs, and the share of pairs that pull apart, from start to end."""
    runs = run_names(analysis)
    means, shares, rows = {}, {}, []
    for run, group in grouped(entries, lambda entry: entry["run"]).items():
        measured = [entry for entry in group if not all(map(math.isnan, off_diagonal(entry["cosine"])))]
        measured.sort(key=lambda entry: entry["step"])
        if measured:
            index = runs.index(run)
            means[index] = [(entry["step"], mean(off_diagonal(entry["cosine"]))) for entry in measured]
            shares[index] = [(entry["step"], apart(entry)) for entry in measured]
            rows += [
                [run, entry["step"], mean(off_diagonal(entry["cosine"])), apart(entry), limit(entry)]
                for entry in measured
            ]
    noise = max((limit(entry) for entry in entries), default=LEAST)
    return Chart(
        "gradient_agreement",
        "Do the tasks come to agree?",
        "Over all pairs of tasks. A pair pulls apart where its cosine is below 0 by more than its noise, twice the "
        f"standard error that few examples leave, and {LEAST} at least; here up to {noise:.2f}.",
        [
            line_panel("Mean cosine", means, STEP, "cosine between gradients"),
            line_panel("Pairs that pull apart", shares, STEP, "pairs below 0 beyond noise, %", from_zero=True),
        ],
        Table(["run", "step", "mean cosine", "pairs that pull apart, %", "noise"], rows),
        series={index: runs[index] for index in means},
        markers=True,
    )


def _transfer(tables: Sequence[Entry]) -> Chart:
    """Validation loss at the end, by what a run was trained on; colours compare within a task."""
    scale = Scale("loss over the task's lowest, nats per token", 0.0, _most_above_lowest(tables))
    panels: list[Panel] = []
    rows: list[list[Cell]] = []
    for table in tables:
        tasks = list(dict.fromkeys(task for row in table["rows"] for task in row["losses"]))
        names = [_trained_on(row) for row in table["rows"]]
        lowest = _lowest(table)
        above = [[number(row["losses"].get(task)) - lowest[task] for task in tasks] for row in table["rows"]]
        panels.append(heat_panel(f"{table['method']} on {table['base']}", above, scale, names, tasks, digits=2))
        rows += [
            [
                table["method"],
                row["run"],
                ", ".join(row["trained_on"]),
                task,
                number(row["losses"].get(task)),
                above[i][j],
            ]
            for i, row in enumerate(table["rows"])
            for j, task in enumerate(tasks)
        ]
    return Chart(
        "transfer",
        "Trained alone and together",
        "Validation loss at the end of training on the tasks of a row, over the lowest that any row reaches on the "
        "task: 0 is best in its column. Where the run on all tasks is above the run on one, training together cost "
        "something.",
        panels,
        Table(["method", "run", "trained on", "task", "loss, nats per token", "over the lowest"], rows),
        scale=scale,
    )


def _trained_on(row: Entry) -> str:
    return row["trained_on"][0] if len(row["trained_on"]) == 1 else f"{len(row['trained_on'])} tasks together"


def _lowest(table: Entry) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in table["rows"]:
        for task, loss in row["losses"].items():
            if loss is not None:
                found[task] = min(loss, found.get(task, math.inf))
    return {task: found.get(task, math.nan) for row in table["rows"] for task in row["losses"]}


def _most_above_lowest(tables: Sequence[Entry]) -> float:
    above = [
        number(loss) - _lowest(table)[task]
        for table in tables
        for row in table["rows"]
        for task, loss in row["losses"].items()
    ]
    return round_up(max((value for value in above if not math.isnan(value)), default=0.0))
