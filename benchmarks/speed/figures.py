"""The figures of `docs/performance.md`: what one layer's step costs, and how that grows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from loraweave.pages import figures

from .layers import ON_HEADS, ON_X

METHODS = (*ON_HEADS, *ON_X)
FROZEN = {"color": figures.INK, "linestyle": "solid"}
GROWTH = {"heads": "heads", "tasks": "tasks", "tokens": "tokens", "rank": "total rank"}


def draw(results: Mapping[str, Any], folder: Path, device: str) -> None:
    """Write `speed_layers_<device>.svg` and `speed_growth_<device>.svg` into `folder`, as far as they were measured."""
    folder.mkdir(exist_ok=True)
    for name, drawing in (("layers", _layers), ("growth", _growth)):
        if measured := results.get(name):
            with figures.style():
                figure = drawing(measured["results"])
            figures.save(figure, folder / f"speed_{name}_{device}.svg")


def _layers(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A step over LoRA's for every shape, a bar per method; a line for the frozen layer alone."""
    figure = figures.new(820, 330)
    axes = figure.subplots()
    for i, method in enumerate(METHODS):
        name = f"{method}@{'0.2' if method in ON_HEADS else '0.05'}"
        places = [s + (i - 2.5) / 7 for s in range(len(rows))]
        ratios = [row["to_lora@0.05"][name] for row in rows]
        middle = [ratio["ratio"] for ratio in ratios]
        spread = [[r["ratio"] - r["low"] for r in ratios], [r["high"] - r["ratio"] for r in ratios]]
        axes.bar(places, middle, 0.9 / 7, label=_with_dropout(name), color=figures.line(i)["color"])
        axes.errorbar(places, middle, spread, fmt="none", ecolor=figures.INK, lw=0.8)
    for s, row in enumerate(rows):
        label = "the frozen layer alone" if s == 0 else None
        axes.hlines(row["to_lora@0.05"]["frozen"]["ratio"], s - 0.45, s + 0.45, figures.INK, lw=1.6, label=label)
    axes.axhline(1, color=figures.QUIET, lw=1, ls=(0, (1, 2)))
    axes.set_xticks(range(len(rows)), [row["shape"].replace(", ", "\n") for row in rows])
    axes.set(ylabel="step over LoRA's with dropout 0.05", ylim=(0, None))
    figure.legend(loc="outside lower left", ncols=4)
    return figure


def _growth(results: Mapping[str, Any]) -> Figure:
    """A step over its own at the fewest heads or tasks, or over LoRA's, as one size grows."""
    figure = figures.new(820, 560)
    panels = figure.subplots(2, 2, sharey=True).flat
    for axes, (key, label) in zip(panels, GROWTH.items(), strict=True):
        rows = results[key]
        if key in ("heads", "tasks"):
            sizes = [int(size) for size in rows[0] if size != "method"]
            for row in rows:
                method, _, how = row["method"].partition(", ")
                ratios = [row[str(size)]["ratio"] for size in sizes]
                _line(axes, method, sizes, ratios, hollow=how.endswith("token"))
            axes.set_ylabel(f"step over that with {sizes[0]} {key}" if sizes[0] > 1 else "step over that with 1 head")
        else:
            sizes = [row[key] for row in rows]
            for name in rows[0]:
                if name not in (key, "lora@0.05"):
                    _line(axes, name.partition("@")[0], sizes, [row[name]["ratio"] for row in rows])
            axes.set_ylabel("step over LoRA's")
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel=label, ylim=(0, 1.15))
    panels[1].set_xlabel("tasks (hollow: an id per token; filled: per sequence)")
    figure.legend(*panels[2].get_legend_handles_labels(), loc="outside lower left", ncols=4)
    return figure


def _line(axes: Axes, method: str, sizes: Sequence[int], ratios: Sequence[float], hollow: bool = False) -> None:
    look = FROZEN if method == "frozen" else figures.line(METHODS.index(method), markers=True)
    label = "the frozen layer alone" if method == "frozen" else method
    axes.plot(sizes, ratios, label=label, **look | ({"markerfacecolor": figures.PAPER} if hollow else {}))


def _with_dropout(name: str) -> str:
    method, _, p = name.partition("@")
    return f"{method}, dropout {p}"
