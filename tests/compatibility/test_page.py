"""docs/compatibility.md is a print of the matrix as it is now: the same rows, columns and notes' numbers."""

import re
from pathlib import Path

from compatibility.cases import METHODS, cells
from compatibility.page import missing, page
from compatibility.quantized import CHECKS, KINDS

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


def all_yes() -> dict:
    outcomes = {(c.behaviour.name, c.case.architecture.name, c.case.method): ("yes", "") for c in cells()}
    return outcomes | {(check, kind, method): ("yes", "") for check in CHECKS for kind in KINDS for method in METHODS}


def frame(text: str) -> list[list[str]]:
    """Headings, list items, and of each table's lines the cells that are no outcomes."""
    lines = []
    for line in text.splitlines():
        if line.startswith("|"):
            parts = [re.sub(r" \[[\d, ]+\]$", "", part.strip()) for part in line.strip("|").split(" | ")]
            lines.append([part for part in parts if not re.fullmatch(r"yes|no|\d+ of \d+", part)])
        elif line.startswith(("#", "- ")):
            lines.append([line])
    return lines


def test_the_committed_page_has_the_rows_and_columns_of_the_matrix():
    assert frame(PAGE.read_text(encoding="utf-8")) == frame(page(all_yes())), "print it again: make compatibility"


def test_every_note_is_there_and_used():
    text = PAGE.read_text(encoding="utf-8")
    used = {int(n) for mark in re.findall(r"(?:yes|no) \[([\d, ]+)\]", text) for n in mark.split(", ")}
    notes = [int(n) for n in re.findall(r"^(\d+)\. ", text, flags=re.M)]
    assert notes == sorted(used) == list(range(1, len(notes) + 1))


def test_a_run_of_a_part_is_no_page():
    outcomes = all_yes()
    assert missing(outcomes) == []
    key = next(iter(outcomes))
    del outcomes[key]
    assert missing(outcomes) == [key]


def test_exceptions_get_notes_and_a_refusal_everywhere_is_a_no():
    outcomes = all_yes()
    for name, architecture, method in outcomes:
        if name == "packed" and method == "mlora":
            outcomes[name, architecture, method] = ("no", "never")
        if name == "beams" and (architecture, method) in (("opt", "mlora"), ("gpt2", "mlora")):
            outcomes[name, architecture, method] = ("no", "not there")
    text = page(outcomes)
    place = METHODS.index("mlora") + 1
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    packed, beams = (next(r for r in rows if start in r[0]) for start in ("Examples packed", "Beam search"))
    assert re.fullmatch(r"no \[\d\]", packed[place])
    assert re.fullmatch(r"yes \[\d\]", beams[place])
    assert "Not on gpt2, opt: not there" in text
    assert re.search(r"^\d\. never$", text, flags=re.M)
