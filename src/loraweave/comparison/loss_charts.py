"""Losses over training, averaged over seeds: each method minus the reference where there are several, and where they
end."""

from collections.abc import Mapping, Sequence
from typing import Literal

from loraweave.comparison.cost_charts import series_of
from loraweave.comparison.records import Points, Results
from loraweave.pages.charts import Cell, Chart, Panel, Table, short, split
from loraweave.pages.lines import STEP, line_panel, loss_chart, thinned

Kind = Literal["training", "validation"]
NOTES = {
    "training": "On the batches of training, before each step; mean over seeds.",
    "validation": "On examples held out of training; mean over seeds.",
}
SMOOTHED = 0.1
"""Part of all points of a curve that a smoothed point is the mean of."""
END = 0.1
"""Part of the training whose losses stand for its end."""

Curves = Mapping[str, Mapping[str, Points]]
"""task -> method -> mean over seeds."""


def loss_charts(results: Results) -> list[Chart]:
    """Training and validation losses, where there are curves: a single look at the validation loss is none."""
    return [chart for kind in ("training", "validation") if (chart := _chart(results, kind))]


def final_losses(results: Results) -> Table | None:
    """Where the losses end, by task: on validation examples, else over the last tenth of the training's steps."""
    for kind in ("validation", "training"):
        curves = _curves(results, kind)
        if curves:
            methods = [m for m in series_of(results) if any(m in by_method for by_method in curves.values())]
            rows: list[list[Cell]] = [
                [method, *(_end(by_method.get(method, [])) for by_method in curves.values())] for method in methods
            ]
            return Table([f"{kind} loss, nats per token", *(short(task, 40) for task in curves)], rows)
    return None


def mean_curve(curves: Sequence[Points]) -> Points:
    """The mean over seeds at every step that any of them logged."""
    at: dict[int, list[float]] = {}
    for curve in curves:
        for step, loss in curve:
            at.setdefault(step, []).append(loss)
    return [(step, sum(losses) / len(losses)) for step, losses in sorted(at.items())]


def smoothed(curve: Points) -> Points:
    """Every point as the mean of its neighbours on either side, as many as there are near the ends."""
    reach = int(SMOOTHED * len(curve) / 2)
    made = []
    for place, (step, _) in enumerate(curve):
        near = min(reach, place, len(curve) - 1 - place)
        losses = [loss for _, loss in curve[place - near : place + near + 1]]
        made.append((step, sum(losses) / len(losses)))
    return made


def _chart(results: Results, kind: Kind) -> Chart | None:
    curves = {
        task: by_method
        for task, by_method in _curves(results, kind).items()
        if any(len(curve) > 1 for curve in by_method.values())
    }
    other = results["reference"]
    if not any(other in by_method and len(by_method) > 1 for by_method in curves.values()):
        return loss_chart(kind, NOTES[kind], "method", curves, series_of(results))
    return _minus(results, kind, curves, other)


def _minus(results: Results, kind: Kind, curves: Curves, other: str) -> Chart:
    """Each method's loss minus that of the reference: the losses themselves all look alike."""
    series = series_of(results)
    panels: list[Panel] = []
    rows: list[list[Cell]] = []
    seen: set[int] = set()
    for task, by_method in curves.items():
        base = dict(by_method.get(other, []))
        drawn = {}
        for method, curve in by_method.items():
            off = [(step, loss - base[step]) for step, loss in curve if step in base]
            if method != other and off:
                drawn[series.index(method)] = thinned(smoothed(off))
        if drawn:
            seen |= drawn.keys()
            steps = [step for points in drawn.values() for step, _ in points]
            zero = [(min(steps), 0.0), (max(steps), 0.0)]
            panels.append(line_panel(short(task, 40), drawn, STEP, f"loss minus that of {other}", reference=zero))
            rows += [[task, series[index], int(step), loss] for index, each in drawn.items() for step, loss in each]
    shown, more = split(panels)
    note = (
        f"{NOTES[kind]} Loss minus that of {other} with the same data, in nats per token, smoothed: below the dotted "
        "line is better."
    )
    table = Table(["task", "method", "step", f"loss minus that of {other}, nats per token"], rows)
    names = {index: series[index] for index in sorted(seen)}
    return Chart(f"{kind}_loss", f"{kind.capitalize()} loss against {other}, by task", note, shown, table, more, names)


def _curves(results: Results, kind: Kind) -> dict[str, dict[str, Points]]:
    finished = [run for run in results["runs"] if run["status"] == "finished"]
    curves: dict[str, dict[str, Points]] = {}
    for task in dict.fromkeys(task for run in finished for task in run["curves"][kind]):
        by_method: dict[str, list[Points]] = {}
        for run in finished:
            if task in run["curves"][kind]:
                by_method.setdefault(run["method"], []).append(run["curves"][kind][task])
        curves[task] = {method: mean_curve(seeds) for method, seeds in by_method.items()}
    return curves


def _end(curve: Points) -> float | None:
    """The mean of the losses at the end of a curve; the last alone of validation losses, which are few."""
    if not curve:
        return None
    last = curve[-1][0]
    ending = [loss for step, loss in curve if step > (1 - END) * last]
    return sum(ending) / len(ending)
