"""Numbers as people read them; the same words on the terminal and on the page."""

import math
from collections.abc import Mapping, Sequence

from loraweave.comparison.records import BASE, Results, Spread, TaskInfo
from loraweave.comparison.summary import decimals, seeds_in_words

SHORT_METRICS = {"exact_match": "exact", "acc": "acc", "acc_norm": "acc norm"}


def score(value: Spread, unit: str) -> tuple[str, str]:
    """`("48.7", "±1.2")`; the second part is empty for one seed. Percentages get one decimal, others three digits."""
    digits = decimals(unit)
    return f"{value['mean']:.{digits}f}", "" if value["interval"] is None else f"±{value['interval']:.{digits}f}"


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
    """What the differences to the reference are, and when one counts."""
    other = results["reference"]
    counts = [len(each["seeds"]) for each in results["differences"] if each["method"] != BASE and each["seeds"]] or [1]
    pairs = math.comb(sum(row["finished"] > 0 and row["method"] != BASE for row in results["summary"]), 2)
    one = "that comes from the test examples alone, for there is one seed"
    where = f"over {seeds_in_words(counts)}" if max(counts) > 1 else one
    held = f"after Holm's correction for {pairs} pairs of methods" if pairs > 1 else "by the interval of the mean"
    return [
        f"Score minus that of {other} with the same seed and data; ± is the 95 % interval {where}.",
        f"Wins and losses: tasks where the interval leaves zero out. Bold: told apart by the mean, {held}.",
    ]


def listed(names: Sequence[str], last: str = "and") -> str:
    """`"a"`, `"a and b"`, `"a, b and c"`."""
    *most, end = names
    return f"{', '.join(most)} {last} {end}" if most else end


def metric(info: TaskInfo) -> str:
    """`"acc %"`, `"loss ↓"`: what is measured, in which unit, and an arrow where lower is better."""
    parts = [SHORT_METRICS.get(info["metric"], info["metric"].replace("_", " "))]
    if info["unit"] == "%":
        parts.append("%")
    if not info["higher_is_better"]:
        parts.append("↓")
    return " ".join(parts)


def mean_unit(tasks: Mapping[str, TaskInfo]) -> str:
    """The unit of a mean over `tasks`: percentages where there are any, otherwise the unit that all share."""
    units = {info["unit"] for info in tasks.values()}
    return "%" if "%" in units else next(iter(units), "")
