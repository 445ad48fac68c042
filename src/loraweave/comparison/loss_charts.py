"""Losses over training: a panel for each task, a line for each method, averaged over its seeds."""

from collections.abc import Sequence
from typing import Literal

from loraweave.comparison.cost_charts import series_of
from loraweave.comparison.records import Points, Results
from loraweave.pages.charts import Chart
from loraweave.pages.lines import loss_chart

NOTES = {
    "training": "On the batches of training, before each step; mean over seeds.",
    "validation": "On examples held out of training; mean over seeds.",
}


def loss_charts(results: Results) -> list[Chart]:
    """Training and validation losses, where there are curves: a single look at the validation loss is none."""
    return [chart for kind in ("training", "validation") if (chart := _chart(results, kind))]


def _chart(results: Results, kind: Literal["training", "validation"]) -> Chart | None:
    finished = [run for run in results["runs"] if run["status"] == "finished"]
    curves: dict[str, dict[str, Points]] = {}
    for task in dict.fromkeys(task for run in finished for task in run["curves"][kind]):
        by_method: dict[str, list[Points]] = {}
        for run in finished:
            if task in run["curves"][kind]:
                by_method.setdefault(run["method"], []).append(run["curves"][kind][task])
        means = {method: mean_curve(seeds) for method, seeds in by_method.items()}
        if any(len(curve) > 1 for curve in means.values()):
            curves[task] = means
    return loss_chart(kind, NOTES[kind], "method", curves, series_of(results))


def mean_curve(curves: Sequence[Points]) -> Points:
    """The mean over seeds at every step that any of them logged."""
    at: dict[int, list[float]] = {}
    for curve in curves:
        for step, loss in curve:
            at.setdefault(step, []).append(loss)
    return [(step, sum(losses) / len(losses)) for step, losses in sorted(at.items())]
