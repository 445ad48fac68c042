"""Loss curves as small hand-written SVG charts: one per task, one line per method."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from loraweave.comparison.results import BASE, Points, RunRecord
from loraweave.pages.palette import SERIES

WIDTH, HEIGHT = 340, 220
LEFT, RIGHT, TOP, BOTTOM = 60, 10, 12, 40


def loss_curves(runs: Sequence[RunRecord], kind: str) -> dict[str, str]:
    """task -> SVG of the `kind` ("training" or "validation") loss of every trained method, averaged over its seeds.

    Colours and dashes come from the page's style sheet by the classes `series-0`, `series-1`, …, in the order in
    which the methods appear in `runs`; so the charts follow light and dark.
    """
    finished = [run for run in runs if run["status"] == "finished"]
    tasks = list(dict.fromkeys(task for run in finished for task in run["curves"][kind]))  # type: ignore[literal-required]
    charts = {}
    for task in tasks:
        series: dict[str, Points] = {}
        for method in trained_methods(runs):
            curves = [
                run["curves"][kind][task]  # type: ignore[literal-required]
                for run in finished
                if run["method"] == method and task in run["curves"][kind]  # type: ignore[literal-required]
            ]
            if curves:
                series[method] = mean_curve(curves)
        if any(len(curve) > 1 for curve in series.values()):  # a single look at the validation loss is no curve
            charts[task] = _chart(task, kind, series, trained_methods(runs))
    return charts


def trained_methods(runs: Sequence[RunRecord]) -> list[str]:
    """The methods that have a curve, in order."""
    return [method for method in dict.fromkeys(run["method"] for run in runs) if method != BASE]


def mean_curve(curves: Sequence[Points]) -> Points:
    """The mean over seeds at every step that any of them logged."""
    at: dict[int, list[float]] = {}
    for curve in curves:
        for step, loss in curve:
            at.setdefault(step, []).append(loss)
    return [(step, sum(losses) / len(losses)) for step, losses in sorted(at.items())]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers within [low, high], roughly `about` of them."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-9) / about))
    step *= min((1, 2, 5, 10), key=lambda factor: abs((high - low) / (step * factor) - about))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _chart(task: str, kind: str, series: Mapping[str, Points], methods: Sequence[str]) -> str:
    points = [point for curve in series.values() for point in curve]
    last_step = max(step for step, _ in points)
    highest = max(loss for _, loss in points) * 1.02 or 1.0

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / max(last_step, 1)

    def y(loss: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - loss / highest)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{kind} loss on {escape(task)} by step">',
    ]
    for value in ticks(0, highest):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y(value) + 3.5:.1f}" text-anchor="end">{value:g}</text>')
    for value in ticks(0, last_step):
        parts.append(
            f'<text class="tick" x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{value:g}</text>'
        )
    for method, curve in series.items():
        path = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in curve)
        final = f"{escape(method)}: {curve[-1][1]:.3f} at step {curve[-1][0]}"
        index = methods.index(method) % len(SERIES)
        parts.append(f'<polyline class="curve series-{index}" points="{path}"><title>{final}</title></polyline>')
        if len(curve) < 12:
            parts += [
                f'<circle class="point series-{index}" cx="{x(step):.1f}" cy="{y(loss):.1f}" r="2.5"/>'
                for step, loss in curve
            ]
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="axis" x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle">training step</text>'
        f'<text class="axis" transform="translate(12 {middle_y}) rotate(-90)" '
        f'text-anchor="middle">loss, nats per token</text></svg>'
    )
    return "".join(parts)
