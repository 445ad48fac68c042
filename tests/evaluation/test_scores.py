"""Intervals that few examples leave, and which tasks a mean leaves out."""

import math

import pytest
from scipy import stats

from loraweave.evaluation import interval, left_out_of_mean, macro_average
from loraweave.evaluation.outcomes import shares, weighted
from loraweave.evaluation.scores import ends, share_interval


def score(value: float, n: int, metric: str = "acc", unit: str = "%", stderr: float | None = 0.0) -> dict:
    made = {"score": value, "n": n, "metric": metric, "unit": unit, "stderr": stderr, "higher_is_better": True}
    return made | {"outcomes": None}


def answers(right: int, n: int, **more) -> dict:
    share = 100 * right / n
    return score(share, n, **more) | {"outcomes": shares([i < right for i in range(n)], share, 100.0)}


@pytest.mark.parametrize("metric", ["acc", "acc_bytes", "acc_mutual_info", "pass@1"])
@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(10, 10, 69.15, 100.0), (0, 10, 0.0, 30.85), (81, 263, 25.27, 36.76)],  # the last: Newcombe (1998), table I
)
def test_shares_have_the_exact_interval(right, n, low, high, metric):
    assert interval(answers(right, n, metric=metric, stderr=2.0)) == pytest.approx((low, high), abs=0.01)


@pytest.mark.parametrize(("right", "n"), [(10, 10), (0, 10), (81, 263), (15, 148), (1, 29)])  # Newcombe (1998), table I
def test_a_share_has_the_exact_interval_for_what_its_spread_is_worth(right, n):
    share = right / n
    half = 1.96 * 100 * math.sqrt(share * (1 - share) / n)
    wanted = stats.binomtest(right, n).proportion_ci(0.95, method="exact")
    assert share_interval(100 * share, half, n) == pytest.approx((100 * wanted.low, 100 * wanted.high), abs=0.02)


def test_a_correlation_in_percent_is_no_share():
    """The Matthews correlation of 30 of 60 right answers, all of one kind, is 0, or below; its examples have none."""
    half = 4.0 * stats.t.ppf(0.975, 59)
    assert interval(score(-3.0, 60, "mcc", stderr=4.0)) == pytest.approx((-3.0 - half, -3.0 + half))
    assert interval(score(50.0, 60, "mcc", stderr=4.0)) == pytest.approx((50.0 - half, 50.0 + half))


def test_parts_of_an_answer_that_are_right_make_a_share_too():
    """The F1 of words in each answer: in all perfect, it is as sure as as many right answers, and never surer."""
    perfect = score(100.0, 20, "f1") | {"outcomes": weighted([100.0] * 20, [1.0] * 20)}
    assert interval(perfect) == interval(answers(20, 20))
    values = [0.0, 50.0, 100.0, 75.0] * 10
    stderr = stats.sem(values)
    part = score(sum(values) / 40, 40, "f1", stderr=stderr) | {
        "outcomes": weighted(values, [1.0] * 40) | {"weights": ""}
    }
    low, high = interval(part)
    exact = stats.binomtest(22, 40).proportion_ci(0.95, method="exact")
    assert low < sum(values) / 40 - 1.9 * stderr
    assert high > sum(values) / 40 + 1.9 * stderr
    assert high - low <= 100 * (exact.high - exact.low) + 1


def test_other_scores_have_their_standard_errors():
    half = 0.1 * stats.t.ppf(0.975, 49)
    low, high = interval(score(2.0, 50, "loss", "nats", 0.1))  # of a loss's logarithm
    assert (math.log(low / 2), math.log(high / 2)) == pytest.approx((-half / 2, half / 2))
    assert interval(score(2.0, 50, "bleu", "", 0.1)) == pytest.approx((2 - half, 2 + half))
    assert interval(score(2.0, 50, "loss", "nats", None)) is None


def test_a_spread_far_above_the_loss_itself_still_has_ends():
    """One of two methods has learned a task and the other has not, and their spread is taken from both together."""
    low, high = ends(0.002, 2.5, "nats", None)
    assert 0 <= low < 0.002
    assert 2.502 <= high < math.inf
    widths = [ends(0.002, half, "nats", None)[1] for half in (0.001, 0.01, 0.02, 0.1, 2.5, 1e3)]
    assert widths == sorted(widths), "the more spread, the wider"


def test_the_mean_says_what_it_leaves_out():
    scores = {"a": score(50.0, 10), "b": score(1.5, 10, "loss", "nats")}
    assert macro_average(scores) == 50.0
    assert left_out_of_mean(scores) == ["b"]
    assert left_out_of_mean({"b": scores["b"]}) == []
