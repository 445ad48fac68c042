"""Losses over training, averaged over seeds: each method minus the reference where there are several, and where they
end."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

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

Curves = Mapping[str, Mapping[str, Mapping[int | None, Points]]]
"""task -> method -> seed -> its losses."""


def loss_charts(results: Results) -> list[Chart]:
    """Training and validation losses, where there are curves: a single look at the validation loss is none."""
    return [chart for kind in ("training", "validation") if (chart := _chart(results, kind))]


def final_losses(results: Results) -> Table | None:
    """Where the losses end, by task, the mean over seeds: the last on validation examples, else those of the last tenth
    of the training's steps."""
    for kind in ("validation", "training"):
        curves = _curves(results, kind)
        if curves:
            methods = [m for m in series_of(results) if any(m in by_method for by_method in curves.values())]
            share = END if kind == "training" else 0.0
            rows: list[list[Cell]] = [
                [method, *(_end(by_method.get(method, {}), share) for by_method in curves.values())]
                for method in methods
            ]
            return Table([f"{kind} loss, nats per token", *(short(task, 40) for task in curves)], rows)
    return None


def mean_curve(curves: Sequence[Points]) -> Points:
    """The mean over seeds at every step that any of them logged and all of them cover. Seeds log at different steps
    where their rows, and so their steps, are not as many; between two of its own a curve runs straight."""
    there = [curve for curve in curves if curve]
    if not there:
        return []
    first, last = max(curve[0][0] for curve in there), min(curve[-1][0] for curve in there)
    steps = sorted({step for curve in there for step, _ in curve if first <= step <= last})
    of_each = [np.interp(steps, [step for step, _ in curve], [loss for _, loss in curve]) for curve in there]
    means = np.mean(of_each, axis=0)
    return [*zip(steps, means.tolist(), strict=True)]


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
        if any(len(curve) > 1 for by_seed in by_method.values() for curve in by_seed.values())
    }
    if (against := _minus(results, kind, curves, results["reference"])) is not None:
        return against
    means = {
        task: {method: mean_curve([*by_seed.values()]) for method, by_seed in by_method.items()}
        for task, by_method in curves.items()
    }
    return loss_chart(kind, NOTES[kind], "method", means, series_of(results))


def _minus(results: Results, kind: Kind, curves: Curves, other: str) -> Chart | None:
    """Each method's loss minus that of the reference with the same seed: the losses themselves all look alike. None
    where nothing can be held against it."""
    series = series_of(results)
    panels: list[Panel] = []
    rows: list[list[Cell]] = []
    seen: set[int] = set()
    for task, by_method in curves.items():
        drawn = {}
        for method, by_seed in by_method.items():
            off = mean_curve(
                [_off(by_seed[seed], by_method[other][seed]) for seed in _shared(by_method, method, other)]
            )
            if method != other and off:
                drawn[series.index(method)] = thinned(smoothed(off))
        if drawn:
            seen |= drawn.keys()
            steps = [step for points in drawn.values() for step, _ in points]
            zero = [(min(steps), 0.0), (max(steps), 0.0)]
            panels.append(line_panel(short(task, 40), drawn, STEP, f"loss minus that of {other}", reference=zero))
            rows += [[task, series[index], int(step), loss] for index, each in drawn.items() for step, loss in each]
    if not panels:
        return None
    shown, more = split(panels)
    note = (
        f"{NOTES[kind]} Loss minus that of {other} with the same seed and so the same data, over the seeds that both "
        "have, in nats per token, smoothed: below the dotted line is better."
    )
    table = Table(["task", "method", "step", f"loss minus that of {other}, nats per token"], rows)
    names = {index: series[index] for index in sorted(seen)}
    return Chart(f"{kind}_loss", f"{kind.capitalize()} loss against {other}, by task", note, shown, table, more, names)


def _shared(by_method: Mapping[str, Mapping[int | None, Points]], method: str, other: str) -> list[int | None]:
    """The seeds that both methods have."""
    return [seed for seed in by_method[method] if seed in by_method.get(other, {})]


def _off(curve: Points, other: Points) -> Points:
    """One curve minus another, at the steps that both have."""
    there = dict(other)
    return [(step, loss - there[step]) for step, loss in curve if step in there]


def _curves(results: Results, kind: Kind) -> Curves:
    curves: dict[str, dict[str, dict[int | None, Points]]] = {}
    for run in results["runs"]:
        for task, points in run["curves"][kind].items() if run["status"] == "finished" else ():
            curves.setdefault(task, {}).setdefault(run["method"], {})[run["seed"]] = points
    return curves


def _end(by_seed: Mapping[int | None, Points], share: float) -> float | None:
    """The mean over seeds of where their losses end: of the last `share` of the steps, or of the last one alone."""
    ends = []
    for curve in by_seed.values():
        last = curve[-1][0]
        ending = [loss for step, loss in curve if step > (1 - share) * last or step == last]
        ends.append(sum(ending) / len(ending))
    return sum(ends) / len(ends) if ends else None
