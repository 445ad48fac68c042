"""Intervals and tests of paired outcomes, against SciPy, textbook numbers and simulated chance."""

import math

import numpy as np
import pytest
from scipy import stats

from loraweave.evaluation.outcomes import shares, weighted
from loraweave.evaluation.paired import (
    Estimate,
    Variance,
    added,
    difference,
    estimate,
    judged,
    over_tasks,
    p_value,
    rounding,
)


def scored(answers: str, requests: str = "same") -> dict:
    share = 100 * answers.count("1") / len(answers)
    return {
        "score": share,
        "stderr": 2.5,
        "n": len(answers),
        "unit": "%",
        "requests": requests,
        "outcomes": shares([letter == "1" for letter in answers], share, 100.0),
    }


def lost(values: list[float], tokens: list[float]) -> dict:
    mean = float(np.average(values, weights=tokens))
    return {
        "score": mean,
        "stderr": None,
        "n": len(values),
        "unit": "nats",
        "requests": "same",
        "outcomes": weighted(values, tokens),
    }


def test_answers_have_mcnemars_exact_test():
    """59 against 80 of 314 parted pairs' table: 16 lost, 37 won (an example of textbooks); by coins."""
    one = "1" * 200 + "1" * 37 + "0" * 16 + "0" * 61
    two = "1" * 200 + "0" * 37 + "1" * 16 + "0" * 61
    found = difference(scored(one), scored(two))
    assert found.mean == pytest.approx(100 * 21 / 314)
    assert found.p == pytest.approx(stats.binomtest(37, 53).pvalue)
    assert found.mean - found.interval > 0


def test_the_interval_of_answers_is_bonett_and_prices_about_the_difference():
    won, lost_, n = 12, 3, 80
    one = "1" * won + "0" * lost_ + "1" * (n - won - lost_)
    two = "0" * won + "1" * lost_ + "1" * (n - won - lost_)
    p, q = (won + 1) / (n + 2), (lost_ + 1) / (n + 2)
    wanted = stats.t.ppf(0.975, n + 1) * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    assert difference(scored(one), scored(two)).interval == pytest.approx(100 * wanted)


@pytest.mark.parametrize("answers", ["1" * 10, "0" * 10])
def test_ten_of_ten_against_ten_of_ten_is_not_certain(answers):
    found = difference(scored(answers), scored(answers))
    assert (found.mean, found.p) == (0.0, 1.0)
    assert found.interval > 20


def test_losses_have_the_paired_t_test():
    random = np.random.default_rng(0)
    one, two = random.normal(2.0, 0.5, 30), random.normal(2.1, 0.5, 30)
    found = difference(lost([*one], [7.0] * 30), lost([*two], [7.0] * 30))
    wanted = stats.ttest_rel(one, two)
    interval = wanted.confidence_interval(0.95)
    assert found.p == pytest.approx(wanted.pvalue, rel=1e-3)
    assert found.interval == pytest.approx((interval.high - interval.low) / 2, rel=1e-3)


def test_long_answers_count_for_more_and_few_of_them_are_few():
    even = difference(lost([1.0, 2.0, 3.0, 4.0], [5.0] * 4), lost([2.0, 2.5, 3.5, 5.5], [5.0] * 4))
    one_counts = difference(lost([1.0, 2.0, 3.0, 4.0], [500.0, 5.0, 5.0, 5.0]), lost([2.0, 2.5, 3.5, 5.5], [5.0] * 4))
    assert even.mean == pytest.approx(-0.875)
    assert one_counts.mean == pytest.approx(-0.9951, abs=1e-3)
    assert one_counts.p > 0.05  # of one example nobody knows


def test_without_outcomes_the_two_are_taken_for_independent():
    one, two = scored("1" * 60 + "0" * 40), scored("1" * 50 + "0" * 50)
    one["outcomes"] = None
    assert difference(one, two).interval == pytest.approx(stats.t.ppf(0.975, 99) * 2.5 * 2**0.5)
    one["stderr"] = None
    assert difference(one, two) == (10.0, None, None)
    assert math.sqrt(rounding(200)) == pytest.approx(0.5 / math.sqrt(12))  # uniform over half a point


def test_what_was_not_asked_the_same_has_no_difference():
    with pytest.raises(ValueError, match="not asked the same"):
        difference(scored("10"), scored("11", "other"))


def test_one_part_alone_is_students_t_and_several_are_between():
    lone = Estimate(2.0, Variance(1.0, math.inf), 0.0)
    assert judged(lone).p == pytest.approx(2 * stats.norm.sf(2.0))
    sure = judged(Estimate(2.0, Variance(0.0, 50.0), 0.0), [Variance(1.0, 2)])
    assert sure.interval == pytest.approx(stats.t.ppf(0.975, 2))
    assert sure.p == pytest.approx(2 * stats.t.sf(2.0, 2))
    both = judged(Estimate(2.0, Variance(0.5, 50.0), 0.0), [Variance(0.5, 2)])
    assert judged(lone).p < both.p < sure.p
    assert (both.interval < 2.0) == (both.p < 0.05)


@pytest.mark.parametrize("mean", [0.5, 1.5, 2.9, 3.1, 8.0])
def test_p_is_below_five_percent_where_the_interval_leaves_zero_out(mean):
    found = judged(Estimate(mean, Variance(0.9, 30.0), 0.1), [Variance(0.4, 4)])
    assert (found.p < 0.05) == (abs(mean) > found.interval)


def test_what_seeds_and_examples_make_together_counts_once():
    """Independent answers in every cell: seeds and examples add nothing of their own to it."""
    random = np.random.default_rng(1)
    values = 100.0 * (random.random((4, 500)) < 0.7)
    found = estimate(values, np.ones(500), False)
    whole = found.examples.value
    assert found.cells == pytest.approx(whole, rel=0.3)
    seeds = Variance(float(values.mean(axis=1).var(ddof=1)) / 4, 3)
    assert judged(found, [seeds]).interval >= judged(found).interval


def test_a_mean_over_tasks_has_the_examples_of_all():
    parts = [Estimate(10.0, Variance(4.0, 9.0), 1.0), Estimate(20.0, Variance(12.0, 29.0), 0.0)]
    found = over_tasks(parts)
    assert (found.mean, found.examples.value, found.cells) == (15.0, 4.0, 0.25)
    assert found.examples.degrees == pytest.approx(16**2 / (4**2 / 9 + 12**2 / 29))  # Welch and Satterthwaite
    assert added([Variance(2.0, math.inf)]).degrees == math.inf


def test_no_spread_at_all():
    assert p_value(0.0, 0.0) == 1.0
    assert p_value(0.1, 0.0) == 0.0
    assert judged(Estimate(0.0, Variance(0.0, 5.0), 0.0)).p == 1.0
    assert judged(Estimate(0.1, Variance(0.0, 5.0), 0.0)).p == 0.0
