"""The README's table of the study: what each method came to on both kinds of tasks, and what it lost of the base."""

from statistics import mean

from loraweave.comparison.evidence import MEAN, Evidence
from loraweave.comparison.records import BASE
from loraweave.files import write_text
from study.page import REFERENCE, between, in_words, table
from study.place import REPOSITORY, Place
from study.plan import METHODS, Regime
from study.verdicts import compare_scores, evidence_of, forgetting

ORDER: tuple[Regime, ...] = ("apart", "shared")
HEAD = ["method", "tasks apart", "questions about the same texts", "bits per byte of other text, tasks apart", "seeds"]
README = REPOSITORY / "README.md"


def write_readme_table(place: Place) -> None:
    """Put the table between its marks in README.md."""
    write_text(README, with_table(README.read_text(encoding="utf-8"), place))


def with_table(text: str, place: Place) -> str:
    """README.md with the table as the records have it; a method is in it from two seeds on."""
    evidence = evidence_of(place)
    runs = {
        regime: {method: [*made.values()] for method, made in found.runs.items() if method == BASE or len(made) > 1}
        for regime, found in evidence.items()
    }
    rows = []
    for method in (BASE, *METHODS):
        if any(method in made for made in runs.values()):
            cells = [_score(evidence[regime], method) if method in runs.get(regime, {}) else "–" for regime in ORDER]
            losses = [forgetting(run) for run in runs.get("apart", {}).get(method, ())]
            known = [loss for loss in losses if loss is not None]
            seeds = [str(len(runs.get(regime, {}).get(method, ()))) for regime in ORDER]
            lost = f"{mean(known):.2f}" if known else "–"
            rows.append([f"`{method}`", *cells, lost, "–" if method == BASE else " and ".join(seeds)])
    return between(text, "study", table(HEAD, rows))


def _score(found: Evidence, method: str) -> str:
    """Its mean, and for an adapter what that is more or less than that of LoRA."""
    score = found.score(method, MEAN)
    if score is None:
        return "–"
    beside = None if method in (REFERENCE, BASE) else compare_scores(found, method, REFERENCE)
    return f"{score['mean']:.1f}" + ("" if beside is None else f" ({in_words(beside[0], 1)})")
