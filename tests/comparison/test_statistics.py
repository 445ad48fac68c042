"""Intervals and tests against SciPy, textbook formulas and simulated chance."""

import math
import random

import pytest
from scipy import stats

from loraweave.comparison.statistics import holm, over_seeds, pool, seeds_needed
from loraweave.evaluation.paired import p_value
from loraweave.evaluation.scores import students_t


def scores(methods: int, seeds: int, draw: random.Random, spreads: dict[int, float] | None = None, **shift: float):
    """Scores of methods that are alike but for chance, `shift` (by name) and the spread of some."""
    of_seed = [draw.gauss(0, 3) for _ in range(seeds)]
    return {
        f"m{m}": {
            seed: 70 + of_seed[seed] + draw.gauss(0, (spreads or {}).get(m, 1.0)) + shift.get(f"m{m}", 0.0)
            for seed in range(seeds)
        }
        for m in range(methods)
    }


def test_the_interval_of_a_mean_is_students_t():
    values = [71.0, 74.5, 69.2]
    (found,) = over_seeds(values)
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    assert students_t(found.degrees) * math.sqrt(found.value) == pytest.approx((high - low) / 2)
    assert over_seeds([5.0]) == []


def test_a_pool_of_two_methods_is_the_paired_t_test():
    table = {"a": {0: 71.0, 1: 74.5, 2: 69.2}, "b": {0: 70.1, 1: 72.0, 2: 68.9}}
    found = pool(table)
    wanted = stats.ttest_rel([*table["a"].values()], [*table["b"].values()])
    difference = sum(table["a"][seed] - table["b"][seed] for seed in range(3)) / 3
    error = math.sqrt(2 * found.variance / 3)
    assert found.degrees == 2
    assert p_value(difference, error, found.degrees) == pytest.approx(wanted.pvalue)
    interval = wanted.confidence_interval(0.95)
    assert students_t(2) * error == pytest.approx((interval.high - interval.low) / 2)


def test_a_pool_is_the_residual_mean_square_of_randomised_blocks():
    table = scores(5, 4, random.Random(1))
    rows = [[table[method][seed] for seed in range(4)] for method in table]
    grand = sum(map(sum, rows)) / 20
    of_method, of_seed = [sum(row) / 4 for row in rows], [sum(column) / 5 for column in zip(*rows, strict=True)]
    residual = sum((rows[i][j] - of_method[i] - of_seed[j] + grand) ** 2 for i in range(5) for j in range(4))
    found = pool(table)
    assert found.methods == set(table)
    assert found.degrees == 12
    assert found.variance == pytest.approx(residual / 12)


def test_one_methods_spread_is_that_of_all_in_two_parts():
    table = scores(5, 4, random.Random(1))
    parts = pool(table).of_one(4)
    own = [stats.tvar([*row.values()]) for row in table.values()]
    assert sum(part.value for part in parts) == pytest.approx(sum(own) / 5 / 4)  # the mean of their own variances
    assert [part.degrees for part in parts] == [3, 12]
    assert pool({"a": {0: 1.0}, "b": {0: 2.0}}).of_one(1) is None


def test_a_missing_run_costs_a_degree_of_freedom():
    table = scores(4, 3, random.Random(2))
    del table["m1"][2]
    found, whole = pool(table), pool(scores(4, 3, random.Random(2)))
    assert (found.degrees, whole.degrees) == (5, 6)
    assert found.seeds == whole.seeds == 3  # what seeds do to all methods, most of these tell
    assert found.blocks == pytest.approx(whole.blocks, rel=0.5)
    assert pool({"a": {0: 1.0, 1: 2.0, 2: 4.0}, "b": {0: 1.5, 1: 2.0}}).seeds == 2
    assert pool({"a": {0: 1.0}, "b": {0: 2.0}}).degrees == 0
    assert pool({"a": {0: 1.0, 1: 2.0}}).degrees == 0


def test_a_method_that_varies_more_than_the_others_is_not_pooled():
    found = pool(scores(8, 4, random.Random(3), spreads={5: 30.0}))
    assert found.methods == {"m0", "m1", "m2", "m3", "m4", "m6", "m7"}
    assert found.variance == pytest.approx(1.0, rel=0.8)


def test_holms_correction():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R's p.adjust
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_as_many_seeds_as_needed_tell_methods_apart():
    seeds = seeds_needed(1.0, 0.5, methods=2)
    assert p_value(1.0, math.sqrt(2 * 0.5 / seeds), seeds - 1) < 0.05
    assert p_value(1.0, math.sqrt(2 * 0.5 / (seeds - 1)), seeds - 2) >= 0.05
    assert seeds_needed(1.0, 0.5, methods=2) < seeds_needed(0.5, 0.5, methods=2)
    assert seeds_needed(0.001, 1.0, methods=2) is None
    assert seeds_needed(1.0, 0.5, methods=2, of_examples=1.0) is None  # no number of seeds makes up for few examples
