"""Collects the outcomes of the matrix; with `--write-compatibility PATH` prints them as a page when the run is over."""

from pathlib import Path

import pytest
from compatibility.page import Outcomes, missing, page

OPTION = "--write-compatibility"


def pytest_addoption(parser):
    parser.addoption(OPTION, metavar="PATH", help="print the compatibility matrix, all of it, to this page")


def pytest_configure(config):
    if config.getoption(OPTION, default=None) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Printer(config))


@pytest.fixture
def record_cell(record_property):
    """record_cell(row, architecture, method, outcome, reason): what a test of the matrix found, "yes" or "no"."""

    def record(*cell: str) -> None:
        record_property("compatibility", list(cell))  # goes with the report, and so comes back from pytest-xdist

    return record


class _Printer:
    """Lives in the one process that sees all reports."""

    def __init__(self, config) -> None:
        self.path = Path(config.getoption(OPTION))
        self.outcomes: Outcomes = {}

    def pytest_runtest_logreport(self, report):
        for name, value in report.user_properties if report.when == "call" and report.passed else ():
            if name == "compatibility":
                row, architecture, method, *outcome = value
                self.outcomes[row, architecture, method] = tuple(outcome)

    def pytest_terminal_summary(self, terminalreporter):
        absent = missing(self.outcomes)
        if absent:
            terminalreporter.write_line(
                f"{self.path} is not written: {len(absent)} cells of the matrix failed or were not run, such as "
                f"{', '.join(absent[0])}",
                red=True,
            )
            return
        self.path.write_text(page(self.outcomes), encoding="utf-8")
        terminalreporter.write_line(f"{self.path} is written", green=True)
