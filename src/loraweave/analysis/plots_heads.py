"""Plots of heads: how alike they are, how large, where they lie, and the gates that scale them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from loraweave.analysis.plots import (
    Entry,
    Section,
    by_depth,
    depth_map,
    grouped,
    heat_panel,
    in_order,
    mean_matrix,
    round_up,
)
from loraweave.pages import figures
from loraweave.pages.charts import Cell, Chart, Panel, Table, split
from loraweave.pages.heat import Scale
from loraweave.pages.lines import line_panel, number
from loraweave.pages.palette import SERIES
from loraweave.pages.palette import series as look_of

MOST_POINTS = 400  # of one map
MOST_MAPS = 24
MOST_OF_IT = 50.0  # percent of the variance that a map has to hold for anything to follow from it
TOLD_APART = len(SERIES)  # heads that have a look of their own


def section(analysis: Entry) -> Section | None:
    """The section; None where no run has several heads."""
    if not analysis["heads"]:
        return None
    matrices = _matrices(analysis["heads"])
    charts = [_similarity(matrices), _by_depth(matrices), _norms(matrices)]
    if analysis["head_map"]:
        charts.append(_map(analysis["head_map"]))
    if analysis["gates"]:
        charts.append(_gates(analysis["gates"]))
    return Section(
        "heads",
        "Heads",
        "The heads B_h of one layer, taken as vectors, and the cosines between them: 1 where two heads are the same "
        "up to size, 0 where they share nothing. R-LoRA (arXiv 2502.15455) compares heads in this way, and finds those "
        "of HydraLoRA (arXiv 2404.19245) much alike.",
        charts,
    )


def _matrices(entries: Sequence[Entry]) -> dict[str, list[dict[str, Any]]]:
    """Title -> entries: B of every run, its change since a random start where that is known, A where it is per head."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        found.setdefault(f"{entry['run']}, {entry['matrix']}", []).append(dict(entry))
        if since := entry.get("since_start"):
            title = f"{entry['run']}, change of {entry['matrix']} since the start"
            found.setdefault(title, []).append({**entry, **since})
    return found


def _scale(values: Sequence[float]) -> Scale:
    top = min(round_up(max((abs(value) for value in values if value == value), default=1.0)), 1.0)
    return Scale("cosine between heads", -top, top, centred=True)


def _similarity(matrices: Mapping[str, Sequence[Entry]]) -> Chart:
    """Head by head, mean over all layers with as many heads as most."""
    means: dict[str, list[list[float]]] = {}
    rows: list[list[Cell]] = []
    for title, entries in matrices.items():
        sizes = [len(entry["similarity"]) for entry in entries]
        most = max(sizes, key=sizes.count)
        cells = mean_matrix([entry["similarity"] for entry in entries if len(entry["similarity"]) == most])
        rows += [[title, i, j, value] for i, row in enumerate(cells) for j, value in enumerate(row) if j > i]
        means[title] = [
            [float("nan") if i == j else value for j, value in enumerate(row)] for i, row in enumerate(cells)
        ]
    scale = _scale([value for cells in means.values() for row in cells for value in row])
    panels = [
        heat_panel(title, cells, scale, range(len(cells)), range(len(cells)), x="head", y="head", digits=2)
        for title, cells in means.items()
    ]
    shown, more = split(panels)
    return Chart(
        "head_similarity",
        "Similarity of heads",
        "Mean over layers of the cosine between two heads.",
        shown,
        Table(["matrix", "head", "other head", "cosine"], rows),
        more,
        scale=scale,
    )


def _by_depth(matrices: Mapping[str, Sequence[Entry]]) -> Chart:
    """Mean similarity by type of module and depth."""
    found = {
        title: {
            module: by_depth((e for e in entries if e["module"] == module), lambda e: e["mean_similarity"])
            for module in in_order(e["module"] for e in entries)
        }
        for title, entries in matrices.items()
        if any(e["depth"] is not None for e in entries)
    }
    rows: list[list[Cell]] = []
    values: list[float] = []
    for title, lines in found.items():
        for module, points in lines.items():
            rows += [[title, module, depth, value] for depth, value in points]
            values += [value for _, value in points]
    scale = _scale(values)
    shown, more = split([depth_map(title, lines, scale, digits=2) for title, lines in found.items()])
    return Chart(
        "head_similarity_by_depth",
        "Similarity of heads by layer",
        "The mean cosine over all pairs of heads, by type of module and layer.",
        shown,
        Table(["matrix", "module", "layer", "mean cosine"], rows),
        more,
        scale=scale,
    )


def _norms(matrices: Mapping[str, Sequence[Entry]]) -> Chart:
    return _norm_chart(
        matrices,
        "head_norms",
        "Size of heads",
        "The Frobenius norm of every head, mean over types of module.",
        "Frobenius norm",
    )


def _gates(entries: Sequence[Entry]) -> Chart:
    return _norm_chart(
        grouped(entries, lambda entry: entry["run"]),
        "gate_norms",
        "Size of the gates",
        "MultiLoRA (arXiv 2311.11501) scales every head per output channel, from zero at the start; the norm of these "
        "scales says how much a head speaks. Mean over types of module.",
        "norm of the gate",
    )


def _norm_chart(groups: Mapping[str, Sequence[Entry]], name: str, title: str, note: str, unit: str) -> Chart:
    """Norms by depth, a line per head, a panel per group."""
    panels: list[Panel] = []
    rows: list[list[Cell]] = []
    most = widest = 0
    for group, entries in groups.items():
        heads = max(len(entry["norms"]) for entry in entries)
        widest = max(widest, heads)
        curves = {}
        for head in range(heads):
            points = by_depth((e for e in entries if len(e["norms"]) > head), _norm_of(head))
            rows += [[group, head, depth, value] for depth, value in points]
            if points and head < TOLD_APART:
                curves[head] = points
        if curves:
            panels.append(line_panel(group, curves, "layer", unit, from_zero=True))
            most = max(most, len(curves))
    shown, more = split(panels)
    legend = {head: f"head {head}" for head in range(most)}
    if widest > TOLD_APART:
        note += f" The first {TOLD_APART} of {widest} heads; the data have all."
    return Chart(name, title, note, shown, Table(["matrix", "head", "layer", unit], rows), more, legend)


def _norm_of(head: int) -> Callable[[Entry], float | None]:
    return lambda entry: entry["norms"][head]


def _map(entries: Sequence[Entry]) -> Chart:
    """Heads in the plane of their first two principal components; the first type of module of every run in sight."""
    heads = 1 + max(point["head"] for entry in entries for point in entry["points"])
    order = in_order(entry["module"] for entry in entries)
    first, others = [], []
    for group in grouped(entries, lambda entry: entry["run"]).values():
        group.sort(key=lambda entry: order.index(entry["module"]))
        first.append(_scatter(group[0]))
        others += [_scatter(entry) for entry in group[1:]]
    rows = [
        [entry["run"], point["module"], point["layer"], point["head"], number(point["x"]), number(point["y"])]
        for entry in entries
        for point in entry["points"]
    ]
    return Chart(
        "head_map",
        "Map of the heads",
        "Every head of every layer, scaled to length 1, in the plane of the first two principal components; a map per "
        f"type of module. {_held(entries)}"
        + (f" Heads from number {TOLD_APART} on are small grey dots." if heads > TOLD_APART else ""),
        first,
        Table(["run", "module", "layer", "head", "x", "y"], rows),
        others[:MOST_MAPS],
        {head: f"head {head}" for head in range(min(heads, TOLD_APART))},
        markers=True,
    )


def _held(entries: Sequence[Entry]) -> str:
    """What the maps allow to conclude: nothing where most of what tells heads apart lies outside their plane."""
    shares = [100 * sum(map(number, entry["explained"])) for entry in entries if None not in entry["explained"]]
    if shares and min(shares) >= MOST_OF_IT:
        return "Heads that lie together in all layers do the same thing everywhere."
    held = f"{min(shares):.0f} %" if shares else "an unknown part"
    return (
        f"The plane holds as little as {held} of the variance: heads that lie together here may differ in all the "
        "rest, so the map alone shows nothing; the cosines between heads above do."
    )


def _scatter(entry: Entry) -> Panel:
    by_head = grouped(entry["points"], lambda point: point["head"])
    stride = -(-len(entry["points"]) // MOST_POINTS)
    shares = [f", {100 * number(share):.0f} % of variance" if share is not None else "" for share in entry["explained"]]

    def draw(axes: Axes) -> None:
        for head, points in by_head.items():
            look, alone = look_of(head), head < TOLD_APART
            drawn = points[::stride]
            axes.plot(
                [number(point["x"]) for point in drawn],
                [number(point["y"]) for point in drawn],
                linestyle="none",
                marker=look.marker if alone else ".",
                color=look.colour.light if alone else figures.QUIET,
                markeredgecolor=figures.PAPER,
                markeredgewidth=0.5,
            )
        axes.set(xlabel=f"first component{shares[0]}", ylabel=f"second{shares[1]}")
        axes.grid(True, axis="both")

    return Panel(f"{entry['run']}, {entry.get('module', 'all')}", draw, height=260)
