"""Test examples that ask the same as others count once for what is known, whatever they count in the score."""

import numpy as np
import pytest

from loraweave.evaluation import interval
from loraweave.evaluation.outcomes import distinct_outcomes, read_outcomes, shares, weighted
from loraweave.evaluation.paired import difference, verdict
from loraweave.evaluation.repeats import about_repeats, with_repeats


def scored(right: list[bool], asked: list[str]) -> dict:
    share = 100 * sum(right) / len(right)
    score = {
        "score": share,
        "stderr": float(np.std(right, ddof=1) * 100 / np.sqrt(len(right))),
        "n": len(right),
        "unit": "%",
        "requests": "same",
        "outcomes": shares(right, share, 100.0, asked),
    }
    return with_repeats(score, asked)  # type: ignore[arg-type]


def lost(values: list[float], asked: list[str]) -> dict:
    score = {
        "score": float(np.mean(values)),
        "stderr": 0.0,
        "n": len(values),
        "unit": "nats",
        "requests": "same",
        "outcomes": weighted(values, [5] * len(values), asked),
    }
    return with_repeats(score, asked)  # type: ignore[arg-type]


def test_three_copies_of_one_row_tell_nothing_apart():
    one, two = lost([1.0] * 3, ["q"] * 3), lost([5.0] * 3, ["q"] * 3)
    found = difference(one, two)
    assert (found.mean, found.interval, found.p) == (-4.0, None, None)
    assert verdict(found, higher_is_better=False) == "tie"
    assert (one["stderr"], one["distinct"]) == (None, 1)


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_of_all_rows_change_no_interval_and_no_test(copies):
    random = np.random.default_rng(0)
    one, two = (random.random(40) < 0.8).tolist(), (random.random(40) < 0.5).tolist()
    asked = [str(number) for number in range(40)]
    plain = scored(one, asked), scored(two, asked)
    copied = scored(one * copies, asked * copies), scored(two * copies, asked * copies)
    assert tuple(difference(*copied)) == pytest.approx(tuple(difference(*plain)))
    for score, repeated in zip(plain, copied, strict=True):
        assert interval(repeated) == pytest.approx(interval(score))
        assert repeated["n"] == 40 * copies
        assert repeated["distinct"] == 40


def test_copies_of_losses_have_the_interval_of_the_different_ones():
    random = np.random.default_rng(1)
    one, two = random.normal(2, 1, 30).tolist(), random.normal(2.5, 1, 30).tolist()
    asked = [str(number) for number in range(30)]
    copied = difference(lost(one * 3, asked * 3), lost(two * 3, asked * 3))
    assert tuple(copied) == pytest.approx(tuple(difference(lost(one, asked), lost(two, asked))))


def test_a_row_that_repeats_counts_in_the_score_but_makes_it_no_surer():
    right, asked = [True] * 30 + [False] + [True] * 9, ["often"] * 30 + [str(number) for number in range(10)]
    score = scored(right, asked)
    examples = distinct_outcomes(score["outcomes"])
    assert examples is not None
    assert examples.values @ examples.weights / examples.weights.sum() == pytest.approx(score["score"])
    assert (len(examples.values), examples.binary) == (11, True)
    low, high = interval(score)
    alone_low, alone_high = interval(scored([True, False] + [True] * 9, asked[29:]))
    assert high - low > alone_high - alone_low  # most of the score hangs on one question


def test_one_question_with_two_right_answers_is_one_example():
    """The prompt is the same and the target is not: what is said to it is the same in both rows."""
    outcomes = shares([True, False, True], 200 / 3, 100.0, ["p", "p", "q"])
    examples = distinct_outcomes(outcomes)
    assert examples is not None
    assert examples.values.tolist() == [50.0, 100.0]
    assert examples.weights.tolist() == [2.0, 1.0]
    assert not examples.binary
    assert read_outcomes(outcomes).values.tolist() == [100.0, 0.0, 100.0]  # type: ignore[union-attr]


def test_what_no_example_has_is_known_from_the_different_ones_alone():
    score = {"outcomes": None, "stderr": 2.0, "n": 8, "score": 30.0, "unit": ""}
    assert with_repeats(score, ["a", "b"] * 4)["stderr"] == pytest.approx(4.0)  # type: ignore[arg-type]


def test_where_all_ask_something_else_nothing_is_added_and_nothing_said():
    score = scored([True, False], ["a", "b"])
    assert "distinct" not in score
    assert "asked" not in score["outcomes"]
    assert about_repeats({"task": score}) == []


def test_it_is_said_how_many_are_different():
    (line,) = about_repeats({"task": scored([True] * 6, ["a", "b"] * 3)})
    assert line.startswith("task: only 2 of the 6 examples ask something different")


def test_a_record_that_does_not_say_which_examples_ask_the_same_is_held_against_one_that_does():
    """Of a comparison that was begun before that was kept: the two are taken for independent."""
    new, old = scored([True, True, False], ["a", "a", "b"]), scored([True, True, True], ["a", "b", "c"])
    found = difference(new, old)
    assert found.mean == pytest.approx(-100 / 3)
    assert found.interval is not None
    assert verdict(found, higher_is_better=True) == "tie"
