"""The README's table of the study: what each method came to on both kinds of tasks, and what it lost of the base."""

from statistics import mean
from typing import Any

from loraweave.comparison.records import BASE
from loraweave.files import write_text
from study.page import between, table
from study.place import REPOSITORY, Place
from study.plan import METHODS, REGIMES, Regime
from study.verdicts import forgetting

ORDER: tuple[Regime, ...] = ("apart", "shared")
HEAD = ["method", "tasks apart", "questions about the same texts", "bits per byte of other text, tasks apart", "seeds"]
README = REPOSITORY / "README.md"


def write_readme_table(place: Place) -> None:
    """Put the table between its marks in README.md."""
    write_text(README, with_table(README.read_text(encoding="utf-8"), place))


def with_table(text: str, place: Place) -> str:
    """README.md with the table as the records have it; a method is in it from two seeds on."""
    results = {regime: found for regime in REGIMES if (found := place.results(regime)) is not None}
    runs = {regime: _told(found) for regime, found in results.items()}
    rows = []
    for method in (BASE, *METHODS):
        if any(method in made for made in runs.values()):
            cells = [_score(results[regime], method) if method in runs.get(regime, {}) else "–" for regime in ORDER]
            losses = [forgetting(run) for run in runs.get("apart", {}).get(method, ())]
            known = [loss for loss in losses if loss is not None]
            seeds = [str(len(runs.get(regime, {}).get(method, ()))) for regime in ORDER]
            lost = f"{mean(known):.2f}" if known else "–"
            rows.append([f"`{method}`", *cells, lost, "–" if method == BASE else " and ".join(seeds)])
    return between(text, "study", table(HEAD, rows))


def _told(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The finished runs of the methods that have them with two seeds or more."""
    made: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        if run["status"] == "finished":
            made.setdefault(run["method"], []).append(run)
    return {method: each for method, each in made.items() if method == BASE or len(each) > 1}


def _score(results: dict[str, Any], method: str) -> str:
    found = next(row["mean"] for row in results["summary"] if row["method"] == method)
    return "–" if found is None else f"{found['mean']:.1f} ± {found['interval']:.1f}"
