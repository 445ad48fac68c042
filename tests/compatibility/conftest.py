"""Collects the outcomes of the matrix; with `--write-compatibility PATH` keeps them and prints the page.

A run of a part of the matrix changes its own cells alone; a cell that failed counts as not run.
"""

from pathlib import Path

import pytest
from compatibility.page import Outcomes, keep, kept, page, wanted

OPTION = "--write-compatibility"
CELL = "compatibility"


def pytest_addoption(parser):
    parser.addoption(OPTION, metavar="PATH", help="keep what the matrix's tests find and print this page of it")


def pytest_configure(config):
    if config.getoption(OPTION, default=None) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Printer(config))


@pytest.fixture
def record_cell(record_property):
    """record_cell(row, architecture, method) says which cell a test is of; with an outcome, "yes" or "no", and a reason
    also what it found."""

    def record(*cell: str) -> None:
        record_property(CELL, list(cell))  # goes with the report, and so comes back from pytest-xdist

    return record


class _Printer:
    """Lives in the one process that sees all reports."""

    def __init__(self, config) -> None:
        self.path = Path(config.getoption(OPTION))
        self.outcomes: Outcomes = kept()
        self.failed: set[tuple[str, ...]] = set()

    def pytest_runtest_logreport(self, report):
        for name, value in report.user_properties if report.when == "call" else ():
            if name == CELL and report.failed:
                self.failed.add(tuple(value[:3]))
            elif name == CELL and report.passed and len(value) > 3:
                self.outcomes[tuple(value[:3])] = tuple(value[3:])

    def pytest_terminal_summary(self, terminalreporter):
        for cell in self.failed:
            self.outcomes.pop(cell, None)
        keep(self.outcomes)
        self.path.write_text(page(self.outcomes), encoding="utf-8")
        absent = len(wanted()) - len(self.outcomes)
        text = f"{self.path} is written; {len(self.failed)} cells failed, {absent} have not been run"
        terminalreporter.write_line(text, red=bool(self.failed), green=not absent)
