"""Intervals that few examples leave, and which tasks a mean leaves out."""

import pytest

from loraweave.evaluation import interval, left_out_of_mean, macro_average


def score(value: float, n: int, metric: str = "acc", unit: str = "%", stderr: float | None = 0.0) -> dict:
    return {"score": value, "n": n, "metric": metric, "unit": unit, "stderr": stderr, "higher_is_better": True}


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(10, 10, 69.15, 100.0), (0, 10, 0.0, 30.85), (81, 263, 25.27, 36.76)],  # the last: Newcombe (1998), table I
)
def test_shares_have_the_exact_interval(right, n, low, high):
    assert interval(score(100 * right / n, n)) == pytest.approx((low, high), abs=0.01)


def test_other_scores_have_their_standard_errors():
    assert interval(score(2.0, 50, "loss", "nats", 0.1)) == pytest.approx((1.799, 2.201), abs=1e-3)  # t of 49
    assert interval(score(2.0, 50, "loss", "nats", None)) is None


def test_the_mean_says_what_it_leaves_out():
    scores = {"a": score(50.0, 10), "b": score(1.5, 10, "loss", "nats")}
    assert macro_average(scores) == 50.0
    assert left_out_of_mean(scores) == ["b"]
    assert left_out_of_mean({"b": scores["b"]}) == []
