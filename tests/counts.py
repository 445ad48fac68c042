"""What came of tests that make things go wrong, counted: printed when they are over and, with `--write-reliability`,
kept in a file and put into the table of docs/reliability.md.

The file is by test, so that tests may be run in parts: a test that has passed takes the place of its earlier counts.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE = ROOT / "benchmarks" / "results" / "reliability" / "counts.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- counts -->\n", "<!-- end of the counts -->"
OPTION = "--write-reliability"

Counts = Mapping[str, Mapping[str, int]]
"""By fault, how often each outcome was seen."""

_seen: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
_failed: set[str] = set()


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """count(fault, outcome): one more."""
    counter = _seen[request.node.nodeid]

    def one_more(fault: str, outcome: str) -> None:
        counter[fault, outcome] += 1

    return one_more


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        OPTION, action="store_true", help=f"keep the counts in {FILE.relative_to(ROOT)} and print the page"
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    total = sum(_seen.values(), Counter())
    for (fault, outcome), number in sorted(total.items()):
        terminalreporter.write_line(f"{number:6,}  {fault}: {outcome}")
    if terminalreporter.config.getoption(OPTION):
        write()


def write() -> None:
    """Keep the counts of the tests that have passed, and print the page."""
    kept = read(FILE) if FILE.exists() else {}
    for test, counter in _seen.items():
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        for (fault, outcome), number in sorted(counter.items()):
            counts[fault][outcome] = number
        if test not in _failed:
            kept[test] = {"on": date.today().isoformat(), "counts": counts}
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n", encoding="utf-8")
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}{table(read(FILE))}{END}{after}", encoding="utf-8")


def read(file: Path) -> dict[str, dict]:
    """By test, on which day it was run and what was counted."""
    return json.loads(file.read_text(encoding="utf-8"))


def table(tests: Mapping[str, Mapping]) -> str:
    """All counts together, in Markdown."""
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for test in tests.values():
        for fault, outcomes in test["counts"].items():
            together[fault].update(outcomes)
    lines = ["| fault | times | outcome |", "| --- | ---: | --- |"]
    for fault, outcomes in sorted(together.items()):
        said = ", ".join(f"{number:,} {outcome}" for outcome, number in outcomes.most_common())
        lines.append(f"| {fault} | {sum(outcomes.values()):,} | {said} |")
    return "\n".join(lines) + "\n"
