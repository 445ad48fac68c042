"""What the runs of a comparison say of a method's score, or of the difference of two: estimates with their variances.

Every estimate is of a mean over seeds and test examples. The outcomes of single examples are paired by example and by
seed; where a metric has none, its standard errors stand in.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations

import numpy as np

from loraweave.amounts import listed
from loraweave.comparison.records import BASE, Results, RunRecord, Score
from loraweave.comparison.statistics import Pool, holm, over_seeds, pool
from loraweave.evaluation.mean import MeanRule, mean_rule
from loraweave.evaluation.outcomes import Examples, distinct_outcomes
from loraweave.evaluation.paired import (
    Estimate,
    PairedDifference,
    Variance,
    difference,
    estimate,
    judged,
    over_tasks,
    unpaired,
)
from loraweave.evaluation.scores import PERCENT, TaskScore, ends

MEAN = ""
"""Stands for the mean over tasks where a task's name may stand."""

Pair = tuple[TaskScore, TaskScore]


class Evidence:
    """The finished runs of a comparison, looked at from every side; valid until a run is added.

    Attributes:
        runs: method -> seed -> its finished run. The base has the same one for every seed.
        rule: which tasks the mean is over.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self.rule: MeanRule = mean_rule(results["tasks"])
        self.runs: dict[str, dict[int, RunRecord]] = {}
        for run in results["runs"]:
            if run["status"] == "finished":
                seeds = results["settings"]["seeds"] if run["seed"] is None else [run["seed"]]
                self.runs.setdefault(run["method"], {}).update(dict.fromkeys(seeds, run))
        self._outcomes: dict[int, Examples | None] = {}
        self._differences: dict[tuple[str, str, str], PairedDifference] = {}

    @property
    def trained(self) -> list[str]:
        """The methods with a finished run, without the base."""
        return [method for method in self.runs if method != BASE]

    @cached_property
    def pools(self) -> Mapping[str, Pool]:
        """How the trained methods vary from seed to seed, on each task and on the mean."""
        return {task: pool(self._scores(task)) for task in (MEAN, *self.results["tasks"])}

    def tasks(self, task: str) -> tuple[str, ...]:
        """The task itself, or those that the mean is over."""
        return (task,) if task else self.rule.counted

    def higher_is_better(self, task: str) -> bool:
        """Whether a higher score on the task, or a higher mean, is the better one."""
        return self.results["tasks"][task]["higher_is_better"] if task else self.rule.higher_is_better

    def shared(self, method: str, other: str) -> list[int]:
        """The seeds that both methods have."""
        return [seed for seed in self.runs[method] if seed in self.runs[other]]

    def why_not(self, method: str, other: str, task: str) -> str | None:
        """Why two methods cannot be compared on a task, or on the mean, in words; None where they can be."""
        seeds = self.shared(method, other)
        if not seeds:
            both = (f"{name} has {_seeds(self.runs[name])}" for name in (method, other))
            return f"no seed in common: {' and '.join(both)}"
        if not self.tasks(task):
            return "the tasks' scores have no mean"
        for seed in seeds:
            for name in self.tasks(task):
                both_scores = [self.runs[each][seed]["scores"].get(name) for each in (method, other)]
                for each, score in zip((method, other), both_scores, strict=True):
                    if score is None:
                        return f"{each} has no score for {name} with seed {seed}"
                if len({score["requests"] for score in both_scores if score is not None}) > 1:
                    return f"not asked the same in {name} with seed {seed}"
        return None

    def difference(self, method: str, other: str, task: str) -> PairedDifference:
        """A method's score on a task, or its mean, minus that of another; `why_not` says where there is none."""
        one, two = sorted((method, other))
        if (one, two, task) not in self._differences:
            self._differences[one, two, task] = self._difference(one, two, task)
        found = self._differences[one, two, task]
        return found if method == one else found._replace(mean=-found.mean)

    @cached_property
    def corrected(self) -> dict[tuple[frozenset[str], str], float]:
        """The p-value of every pair of methods on the mean and on each task that the mean leaves out, after Holm's
        correction: for all pairs of trained methods, and apart from these for all methods against the base."""
        to_base = [(method, BASE) for method in self.trained] if BASE in self.runs else []
        return self._corrected([*combinations(self.trained, 2)]) | self._corrected(to_base)

    def _corrected(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[frozenset[str], str], float]:
        found = {
            (frozenset({one, two}), task): p
            for one, two in pairs
            for task in (MEAN, *self.rule.left_out)
            if self.why_not(one, two, task) is None and (p := self.difference(one, two, task).p) is not None
        }
        return dict(zip(found, holm([*found.values()]), strict=True))

    def score(self, method: str, task: str) -> Score | None:
        """A method's score on a task, or its mean over tasks, over its seeds; None where a run has none."""
        runs = [*self.runs.get(method, {}).values()][: 1 if method == BASE else None]
        names = self.tasks(task)
        if not runs or not names or any(name not in run["scores"] for run in runs for name in names):
            return None
        by_task = [[run["scores"][name] for run in runs] for name in names]
        found = over_tasks([self._of_scores(scores) for scores in by_task])
        each = [sum(scores[i]["score"] for scores in by_task) / len(by_task) for i in range(len(runs))]
        pooled = self.pools[task]
        seeds = pooled.of_one(len(runs)) if method in pooled.methods else None
        half = judged(found, seeds or over_seeds(each)).interval
        if half is None:
            return Score(mean=found.mean, interval=None, low=None, high=None)
        worth: float | None = None
        if all(self._is_share(score) for scores in by_task for score in scores):
            worth = len(by_task) ** 2 / sum(1 / self._worth(scores[0]) for scores in by_task)
            worth *= len(runs) if 0 < found.mean < 100 else 1
        low, high = ends(found.mean, half, by_task[0][0]["unit"], worth)
        return Score(mean=found.mean, interval=(high - low) / 2, low=low, high=high)

    def estimate(self, method: str, other: str, task: str) -> Estimate:
        """The same with the variance that the test examples make of it."""
        return over_tasks([self._of_pairs(pairs) for pairs in self._pairs(method, other, task)])

    def _pairs(self, method: str, other: str, task: str) -> list[list[Pair]]:
        """For each task and seed, the scores of both methods."""
        seeds = self.shared(method, other)
        return [
            [(self.runs[method][seed]["scores"][name], self.runs[other][seed]["scores"][name]) for seed in seeds]
            for name in self.tasks(task)
        ]

    def _difference(self, method: str, other: str, task: str) -> PairedDifference:
        by_task = self._pairs(method, other, task)
        found = over_tasks([self._of_pairs(pairs) for pairs in by_task])
        seeds, pooled = len(by_task[0]), self.pools[task]
        if pooled.degrees and pooled.methods >= {method, other}:
            return judged(found, pooled.of_difference(seeds))
        each = [sum(pairs[i][0]["score"] - pairs[i][1]["score"] for pairs in by_task) for i in range(seeds)]
        own = over_seeds([value / len(by_task) for value in each])
        if BASE in (method, other) and pooled.methods >= {method, other} - {BASE}:  # the base has no seed
            own = pooled.of_one(seeds) or own
        if len(by_task) == seeds == 1 and not own:
            return difference(*by_task[0][0])
        return judged(found, own)

    def _scores(self, task: str) -> dict[str, dict[int, float]]:
        """method -> seed -> score of every trained method."""
        names = self.tasks(task)
        return {
            method: {
                seed: sum(run["scores"][name]["score"] for name in names) / len(names)
                for seed, run in self.runs[method].items()
                if names and all(name in run["scores"] for name in names)
            }
            for method in self.trained
        }

    def _of_pairs(self, pairs: Sequence[Pair]) -> Estimate:
        """The difference on one task, from both scores of every seed."""
        both = [(self._examples(one), self._examples(two)) for one, two in pairs]
        values, weights, binary = [], [], True
        for one, two in both:
            if one is None or two is None or len(one.values) != len(two.values):
                return _averaged([unpaired(*pair) for pair in pairs])
            values.append(one.values - two.values)
            weights.append(one.weights)
            binary &= one.binary and two.binary
        if len({one["requests"] for one, _ in pairs}) > 1:  # each seed has examples of its own
            return _averaged([estimate([v], w, binary) for v, w in zip(values, weights, strict=True)])
        return estimate(values, weights[0], binary)

    def _of_scores(self, scores: Sequence[TaskScore]) -> Estimate:
        """The score on one task, from that of every seed. All right or all wrong, its variance is none."""
        found = [self._examples(score) for score in scores]
        kept = [each for each in found if each is not None]
        if len(kept) < len(found) or len({score["requests"] for score in scores}) > 1:
            return _averaged([_by_stderr(score) for score in scores])
        return estimate([each.values for each in kept], kept[0].weights, False)

    def _is_share(self, score: TaskScore) -> bool:
        examples = self._examples(score)
        return score["unit"] == PERCENT and examples is not None and examples.share

    def _worth(self, score: TaskScore) -> float:
        examples = self._examples(score)
        return float(score["n"]) if examples is None else examples.worth

    def _examples(self, score: TaskScore) -> Examples | None:
        if id(score) not in self._outcomes:
            self._outcomes[id(score)] = distinct_outcomes(score["outcomes"])
        return self._outcomes[id(score)]


def _averaged(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over seeds where no example is known to be the same for two of them: as if all were."""
    variance = float(np.mean([each.examples.value for each in estimates]))
    degrees = min(each.examples.degrees for each in estimates)
    return Estimate(sum(each.mean for each in estimates) / len(estimates), Variance(variance, degrees), 0.0)


def _by_stderr(score: TaskScore) -> Estimate:
    stderr = math.nan if score["stderr"] is None else score["stderr"]
    return Estimate(score["score"], Variance(stderr**2, max(1.0, score["n"] - 1.0)), 0.0)


def _seeds(runs: Mapping[int, RunRecord]) -> str:
    return f"seed{'s' if len(runs) > 1 else ''} {listed(runs)}"
