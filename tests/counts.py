"""What came of tests that make things go wrong, counted: printed when they are over and, with `--write-reliability`,
kept in a file and put into the table of docs/reliability.md.

The file is by test and written after each, so that they may be run in parts, as `make reliability` does: a test that
has passed takes the place of its earlier counts. With `--missing` those run that have no counts yet, and counts of
tests that are no more go; with `--minutes N` no test begins after that time. To count anew, remove the file.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from loraweave.files import write_text

ROOT = Path(__file__).parents[1]
FILE = ROOT / "benchmarks" / "results" / "reliability" / "counts.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- counts -->\n", "<!-- end of the counts -->"
OPTION = "--write-reliability"
STARTED = time.monotonic()

Counts = Mapping[str, Mapping[str, int]]
"""By fault, how often each outcome was seen."""

_seen: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
_failed: set[str] = set()
_gone: set[str] = set()
_left: list[str] = []


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
    parser.addoption("--missing", action="store_true", help="run only tests that have no counts yet")
    parser.addoption("--minutes", type=float, help="begin no test after so many")


@pytest.hookimpl(tryfirst=True)  # before marks take some away
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--missing"):
        return
    known, names = read(FILE), {item.nodeid for item in items}
    files = {name.partition("::")[0] for name in names}
    _gone.update(test for test in known if test.partition("::")[0] in files and test not in names)
    done = [item for item in items if item.nodeid in known or "count" not in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=done)
    items[:] = [item for item in items if item not in done]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--minutes")
    if minutes is not None and time.monotonic() - STARTED > 60 * minutes:
        _left.append(item.nodeid)
        pytest.skip("left for another time")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    result = yield
    if item.config.getoption(OPTION) and _seen.get(item.nodeid):
        write()
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    total = sum(_seen.values(), Counter())
    for (fault, outcome), number in sorted(total.items()):
        terminalreporter.write_line(f"{number:6,}  {fault}: {outcome}")
    if _left:
        terminalreporter.write_line(f"{len(_left):,} tests are left for another time")


def write() -> None:
    """Keep the counts of the tests that have passed, and print the page."""
    kept = {test: counts for test, counts in read(FILE).items() if test not in _gone}
    for test, counter in _seen.items():
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        for (fault, outcome), number in sorted(counter.items()):
            counts[fault][outcome] = number
        if counts and test not in _failed:
            kept[test] = {"on": date.today().isoformat(), "counts": counts}
    FILE.parent.mkdir(parents=True, exist_ok=True)
    write_text(FILE, json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    write_text(PAGE, f"{before}{BEGIN}{printed(read(FILE))}{END}{after}")


def read(file: Path) -> dict[str, dict]:
    """By test, on which day it was run and what was counted; nothing where there is no such file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def printed(tests: Mapping[str, Mapping]) -> str:
    """The table, and from when to when it was counted."""
    days = sorted(test["on"] for test in tests.values())
    return f"{table(tests)}\nCounted in {len(tests):,} tests from {days[0]} to {days[-1]}.\n"


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
