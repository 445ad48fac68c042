"""What training seeds do to scores, and corrections for many questions; `evaluation.paired` has what examples do.

Plain numbers in and out; `evidence.py` applies them to results. docs/comparing.md says in words what they mean.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import variance
from typing import NamedTuple

from loraweave.evaluation.paired import CONFIDENCE, Variance, p_value

UNSTEADY = 0.01
"""How rarely chance alone takes a method for one that varies more than the others."""


def over_seeds(values: Sequence[float]) -> list[Variance]:
    """The variance of the mean of `values`, one for each seed, by themselves; none for a single seed."""
    return [Variance(variance(values) / len(values), len(values) - 1)] if len(values) > 1 else []


Scores = Mapping[str, Mapping[int, float]]
"""method -> seed -> score; a seed may be missing."""


class Pool(NamedTuple):
    """What chance does to one score, from methods that vary about alike from seed to seed.

    Attributes:
        methods: those that it was taken from.
        variance: of one score once its method and its seed are accounted for; NaN without degrees of freedom.
        degrees: of freedom, 0 for none.
        blocks: variance of what seeds do to all methods, over the seeds that most of these have; NaN for fewer than two
            of them. Where all have the same seeds it is that of the mean over methods.
        seeds: how many these are.
    """

    methods: frozenset[str]
    variance: float
    degrees: int
    blocks: float
    seeds: int

    def of_difference(self, seeds: int) -> list[Variance]:
        """The variance over seeds of the difference of two methods."""
        return [Variance(2 * self.variance / seeds, self.degrees)]

    def of_one(self, seeds: int) -> list[Variance] | None:
        """The variance over seeds of one method's mean, in two parts: what a seed does to all methods, of which few
        seeds tell little, and what it does to each, of which all methods tell. None where it cannot be known."""
        if not self.degrees or self.seeds < 2:
            return None
        own = self.variance * (1 - 1 / len(self.methods))
        return [Variance(self.blocks / seeds, self.seeds - 1), Variance(own / seeds, self.degrees)]


def pool(scores: Scores) -> Pool:
    """The common spread of methods that were run with the same seeds.

    The residual variance of a randomised block design with the seeds as blocks: with two methods, the paired t-test's
    own; with more, three seeds are enough to say something. A method that varies more than the others do (an F test
    at 1 %, corrected for their number) is left out, one after the other.
    """
    from scipy import stats

    kept = dict(scores)
    while len(kept) > 2:
        ratios = {method: _against_the_rest(kept, method) for method in kept}
        tails = {m: float(stats.f.sf(ratio, own, rest)) for m, (ratio, own, rest) in ratios.items() if own and rest}
        odd = min(tails, key=tails.__getitem__, default=None)
        if odd is None or tails[odd] * len(kept) >= UNSTEADY:
            break
        del kept[odd]
    residual, degrees, effects = _blocks_fitted(kept)
    most = [effect for seed, effect in effects.items() if 2 * sum(seed in row for row in kept.values()) > len(kept)]
    return Pool(frozenset(kept), residual, degrees, variance(most) if len(most) > 1 else math.nan, len(most))


def _against_the_rest(scores: Scores, method: str) -> tuple[float, int, int]:
    """How much more a method varies than the others together: ratio of variances, degrees of freedom of both."""
    rest = {name: row for name, row in scores.items() if name != method}
    of_rest, degrees, _ = _blocks_fitted(rest)
    shared = [seed for seed in scores[method] if all(seed in row for row in rest.values())]
    if len(shared) < 2 or not degrees or not of_rest:
        return 0.0, 0, 0
    off = [scores[method][seed] - sum(row[seed] for row in rest.values()) / len(rest) for seed in shared]
    return variance(off) / (of_rest * (1 + 1 / len(rest))), len(off) - 1, degrees


def _blocks_fitted(scores: Scores) -> tuple[float, int, dict[int, float]]:
    """What is left once every method and every seed has its own mean: its variance, and its degrees of freedom; and
    what each seed adds, but for a number that all share."""
    import numpy as np

    cells = [(method, seed, score) for method, row in scores.items() for seed, score in row.items()]
    methods = list(dict.fromkeys(method for method, _, _ in cells))
    seeds = list(dict.fromkeys(seed for _, seed, _ in cells))
    effects = np.zeros((len(cells), len(methods) + len(seeds)))
    for row, (method, seed, _) in enumerate(cells):
        effects[row, methods.index(method)] = effects[row, len(methods) + seeds.index(seed)] = 1.0
    values = np.array([score for _, _, score in cells])
    fitted, _, rank, _ = np.linalg.lstsq(effects, values, rcond=None)
    degrees, by_seed = len(cells) - int(rank), dict(zip(seeds, map(float, fitted[len(methods) :]), strict=True))
    if degrees < 1:
        return math.nan, 0, by_seed
    return float(((values - effects @ fitted) ** 2).sum()) / degrees, degrees, by_seed


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): p-values of which a single one below 0.05 is chance in 5 % of all cases."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def seeds_needed(
    difference: float, variance_of_one: float, methods: int, of_examples: float = 0.0, most: int = 50
) -> int | None:
    """How many seeds would tell two of `methods` apart, among all their pairs, at this difference; None above `most`.

    Args:
        difference: between the two.
        variance_of_one: of one score, as a pool has it.
        methods: that were run, all with the same seeds.
        of_examples: the variance of the difference that the test examples make, which no seed takes away.
        most: where to stop.
    """
    pairs = max(1, math.comb(methods, 2))
    for seeds in range(2, most + 1):
        error = math.sqrt(2 * variance_of_one / seeds + of_examples)
        if pairs * p_value(difference, error, (methods - 1) * (seeds - 1)) < 1 - CONFIDENCE:
            return seeds
    return None
