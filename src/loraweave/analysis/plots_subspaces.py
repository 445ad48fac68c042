"""Plots of how far two runs act in the same directions: by pair, by number of directions, by depth."""

from collections.abc import Sequence

from loraweave.analysis.plots import Entry, Section, by_depth, grouped, heat_panel, round_up, run_names
from loraweave.analysis.subspaces import FIRST
from loraweave.pages.charts import Cell, Chart, Panel, Table, short, split
from loraweave.pages.heat import Scale
from loraweave.pages.lines import line_panel, mean, number

Pair = tuple[str, str]
SIDES = {"left": "outputs", "right": "inputs"}
MOST_PAIRS = 6  # above, those with one run alone are drawn: full fine-tuning, or the first


def section(analysis: Entry) -> Section | None:
    """The section; None where there is no pair of runs to compare."""
    entries = analysis["subspaces"]
    if not entries:
        return None
    pairs, one = _drawn_pairs(analysis)
    charts = [_grids(entries, pairs), _depth(analysis, pairs[:MOST_PAIRS])]
    if len(run_names(analysis)) > 2:
        charts.insert(0, _overview(analysis))
    return Section(
        "directions",
        "Do the runs use the same directions?",
        "The overlap of the first i directions of one update with the first j of another is 1 where the smaller set "
        "lies within the larger, 0 where they are at right angles (LoRA, arXiv 2106.09685, section 7.2). Directions "
        "drawn at random overlap a little too, the more the smaller the layer: what counts is the distance to that. "
        "Runs of one method and seed start from the same A: their inputs overlap whatever they learned."
        + _left_out(entries, one),
        charts,
    )


def _drawn_pairs(analysis: Entry) -> tuple[list[Pair], str | None]:
    """The pairs that get a map each: all, or those with one run where there are many; and that run. Full fine-tuning,
    or the first, of those that are in most pairs: runs without a layer in common are none."""
    pairs = list(grouped(analysis["subspaces"], lambda entry: (entry["runs"][0], entry["runs"][1])))
    if len(pairs) <= MOST_PAIRS:
        return pairs, None
    full = [run["name"] for run in analysis["runs"] if run["kind"] == "full"]
    one = max([*full, *run_names(analysis)], key=[name for pair in pairs for name in pair].count)
    return [pair for pair in pairs if one in pair], one


def _left_out(entries: Sequence[Entry], one: str | None) -> str:
    """What is said where there are more pairs than are drawn one by one."""
    if one is None:
        return ""
    count = len({tuple(entry["runs"]) for entry in entries})
    return f" Of the {count} pairs of runs those with {one} are drawn one by one."


def _grid_cells(entries: Sequence[Entry], key: str) -> dict[tuple[int, int], float]:
    """(i, j) -> mean over types of module of the `key` grid."""
    cells: dict[tuple[int, int], list[float]] = {}
    for entry in entries:
        for i, row in zip(entry["ranks"], entry[key], strict=True):
            for j, value in zip(entry["ranks"], row, strict=True):
                cells.setdefault((i, j), []).append(number(value))
    return {at: mean(values) for at, values in cells.items()}


def _overview(analysis: Entry) -> Chart:
    """Every run against every other, on both sides, at one number of directions."""
    runs, entries = run_names(analysis), analysis["subspaces"]
    rows: list[list[Cell]] = []
    tops: list[float] = []
    chances: list[float] = []
    values_by_side = {}
    for side, where in SIDES.items():
        values = [[float("nan")] * len(runs) for _ in runs]
        for (a, b), group in grouped(
            (e for e in entries if e["side"] == side), lambda e: (e["runs"][0], e["runs"][1])
        ).items():
            found, chance = overlap_of(group)
            values[runs.index(a)][runs.index(b)] = values[runs.index(b)][runs.index(a)] = found
            rows.append([a, b, where, found, chance])
            tops.append(found)
            chances.append(chance)
        values_by_side[where] = values
    scale = Scale("overlap of the first directions", 0.0, min(round_up(max(tops, default=1.0)), 1.0))
    panels = [
        heat_panel(
            f"{where.capitalize()} ({side} singular vectors)", values_by_side[where], scale, runs, runs, digits=2
        )
        for side, where in SIDES.items()
    ]
    return Chart(
        "overlap_of_runs",
        "Every run against every other",
        f"Overlap of the {FIRST} largest directions of both (or of all, where there are fewer), mean over layers. At "
        f"random it would be {mean(chances):.2f}.",
        panels,
        Table(["run", "other run", "directions of", "overlap", "at random"], rows),
        scale=scale,
    )


def overlap_of(entries: Sequence[Entry]) -> tuple[float, float]:
    """The overlap of a pair of runs on one side, mean over layers, and what chance gives: the one number for a pair."""
    layers = [layer for entry in entries for layer in entry["by_layer"]]
    return mean(layer["overlap"] for layer in layers), mean(layer.get("random") for layer in layers)


def _grids(entries: Sequence[Entry], pairs: Sequence[Pair]) -> Chart:
    """Overlap by numbers of directions, a map per pair, and what random directions would give."""
    grids = {}
    tops: list[float] = []
    rows: list[list[Cell]] = []
    for pair in pairs:
        group = [entry for entry in entries if tuple(entry["runs"]) == pair and entry["side"] == "left"]
        grids[pair] = _grid_cells(group, "grid"), _grid_cells(group, "random")
        rows += [[*pair, i, j, value, grids[pair][1][i, j]] for (i, j), value in grids[pair][0].items()]
        tops += grids[pair][0].values()
    scale = Scale("overlap", 0.0, min(round_up(max(tops)), 1.0))
    panels = [
        _grid_panel(f"{a} and {b}", cells, scale, f"directions of {short(b, 24)}", f"of {short(a, 14)}")
        for (a, b), (cells, _) in grids.items()
    ]
    shown, more = split(panels, MOST_PAIRS)
    widest = max((random for _, random in grids.values()), key=len)
    chance = _grid_panel("At random", widest, scale, "random directions", "random directions")
    return Chart(
        "overlap_by_rank",
        "Overlap by number of directions",
        "The first i directions of one run (down) with the first j of the other (across), on the side of the outputs; "
        "mean over layers and types of module. High in the corner on top: both put their strongest directions in the "
        "same place. The last map is what random directions would give.",
        [*shown, chance],
        Table(["run", "other run", "directions", "directions of the other", "overlap", "at random"], rows),
        more,
        scale=scale,
    )


def _grid_panel(title: str, cells: dict[tuple[int, int], float], scale: Scale, x: str, y: str) -> Panel:
    ranks = sorted({i for i, _ in cells})
    values = [[cells.get((i, j), float("nan")) for j in ranks] for i in ranks]
    return heat_panel(title, values, scale, ranks, ranks, x=x, y=y, digits=2)


def _depth(analysis: Entry, pairs: Sequence[Pair]) -> Chart:
    """Overlap from the first block to the last."""
    depths = {entry["layer"]: entry["depth"] for entry in analysis["spectra"]}
    entries = analysis["subspaces"]
    panels: list[Panel] = []
    rows: list[list[Cell]] = []
    for side, where in SIDES.items():
        curves, chances = {}, []
        for index, pair in enumerate(pairs):
            layers = [
                {**layer, "depth": depths.get(layer["layer"])}
                for entry in entries
                if tuple(entry["runs"]) == pair and entry["side"] == side
                for layer in entry["by_layer"]
            ]
            chances += layers
            if points := by_depth(layers, lambda layer: layer["overlap"]):
                curves[index] = points
            rows += [[where, *pair, depth, value] for depth, value in points]
        if curves:
            reference = by_depth(chances, lambda layer: layer.get("random"))
            title = f"{where.capitalize()} ({side} singular vectors)"
            panels.append(line_panel(title, curves, "layer", "overlap", from_zero=True, reference=reference))
    return Chart(
        "overlap_by_depth",
        "Overlap by depth",
        f"Of the {FIRST} largest directions of both runs in a layer, mean over types of module. The thin dotted line "
        "is what random directions would give.",
        panels,
        Table(["directions of", "run", "other run", "layer", "overlap"], rows),
        series={index: f"{a} and {b}" for index, (a, b) in enumerate(pairs)},
    )
