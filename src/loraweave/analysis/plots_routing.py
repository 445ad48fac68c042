"""Plots of routing: which head speaks for which task, how decidedly, and on which tokens."""

from collections.abc import Sequence

from loraweave.analysis.plots import Entry, Listing, Section, by_depth, depth_map, grouped, heat_panel, round_up
from loraweave.pages.charts import Cell, Chart, Panel, Table, split
from loraweave.pages.heat import Scale
from loraweave.pages.lines import number


def section(analysis: Entry) -> Section | None:
    """The section; None where no run weighs its heads."""
    summaries = [entry for entry in analysis["routing_summary"] if entry["tasks"]]
    if not summaries:
        return None
    charts = [_usage(summaries)]
    if any(entry["depth"] is not None for entry in analysis["routing"]):
        charts.append(_entropy(analysis["routing"]))
    return Section(
        "routing",
        "Routing",
        "How much each head is weighed on a task's tokens, by a router that reads the input (HydraLoRA, arXiv "
        "2404.19245; R-LoRA, arXiv 2502.15455) or by weights learned per task (MTL-LoRA, arXiv 2410.09437). A row sums "
        "to 1 where all layers have as many heads. Rows that differ mean that tasks use different heads; equal cells "
        "mean that the router decides nothing.",
        charts,
        _tokens(analysis["tokens"]),
    )


def _usage(summaries: Sequence[Entry]) -> Chart:
    """Task × head, mean over layers."""
    tables = {s["run"]: [[number(value) for value in row] for row in s["usage"]] for s in summaries}
    top = max(value for table in tables.values() for row in table for value in row)
    scale = Scale("mean weight of the head", 0.0, min(round_up(top), 1.0))
    panels = [
        heat_panel(s["run"], tables[s["run"]], scale, s["tasks"], range(len(s["usage"][0])), x="head", digits=2)
        for s in summaries
    ]
    rows = [
        [s["run"], task, head, value]
        for s in summaries
        for task, weights in zip(s["tasks"], tables[s["run"]], strict=True)
        for head, value in enumerate(weights)
    ]
    shown, more = split(panels)
    return Chart(
        "head_use",
        "Which task uses which head",
        "Mean weight over tokens and layers. Heads of different layers share nothing but their number, so the mean "
        "hides layers that disagree.",
        shown,
        Table(["run", "task", "head", "mean weight"], rows),
        more,
        scale=scale,
    )


def _entropy(entries: Sequence[Entry]) -> Chart:
    """Entropy of the weights, task × layer."""
    scale = Scale("entropy over its largest value", 0.0, 1.0)
    panels: list[Panel] = []
    rows: list[list[Cell]] = []
    for run, group in grouped(entries, lambda entry: entry["run"]).items():
        lines = {}
        for task in dict.fromkeys(task for entry in group for task in entry["entropy"]):
            there = [{**entry, "value": entry["entropy"][task]} for entry in group if task in entry["entropy"]]
            lines[task] = by_depth(there, lambda entry: entry["value"])
            rows += [[run, task, depth, value] for depth, value in lines[task]]
        panels.append(depth_map(run, lines, scale, digits=2))
    shown, more = split(panels)
    return Chart(
        "routing_entropy",
        "How decided the routing is",
        "Entropy of the heads' weights over its largest value: 1 where all heads weigh alike, 0 where one speaks "
        "alone. Mean over tokens and types of module.",
        shown,
        Table(["run", "task", "layer", "entropy"], rows),
        more,
        scale=scale,
    )


def _tokens(entries: Sequence[Entry]) -> list[Listing]:
    """Per run, the tokens on which each head weighs most, over all layers together."""
    listings = []
    whole = (entry for entry in entries if entry["layer"] is None and entry["tokens"])
    for place, (run, group) in enumerate(grouped(whole, lambda entry: entry["run"]).items()):
        rows: list[list[Cell]] = [
            [entry["head"], token["token"], number(token["weight"]), token["count"]]
            for entry in group
            for token in entry["tokens"]
        ]
        listings.append(
            Listing(
                f"typical_tokens_{place}",
                f"Most typical tokens of each head in {run}",
                "Where the router weighs a head most, with its mean weight there and how often the sample has the "
                "token. Weights near 1 over the number of heads are typical of nothing.",
                {
                    f"head {entry['head']}": [
                        (visible(token["token"]), f"{number(token['weight']):.2f} · {token['count']}×")
                        for token in entry["tokens"]
                    ]
                    for entry in group
                },
                Table(["head", "token", "mean weight", "count"], rows),
            )
        )
    return listings


def visible(token: str) -> str:
    """A token with its white space made visible."""
    marks = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
    return "".join(marks.get(each, each) for each in token)
