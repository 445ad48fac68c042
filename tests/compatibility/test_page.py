"""docs/compatibility.md is a print of the matrix as it is now: the same rows, columns and notes' numbers."""

import re
from pathlib import Path

from compatibility.cases import METHODS
from compatibility.page import keep, kept, page, wanted

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


def all_yes() -> dict:
    return dict.fromkeys(wanted(), ("yes", ""))


def test_the_committed_page_is_a_print_of_the_outcomes():
    versions = re.compile(r"with torch .*\.$", flags=re.M)  # those that the outcomes were found with
    committed, printed = (versions.sub("", text) for text in (PAGE.read_text(encoding="utf-8"), page(kept())))
    assert committed == printed, "print it again: make compatibility"


def test_every_note_is_there_and_used():
    text = PAGE.read_text(encoding="utf-8")
    used = {
        int(n)
        for mark in re.findall(r"(?:yes|no)(?: \(on \d+ of \d+\))? \[([\d, ]+)\]", text)
        for n in mark.split(", ")
    }
    notes = [int(n) for n in re.findall(r"^(\d+)\. ", text, flags=re.M)]
    assert notes == sorted(used) == list(range(1, len(notes) + 1))


def test_outcomes_of_a_part_are_kept_and_the_page_says_what_was_not_run(tmp_path):
    outcomes = all_yes()
    for name, architecture, method in list(outcomes):
        if method == "mlora" and (name == "beams" or (name == "packed" and architecture != "llama")):
            del outcomes[name, architecture, method]
    keep(outcomes, tmp_path / "outcomes.json")
    text = page(kept(tmp_path / "outcomes.json"))
    place = METHODS.index("mlora") + 1
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    packed, beams = (next(r for r in rows if start in r[0]) for start in ("Examples packed", "Beam search"))
    assert re.fullmatch(r"yes \(on 1 of \d+\)", packed[place])
    assert beams[place] == "not run"
    assert beams[place - 1] == packed[place - 1] == "yes"
    assert next(r for r in rows if r[0].strip() == "gpt2")[place] != next(r for r in rows if r[0].strip() == "gpt2")[1]


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
