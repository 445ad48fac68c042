"""A server that carries out commands which are made to fail, and a count of what came of it.

The counts are printed at the end: `docs/reliability.md` has those of a real run.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from faults.victims import Victims

COUNTS: Counter[tuple[str, str]] = Counter()


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    """See `Victims`; one for each file of tests."""
    made = Victims(tmp_path_factory.mktemp("victims"))
    yield made
    made.close()


@pytest.fixture
def count() -> Callable[[str, str], None]:
    """count(fault, outcome): one more."""

    def one_more(fault: str, outcome: str) -> None:
        COUNTS[fault, outcome] += 1

    return one_more


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for (fault, outcome), number in sorted(COUNTS.items()):
        terminalreporter.write_line(f"{number:6,}  {fault}: {outcome}")
