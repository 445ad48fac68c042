"""Results of a comparison, as `loraweave compare` records them, from simulated outcomes."""

from collections.abc import Sequence

import numpy as np

from intervals.outcomes import BASE, World
from loraweave.comparison.recording import new_results, run_record
from loraweave.comparison.records import BASE as BASE_NAME
from loraweave.comparison.records import Asked, Results, RunRecord
from loraweave.comparison.summary import describe_tasks
from loraweave.evaluation import TaskScore
from loraweave.evaluation.outcomes import Outcomes, weighted


def names(methods: int) -> list[str]:
    """Of so many methods."""
    return [f"method {number}" for number in range(methods)]


def recorded(worlds: Sequence[World], percent: bool) -> Results:
    """The results of a comparison on these tasks: every method with every seed, and the base."""
    methods, seeds, _ = worlds[0].outcomes.shape
    runs = [_run(BASE_NAME, None, [_score(world, BASE, 0, percent) for world in worlds])]
    for number, name in enumerate(names(methods - 1)):
        for seed in range(seeds):
            runs.append(_run(name, seed, [_score(world, number, seed, percent) for world in worlds]))
    settings = {"methods": {name: name for name in names(methods - 1)}, "seeds": [*range(seeds)], "margin": None}
    asked = Asked(methods=[], seeds=[], widen=False)
    return new_results(settings, asked, tasks=describe_tasks(runs), runs=runs)


def _score(world: World, method: int, seed: int, percent: bool) -> TaskScore:
    values = world.outcomes[method, seed]
    mean = float(np.average(values, weights=world.weights))
    if percent:
        letters = (values > 0).astype(np.uint8) + ord("0")
        kept = Outcomes(kind="right or wrong", values=letters.tobytes().decode(), weights="")
    else:
        kept = weighted([*values], [*world.weights])
    return TaskScore(
        score=mean,
        stderr=None,
        n=len(values),
        metric="acc" if percent else "loss",
        unit="%" if percent else "nats",
        higher_is_better=percent,
        filter="none",
        metrics={},
        num_fewshot=0,
        version=None,
        requests="",
        truncated=0,
        seconds=0.0,
        outcomes=kept,
    )


def _run(method: str, seed: int | None, by_task: Sequence[TaskScore]) -> RunRecord:
    return run_record(method, seed, {f"task {number}": score for number, score in enumerate(by_task)})
