"""Every method against one of them, paired by seed: by how much, with which interval, and on how many tasks."""

import math
from collections.abc import Sequence
from itertools import combinations

from loraweave.comparison.records import BASE, Against, Difference, Results, RunRecord
from loraweave.comparison.statistics import Pool, holm, p_value, pool, rounding_variance, students_t, variance
from loraweave.errors import UserError, nearest
from loraweave.evaluation.scores import PERCENT, TaskScore
from loraweave.runs.methods import choose_method

LEVEL = 0.05


Finished = dict[str, dict[int, RunRecord]]
Pairs = Sequence[Sequence[tuple[TaskScore, TaskScore]]]
"""For each seed and task, the scores of both methods."""


def reference(results: Results, wanted: str | None = None) -> str:
    """The method that the others are held against: `wanted`, else LoRA, else the first adapter, else the first.

    Raises:
        UserError: `wanted` is not in the comparison.
    """
    specs = {name: spec for name, spec in results["settings"]["methods"].items() if name != BASE}
    if wanted is not None:
        if wanted not in specs:
            known = ", ".join(specs)
            raise UserError(f"--against {wanted!r} is not compared{nearest(wanted, specs)} (compared: {known})")
        return wanted
    adapters = [name for name, spec in specs.items() if choose_method(spec).method.trains == "adapter"]
    return "lora" if "lora" in specs else next(iter(adapters or specs))


def against(results: Results, other: str) -> list[Against]:
    """Every method that has a finished run, the base too, against `other`; in the order of the table."""
    finished = _finished(results)
    if other not in finished:
        return []
    pools = {task: pool(_scores(finished, task)) for task in ("", *results["tasks"])}
    corrected = _all_pairs(results, finished, pools[""])
    found = []
    for method in (method for method in finished if method != other):
        seeds, pairs = _shared(finished, method, other)
        mean = _mean_difference(results, pairs, pools[""], method, other)
        p = corrected.get(frozenset({method, other}))
        tasks = {
            task: _difference(scores, _common(pools[task], method, other), info["higher_is_better"])
            for task, info in results["tasks"].items()
            if (scores := _pairs_of_scores(pairs, [task]))
        }
        apart = mean is not None and (mean["verdict"] != "tie" if p is None else p < LEVEL)
        found.append(Against(method=method, seeds=seeds, mean=mean, tasks=tasks, p=p, apart=apart))
    return found


def pool_of_means(results: Results) -> Pool:
    """How the trained methods' means vary from seed to seed."""
    return pool(_scores(_finished(results), ""))


def higher_is_better(results: Results) -> bool:
    """Whether a higher mean over the tasks is the better one."""
    tasks = results["tasks"].values()
    percent = any(info["unit"] == PERCENT for info in tasks)
    return percent or any(info["higher_is_better"] for info in tasks)


def _finished(results: Results) -> Finished:
    """method -> seed -> its finished run. The base has the same one for every seed."""
    found: Finished = {}
    for run in results["runs"]:
        if run["status"] == "finished":
            seeds = results["settings"]["seeds"] if run["seed"] is None else [run["seed"]]
            found.setdefault(run["method"], {}).update(dict.fromkeys(seeds, run))
    return found


def _scores(finished: Finished, task: str) -> dict[str, dict[int, float]]:
    """method -> seed -> score of every trained method on a task; the mean over tasks under ""."""
    return {
        method: {
            seed: run["scores"][task]["score"] if task else run["mean"] or 0.0
            for seed, run in runs.items()
            if (task in run["scores"] if task else run["mean"] is not None)
        }
        for method, runs in finished.items()
        if method != BASE
    }


def _shared(finished: Finished, method: str, other: str) -> tuple[list[int], list[tuple[RunRecord, RunRecord]]]:
    """The seeds that both methods have, and the two runs of each."""
    seeds = [seed for seed in finished[method] if seed in finished[other]]
    return seeds, [(finished[method][seed], finished[other][seed]) for seed in seeds]


def _all_pairs(results: Results, finished: Finished, pooled: Pool) -> dict[frozenset[str], float]:
    """The corrected p-value of the difference of the mean, for each pair of trained methods that has one."""
    found = {}
    for one, two in combinations((method for method in finished if method != BASE), 2):
        mean = _mean_difference(results, _shared(finished, one, two)[1], pooled, one, two)
        if mean is not None and mean["p"] is not None:
            found[frozenset({one, two})] = mean["p"]
    return dict(zip(found, holm([*found.values()]), strict=True))


def _mean_difference(
    results: Results, pairs: Sequence[tuple[RunRecord, RunRecord]], pooled: Pool, method: str, other: str
) -> Difference | None:
    """The difference of the mean over tasks; None without seeds in common, or where scores have no mean."""
    if any(run["mean"] is None for pair in pairs for run in pair):
        return None
    scores = _pairs_of_scores(pairs, [task for task in results["tasks"] if _counts(results, task)])
    return _difference(scores, _common(pooled, method, other), higher_is_better(results)) if scores else None


def _pairs_of_scores(pairs: Sequence[tuple[RunRecord, RunRecord]], tasks: Sequence[str]) -> Pairs:
    """The scores of two methods on `tasks`, seed by seed; nothing where one lacks a task."""
    if any(task not in run["scores"] for pair in pairs for run in pair for task in tasks):
        return []
    return [[(one["scores"][task], two["scores"][task]) for task in tasks] for one, two in pairs]


def _common(pooled: Pool, method: str, other: str) -> Pool | None:
    """The pool, if it speaks for both methods."""
    return pooled if pooled.degrees and pooled.methods >= {method, other} else None


def _counts(results: Results, task: str) -> bool:
    """Whether a task is part of the mean: losses are not where there are percentages."""
    percent = any(info["unit"] == PERCENT for info in results["tasks"].values())
    return not percent or results["tasks"][task]["unit"] == PERCENT


def _difference(scores: Pairs, pooled: Pool | None, higher: bool) -> Difference:
    """The mean difference over seeds, each a mean over tasks.

    Its spread is that of all methods together where these two vary as the others do, else that of the differences
    themselves; with a single seed, that of the test examples.
    """
    each = [sum(one["score"] - two["score"] for one, two in row) / len(row) for row in scores]
    mean = sum(each) / len(each)
    found = Difference(mean=mean, interval=None, verdict="tie", p=None)
    error: float | None
    if pooled is None and len(each) == 1:
        error, degrees = _error_of_examples(scores[0]), math.inf
    else:
        one_seed = 2 * pooled.variance if pooled else variance(each)
        error = math.sqrt(max(one_seed, _rounding(scores[0])) / len(each))
        degrees = pooled.degrees if pooled else len(each) - 1
    if error is not None:
        interval = found["interval"] = students_t(degrees) * error
        found["p"] = p_value(mean, error, degrees)
        if abs(mean) > interval:
            found["verdict"] = "win" if (mean > 0) == higher else "loss"
    return found


def _rounding(row: Sequence[tuple[TaskScore, TaskScore]]) -> float:
    """The least variance of a difference of means over tasks: percentages are known to within an example."""
    return sum(rounding_variance(s["n"]) for pair in row for s in pair if s["unit"] == PERCENT) / len(row) ** 2


def _error_of_examples(row: Sequence[tuple[TaskScore, TaskScore]]) -> float | None:
    """Standard error of a difference of means over tasks that comes from having only so many test examples; the two
    scores are taken for independent, which errs on the safe side."""
    total = 0.0
    for score in (score for pair in row for score in pair):
        if score["stderr"] is None or math.isnan(score["stderr"]):
            return None
        least = rounding_variance(score["n"]) if score["unit"] == PERCENT else 0.0
        total += max(score["stderr"] ** 2, least)
    return math.sqrt(total) / len(row)
