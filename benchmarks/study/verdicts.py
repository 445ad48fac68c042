"""What the records say of each planned test: seen here, not seen, or it cannot be told at this size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from loraweave.comparison.evidence import MEAN, Evidence
from loraweave.comparison.statistics import holm, over_seeds
from loraweave.evaluation.paired import Estimate, PairedDifference, Variance, judged
from study.place import Place
from study.plan import MARGIN, REGIMES, Regime, Test, tests

Verdict = Literal["seen here", "not seen", "cannot be told at this size", "no runs yet"]
LEVEL = 0.05


@dataclass(frozen=True)
class Finding:
    """What came of one test.

    Attributes:
        difference: left minus right, in points or in the measure's unit, with its 95 % interval and p-value; None
            where there is nothing to compare yet.
        seeds: that both have.
        p: corrected for all planned tests.
        verdict: by the rule of PLAN.md.
        left, right: both values, means over these seeds.
    """

    test: Test
    difference: PairedDifference | None
    seeds: tuple[int, ...]
    p: float | None
    verdict: Verdict
    left: float | None = None
    right: float | None = None


Geometry = Mapping[str, Mapping[tuple[str, int], Mapping[str, float | None]]]
"""Regime -> method and seed -> measure -> its value."""


def judge(place: Place, evidence: Mapping[Regime, Evidence]) -> dict[Test, Finding]:
    """Every planned test, from what is recorded; `evidence`: of `evidence_of`."""
    geometry = {regime: place.measured(regime) for regime in REGIMES}
    planned = tests()
    raw = [_compared(test, evidence, geometry) for test in planned]
    ps = holm([1.0 if found is None or found[0].p is None else found[0].p for found in raw])
    return {test: _finding(test, found, p) for test, found, p in zip(planned, raw, ps, strict=True)}


def evidence_of(place: Place) -> dict[Regime, Evidence]:
    """What is recorded of each regime that has been begun."""
    recorded: dict[Regime, Any] = {regime: place.results(regime) for regime in REGIMES}
    return {regime: Evidence(results) for regime, results in recorded.items() if results is not None}


Compared = tuple[PairedDifference, tuple[int, ...], float, float]
"""The difference, its seeds, and both values."""


def compare_scores(found: Evidence, left: str, right: str) -> Compared | None:
    """Two methods' mean scores over the seeds that both have; None where there are none, or none to compare."""
    if not {left, right} <= found.runs.keys() or found.why_not(left, right, MEAN) is not None:
        return None
    seeds = tuple(found.shared(left, right))
    one, two = (_mean([_score(found, method, seed) for seed in seeds]) for method in (left, right))
    return found.difference(left, right, MEAN), seeds, one, two


def _compared(test: Test, evidence: Mapping[Regime, Evidence], geometry: Geometry) -> Compared | None:
    found = evidence.get(test.regime)
    if found is None or not {test.left, test.right} <= found.runs.keys():
        return None
    if test.measure is None:
        return compare_scores(found, test.left, test.right)
    seeds = found.shared(test.left, test.right)
    values = {
        seed: (
            _measured(found, geometry, test, test.left, seed),
            _measured(found, geometry, test, test.right, seed),
        )
        for seed in seeds
    }
    pairs = {seed: (one, two) for seed, (one, two) in values.items() if one is not None and two is not None}
    if not pairs:
        return None
    differences = [one - two for one, two in pairs.values()]
    exact = Estimate(_mean(differences), Variance(0.0, math.inf), 0.0)  # a measure has no test examples
    made = judged(exact, over_seeds(differences)) if len(pairs) > 1 else PairedDifference(exact.mean, None, None)
    return made, tuple(pairs), _mean([one for one, _ in pairs.values()]), _mean([two for _, two in pairs.values()])


def _finding(test: Test, found: Compared | None, p: float) -> Finding:
    if found is None:
        return Finding(test, None, (), None, "no runs yet")
    difference, seeds, left, right = found
    return Finding(test, difference, seeds, p, _verdict(test, difference, p, len(seeds)), left, right)


def _verdict(test: Test, found: PairedDifference, p: float, seeds: int) -> Verdict:
    """The rule of PLAN.md; `p` is corrected."""
    if seeds < 2 or found.interval is None:
        return "cannot be told at this size"  # one seed says nothing of another
    sign = -1 if test.lower else 1
    mean = sign * found.mean
    low, high = mean - found.interval, mean + found.interval
    better, worse = p < LEVEL and low > 0, p < LEVEL and high < 0
    margin = MARGIN if test.measure is None else 0.0
    yes, no = {
        "more": (better, worse or high < margin),
        "no worse": (low > -margin, worse),
        "no gain": (high < margin, better),
    }[test.kind]
    return "seen here" if yes else "not seen" if no else "cannot be told at this size"


def _score(evidence: Evidence, method: str, seed: int) -> float:
    scores = evidence.runs[method][seed]["scores"]
    return _mean([scores[task]["score"] for task in evidence.tasks(MEAN)])


def _measured(evidence: Evidence, geometry: Geometry, test: Test, method: str, seed: int) -> float | None:
    if test.measure == "forgetting":
        return forgetting(evidence.runs[method][seed])
    return geometry[test.regime].get((method, seed), {}).get(test.measure or "")


def forgetting(run: Mapping[str, Any]) -> float | None:
    """A run's loss on text that nothing was trained on; None where it was not measured."""
    scores = run.get("forgetting") or {}
    return _mean([score["score"] for score in scores.values()]) if scores else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
