"""The study's figures on the pages of the methods: each one's mean scores beside LoRA's."""

from collections.abc import Mapping
from pathlib import Path

from loraweave.comparison.evidence import Evidence
from loraweave.files import write_text
from study.page import REFERENCE, REGIME_NAMES, between, in_words
from study.place import REPOSITORY, Place
from study.plan import METHODS, REGIMES, Regime
from study.verdicts import compare_scores, evidence_of

FOLDER = REPOSITORY / "docs" / "methods"
START = (
    "**In [the study](../study.md)**, on a pretrained model of 135 million parameters, mean score in % beside LoRA's:"
)


def pages() -> dict[str, Path]:
    """Method -> its page, of the study's methods that have one."""
    return {method: path for method in METHODS if (path := FOLDER / f"{method}.md").is_file()}


def write_method_pages(place: Place) -> None:
    """Put each method's figures between the marks on its page."""
    evidence = evidence_of(place)
    for method, path in pages().items():
        write_text(path, with_figures(path.read_text(encoding="utf-8"), method, evidence))


def with_figures(text: str, method: str, evidence: Mapping[Regime, Evidence]) -> str:
    """A method's page with its figures as the records have them."""
    said = [f"{REGIME_NAMES[regime]}, {_beside_lora(evidence.get(regime), method)}" for regime in REGIMES]
    return between(text, "study", "\n".join(["", START, "", *(f"- {one}" for one in said), "", ""]))


def _beside_lora(found: Evidence | None, method: str) -> str:
    if found is None or (made := compare_scores(found, method, REFERENCE)) is None:
        return "not run yet"
    difference, seeds, own, other = made
    count = "1 seed: the interval is of its examples alone" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return f"{own:.1f} and {other:.1f}, {in_words(difference, 1)} ({count})"
