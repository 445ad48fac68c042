"""Intervals and verdicts hold as often as they promise: the simulation that is kept, and a small one made here."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OFF = 1.5  # points off the nominal 95 % and 5 %, or else on the safe side


@pytest.fixture(scope="module")
def simulation():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from intervals import __main__ as main
    from intervals import report

    yield main, report
    sys.path.remove(str(ROOT / "benchmarks"))


def test_what_was_simulated_is_within_its_bounds_and_what_the_page_says(simulation):
    main, report = simulation
    cells = json.loads(main.OUTPUT.read_text())
    assert len(cells) == len([*main.settings()])
    for cell in cells:
        assert min(cell["score"], cell["difference"]) >= 95 - OFF, cell
        assert max(cell["apart"] or 0, cell["better"] or 0) <= 5 + OFF, cell
    page = (ROOT / "docs" / "comparing.md").read_text()
    assert report.table(cells) in page
    assert f"{len(cells)} settings" in page


@pytest.mark.parametrize(
    "setting",
    [
        ("answers", 2, 1, 1, 50, [99.0]),
        ("answers", 2, 3, 1, 50, [80.0]),
        ("answers", 3, 3, 2, 50, [95.0]),
        ("answers", 2, 1, 1, 100, [99.0, 99.99]),
        ("losses", 2, 1, 1, 12, [1.5]),
    ],
)
def test_a_small_simulation_finds_nothing_else(simulation, setting):
    main, _ = simulation
    found = main.simulate(*setting, rounds=100, seed=1)
    assert min(found.score, found.difference) >= 90
    assert max(found.apart or 0, found.better or 0) <= 10


def test_a_simulated_difference_that_is_there_is_found(simulation):
    """That nothing is told apart is no merit by itself."""
    import numpy as np
    from intervals.comparisons import recorded
    from intervals.outcomes import answers

    from loraweave.comparison.differences import against
    from loraweave.comparison.evidence import Evidence
    from loraweave.comparison.ranking import is_better

    random = np.random.default_rng(0)
    told = better = 0
    for _ in range(20):
        world = answers(np.array([85.0, 50.0, 40.0]), 3, 200, random)
        evidence = Evidence(recorded([world], percent=True))
        (to_base, other) = against(evidence, "method 0")
        told += other["apart"]
        better += to_base["apart"] and is_better(against(evidence, "base")[0])
    assert min(told, better) >= 15
