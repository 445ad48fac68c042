"""Which method to take, in words: a stated rule, its reasons, and what speaks against trusting it.

The rule: of the methods whose mean cannot be told from the best one's, those without a failed run first, take the
simplest. docs/comparing.md has it in full.
"""

import math

from loraweave import amounts
from loraweave.comparison import words
from loraweave.comparison.differences import against, higher_is_better, pool_of_means
from loraweave.comparison.records import BASE, MethodSummary, Recommendation, Results
from loraweave.comparison.simplicity import WHOLE_MODEL, simplicity
from loraweave.comparison.statistics import seeds_needed

MOST_SEEDS = 50


def recommend(results: Results) -> Recommendation:
    """The recommendation that follows from the results."""
    rows = {row["method"]: row for row in results["summary"] if row["method"] != BASE and row["mean"] is not None}
    if not rows:
        return Recommendation(method=None, text=_no_means(results), points=[])
    found = _Ranking(results, rows)
    points = [_in_use(found), *_as_an_adapter(found), _costs(found), *_worse(found), *_more_seeds(found)]
    points += [*_edges(found), *_not_made(results)]
    to_base = {each["method"]: each["mean"] for each in against(results, BASE)}
    better = {method: mean["verdict"] == "win" for method, mean in to_base.items() if mean is not None}
    if better and not any(better.values()):
        base = next(row for row in results["summary"] if row["method"] == BASE)
        text = f"Take none yet: no method is better than the untouched base, {found.mean(base)}."
        return Recommendation(method=None, text=text, points=points)
    if not all(better.values()):
        points.append(f"Not better than the untouched base: {words.listed([m for m in better if not better[m]])}.")
    take = "So far, take" if _missing(results) else "Take"
    text = " ".join([f"{take} {found.taken}.", *_reasons(found), *_one_seed(found)])
    return Recommendation(method=found.taken, text=text, points=points)


class _Ranking:
    """The methods that have a mean, which is best, which cannot be told from that, and which of those is taken."""

    def __init__(self, results: Results, rows: dict[str, MethodSummary]) -> None:
        self.results = results
        self.rows = rows
        self.unit = words.mean_unit(results["tasks"])
        sign = 1 if higher_is_better(results) else -1
        self.ranked = sorted(rows, key=lambda method: -sign * self._mean(method))
        self.best = self.ranked[0]
        self.to_best = {each["method"]: each for each in against(results, self.best)}
        self.equal = [method for method in self.ranked if method == self.best or not self.to_best[method]["apart"]]
        self.simplicity = {method: simplicity(results["settings"]["methods"][method]) for method in rows}
        self.taken = min(self.equal, key=lambda method: (self.failed(method), self.simplicity[method]))
        self.seeds = max(row["finished"] for row in rows.values())

    def failed(self, method: str) -> bool:
        return self.rows[method]["failed"] > 0

    def mean(self, row: MethodSummary) -> str:
        assert row["mean"] is not None
        return " ".join(filter(None, [words.score(row["mean"], self.unit)[0], self.unit]))

    def to_the_best(self, method: str) -> str:
        """By how much `method` is off the best, in words; and why that does not count where it seems to."""
        difference, p = self.to_best[method]["mean"], self.to_best[method]["p"]
        if difference is None:
            return "no seed in common"
        said = words.difference(difference, self.unit)
        if difference["verdict"] == "tie" or self.to_best[method]["apart"] or p is None:
            return said
        methods = sum(row["finished"] > 0 and row["method"] != BASE for row in self.results["summary"])
        return f"{said}, but as one of {math.comb(methods, 2)} pairs p = {p:.2f}"

    def _mean(self, method: str) -> float:
        mean = self.rows[method]["mean"]
        return 0.0 if mean is None else mean["mean"]


def _reasons(found: _Ranking) -> list[str]:
    taken, best = found.taken, found.best
    mean = found.mean(found.rows[taken])
    if len(found.rows) == 1:
        return [f"It is the only method with a result, a mean of {mean}."]
    passed = [m for m in found.equal if found.failed(m) and found.simplicity[m] < found.simplicity[taken]]
    others = [method for method in found.equal if method not in (taken, best, *passed)]
    said = []
    if taken != best:
        why = f"a run of {best} failed" if best in passed else f"{taken} is simpler"
        said.append(
            f"{best} has the best mean, {found.mean(found.rows[best])}, but on these tasks {taken}, {mean}, cannot be "
            f"told from it ({found.to_the_best(taken)}), and {why}."
        )
        if others:
            said.append(f"Neither can {words.listed(others, 'or')}.")
    elif others:
        said.append(
            f"Its mean, {mean}, is the best. {words.listed(others)} cannot be told from it on these tasks, but "
            f"{'is' if len(others) == 1 else 'are'} not simpler."
        )
    else:
        second = found.ranked[1]
        said.append(f"Its mean, {mean}, is the best, and can be told from every other: {second}, the next, is at ")
        said[-1] += f"{found.to_the_best(second)}."
    passed = [method for method in passed if method != best]
    if passed:
        simpler = "is simpler and cannot" if len(passed) == 1 else "are simpler and cannot"
        said.append(f"{words.listed(passed)} {simpler} be told from the best either, but had a run that failed.")
    return said


def _one_seed(found: _Ranking) -> list[str]:
    if found.seeds > 1:
        return []
    return ["One seed says something of these adapters only, not of the methods: intervals are of the test examples."]


def _in_use(found: _Ranking) -> str:
    return f"In use, {found.taken} {found.simplicity[found.taken].means}."


def _as_an_adapter(found: _Ranking) -> list[str]:
    """What the same rule takes among the adapters, where it takes full fine-tuning among all."""
    rows = {name: row for name, row in found.rows.items() if found.simplicity[name].level != WHOLE_MODEL}
    if found.taken in rows or not rows:
        return []
    adapters = _Ranking(found.results, rows)
    return [" ".join([f"If it has to be an adapter, take {adapters.taken}.", *_reasons(adapters)])]


def _costs(found: _Ranking) -> str:
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


def _worse(found: _Ranking) -> list[str]:
    worse = [method for method in found.ranked if method not in found.equal]
    if not worse:
        return []
    off = {method: found.to_best[method]["mean"] for method in worse}
    said = [f"{method} {' '.join(words.signed(mean, found.unit))}" for method, mean in off.items() if mean is not None]
    chance = "chance" if found.seeds > 1 else "the chance of the test examples"
    return [f"Worse than {found.best} beyond {chance}, in {words.points(found.unit) or 'score'}: {words.listed(said)}."]


def _more_seeds(found: _Ranking) -> list[str]:
    """How many seeds would tell what is taken from what has the best mean."""
    difference = found.to_best[found.taken]["mean"] if found.taken != found.best else None
    pooled = pool_of_means(found.results)
    if difference is None or not pooled.degrees:
        return []
    wanted = seeds_needed(difference["mean"], pooled.variance, len(found.rows), MOST_SEEDS)
    if wanted is not None and wanted <= found.seeds:
        return []
    count = f"about {wanted}" if wanted else f"more than {MOST_SEEDS}"
    return [f"To tell {found.taken} from {found.best} at that difference would take {count} seeds."]


def _edges(found: _Ranking) -> list[str]:
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
        said.append(f"Runs that failed: {words.listed(each)}.")
    if missing := _missing(results):
        said.append(f"{missing} runs are not made yet.")
    return said


def _missing(results: Results) -> int:
    """How many of all methods × seeds have no run yet."""
    methods = [method for method in results["settings"]["methods"] if method != BASE]
    made = sum(run["method"] != BASE for run in results["runs"])
    return len(methods) * len(results["settings"]["seeds"]) - made


def _no_means(results: Results) -> str:
    if any(run["status"] == "finished" and run["method"] != BASE for run in results["runs"]):
        return "No recommendation: the tasks' scores have no unit in common, so there is no mean to go by."
    return "No recommendation: no method has a result."
