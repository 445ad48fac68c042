"""Two models on the same test examples, example by example: how far apart they are, and what chance makes of that.

Outcomes in, numbers out; nothing here knows of files. docs/comparing.md says in words what the numbers mean, and
benchmarks/intervals has how often they hold.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import ndtr, stdtr
from scipy.stats import binomtest

from loraweave.evaluation.outcomes import Examples, Outcomes, distinct_outcomes
from loraweave.evaluation.scores import CONFIDENCE, PERCENT, TaskScore, quantile

LEVEL = 0.05
"""A difference that chance alone makes more rarely than this is one."""

Verdict = Literal["win", "tie", "loss"]


class Variance(NamedTuple):
    """An estimated variance of a mean, and how many degrees of freedom it was estimated with (may be infinite)."""

    value: float
    degrees: float


class Estimate(NamedTuple):
    """What is known of a mean over training seeds and test examples, or of a difference of two.

    Attributes:
        mean: the mean itself.
        examples: its variance from having only so many test examples, all seeds taken together.
        cells: the part of that which seeds and examples make together, and which a variance over seeds has in it too.
    """

    mean: float
    examples: Variance
    cells: float


class PairedDifference(NamedTuple):
    """One model's score minus the other's.

    Attributes:
        mean: in the score's unit.
        interval: half-width of the 95 % interval; None where nothing is known of the spread.
        p: how often chance alone makes a difference as large as this, in either direction.
    """

    mean: float
    interval: float | None
    p: float | None


def difference(one: TaskScore, two: TaskScore) -> PairedDifference:
    """Two models' scores on one task: by how much the first is higher, on other examples of the same kind.

    Right and wrong answers have McNemar's exact test, and an interval with one made-up example won and one lost (Bonett
    and Price, 2012), which is never of no width; anything else has the paired t-test. Where outcomes were not kept,
    the two are taken for independent, which errs on the safe side.

    Raises:
        ValueError: the two were not asked the same.
    """
    if one["requests"] != two["requests"]:
        raise ValueError("the two were not asked the same, so there are no pairs")
    made, pairs = judged(paired_estimate(one, two)), _paired(one, two)
    return made._replace(p=mcnemar(*pairs)) if pairs is not None and all(each.binary for each in pairs) else made


def verdict(found: PairedDifference, higher_is_better: bool) -> Verdict:
    """Whether the first of the two is better or worse: where chance alone rarely makes such a difference, and its
    interval leaves zero out."""
    if found.interval is None or found.p is None or found.p >= LEVEL or abs(found.mean) <= found.interval:
        return "tie"
    return "win" if (found.mean > 0) == higher_is_better else "loss"


def mean_difference(ones: Sequence[TaskScore], twos: Sequence[TaskScore]) -> PairedDifference:
    """The difference of two models' means over the same tasks, which both were asked in the same way."""
    return judged(over_tasks([paired_estimate(one, two) for one, two in zip(ones, twos, strict=True)]))


def paired_estimate(one: TaskScore, two: TaskScore) -> Estimate:
    """What is known of a difference of scores on the same examples."""
    if (pairs := _paired(one, two)) is None:
        return unpaired(one, two)
    first, second = pairs
    return estimate([first.values - second.values], first.weights, first.binary and second.binary)


def _paired(one: TaskScore, two: TaskScore) -> tuple[Examples, Examples] | None:
    """The different examples of both; None where they were not kept, or where an older record of one of the two does
    not say which examples ask the same."""
    first, second = distinct_outcomes(one["outcomes"]), distinct_outcomes(two["outcomes"])
    if first is None or second is None or len(first.values) != len(second.values):
        return None
    return first, second


def unpaired(one: TaskScore, two: TaskScore) -> Estimate:
    """A difference of scores whose outcomes are not known, from both standard errors; of variance NaN without them."""
    total = 0.0
    for score in (one, two):
        stderr = math.nan if score["stderr"] is None else score["stderr"]
        total += max(stderr**2, rounding(score["n"]) if score["unit"] == PERCENT else 0.0)
    degrees = max(1.0, min(one["n"], two["n"]) - 1.0)
    return Estimate(one["score"] - two["score"], Variance(total, degrees), 0.0)


def rounding(examples: int) -> float:
    """Variance of a percentage that is known only to within one of its examples; in points squared."""
    return (100 / examples) ** 2 / 12


def estimate(by_seed: Sequence[np.ndarray] | np.ndarray, weights: np.ndarray, binary: bool) -> Estimate:
    """The mean over seeds and examples, and how it varies with the examples.

    Args:
        by_seed: [seeds, n] outcomes, or differences of the outcomes of two models, of the same examples for all seeds,
            each of which asks something else.
        weights: [n] what each example counts for.
        binary: the values are differences of right (100) and wrong (0): then one example more is taken to be won by
            either side, for a few examples in which nothing happened do not say that nothing can.
    """
    values = np.asarray(by_seed, dtype=float)
    seeds, n = values.shape
    shares = weights / weights.sum()
    each = values.mean(axis=0)
    mean = float(each @ shares)
    if binary:
        worth = 1 / float((shares**2).sum())  # n, where all count alike
        squares = (worth * float(each**2 @ shares) + 2 * 100.0**2) / (worth + 2)
        examples = Variance((squares - mean**2 * (worth / (worth + 2)) ** 2) / (worth + 2), worth + 1.0)
    else:
        # The jackknife: an example that counts for much pulls the mean to itself, and must not look sure for that.
        moved = shares * (each - mean) / np.maximum(1 - shares, 1e-12)
        degrees = max(1.0, 1 / float((shares**2).sum()) - 1)
        examples = Variance(float((moved**2).sum()) * (n - 1) / n if n > 1 else math.nan, degrees)
    if seeds < 2:
        return Estimate(mean, examples, 0.0)
    residual = values - each - (values @ shares)[:, None] + mean
    cells = float((shares**2 * (residual**2).sum(axis=0) / (seeds - 1)).sum()) / seeds
    return Estimate(mean, examples, cells)


def standard_error(outcomes: Outcomes | None) -> float | None:
    """Of the mean of a task's outcomes, from its different examples; None where these tell nothing of it."""
    examples = distinct_outcomes(outcomes)
    if examples is None:
        return None
    variance = estimate([examples.values], examples.weights, False).examples.value
    return None if math.isnan(variance) else math.sqrt(variance)


def over_tasks(spreads: Sequence[Estimate]) -> Estimate:
    """The mean over tasks, each with test examples of its own."""
    count = len(spreads)
    parts = [Variance(each.examples.value / count**2, each.examples.degrees) for each in spreads]
    return Estimate(
        sum(each.mean for each in spreads) / count, added(parts), sum(each.cells for each in spreads) / count**2
    )


def added(parts: Sequence[Variance]) -> Variance:
    """The variance of a sum of independent parts; degrees of freedom after Satterthwaite (1946)."""
    total = sum(part.value for part in parts)
    spent = sum(part.value**2 / part.degrees for part in parts)
    return Variance(total, total**2 / spent if spent > 0 else math.inf)


def judged(found: Estimate, seeds: Sequence[Variance] = ()) -> PairedDifference:
    """Interval and p-value of a difference, by Student's t.

    With `seeds`, the parts of its variance over training seeds, both seeds and examples could have been others. Each
    part has the t of its own degrees of freedom, and the parts are added in squares (after Cochran, 1964): with two or
    three seeds one t for the sum would promise too much. What a seed and an example make together is in both parts, so
    it is taken off once; but never so that less is left than the examples alone have.
    """
    parts = [[found.examples]]
    if seeds:
        rest = max(found.examples.value - found.cells, 0.0)
        parts.append([*seeds, Variance(rest, found.examples.degrees)])
    if any(math.isnan(part.value) for each in parts for part in each):
        return PairedDifference(found.mean, None, None)
    widest = max(parts, key=lambda each: _half_width(each, 1 - CONFIDENCE))
    return PairedDifference(found.mean, float(_half_width(widest, 1 - CONFIDENCE)), _p_value(found.mean, widest))


def _half_width(parts: Sequence[Variance], tails: Any) -> Any:
    """Of the interval that leaves `tails` out on both sides together; for one number, or for an array of them."""
    return np.sqrt(sum(quantile(part.degrees, 1 - tails / 2) ** 2 * part.value for part in parts))


def _p_value(difference: float, parts: Sequence[Variance]) -> float:
    """How little an interval must leave out to end at zero."""
    parts = [part for part in parts if part.value > 0]
    if not parts or difference == 0:
        return float(difference == 0)
    if len(parts) == 1:
        return p_value(difference, math.sqrt(parts[0].value), parts[0].degrees)
    low, high = -36.0, 0.0  # logarithms
    for _ in range(3):
        tried = np.linspace(low, high, 100)
        wide = int((_half_width(parts, np.exp(tried)) > abs(difference)).sum())  # the less is left out, the wider
        low, high = float(tried[max(wide - 1, 0)]), float(tried[min(wide, len(tried) - 1)])
    return math.exp(high)


def mcnemar(one: Examples, two: Examples) -> float:
    """McNemar's exact test (1947): how often fair coins part the examples that only one got right so unevenly."""
    won, lost = int((one.values > two.values).sum()), int((one.values < two.values).sum())
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def p_value(difference: float, standard_error: float, degrees: float = math.inf) -> float:
    """How often chance alone makes a difference this large, in either direction; by Student's t, or the normal
    distribution for infinite `degrees`."""
    if standard_error == 0:
        return 0.0 if difference else 1.0
    z = -abs(difference) / standard_error
    return float(2 * (ndtr(z) if math.isinf(degrees) else stdtr(degrees, z)))
