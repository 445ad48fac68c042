"""The comparison as one HTML page that needs no network: what to take and why, the numbers, and how to repeat it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup, escape

from loraweave import amounts
from loraweave.comparison import forgetting, words
from loraweave.comparison.cost_charts import cost_chart
from loraweave.comparison.loss_charts import final_losses, loss_charts
from loraweave.comparison.records import BASE, Difference, MethodSummary, Recommendation, Results, RunRecord, Spread
from loraweave.comparison.search_charts import search_chart
from loraweave.comparison.summary import best_methods, in_order, notes
from loraweave.evaluation.mean import mean_of, mean_rule
from loraweave.files import write_text
from loraweave.pages import render

LONGEST_HEAD = 12


def write_page(results: Results, path: Path) -> None:
    """Write the page of `results` to `path`."""
    write_text(path, render("loraweave.comparison", "page.html", _content(results)))


def _content(results: Results) -> dict[str, Any]:
    tasks, summary, runs = results["tasks"], results["summary"], results["runs"]
    settings = results["settings"]
    best = best_methods(summary, tasks)
    methods = [row["method"] for row in summary if row["method"] != BASE]
    seeds = settings["seeds"]
    day = results["created"][:10]
    return {
        "title": f"{_number(len(methods), 'method')} on {_number(len(tasks), 'task')}",
        "subtitle": f"Base model {words.base(results)}, "
        f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(str(seed) for seed in seeds)}, {day}",
        "recommendation": _recommendation(results["recommendation"]),
        "against": _against(results),
        "holds": words.holds_for(results),
        "tasks": [
            {"head": _breakable(name), "metric": words.metric(info), "n": f"{info['n']:,}"}
            for name, info in tasks.items()
        ],
        "mean_unit": words.mean_unit(tasks),
        "rows": [_row(results, row, best) for row in in_order(summary, tasks)],
        "untrained": [
            {"head": _breakable(name), "metric": words.metric(info), "n": f"{info['n']:,}"}
            for name, info in forgetting.things(results).items()
        ],
        "notes": [*notes(results), *forgetting.notes(results)],
        "costs": cost_chart(results),
        "search": search_chart(results),
        "losses": loss_charts(results),
        "final": final_losses(results),
        "runs": [_run(results, run) for run in runs],
        "mixture": _mixture(runs),
        "configuration": yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        "environment": yaml.safe_dump(results["environment"], sort_keys=False, allow_unicode=True),
        "command": results["command"],
    }


def _breakable(name: str) -> Markup:
    """A name that, when long, may be broken after its joints, so that it does not stretch its column."""
    if len(name) <= LONGEST_HEAD:
        return escape(name)
    return Markup(re.sub(r"([_\-./])", r"\1<wbr>", str(escape(name))))


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _recommendation(found: Recommendation) -> dict[str, Any]:
    """The recommendation, what to take in bold."""
    first, _, rest = found["text"].partition(". ")
    lead = Markup("<strong>{}.</strong> {}").format(first, rest) if found["method"] else escape(found["text"])
    return {"text": lead, "points": found["points"]}


def _against(results: Results) -> dict[str, Any] | None:
    """The table of differences to the reference."""
    if not results["differences"]:
        return None
    tasks = results["tasks"]
    rows = []
    order = [row["method"] for row in in_order(results["summary"], tasks)]
    for each in sorted(results["differences"], key=lambda each: order.index(each["method"])):
        cells = [_off(each["tasks"].get(name), info["unit"], True) for name, info in tasks.items()]
        mean = _off(each["mean"], words.mean_unit(tasks), each["apart"])
        verdicts: list[str] = [difference["verdict"] for difference in each["tasks"].values()]
        counts = [verdicts.count(verdict) for verdict in ("win", "tie", "loss")]
        row = {"method": each["method"], "base": each["method"] == BASE}
        rows.append({**row, "cells": cells, "mean": mean, "counts": counts})
    return {"reference": results["reference"], "rows": rows, "about": words.about_differences(results)}


def _off(difference: Difference | None, unit: str, told: bool) -> dict[str, Any]:
    """A cell of that table; won and lost are marked only where the two can be `told` apart."""
    if difference is None:
        return {"text": "–", "interval": "", "verdict": "tie"}
    text, interval = words.signed(difference, unit)
    return {"text": text, "interval": interval, "verdict": difference["verdict"] if told else "tie"}


def _row(results: Results, row: MethodSummary, best: dict[str, set[str]]) -> dict[str, Any]:
    tasks, method = results["tasks"], row["method"]
    cells = [_cell(row["scores"].get(name), info["unit"], method in best[name]) for name, info in tasks.items()]
    count = row["finished"] + row["failed"]
    return {
        "method": method,
        "base": method == BASE,
        "failed": f"{row['failed']} of {count} failed" if row["failed"] else "",
        "mean": _cell(row["mean"], words.mean_unit(tasks), method in best[""]),
        "runs": "–" if method == BASE else row["finished"],
        "cells": cells,
        "untrained": [forgetting.cell(results, method, name)._asdict() for name in forgetting.things(results)],
        "parameters": amounts.count(row["trainable_parameters"] or None),
        "seconds": amounts.duration(row["seconds"]),
        "memory": amounts.memory(row["peak_memory"]),
    }


def _cell(value: Spread | None, unit: str, best: bool) -> dict[str, Any]:
    text, interval = ("–", "") if value is None else words.score(value, unit)
    return {"text": text, "interval": interval, "best": best}


def _run(results: Results, run: RunRecord) -> dict[str, Any]:
    tasks = results["tasks"]

    def written(value: float | None, unit: str) -> str:
        return "–" if value is None else words.score(Spread(mean=value, interval=None), unit)[0]

    scores = run["scores"]
    return {
        "name": run["method"] if run["seed"] is None else f"{run['method']}, seed {run['seed']}",
        "cells": [
            written(scores[name]["score"] if name in scores else None, info["unit"]) for name, info in tasks.items()
        ],
        "mean": written(mean_of(scores, mean_rule(tasks)), words.mean_unit(tasks)),
        "rank": "–" if run["rank"] is None else run["rank"],
        "learning_rate": "–" if run["learning_rate"] is None else f"{run['learning_rate']:g}",
        "tokens_per_second": "–" if run["tokens_per_second"] is None else f"{run['tokens_per_second']:,.0f}",
        "adapter": run["adapter"] or "–",
        "failed": f"failed: {run['error']}" if run["status"] == "failed" else "",
    }


def _mixture(runs: Sequence[RunRecord]) -> dict[str, Any] | None:
    """The first run's realised mixture as a table; the others of the same seed drew the same."""
    first = next((run for run in runs if run["mixture"]), None)
    if first is None:
        return None
    heads = [key.replace("_", " ").capitalize() for key in first["mixture"][0]]
    lines = [[_mixture_cell(key, value) for key, value in row.items()] for row in first["mixture"]]
    return {"seed": first["seed"], "heads": heads, "lines": lines}


def _mixture_cell(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if key == "passes" else f"{100 * value:.1f} %"
    return f"{value:,}" if isinstance(value, int) else str(value)
