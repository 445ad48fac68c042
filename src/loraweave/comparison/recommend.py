"""Which method to take, in words: a stated rule, its reasons, and what speaks against trusting it.

`ranking.py` has the rule, docs/comparing.md explains it.
"""

import math
from collections.abc import Iterator

from loraweave import amounts
from loraweave.comparison import forgetting, words
from loraweave.comparison.differences import against
from loraweave.comparison.evidence import MEAN, Evidence
from loraweave.comparison.ranking import Ranking, is_better
from loraweave.comparison.records import BASE, Against, Recommendation, Results
from loraweave.comparison.simplicity import WHOLE_MODEL
from loraweave.comparison.statistics import seeds_needed
from loraweave.comparison.transfer import transfer

MOST_SEEDS = 50


def recommend(evidence: Evidence) -> Recommendation:
    """The recommendation that follows from the results."""
    results = evidence.results
    rows = {row["method"]: row for row in results["summary"] if row["method"] != BASE and row["mean"] is not None}
    if not rows:
        return Recommendation(method=None, text=_no_means(evidence), points=[*_not_ranked(evidence)])
    found = Ranking(evidence, rows)
    points = [_costs(found), *_worse(found), *_more_seeds(found), *forgetting.points(results, found.taken)]
    points += [*transfer(evidence), *_edges(found), *_not_made(results), *_not_ranked(evidence)]
    to_base = against(evidence, BASE)
    better = {each["method"]: is_better(each) for each in to_base if each["missing"] is None}
    points += [
        f"{each['method']} cannot be compared with the untouched base: {each['missing']}."
        for each in to_base
        if each["missing"] is not None
    ]
    if BASE in results["settings"]["methods"] and BASE not in evidence.runs:
        points.append("The untouched base has no score: nothing here says that any method is better than it.")
    if better and not any(better.values()):
        base = next(row for row in results["summary"] if row["method"] == BASE)
        after = f", after Holm's correction for {len(better)} methods" if len(better) > 1 else ""
        text = f"Take none yet: no method is better than the untouched base, {found.mean(base)}, beyond chance{after}."
        if not any(each["p"] is not None or each["beside"] for each in to_base):
            text = "Take none yet: nothing tells how much of the differences to the untouched base is chance."
        return Recommendation(method=None, text=text, points=points)
    if not all(better.values()):
        worse = [method for method in better if not better[method]]
        points.append(f"Not better than the untouched base beyond chance: {amounts.listed(worse)}.")
    take = "So far, take" if _missing(results) else "Take"
    beside = [_better_beside(each) for each in to_base if each["method"] == found.taken and is_better(each)]
    text = " ".join([f"{take} {found.taken}.", *_reasons(found), *filter(None, beside), *_one_seed(found)])
    points = [_in_use(found), *_as_an_adapter(found), *points]
    return Recommendation(method=found.taken, text=text, points=points)


def _reasons(found: Ranking) -> list[str]:
    taken, best = found.taken, found.best
    mean = found.mean(found.rows[taken])
    if len(found.rows) == 1:
        return [f"It is the only method with a result, a mean of {mean}."]
    said = []
    if taken != best:
        why = f"a run of {best} failed" if found.failed(best) and not found.failed(taken) else f"{taken} is simpler"
        said.append(
            f"{best} has the best mean, {found.mean(found.rows[best])}, but {taken}, {mean}, is worse than it by less "
            f"than the margin of {found.margin_in_words} ({found.to_the_best(taken)}), and {why}."
        )
    elif len(found.worse) == len(found.rows) - 1:
        second = found.ranked[1]
        said.append(f"Its mean, {mean}, is the best, and can be told from every other: {second}, the next, is at ")
        said[-1] += f"{found.to_the_best(second)}."
    else:
        said.append(f"Its mean, {mean}, is the best.")
    return said + _as_good(found) + _open(found)


def _better_beside(each: Against) -> str:
    """By what a method is better than the base, where it is not by the mean."""
    if each["apart"] and each["mean"] is not None and each["mean"]["verdict"] == "win":
        return ""
    tasks = amounts.listed([task for task, told in each["beside"].items() if told == "win"])
    return f"It is better than the untouched base on {tasks}, beside the mean, by which the two cannot be told apart."


def _as_good(found: Ranking) -> list[str]:
    """The other methods within the margin of the best, and why they are not taken."""
    others = [method for method in found.equal if method not in (found.taken, found.best)]
    failed = [m for m in others if found.failed(m) and found.simplicity[m] < found.simplicity[found.taken]]
    said = []
    if plain := [method for method in others if method not in failed]:
        be = "is" if len(plain) == 1 else "are"
        within = f"the margin of {found.margin_in_words}" if found.taken == found.best else "it"
        said.append(f"{amounts.listed(plain)} {be} within {within} too, but {be} not simpler.")
    if failed:
        be = "is" if len(failed) == 1 else "are"
        said.append(f"{amounts.listed(failed)} {be} simpler and within the margin, but had a run that failed.")
    return said


def _open(found: Ranking) -> list[str]:
    """The methods of which it is not known whether they are worse than the best."""
    said = []
    simpler = [m for m in found.open if found.simplicity[m] < found.simplicity[found.taken] and found.off(m)]
    for method in simpler:
        said.append(
            f"{method} is simpler and cannot be told from {found.best} ({found.to_the_best(method)}), but "
            f"{found.at_worst(method)}."
        )
    if others := [method for method in found.open if method not in simpler and found.off(method)]:
        said.append(f"{amounts.listed(others)} cannot be told from {found.best} either way.")
    for method in found.open:
        if found.off(method) is None:
            said.append(f"{method} cannot be compared with {found.best}: {found.to_best[method]['missing']}.")
    return said


def _one_seed(found: Ranking) -> list[str]:
    if found.seeds > 1:
        return []
    return ["One seed says something of these adapters only, not of the methods: intervals are of the test examples."]


def _in_use(found: Ranking) -> str:
    return f"In use, {found.taken} {found.simplicity[found.taken].means}."


def _as_an_adapter(found: Ranking) -> list[str]:
    """What the same rule takes among the adapters, where it takes full fine-tuning among all."""
    rows = {name: row for name, row in found.rows.items() if found.simplicity[name].level != WHOLE_MODEL}
    if found.taken in rows or not rows:
        return []
    adapters = Ranking(found.evidence, rows)
    return [" ".join([f"If it has to be an adapter, take {adapters.taken}.", *_reasons(adapters)])]


def _costs(found: Ranking) -> str:
    """What it costs, beside the best method or else the one that all are held against."""
    other = found.best if found.best != found.taken else found.results["reference"]
    said = []
    for method in dict.fromkeys([found.taken, other]):
        if method in found.rows:
            row = found.rows[method]
            said.append(
                f"{method} {amounts.count(row['trainable_parameters'])} parameters, "
                f"{amounts.duration(row['seconds'])}, peak {amounts.memory(row['peak_memory'])}"
            )
    return f"Training: {'; '.join(said)}."


def _worse(found: Ranking) -> list[str]:
    """What can be told from the best: by the mean, and by tasks that the mean leaves out."""
    said = []
    off = {method: found.off(method) for method in found.worse if found.to_best[method]["apart"]}
    each = [f"{method} {' '.join(words.signed(mean, found.unit))}" for method, mean in off.items() if mean is not None]
    if each:
        unit = words.points(found.unit) or "score"
        said.append(f"Worse than {found.best} beyond chance, in {unit}: {amounts.listed(each)}.")
    for method in found.ranked:
        beside = found.to_best[method]["beside"] if method != found.best else {}
        for verdict, word in (("loss", "Worse"), ("win", "Better")):
            tasks = [task for task, told in beside.items() if told == verdict]
            if tasks:
                on = amounts.listed(tasks)
                said.append(f"{word} than {found.best} beyond chance, beside the mean: {method} on {on}.")
    return said


def _more_seeds(found: Ranking) -> list[str]:
    """How many seeds would tell a simpler method from the best, where it is not known which is better."""
    simpler = [m for m in found.open if found.simplicity[m] < found.simplicity[found.taken] and found.off(m)]
    pooled = found.evidence.pools[MEAN]
    if not simpler or not pooled.degrees:
        return []
    method = min(simpler, key=lambda each: found.simplicity[each])
    estimate = found.evidence.estimate(method, found.best, MEAN)
    if math.isnan(estimate.examples.value):
        return []
    examples = max(0.0, estimate.examples.value - estimate.cells)
    wanted = seeds_needed(estimate.mean, pooled.variance, len(found.rows), examples, MOST_SEEDS)
    if wanted is not None and wanted <= found.seeds:
        return []
    tell = f"To tell {method} from {found.best} at that difference would take"
    if wanted is None:
        return [f"{tell} more than {MOST_SEEDS} seeds, or more test examples."]
    return [f"{tell} about {wanted} seeds."]


def _edges(found: Ranking) -> list[str]:
    """Where a learning rate at the end of its range makes the comparison unfair."""
    said = []
    for search in found.results["searches"]:
        if search["method"] in (found.taken, found.best) and search["edge"] is not None:
            beyond = "higher" if search["edge"] == "highest" else "lower"
            said.append(
                f"The learning rate of {search['method']}, {search['chosen']:.4g}, is the {search['edge']} that was "
                f"tried: a {beyond} one may do better."
            )
    return said


def _not_made(results: Results) -> list[str]:
    """Runs that failed, and those that are still to come."""
    said = []
    failed = {row["method"]: row for row in results["summary"] if row["failed"]}
    if failed:
        each = [f"{method} {row['failed']} of {row['finished'] + row['failed']}" for method, row in failed.items()]
        said.append(f"Runs that failed: {amounts.listed(each)}.")
    if missing := _missing(results):
        said.append("1 run is not made yet." if missing == 1 else f"{missing} runs are not made yet.")
    return said


def _missing(results: Results) -> int:
    """How many of all methods × seeds have no run yet."""
    methods = [method for method in results["settings"]["methods"] if method != BASE]
    made = sum(run["method"] != BASE for run in results["runs"])
    return len(methods) * len(results["settings"]["seeds"]) - made


def _not_ranked(evidence: Evidence) -> Iterator[str]:
    """The methods that have results and yet no mean."""
    for method in evidence.trained:
        runs = evidence.runs[method].values()
        lacking = [task for task in evidence.rule.counted if any(task not in run["scores"] for run in runs)]
        if lacking:
            of = "it" if len(runs) == 1 else "one of its runs"
            yield f"{method} has no mean and is not ranked: {of} has no score for {amounts.listed(lacking)}."


def _no_means(evidence: Evidence) -> str:
    if not evidence.trained:
        return "No recommendation: no method has a result."
    if evidence.rule.counted:
        return "No recommendation: no method has a score on every task of the mean."
    return "No recommendation: the tasks' scores have no unit in common, so there is no mean to go by."
