"""What methods made of things that they were not trained for, beside the untouched base: cells and sentences."""

from typing import NamedTuple

from loraweave.amounts import listed
from loraweave.comparison import words
from loraweave.comparison.differences import against
from loraweave.comparison.evidence import Evidence
from loraweave.comparison.records import BASE, Forgetting, Results, TaskInfo
from loraweave.comparison.summary import describe_tasks

NOTHING = Forgetting(tasks={}, base={}, differences=[])


class Cell(NamedTuple):
    """What stands in the table: the base's own score, or a difference to it with its interval and verdict."""

    text: str
    interval: str
    verdict: str


def forgotten(results: Results) -> Forgetting:
    """The base's scores on what the methods were not trained for, and every method's differences to them."""
    runs = [{**run, "scores": run.get("forgetting", {})} for run in results["runs"]]
    tasks = describe_tasks(runs)  # type: ignore[arg-type]
    if not tasks:
        return NOTHING
    evidence = Evidence({**results, "runs": runs, "tasks": tasks})  # type: ignore[typeddict-item]
    base = {name: score for name in tasks if (score := evidence.score(BASE, name)) is not None}
    return Forgetting(tasks=tasks, base=base, differences=against(evidence, BASE))


def things(results: Results) -> dict[str, TaskInfo]:
    """What the runs were scored on and not trained for, by name."""
    return results.get("forgetting", NOTHING)["tasks"]


def cell(results: Results, method: str, name: str) -> Cell:
    """What a method made of one of them."""
    found = results.get("forgetting", NOTHING)
    unit = found["tasks"][name]["unit"]
    if method == BASE:
        score = found["base"].get(name)
        return Cell(words.score({"mean": score["mean"], "interval": None}, unit)[0] if score else "–", "", "tie")
    for each in found["differences"]:
        if each["method"] == method and (off := each["tasks"].get(name)) is not None:
            return Cell(*words.signed(off, unit), off["verdict"])
    return Cell("–", "", "tie")


def notes(results: Results) -> list[str]:
    """What the columns are, where there are any."""
    names = [*things(results)]
    if not names:
        return []
    return [
        f"{listed(names)}: not trained for. Each method's score minus that of the untouched base, with its 95 % "
        "interval; the base has its own score."
    ]


def points(results: Results, taken: str) -> list[str]:
    """What the method that is taken did to them, and what others did."""
    said = []
    for name, info in things(results).items():
        mine = cell(results, taken, name)
        if mine.text == "–":
            continue
        unit = words.points(info["unit"]) or info["metric"].replace("_", " ")
        verdict = {"win": "better than", "loss": "worse than"}.get(mine.verdict, "not told from")
        text = f"Forgetting: on {name}, which nothing was trained for, {taken} is {verdict} the untouched base, "
        text += " ".join(filter(None, [mine.text, mine.interval.replace("±", "± "), unit]))
        found = results.get("forgetting", NOTHING)["differences"]
        off = {each["method"]: each["tasks"][name]["mean"] for each in found if name in each["tasks"]}
        if len(off) > 1:
            ranked = sorted(off, key=lambda method: off[method], reverse=info["higher_is_better"])
            ends = [f"{cell(results, method, name).text} for {method}" for method in (ranked[0], ranked[-1])]
            text += f"; from {ends[0]} to {ends[1]}"
        said.append(f"{text}.")
    return said
