"""Numbers as people read them; the same words on the terminal and on the page."""

import math
from collections.abc import Mapping
from pathlib import Path

from loraweave.bases import BaseSpec
from loraweave.comparison.records import BASE, Results, Score, Spread, TaskInfo
from loraweave.comparison.summary import decimals, seeds_in_words
from loraweave.evaluation.mean import mean_rule

LOPSIDED = 0.15
"""Ends of an interval are written out where its middle is off the mean by more than this part of its width."""
SHORT_METRICS = {"exact_match": "exact", "acc": "acc", "acc_norm": "acc norm"}


def score(value: Spread | Score, unit: str) -> tuple[str, str]:
    """`("48.7", "±1.2")`, or `("99.5", "97–100")` where the interval is lopsided; `("48.7", "")` where there is none.

    Percentages get one decimal, others three digits.
    """
    digits = decimals(unit)
    mean, interval = value["mean"], value["interval"]
    if interval is None:
        return f"{mean:.{digits}f}", ""
    low, high = value.get("low"), value.get("high")
    if isinstance(low, float) and isinstance(high, float) and abs(low + high - 2 * mean) > LOPSIDED * (high - low):
        return f"{mean:.{digits}f}", f"{low:.{max(0, digits - 1)}f}–{high:.{max(0, digits - 1)}f}"
    return f"{mean:.{digits}f}", f"±{interval:.{digits}f}"


def signed(value: Spread, unit: str) -> tuple[str, str]:
    """`("+2.1", "±1.0")` for a difference; the second part is empty where it has no interval."""
    text, interval = score(value, unit)
    if float(text) == 0:
        return text.removeprefix("-"), interval
    return text.replace("-", "−") if text.startswith("-") else f"+{text}", interval


def difference(value: Spread, unit: str) -> str:
    """`"+2.1 ± 1.0 points"`, `"−0.031 nats per token"`."""
    text, interval = signed(value, unit)
    return " ".join(filter(None, [text, interval.replace("±", "± "), points(unit)]))


def points(unit: str) -> str:
    """The unit of a difference between two scores in `unit`."""
    return {"%": "points", "nats": "nats per token"}.get(unit, unit)


def about_differences(results: Results) -> list[str]:
    """What the differences to the reference are, of what the intervals speak, and when a difference counts."""
    other = results["reference"]
    shared = {each["method"]: len(each["seeds"]) for each in results["differences"] if each["seeds"]}
    counts = [count for method, count in shared.items() if method != BASE] or [*shared.values()] or [1]
    pairs = math.comb(sum(row["finished"] > 0 and row["method"] != BASE for row in results["summary"]), 2)
    one = "for other examples and these very adapters, for there is one seed"
    where = f"for other seeds and examples, from {seeds_in_words(counts)}" if max(counts) > 1 else one
    held = f"after Holm's correction for {pairs} pairs of methods" if pairs > 1 else "by its test"
    said = [
        f"Score minus that of {other}, seed by seed and example by example; ± is the 95 % interval {where}.",
        f"Wins and losses: tasks where chance alone rarely does that. Bold: told apart by the mean, {held}.",
    ]
    return said + [
        f"{each['method']} and {other} are not compared: {each['missing']}."
        for each in results["differences"]
        if each["missing"] is not None and results["summary"]
    ]


def base(results: Results) -> str:
    """The base's name, without the folders that it lies in; and in brackets how it is loaded, where that was said."""
    given = results["settings"]["config"]["model"]
    spec = BaseSpec(name=given) if isinstance(given, str) else BaseSpec(**given)
    return str(spec.model_copy(update={"name": Path(spec.name).name}))


def holds_for(results: Results) -> str:
    """One sentence: on what base, data and length of training the results hold; empty where nothing was trained."""
    run = next((run for run in results["runs"] if run["mixture"]), None)
    if run is None:
        return ""
    config = results["settings"]["config"]
    looks = (points for each in run["curves"].values() for points in each.values() if points)  # type: ignore[attr-defined]
    steps = max((points[-1][0] for points in looks), default=0)  # what is logged need not end with the last step
    by_task = [(row.get("drawn", 0), row.get("available", math.inf)) for row in run["mixture"]]
    drawn, different = sum(each for each, _ in by_task), sum(min(each) for each in by_task)
    rows = config.get("train", {}).get("max_length")
    scored = sorted({info["n"] for info in results["tasks"].values()})
    on = f"{scored[0]:,} to {scored[-1]:,}" if len(scored) > 1 else f"{scored[0]:,}"
    tasks = len(run["mixture"])
    parts = [
        f"This holds for {base(results)}",
        f"trained for {steps:,} steps" if steps else "trained",
        f"on {drawn:,} examples of {tasks} task{'s' if tasks > 1 else ''}",
        f"({different:,} different ones)" if different < drawn else "",
        f"in rows of up to {rows:,} tokens" if rows else "",
        f"and scored on {on} examples a task",
    ]
    otherwise = "with another base, other data or a longer training it may come out otherwise."
    return f"{' '.join(filter(None, parts))}; {otherwise}"


def metric(info: TaskInfo) -> str:
    """`"acc %"`, `"loss ↓"`: what is measured, in which unit, and an arrow where lower is better."""
    parts = [SHORT_METRICS.get(info["metric"], info["metric"].replace("_", " "))]
    if info["unit"] == "%":
        parts.append("%")
    if not info["higher_is_better"]:
        parts.append("↓")
    return " ".join(parts)


def mean_unit(tasks: Mapping[str, TaskInfo]) -> str:
    """The unit of the mean over `tasks`."""
    return mean_rule(tasks).unit
