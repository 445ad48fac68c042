"""`python -m intervals`: how often intervals hold, and how often verdicts are chance, to results/intervals."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from intervals.comparisons import names, recorded
from intervals.outcomes import answers, losses
from loraweave.comparison.differences import against
from loraweave.comparison.evidence import MEAN, Evidence
from loraweave.comparison.ranking import is_better
from loraweave.comparison.records import BASE

OUTPUT = Path(__file__).parent.parent / "results" / "intervals" / "intervals.json"
MOST_PAIRS = 5


@dataclass
class Cell:
    """One setting, and what came of it in percent of the rounds.

    Attributes:
        worth: of every method and of the base: percent right, or nats per token; two numbers for two methods that are
            not alike.
        score: intervals of a method's mean that hold what it is worth.
        difference: intervals of the difference of two methods that hold the true one.
        apart: rounds in which any two of the methods, which are alike, are told apart; None where they are not alike.
        better: rounds in which any method is said to be better than a base that is as good.
    """

    kind: str
    methods: int
    seeds: int
    tasks: int
    examples: int
    worth: list[float]
    rounds: int
    score: float
    difference: float
    apart: float | None
    better: float | None


def settings() -> Iterator[tuple[str, int, int, int, int, list[float]]]:
    """Kind, methods, seeds, tasks, examples, worth."""
    for seeds in (1, 3, 2, 5):
        for worth in ([50.0], [80.0], [95.0], [99.0]):
            yield "answers", 5, seeds, 1, 200, worth
        for examples in (20, 50, 200) if seeds == 1 else (200,):
            for worth in ([50.0], [80.0], [95.0], [99.0], [70.0, 80.0], [99.0, 99.99]):
                yield "answers", 2, seeds, 1, examples, worth
        for examples in (12, 50, 200) if seeds == 1 else (50, 200):
            yield "losses", 2, seeds, 1, examples, [1.5]
    for seeds in (1, 3):
        for worth in ([50.0], [80.0], [99.0]):
            yield "answers", 2, seeds, 4, 100, worth
            yield "answers", 11, seeds, 1, 200, worth


def simulate(
    kind: str, methods: int, seeds: int, tasks: int, examples: int, worth: list[float], rounds: int, seed: int
) -> Cell:
    """Make `rounds` comparisons and count."""
    random = np.random.default_rng([seed, methods, seeds, tasks, examples, *(int(100 * each) for each in worth)])
    alike = len(worth) == 1
    true = np.array([*(worth * methods if alike else worth), worth[0]])
    draw = answers if kind == "answers" else losses
    counts = {"score": 0, "scores": 0, "difference": 0, "differences": 0, "apart": 0, "better": 0}
    for _ in range(rounds):
        worlds = [draw(true, seeds, examples, random) for _ in range(tasks)]
        evidence = Evidence(recorded(worlds, percent=kind == "answers"))
        _count_intervals(counts, evidence, true)
        if alike:
            listed = names(methods)
            counts["apart"] += any(
                each["apart"] for other in listed[1:] for each in against(evidence, other) if each["method"] != BASE
            )
            counts["better"] += any(map(is_better, against(evidence, BASE)))
    return Cell(
        kind,
        methods,
        seeds,
        tasks,
        examples,
        worth,
        rounds,
        score=round(100 * float(counts["score"]) / counts["scores"], 1),
        difference=round(100 * float(counts["difference"]) / counts["differences"], 1),
        apart=round(100 * counts["apart"] / rounds, 1) if alike else None,
        better=round(100 * counts["better"] / rounds, 1) if alike else None,
    )


def _count_intervals(counts: dict[str, int], evidence: Evidence, true: Sequence[float]) -> None:
    listed = names(len(true) - 1)
    for method, worth in zip(listed, true, strict=False):
        score = evidence.score(method, MEAN)
        assert score is not None
        assert score["low"] is not None
        assert score["high"] is not None
        counts["scores"] += 1
        counts["score"] += score["low"] <= worth <= score["high"]
    for number in range(1, min(len(listed), MOST_PAIRS + 1)):
        found = evidence.difference(listed[0], listed[number], MEAN)
        assert found.interval is not None
        counts["differences"] += 1
        counts["difference"] += abs(found.mean - (true[0] - true[number])) <= found.interval


def main() -> None:
    """Simulate every setting and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000, help="comparisons for each setting")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    cells = []
    for setting in settings():
        rounds = max(1, given.rounds // {2: 1, 5: 2, 11: 4}[setting[1]])  # many methods take long
        cells.append(simulate(*setting, rounds, given.seed))
        print(json.dumps(asdict(cells[-1])), flush=True)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
