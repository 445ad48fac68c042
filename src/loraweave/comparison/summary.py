"""What follows from a comparison's runs, one method at a time: rows of the table, best scores, the notes below it."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

from loraweave.comparison.evidence import MEAN, Evidence
from loraweave.comparison.records import BASE, MethodSummary, Results, RunRecord, Search, TaskInfo
from loraweave.comparison.search import best_of_shorter, losses_of, not_held, rate_name, trials_at
from loraweave.evaluation.mean import mean_rule
from loraweave.evaluation.repeats import about_repeats
from loraweave.evaluation.scores import about_cut
from loraweave.evaluation.scoring import not_scored

INTERVALS = "± and ranges are 95 % intervals; each"


def summarise(evidence: Evidence) -> list[MethodSummary]:
    """One row per method, in the order in which the methods first appear."""
    rows = []
    runs = evidence.results["runs"]
    for method in dict.fromkeys(run["method"] for run in runs):
        mine = [run for run in runs if run["method"] == method]
        finished = [run for run in mine if run["status"] == "finished"]
        scores = {task: evidence.score(method, task) for task in evidence.results["tasks"]}
        seconds = [run["seconds"] for run in finished if run["seconds"] is not None]
        memory = [run["peak_memory"] for run in finished if run["peak_memory"] is not None]
        rows.append(
            MethodSummary(
                method=method,
                finished=len(finished),
                failed=len(mine) - len(finished),
                scores={task: score for task, score in scores.items() if score is not None},
                mean=evidence.score(method, MEAN),
                trainable_parameters=max((run["trainable_parameters"] for run in finished), default=0),
                seconds=median(seconds) if seconds else None,
                peak_memory=max(memory) if memory else None,
            )
        )
    return rows


def describe_tasks(runs: Sequence[RunRecord]) -> dict[str, TaskInfo]:
    """Metric, unit and number of examples of every task that a finished run was scored on."""
    tasks = {}
    for run in runs:
        for name, score in run["scores"].items():
            tasks[name] = TaskInfo(
                metric=score["metric"],
                unit=score["unit"],
                higher_is_better=score["higher_is_better"],
                n=score["n"],
            )
    return tasks


def best_methods(summary: Sequence[MethodSummary], tasks: dict[str, TaskInfo]) -> dict[str, set[str]]:
    """The methods with the best score for each task, and under `MEAN` for the mean; the base does not take part.

    Scores that read the same are equally good; where all do, none is best.
    """
    trained = [row for row in summary if row["method"] != BASE and row["finished"]]
    best = {}
    for name, info in tasks.items():
        scores = {row["method"]: row["scores"][name]["mean"] for row in trained if name in row["scores"]}
        best[name] = _best(scores, info["higher_is_better"], info["unit"])
    means = {row["method"]: row["mean"]["mean"] for row in trained if row["mean"] is not None}
    rule = mean_rule(tasks)
    best[MEAN] = _best(means, rule.higher_is_better, rule.unit)
    return best


def in_order(summary: Sequence[MethodSummary], tasks: Mapping[str, TaskInfo]) -> list[MethodSummary]:
    """The rows in the order of their means, the best first; those without one last."""
    sign = 1 if mean_rule(tasks).higher_is_better else -1
    return sorted(summary, key=lambda row: math.inf if row["mean"] is None else -sign * row["mean"]["mean"])


def _best(values: dict[str, float], higher_is_better: bool, unit: str) -> set[str]:
    read = {method: round(value, decimals(unit)) for method, value in values.items()}
    if len(set(read.values())) < 2:
        return set()
    wanted = max(read.values()) if higher_is_better else min(read.values())
    return {method for method, value in read.items() if value == wanted}


def decimals(unit: str) -> int:
    """How many decimals a score in `unit` is read with."""
    return 1 if unit == "%" else 3


def seeds_in_words(counts: Sequence[int]) -> str:
    """`"3 seeds"`, or `"2 to 3 seeds"` where methods have different numbers of them."""
    few, many = min(counts), max(counts)
    return f"{many} seeds" if few == many else f"{few} to {many} seeds"


def notes(results: Results) -> list[str]:
    """The sentences below the table: what its numbers are, and how far they can be trusted."""
    said = []
    rule = mean_rule(results["tasks"])
    if rule.left_out:
        each = "; ".join(f"{name}: {why}" for name, why in rule.left_out.items())
        said.append(f"{'Left out of the mean' if rule.counted else 'No mean'}: {each}.")
    said += [f"{note}." for note in not_scored(results.get("unscored", ()))]
    if rule.unit == "nats":
        said.append("Every score is a held-out loss in nats per token: lower is better.")
    counts = [row["finished"] for row in results["summary"] if row["method"] != BASE and row["finished"]]
    if counts:
        said.append(f"{INTERVALS} {_population(counts)}.")
    if unknown := _without_interval(results["summary"], results["tasks"]):
        mean = ", nor one of the mean" if any(name in rule.counted for name in unknown) else ""
        said.append(
            f"{', '.join(unknown)}: no interval, for the metric has no standard error or there is one example alone; "
            f"nothing tells a difference there{mean} from chance."
        )
    failed = [(run["method"], run["seed"], run["error"]) for run in results["runs"] if run["status"] == "failed"]
    said += [f"{method} with seed {seed} failed: {error}" for method, seed, error in failed]
    said += _about_searches(results["searches"])
    scores = {task: score for run in results["runs"] for task, score in run["scores"].items()}
    return said + about_cut(scores) + about_repeats(scores)


def _without_interval(summary: Sequence[MethodSummary], tasks: Mapping[str, TaskInfo]) -> list[str]:
    """The tasks of whose scores nobody knows how far chance moves them."""
    scores = {name: [row["scores"][name] for row in summary if name in row["scores"]] for name in tasks}
    return [name for name, there in scores.items() if there and all(score["interval"] is None for score in there)]


def _population(counts: Sequence[int]) -> str:
    """What an interval speaks of."""
    if max(counts) == 1:
        return "speaks of other examples for these very adapters: there is one seed, and another may come out otherwise"
    return f"speaks of other seeds and other examples of the same tasks, and is estimated from {seeds_in_words(counts)}"


def _about_searches(searches: Sequence[Search]) -> list[str]:
    """Learning rates at the end of what was tried, those on which short and whole trainings disagree, and those that
    failed."""
    said = []
    for search in searches:
        said += _about_shorter(search)
    for edge, beyond in (("highest", "higher"), ("lowest", "lower")):
        methods = [search["method"] for search in searches if search["edge"] == edge]
        if methods:
            said.append(
                f"{', '.join(methods)}: the learning rate that was chosen is the {edge} that was tried; a {beyond} one "
                "may do better."
            )
    said += [
        f"{search['method']} failed at a learning rate of {trial['learning_rate']:.4g}: {trial['error']}"
        for search in searches
        for trial in search["trials"]
        if trial["status"] == "failed"
    ]
    return said


def _about_shorter(search: Search) -> list[str]:
    """Where shorter trainings and whole ones disagree about a learning rate."""
    losses = losses_of(trials_at(search, None))
    short, taken = best_of_shorter(search), search["chosen"]
    if short in losses and taken in losses and taken != short:
        return [
            f"{search['method']}: the learning rate {rate_name(short)} was the best of the shorter trainings, and of "
            f"whole ones {rate_name(taken)}, which was taken: the validation loss is {losses[short]:.3f} and "
            f"{losses[taken]:.3f}."
        ]
    return [
        f"{search['method']}: the learning rate {rate_name(rate)} was taken, but a whole training ends higher, at "
        f"{losses[rate]:.3f}, than one of {trial['steps']:,} steps, at {trial['validation_loss']:.3f}; no lower rate "
        "that was tried is better."
        for whole, trial in not_held(search)
        if (rate := whole["learning_rate"]) == taken and rate in losses
    ]
